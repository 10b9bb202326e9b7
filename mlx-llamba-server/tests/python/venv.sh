#!/bin/sh
# Makes the virtual environment $1 with the packages of requirements.txt, once for each version of
# that file, and prints its Python. Nothing of it needs torch.
set -eu
venv=$1
wanted=$(dirname "$0")/requirements.txt
if ! cmp -s "$wanted" "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted" >&2
    cp "$wanted" "$venv/installed.txt"
fi
echo "$venv/bin/python"

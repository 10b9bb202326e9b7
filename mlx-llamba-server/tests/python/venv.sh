#!/bin/sh
# Makes the virtual environment $1 with the packages of requirements.txt, once for each version of
# that file, and prints its Python. Nothing of it needs torch.
set -eu
venv=$1
wanted=$(dirname "$0")/requirements.txt
fail() {
    echo "The clients for the server's tests ($(sed 's/[[=].*//' "$wanted" | paste -sd ' ' -)) could" \
        "not be installed: $1 To run the other tests: scripts/test -E 'not binary(clients)'" >&2
    exit 1
}
if ! cmp -s "$wanted" "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2 ||
        fail "python3 -m venv does not work here. Run scripts/setup."
    "$venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --retries 2 --timeout 20 \
        --requirement "$wanted" >&2 ||
        fail "pip failed, as said above. They come from PyPI, or from the index that PIP_INDEX_URL names: is it reachable?"
    cp "$wanted" "$venv/installed.txt"
fi
echo "$venv/bin/python"

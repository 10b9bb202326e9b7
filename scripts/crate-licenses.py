#!/usr/bin/env python3
"""Prints the licenses of every crate that a program contains.

usage: cargo metadata --format-version 1 | crate-licenses.py PACKAGE
"""

import json
import sys
from pathlib import Path

NAMES = ("license", "licence", "copying", "notice", "unlicense")


def contained(metadata, root_name):
    """Returns the packages that PACKAGE links, without itself, build and test dependencies."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    todo = [key for key, package in packages.items() if package["name"] == root_name]
    seen = set()
    while todo:
        key = todo.pop()
        if key in seen:
            continue
        seen.add(key)
        for dependency in nodes[key]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                todo.append(dependency["pkg"])
    return [packages[key] for key in seen if packages[key]["source"]]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    texts = {}  # license text -> the packages that carry it
    for package in sorted(contained(json.load(sys.stdin), sys.argv[1]), key=lambda p: p["name"]):
        name = f"{package['name']} {package['version']} ({package['license'] or 'see its license file'})"
        directory = Path(package["manifest_path"]).parent
        files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name.lower().startswith(NAMES)]
        for path in files:
            texts.setdefault(path.read_text(errors="replace").strip(), []).append(name)
        if not files:
            texts.setdefault(f"No license text; {package['repository'] or 'no repository'}", []).append(name)
    for text, users in texts.items():
        print("=" * 80, *users, "=" * 80, text, "", sep="\n")


if __name__ == "__main__":
    main()

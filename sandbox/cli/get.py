"""`sandbox get`: print values of an environment file."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_file, add_json, read_key
from sandbox.cli.output import for_terminal, print_json
from sandbox.errors import printable

DESCRIPTION = """\
Print values of FILE as they are in the file, without extended files and without defaults.

One key prints its value: a string as it is, everything else as TOML. Several keys, or none for the whole file,
print one KEY = VALUE per line, which `sandbox set` accepts.

A key that is not set prints nothing; its default is printed on standard error. `sandbox config` prints the values
after everything is merged."""
EPILOG = "exit status: 0, 1 if a key has no value in the file, 125 for a failure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_file(parser)
    parser.add_argument("keys", metavar="KEY", nargs="*", help="the key to print; default: all keys")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the values; return the exit status."""
    from sandbox.editing.lists import resolve_names
    from sandbox.editing.reading import leaves, read_document, unset_note
    from sandbox.editing.values import MISSING
    from sandbox.spec.notation import format_key_path, literal

    document = read_document(arguments.file)
    if not arguments.keys:
        if arguments.json:
            print_json(document.tree)
        else:
            for path, value in leaves(document.tree):
                print(f"{format_key_path(path)} = {literal(value)}")
        return 0
    paths = [read_key(resolve_names(key, document)) for key in arguments.keys]
    found = {format_key_path(path): document.get(path) for path in paths}
    status = 0
    for path in paths:
        if found[format_key_path(path)] is MISSING:
            status = 1
            print(f"sandbox: {printable(unset_note(document, path))}", file=sys.stderr)
    if arguments.json:
        values = {key: None if value is MISSING else value for key, value in found.items()}
        print_json(values if len(paths) > 1 else next(iter(values.values())))
        return status
    for key, value in found.items():
        if value is MISSING:
            continue
        text = value if isinstance(value, str) and len(paths) == 1 else literal(value)
        print(for_terminal(text) if len(paths) == 1 else f"{key} = {text}")
    return status

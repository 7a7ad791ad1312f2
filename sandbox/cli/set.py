"""`sandbox set`: change values of an environment file."""

from __future__ import annotations

import argparse
import os

from sandbox.cli.options import add_json
from sandbox.cli.output import print_warnings

DESCRIPTION = """\
Change values of FILE. Comments, order and layout do not change.

A value is read as TOML if it is valid TOML (true, 8, ["a", "b"]), otherwise as a string. An element of a list is
selected by its index, or by the value that identifies it: volumes[0].read_only=true, volumes[/src].read_only=true.

The file is replaced atomically, and only if the change adds no mistake."""
EPILOG = """examples:
  sandbox set web.toml limits.memory=1G limits.pids=200
  sandbox set web.toml process.command='["python3", "-m", "http.server"]'
  sandbox set web.toml 'volumes[/src].read_only=true'
  sandbox set web.toml profile.debug.process.command=bash"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("file", metavar="FILE", help="the environment file (TOML)")
    parser.add_argument("assignments", metavar="KEY=VALUE", nargs="+", help="a key and its new value")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Change the file; return the exit status."""
    from sandbox.editing.change import change_file
    from sandbox.editing.document import Document
    from sandbox.editing.lists import resolve_names
    from sandbox.errors import EditError
    from sandbox.spec.assignments import parse_assignment

    def change(document: Document) -> None:
        for text in arguments.assignments:
            key, equals, value = text.partition("=")
            try:
                path, parsed = parse_assignment(f"{resolve_names(key, document)}{equals}{value}")
            except ValueError as error:
                raise EditError(str(error), hint="write KEY=VALUE, such as limits.memory=1G") from None
            document.put(path, parsed)

    print_warnings(change_file(arguments.file, change, os.environ), as_json=arguments.json)
    return 0

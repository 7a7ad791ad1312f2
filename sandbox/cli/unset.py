"""`sandbox unset`: remove values from an environment file."""

from __future__ import annotations

import argparse
import os

from sandbox.cli.options import add_json, read_key
from sandbox.cli.output import print_warnings

DESCRIPTION = """\
Remove values from FILE, so that defaults apply again. All other lines do not change.

A table is removed with its content. An element of a list is selected by its index, or by the value that identifies
it: volumes[0], volumes[/src]. The comment on the line of a value is removed with it. The comment directly above is
removed, too, unless it belongs to more than this value: another key or header follows directly, or the comment
begins the file. A setting that is commented out is not removed.

The file is replaced atomically, and only if the change adds no mistake."""
EPILOG = """examples:
  sandbox unset web.toml limits.memory
  sandbox unset web.toml 'volumes[/src]' 'volumes[0]'
  sandbox unset web.toml profile.debug"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("file", metavar="FILE", help="the environment file (TOML)")
    parser.add_argument("keys", metavar="KEY", nargs="+", help="the key to remove")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Change the file; return the exit status."""
    from sandbox.editing.change import change_file
    from sandbox.editing.document import Document
    from sandbox.editing.lists import resolve_names

    def change(document: Document) -> None:
        document.remove(*(read_key(resolve_names(key, document)) for key in arguments.keys))

    print_warnings(change_file(arguments.file, change, os.environ), as_json=arguments.json)
    return 0

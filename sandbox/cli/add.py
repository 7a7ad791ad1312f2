"""`sandbox add`: add an element to a list of an environment file."""

from __future__ import annotations

import argparse
import os

from sandbox.cli.options import add_json
from sandbox.cli.output import print_warnings

DESCRIPTION = """\
Add an element to a list of FILE. Comments, order and layout do not change.

LIST is the key of a list, or the end of that key, in the plural or singular: volume, layers, network.ports,
egress.allow. The table of a list named add is enough: capability. In a profile: profile.debug.volume.

If elements are tables, write KEY=VALUE for each value; the value that identifies an element needs no key, such as
the path of a device. Write an element that is a string or a number as it is, and several elements as several words.
Write variables, labels and hosts as NAME=VALUE. Write words that begin with - after --. A type of volume (bind,
tmpfs, named, file) as LIST adds a volume of that type. A volume can also be SRC:DST or SRC:DST:ro, as in container
engines.

If FILE extends another file and does not set the list itself, the element is added to the list of the other file.

The file is replaced atomically, and only if the change adds no mistake."""
EPILOG = """examples:
  sandbox add web.toml volume type=bind source=./src target=/src read_only=true
  sandbox add web.toml bind ./src:/src:ro
  sandbox add web.toml layer dir:/opt/tools
  sandbox add web.toml port 8080:80
  sandbox add web.toml env LANG=C.UTF-8
  sandbox add web.toml capability NET_RAW
  sandbox add web.toml arg -- --verbose"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("file", metavar="FILE", help="the environment file (TOML)")
    parser.add_argument("list", metavar="LIST", help="the list: volume, layer, port, device, env, ...")
    parser.add_argument(
        "words", metavar="ELEMENT", nargs="+", help="the element, or KEY=VALUE for each of its values"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Change the file; return the exit status."""
    from sandbox.editing.change import change_file
    from sandbox.editing.document import Document
    from sandbox.editing.lists import add_elements, find_collection, resolve_names

    def change(document: Document) -> None:
        collection = find_collection(resolve_names(arguments.list, document))
        add_elements(document, collection, arguments.words)

    print_warnings(change_file(arguments.file, change, os.environ), as_json=arguments.json)
    return 0

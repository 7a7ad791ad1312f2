"""`sandbox add`: add an element to a list of an environment file."""

from __future__ import annotations

import argparse
import os

from sandbox.cli.options import add_json
from sandbox.cli.output import print_warnings

DESCRIPTION = """Add an element to a list of FILE, keeping its comments, order and layout.

LIST is the key of a list or the end of it, in the plural or singular: volume, layers, network.ports, egress.allow. A list
called add is also known by its table: capability. In a profile: profile.debug.volume.

An element that is a table is written KEY=VALUE, value by value; what identifies it may stand alone, such as the path of
a device. Elements that are strings or numbers are written as they are, several of them as several words. Variables,
labels and hosts are NAME=VALUE. Words that begin with - stand behind --. A type of volume (bind, tmpfs, named, file)
is a volume of that type, and SRC:DST or SRC:DST:ro is one, too, as container engines write it.

In a file that extends another and does not have the list itself, the element is added to the list of the other file.

The file is replaced in one step, and only if the change makes no new mistake."""
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
    parser.add_argument("words", metavar="ELEMENT", nargs="+", help="the element, or KEY=VALUE of it")
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

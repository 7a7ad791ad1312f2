"""`sandbox init`: write a commented environment file to start from."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.options import DEFAULT_FILE, add_json
from sandbox.cli.output import print_json, print_table
from sandbox.errors import printable

DESCRIPTION = (
    "Write FILE, a commented environment file to start from. An existing file is replaced only with --force."
)
DEFAULT_TEMPLATE = "minimal"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default=DEFAULT_FILE,
        help=f"the file to write; default: {DEFAULT_FILE}",
    )
    parser.add_argument(
        "--template",
        metavar="TEMPLATE",
        default=DEFAULT_TEMPLATE,
        help=f"the template to start from; default: {DEFAULT_TEMPLATE}",
    )
    parser.add_argument("--list", action="store_true", help="list the templates and write nothing")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the file, or list the templates; return the exit status."""
    from sandbox.editing.replace import create, read_original, replace
    from sandbox.editing.template_files import template, templates

    if arguments.list:
        known = templates()
        if arguments.json:
            print_json([{"name": name, "description": text} for name, text in known.items()])
        else:
            print_table(known.items(), header=("TEMPLATE", "FOR"))
        return 0
    data = template(arguments.template)
    if arguments.force and os.path.lexists(arguments.file):
        replace(read_original(arguments.file), data)
    else:
        create(arguments.file, data)
    if arguments.json:
        print_json({"file": arguments.file, "template": arguments.template})
        return 0
    name = printable(arguments.file)
    print(f"{name} was written; start it with `sandbox up {name}`", file=sys.stderr)
    return 0

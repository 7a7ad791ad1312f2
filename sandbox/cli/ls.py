"""`sandbox ls`: list persistent layers, kept ephemeral layers, named volumes, unpacked archives and images."""

from __future__ import annotations

import argparse

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json, print_table

DESCRIPTION = """\
List the persistent layers, the layers kept by `up --keep-changes`, the named volumes, the unpacked archives and the
images, with their disk space, the time of the last use, and the environment files and sandboxes that refer to each.
The time of an image is that of its import, and its space includes what other images share.

The first column is the name for `sandbox rm`. "(gone)" marks a file that no longer exists. "(changed after
unpacking)" marks an archive whose unpacked copy is no longer used. "unknown" means that no environment file is
recorded."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the list; return the exit status."""
    from sandbox.cli.state_path import existing_locations
    from sandbox.errors import printable
    from sandbox.lifecycle import inventory
    from sandbox.lifecycle.kept_items import Inventory, listing

    where = existing_locations()
    found = Inventory() if where is None else inventory.take(where)
    if arguments.json:
        print_json([item.as_dict() for item in found.items])
        return 0
    rows = [[printable(cell) for cell in row] for row in listing(found.items)]
    print_table(rows, header=("NAME", "SIZE", "LAST USED", "USED BY") if rows else ())
    return 0

"""`sandbox df`: sum up the disk space of layers, volumes, archives and images."""

from __future__ import annotations

import argparse

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json, print_table

DESCRIPTION = """\
Print the disk space of layers, volumes, archives and images, by kind, and how much of it is unreferenced. What several
images share counts once.

`sandbox prune` removes unreferenced archives and the leftovers of ended sandboxes. `sandbox prune --data` also
removes unreferenced persistent layers and named volumes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the sums; return the exit status."""
    from sandbox.cli.state_path import existing_locations
    from sandbox.lifecycle import inventory
    from sandbox.lifecycle.kept_items import Inventory, sums, total
    from sandbox.sizes import human_size

    where = existing_locations()
    kinds = sums(Inventory() if where is None else inventory.take(where))
    if arguments.json:
        print_json(
            {
                "state_directory": None if where is None else where.state,
                "bytes": total(one["bytes"] for one in kinds),
                "kinds": kinds,
            }
        )
        return 0
    rows = [
        [
            one["kind"],
            str(one["count"]),
            human_size(one["bytes"]),
            human_size(one["unreferenced_bytes"]),
        ]
        for one in kinds
    ]
    print_table(rows, header=("KIND", "COUNT", "SIZE", "UNREFERENCED"))
    return 0

"""`sandbox rollback`: return a sandbox to a snapshot."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json
from sandbox.errors import printable

DESCRIPTION = """\
Return the writable layer of a sandbox that is not running to the state of the snapshot SNAPSHOT.

Changes since then are removed without a question, unless a later snapshot has them. All snapshots stay.

NAME is the name of a sandbox or the id of a run; FILE selects the newest run of that file."""
EPILOG = """examples:
  sandbox rollback toolbox before-upgrade

exit status: 0, 125 for a failure"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sandbox", metavar="FILE|NAME", help="the sandbox")
    parser.add_argument("name", metavar="SNAPSHOT", help="the snapshot to return to")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Return to the snapshot; return the exit status."""
    from sandbox.changes.snapshots import roll_back

    layer = roll_back(arguments.sandbox, arguments.name)
    if arguments.json:
        print_json({"sandbox": layer.id, "snapshot": arguments.name})
    else:
        print(printable(f"{layer.id} has the state of the snapshot {arguments.name}"), file=sys.stderr)
    return 0

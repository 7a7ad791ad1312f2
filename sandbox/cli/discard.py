"""`sandbox discard`: remove the changes of a sandbox, all or those at some paths."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json
from sandbox.errors import printable

DESCRIPTION = """\
Remove the changes of a sandbox that is not running: all of them, or those at and below each PATH, which then show
again what the layers below have.

NAME is the name of a sandbox or the id of a run; FILE selects the newest run of that file. There is no
confirmation. Snapshots stay, and `sandbox rollback` returns to one; without one, changes cannot be restored.
`sandbox diff` shows them."""
EPILOG = """examples:
  sandbox discard toolbox
  sandbox discard toolbox /var/cache /root/.cache

exit status: 0, 125 if the changes could not be removed"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sandbox", metavar="FILE|NAME", help="the sandbox whose changes are removed")
    parser.add_argument("paths", metavar="PATH", nargs="*", help="discard only the changes at and below PATH")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove the changes; return the exit status."""
    from sandbox.changes.discarding import discard

    layer = discard(arguments.sandbox, arguments.paths)
    if arguments.json:
        print_json({"discarded": layer.id, "paths": arguments.paths})
    else:
        what = ", ".join(map(printable, arguments.paths)) or "all changes"
        print(f"discarded {what} of {printable(layer.id)}", file=sys.stderr)
    return 0

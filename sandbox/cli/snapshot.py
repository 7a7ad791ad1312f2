"""`sandbox snapshot`: name the present state of a sandbox, list such names, or remove one."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json, check_name
from sandbox.cli.output import print_json, print_table
from sandbox.errors import SandboxError, printable

DESCRIPTION = """\
Record the present state of the writable layer of a sandbox under the name SNAPSHOT. `sandbox rollback` returns to it.

The layer is frozen, not copied, so that the time does not depend on its size. The sandbox may be running: its
programs do not notice, and wait for less than 0.1 s. It must have a writable layer that outlives it:
root.writable = "persistent", or `sandbox up --keep-changes`.

A snapshot has the changes to the root file system, not volumes, and not the memory of programs. Files that a
program is writing are as they are at that moment. Each snapshot adds a layer to the sandbox. The next write to a
file copies it from there, as from any other layer: that takes time and space for a large file, also within
root.size.

NAME is the name of a sandbox or the id of a run; FILE selects the newest run of that file."""
EPILOG = """examples:
  sandbox snapshot toolbox before-upgrade
  sandbox snapshot toolbox --list
  sandbox snapshot toolbox --remove before-upgrade

exit status: 0, 125 for a failure"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sandbox", metavar="FILE|NAME", help="the sandbox")
    parser.add_argument("name", metavar="SNAPSHOT", nargs="?", help="the name of the new snapshot")
    parser.add_argument("--list", action="store_true", help="list the snapshots, oldest first")
    parser.add_argument(
        "--remove",
        metavar="SNAPSHOT",
        help="remove the snapshot, and the layers that nothing else needs; the sandbox stays as it is",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Make, list or remove snapshots; return the exit status."""
    from sandbox.changes import snapshots

    given = [arguments.name is not None, arguments.list, arguments.remove is not None]
    if sum(given) != 1:
        raise SandboxError(
            "give one of SNAPSHOT, --list and --remove SNAPSHOT",
            hint="for example: sandbox snapshot NAME before-upgrade",
        )
    if arguments.list:
        return _list(arguments)
    if arguments.remove is not None:
        layer = snapshots.remove(arguments.sandbox, arguments.remove)
        done, name = "removed", arguments.remove
    else:
        check_name(arguments.name, "snapshot")
        layer = snapshots.make(arguments.sandbox, arguments.name)
        done, name = "made", arguments.name
    if arguments.json:
        print_json({"sandbox": layer.id, done: name})
    else:
        print(printable(f"{done} the snapshot {name} of {layer.id}"), file=sys.stderr)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    import time

    from sandbox.changes.snapshots import list_snapshots

    layer, found = list_snapshots(arguments.sandbox)
    if arguments.json:
        print_json({"sandbox": layer.id, "snapshots": [one.as_dict() for one in found]})
        return 0
    rows = [
        [printable(one.name), time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.time))] for one in found
    ]
    print_table(rows, header=("SNAPSHOT", "TIME") if rows else ())
    return 0

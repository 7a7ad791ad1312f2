"""`sandbox top`: list the processes of a sandbox."""

from __future__ import annotations

import argparse

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json, print_table

DESCRIPTION = """\
List the processes of a running sandbox: the pid of each in the sandbox and on this machine, its user id in the sandbox and on
this machine, its memory, and its command line. Process 1 is the sandbox's own; it starts the program and reaps orphans.

NAME is the name of a sandbox or the id of a run; FILE selects the newest run of that file."""
EPILOG = "exit status: 0, 125 for a failure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sandbox", metavar="FILE|NAME", help="the sandbox")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the list; return the exit status."""
    from sandbox.cli.state_path import existing_locations
    from sandbox.errors import StateError, printable
    from sandbox.lifecycle.processes import processes_of
    from sandbox.sizes import human_size
    from sandbox.state.selection import running

    where = existing_locations()
    if where is None:
        raise StateError(f"no sandbox {arguments.sandbox} is running", hint="`sandbox up` starts one")
    found = processes_of(running(where.state, arguments.sandbox))
    if arguments.json:
        print_json([one.as_dict() for one in found])
        return 0
    rows = [
        [
            "-" if one.pid_inside is None else str(one.pid_inside),
            str(one.pid),
            "-" if one.uid_inside is None else str(one.uid_inside),
            str(one.uid),
            human_size(one.memory),
            printable(one.command),
        ]
        for one in found
    ]
    print_table(rows, header=("PID", "HOST PID", "UID", "HOST UID", "MEMORY", "COMMAND") if rows else ())
    return 0

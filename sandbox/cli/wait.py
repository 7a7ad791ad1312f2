"""`sandbox wait`: wait for the end of sandboxes."""

from __future__ import annotations

import argparse

DESCRIPTION = """\
Wait until the given sandboxes have ended, and print the exit status of each that ran in the background, one per line. One that
has ended before is not waited for; its status is printed until `sandbox rm` removes it.

NAME is the name of a sandbox, or the beginning of the id of a run; FILE selects the newest run of that file."""
EPILOG = "exit status: 0, 125 for a failure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sandboxes", metavar="FILE|NAME", nargs="+", help="a sandbox")


def run(arguments: argparse.Namespace) -> int:
    """Wait; return the exit status."""
    from sandbox.cli.state_path import existing_locations
    from sandbox.errors import StateError
    from sandbox.lifecycle import running

    where = existing_locations()
    if where is None:
        raise StateError(f"there is no sandbox {arguments.sandboxes[0]}")
    for one in [running.newest(where.state, name) for name in arguments.sandboxes]:
        status = running.wait(where.state, one)
        if status is not None:
            print(status, flush=True)
    return 0

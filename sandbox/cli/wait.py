"""`sandbox wait`: wait for the end of sandboxes."""

from __future__ import annotations

import argparse

from sandbox.cli.stop import add_sandboxes, chosen

DESCRIPTION = """\
Wait until the given running sandboxes have ended. A sandbox that is not running is an error.

NAME is the name of a sandbox, or the beginning of the id of a run; FILE selects the runs of that file."""
EPILOG = "exit status: 0, 125 for a failure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_sandboxes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Wait; return the exit status."""
    from sandbox.lifecycle import running

    for one in chosen(arguments):
        running.wait(one)
    return 0

"""`sandbox edit`: open a file in an editor and install it only if it is valid."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.output import print_warnings, use_colour

DESCRIPTION = """\
Open a copy of FILE in $VISUAL, $EDITOR or vi, and replace FILE with it only if it is valid.

If the copy has mistakes, they are printed, and you can edit it again or discard it, as with visudo. FILE is
replaced atomically, and only if no other process has changed it meanwhile."""
EPILOG = "exit status: 0, 1 if an invalid version was discarded, 125 for a failure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("file", metavar="FILE", help="the environment file (TOML)")


def run(arguments: argparse.Namespace) -> int:
    """Edit the file; return the exit status."""
    from sandbox.editing.session import edit_file

    given_up = False

    def ask(question: str) -> str:
        nonlocal given_up
        print(question, end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        given_up = True
        return answer

    def show(text: str) -> None:
        print(text, file=sys.stderr)

    interactive = sys.stdin.isatty() and sys.stderr.isatty()
    warnings = edit_file(
        arguments.file,
        environ=os.environ,
        show=show,
        ask=ask if interactive else None,
        colour=use_colour(sys.stderr),
    )
    print_warnings(warnings or [])
    return 1 if warnings is None and given_up else 0

"""`sandbox man`: print a manual page."""

from __future__ import annotations

import argparse

DESCRIPTION = "Print a manual page, in roff: of the command, or of the environment file."
EPILOG = "read one:  sandbox man sandbox.toml | man -l -"

PAGES = ("sandbox", "sandbox.toml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "page",
        metavar="PAGE",
        nargs="?",
        choices=PAGES,
        default=PAGES[0],
        help="sandbox, the command (the default), or sandbox.toml, the environment file",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the page."""
    from sandbox import __version__

    if arguments.page == "sandbox":
        from sandbox.cli.parser import DESCRIPTION as COMMAND
        from sandbox.cli.parser import whole
        from sandbox.cli.verbs import GROUPS, PROGRAM_EXIT_STATUS
        from sandbox.manual.command import command_page

        page = command_page(
            whole(),
            GROUPS,
            version=__version__,
            description=COMMAND,
            exit_status=PROGRAM_EXIT_STATUS.removeprefix("exit status: "),
        )
    else:
        from sandbox.manual.language import language_page

        page = language_page(version=__version__)
    print(page, end="")
    return 0

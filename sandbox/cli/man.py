"""`sandbox man`: print a manual page."""

from __future__ import annotations

import argparse

from unionfs._stdlib.typing import Any

DESCRIPTION = "Print a manual page, in roff: of the command, of the environment file, or of unionfs."
EPILOG = "read one:  sandbox man sandbox.toml | man -l -"

PAGES = ("sandbox", "sandbox.toml", "unionfs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "page",
        metavar="PAGE",
        nargs="?",
        choices=PAGES,
        default=PAGES[0],
        help="sandbox, the command (the default); sandbox.toml, the environment file; or unionfs, the union file system",
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
    elif arguments.page == "unionfs":
        from sandbox.manual.unionfs import unionfs_page

        page = unionfs_page(_described())
    else:
        from sandbox.manual.language import language_page

        page = language_page(version=__version__)
    print(page, end="")
    return 0


def _described() -> Any:
    """Return the description that `unionfs --describe` prints as JSON. Raise SandboxError if unionfs cannot be run."""
    import json
    import subprocess
    import sys

    from sandbox.errors import SandboxError

    command = [sys.executable, "-P", "-m", "unionfs", "--describe"]
    try:
        return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise SandboxError(
            f"the options of unionfs cannot be read: {error}", hint="reinstall sandbox and unionfs"
        ) from None

"""`sandbox stop`: end sandboxes, and wait until they are gone."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json
from sandbox.errors import printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.runs import Run

DESCRIPTION = """\
End running sandboxes, all at the same time, and wait until they are gone. Each program gets the stop signal of its file
(process.stop_signal). What does not end within process.stop_timeout gets SIGKILL.

NAME is the name of a sandbox, or the beginning of the id of a run; FILE selects the runs of that file."""
EPILOG = """examples:
  sandbox stop web
  sandbox stop --all --time 2

exit status: 0, 125 for a failure"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_sandboxes(parser)
    parser.add_argument(
        "--time",
        "-t",
        type=_seconds,
        metavar="SECONDS",
        help="seconds until SIGKILL; default: process.stop_timeout of each file",
    )
    add_json(parser)


def add_sandboxes(parser: argparse.ArgumentParser) -> None:
    """Add the sandboxes to act on, and --all."""
    parser.add_argument("sandboxes", metavar="FILE|NAME", nargs="*", help="a sandbox")
    parser.add_argument("--all", "-a", action="store_true", help="all running sandboxes")


def chosen(arguments: argparse.Namespace) -> list[Run]:
    """Return the runs that the command line selects.

    Raises:
        StateError: an argument selects none; or there is no argument.
    """
    from sandbox.cli.state_path import existing_locations
    from sandbox.errors import StateError
    from sandbox.lifecycle import running

    if not arguments.sandboxes and not arguments.all:
        raise StateError("no sandbox is named", hint="name one, or add --all; `sandbox ps` lists them")
    where = existing_locations()
    if where is None:
        if arguments.all:
            return []
        raise StateError(f"no sandbox {arguments.sandboxes[0]} is running")
    return running.choose(where.state, arguments.sandboxes, every=arguments.all)


def run(arguments: argparse.Namespace) -> int:
    """End the sandboxes; return the exit status."""
    from sandbox.lifecycle import running

    ended: list[dict[str, str]] = []

    def on_end(run: Run, by: str) -> None:
        ended.append({"id": run.id, "by": by})
        if not arguments.json:
            print(f"{printable(run.id)}: ended by {by}", file=sys.stderr)

    running.stop(chosen(arguments), arguments.time, on_end)
    if arguments.json:
        print_json({"ended": ended})
    return 0


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError(text)
    return value


_seconds.__name__ = "number of seconds"  # argparse names the type in its message

"""`sandbox apply`: write the changes of a sandbox to the host directory that is its layer."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json, use_colour, warn
from sandbox.errors import SandboxError, printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.changes.applying import Application

DESCRIPTION = """\
Write what a sandbox has changed to the directory of this machine that is a dir: layer of it: all changes, or those at
and below each PATH. The changes are shown first. Then a terminal is asked; elsewhere --yes or --dry-run is needed.

A path that has changed on this machine since the sandbox first used it is a conflict. With a conflict, nothing is
changed. Select other paths, or leave it out with --exclude.

Each file is replaced atomically, and never through a symbolic link. If the command is interrupted, the same command
continues. What is not selected stays in the sandbox and in `sandbox diff`."""
EPILOG = """examples:
  sandbox apply toolbox --dry-run
  sandbox apply toolbox /usr/local --exclude '*.pyc'

exit status: 0, 1 if the answer was no, 125 for a conflict or a failure"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "sandbox",
        metavar="FILE|NAME",
        help="an environment file (it contains / or ends in .toml), or the name of a sandbox",
    )
    parser.add_argument("paths", metavar="PATH", nargs="*", help="apply only the changes at and below PATH")
    parser.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        help="leave out paths that match PATTERN, as of the shell; may be repeated",
    )
    parser.add_argument("--to", metavar="DIR", help="the dir: layer to write to, if there are several")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the operations, in order, and do nothing"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show and apply the changes; return the exit status."""
    from sandbox.changes import applying
    from sandbox.cli.diff import checked

    paths = [checked(path) for path in arguments.paths]
    application = applying.prepare(arguments.sandbox, paths, exclude=arguments.exclude, to=arguments.to)
    plan = application.plan
    if not arguments.json:
        _show(application)
    if arguments.dry_run:
        if arguments.json:
            print_json(_as_value(application, applied=False))
        return 0
    if plan.conflicts:
        count = len(plan.conflicts)
        reasons = "; ".join(printable(one.text()) for one in plan.conflicts)
        raise SandboxError(
            f"nothing was applied, because of {count} conflict{'s' * (count != 1)}: {reasons}",
            hint="select other paths, or leave these out with --exclude",
        )
    if plan.changes and not arguments.yes and not _confirmed(len(plan.changes), application.target.path):
        return 1
    for notice in applying.execute(application) if plan.changes else ():
        warn(notice)
    if arguments.json:
        print_json(_as_value(application, applied=True))
    else:
        count = len(plan.changes)
        print(
            f"applied {count} change{'s' * (count != 1)} to {printable(application.target.path)}",
            file=sys.stderr,
        )
    return 0


def _show(application: Application) -> None:
    from sandbox.changes import render

    plan = application.plan
    for line in render.lines(plan.changes, color=use_colour(sys.stdout)):
        print(line)
    for mark in plan.marks:
        print(f"look at {render.shown(mark.change.path)}: {', '.join(mark.reasons)}")
    for notice in plan.notices:
        warn(notice)
    for conflict in plan.conflicts:
        print(f"conflict: {printable(conflict.text())}")


def _as_value(application: Application, *, applied: bool) -> dict[str, object]:
    from sandbox.changes.rows import as_value, text_of

    plan = application.plan
    return {
        "directory": application.target.path,
        "applied": applied,
        "changes": [as_value(change) for change in plan.changes],
        "marks": [{"path": text_of(mark.change.path), "reasons": list(mark.reasons)} for mark in plan.marks],
        "conflicts": [{"path": text_of(one.path), "reason": one.reason} for one in plan.conflicts],
        "notices": list(plan.notices),
    }


def _confirmed(count: int, target: str) -> bool:
    """Prompt on the terminal; return whether the user confirms.

    Raises:
        SandboxError: standard input or standard error is not a terminal.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SandboxError(
            "there is no terminal for the confirmation",
            hint="add --yes, or --dry-run to see what would be done",
        )
    print(
        f"Apply {count} change{'s' * (count != 1)} to {printable(target)}? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")

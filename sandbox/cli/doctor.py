"""`sandbox doctor`: probe what this machine can do for sandboxes, and print remedies for what it cannot."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from sandbox.cli.options import add_json, add_overrides, load_spec, overrides
from sandbox.cli.output import print_json, styled, use_colour

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from sandbox.doctor.check import Check

DESCRIPTION = """\
Test what this machine and account can do for sandboxes. Print what is missing, which settings need it, and how to
get it. With FILE, also test whether `sandbox up FILE` would work here. Each test is a real attempt, in a process
that leaves nothing behind."""
EPILOG = """\
levels: ok; note (worth knowing); warning (some settings are refused or not enforced); failure (`up` does not work)

Mistakes that only a start can find are not tested, such as a damaged archive, or a program that is missing in the
layers.

exit status: 0 if `sandbox up` would work, 1 if not, 125 for a failure of sandbox"""

EXIT_WOULD_NOT_WORK = 1
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "failure": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="an environment file to plan on this machine; - for standard input",
    )
    add_overrides(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the probes and checks, and print their results; return the exit status."""
    from sandbox.doctor.check import shown_checks, summary_line, would_work
    from sandbox.doctor.examine import examine
    from sandbox.errors import SandboxError

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    if arguments.file is None and (arguments.profile or overrides(arguments)):
        raise SandboxError(
            "--profile, --set, -v, -e, -w and -p change an environment file", hint="name the file"
        )
    checks = examine(environ=os.environ, file=arguments.file, load=lambda: load_spec(arguments))
    works = would_work(checks)
    summary = summary_line(checks, file=arguments.file)
    if arguments.json:
        print_json({"would_work": works, "summary": summary, "checks": [check.as_dict() for check in checks]})
    else:
        _print(shown_checks(checks), summary)
    return 0 if works else EXIT_WOULD_NOT_WORK


def _end(number: int, _frame: object) -> NoReturn:
    """Raise SystemExit, so that all clean-up handlers run, as for KeyboardInterrupt."""
    raise SystemExit(128 + number)


def _print(checks: list[Check], summary: str) -> None:
    from sandbox.errors import printable

    colour = use_colour(sys.stdout)
    levels = max(len(check.level) for check in checks)
    names = max(len(check.id) for check in checks)
    indent = " " * (levels + names + 4)
    for check in checks:
        level = styled(check.level, _STYLES[check.level], colour=colour) + " " * (levels - len(check.level))
        print(f"{level}  {check.id:{names}}  {printable(check.summary)}")
        for line in check.details:
            print(f"{indent}{line}")
        if check.cost:
            print(f"{indent}cost: {printable(check.cost)}")
        if check.remedy:
            print(f"{indent}mend: {printable(check.remedy)}")
    print()
    print(styled(printable(summary), "bold", colour=colour))

"""`sandbox check`: find all mistakes in environment files."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json, add_overrides
from sandbox.cli.output import print_json, use_colour

DESCRIPTION = """\
Find all mistakes in environment files, for an editor, a commit hook or a CI job. Nothing is started, and what only this
machine can tell (whether a directory exists, whether a limit can be enforced) is left to `sandbox explain`. Without
--profile, each file is checked as it is and with each of its profiles."""
EPILOG = "exit status: 0 if there is no mistake (there may be warnings), 1 if there is one, 125 for a failure of sandbox"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="an environment file (TOML); - for standard input"
    )
    add_overrides(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what is wrong with the files; return 1 if anything is, else 0."""
    from sandbox.spec.check import check

    found = {
        file: check(file, profiles=arguments.profile, assignments=arguments.assignments)
        for file in dict.fromkeys(arguments.files)
    }
    mistakes = sum(diagnostic.severity == "error" for one in found.values() for diagnostic in one)
    if arguments.json:
        print_json(
            {
                "ok": not mistakes,
                "files": [
                    {
                        "file": file,
                        "ok": all(diagnostic.severity != "error" for diagnostic in diagnostics),
                        "diagnostics": [diagnostic.as_dict() for diagnostic in diagnostics],
                    }
                    for file, diagnostics in found.items()
                ],
            }
        )
        return 1 if mistakes else 0
    # A mistake of a file that several of the files extend is the same diagnostic for all of them.
    for diagnostic in dict.fromkeys(diagnostic for one in found.values() for diagnostic in one):
        print(diagnostic.render(color=use_colour(sys.stdout)))
    sys.stdout.flush()  # before the summary, wherever the two go
    print(_summary(len(found), mistakes), file=sys.stderr)
    return 1 if mistakes else 0


def _summary(files: int, mistakes: int) -> str:
    checked = f"{files} {'file' if files == 1 else 'files'} checked"
    return (
        f"{checked}: {mistakes} {'mistake' if mistakes == 1 else 'mistakes'}"
        if mistakes
        else f"{checked}: no mistakes"
    )

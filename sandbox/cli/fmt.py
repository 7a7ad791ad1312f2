"""`sandbox fmt`: put environment files into the usual layout."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.output import for_terminal
from sandbox.errors import printable

DESCRIPTION = """\
Format files in the usual layout. Values, comments and the order of keys do not change.

The layout: one blank line before a table and the comment above it, at most one elsewhere; no indentation; `key =
value`; keys without quotes where possible; strings in double quotes where that needs no escapes; arrays on one
line, or with one element and a trailing comma on each line."""
EPILOG = "exit status: 0, 1 if --check is given and a file would change, 125 for a failure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="an environment file; - for standard input to standard output",
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing, and print the names of files that would change"
    )
    parser.add_argument("--diff", action="store_true", help="change nothing, and print the differences")


def run(arguments: argparse.Namespace) -> int:
    """Format the files, or print which would change; return the exit status."""
    from sandbox.editing.reading import read_input
    from sandbox.editing.replace import check_replaceable, read_original, replace
    from sandbox.editing.style import formatted
    from sandbox.spec.load import STDIN

    changed = 0
    for name in arguments.files:
        original = None if name == STDIN else read_original(name)
        shown_name = "<stdin>" if original is None else name
        before = read_input() if original is None else original.data
        after = formatted(before, shown_name)
        changed += after != before
        if arguments.diff and after != before:
            _print_diff(shown_name, before.decode(), after.decode())
        if arguments.check and after != before:
            print(f"{printable(shown_name)} would change", file=sys.stderr)
        if arguments.check or arguments.diff:
            continue
        if original is None:
            sys.stdout.buffer.write(after)
        elif after != before:
            check_replaceable(original)
            replace(original, after)
            print(f"{printable(name)} is changed", file=sys.stderr)
    return 1 if arguments.check and changed else 0


def _print_diff(name: str, before: str, after: str) -> None:
    import difflib

    lines = difflib.unified_diff(
        _lines(before), _lines(after), printable(name), f"{printable(name)} (formatted)"
    )
    for line in lines:
        print(for_terminal(line), end="" if line.endswith("\n") else "\n\\ No newline at end of file\n")


def _lines(text: str) -> list[str]:
    """Return the lines of *text* with their line ends; only "\\n" ends a line, unlike with str.splitlines()."""
    *lines, rest = text.split("\n")
    return [f"{line}\n" for line in lines] + ([rest] if rest else [])

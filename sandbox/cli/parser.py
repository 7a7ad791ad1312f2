"""Build the argument parsers and parse the command line.

Only the requested verb's parser is built. Completion and the manual page build the parsers of all verbs.
"""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.verbs import GROUPS, PROGRAM_EXIT_STATUS, VERBS
from sandbox.errors import EXIT_FAILURE, printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any, NoReturn, Protocol

    class VerbModule(Protocol):
        """The interface of the module of a verb."""

        DESCRIPTION: str
        add_arguments: Callable[[argparse.ArgumentParser], None]
        run: Callable[[argparse.Namespace], int]


DESCRIPTION = "Run programs in sandboxes that one TOML file describes, without root."
EXIT_STATUS = f"exit status: 0, or {EXIT_FAILURE} for a failure of sandbox"
"""The text about exit statuses for verbs whose epilog has none."""


class Formatter(argparse.HelpFormatter):
    """A help formatter that wraps paragraphs but keeps preformatted ones; argparse's formatters do only one of the two."""

    def __init__(self, prog: str, **others: Any) -> None:
        # argparse creates a formatter for each added argument. Without a width it would import shutil, which imports the
        # archive modules, to get the width of the terminal.
        super().__init__(prog, **({"width": _columns() - 2} | others))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        from sandbox.manual.paragraphs import is_laid_out, paragraphs

        return "\n\n".join(
            textwrap.indent(part, indent)
            if is_laid_out(part)
            else textwrap.fill(
                part,
                width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,  # a name such as docker-archive: stays whole
            )
            for part in paragraphs(text)
        )


def _columns() -> int:
    """Return the width of the terminal in columns, like `shutil.get_terminal_size`."""
    variable = os.environ.get("COLUMNS", "")
    columns = int(variable) if variable.isdecimal() else 0
    if columns <= 0 and sys.__stdout__ is not None:
        try:
            columns = os.get_terminal_size(sys.__stdout__.fileno()).columns
        except (AttributeError, ValueError, OSError):  # not a terminal, or closed
            pass
    return columns if columns > 0 else 80


class Parser(argparse.ArgumentParser):
    """An argument parser that exits with EXIT_FAILURE; argparse's status 2 could be confused with a program's."""

    def error(self, message: str) -> NoReturn:
        """Print usage and *message*, and exit."""
        self.print_usage(sys.stderr)
        print(f"sandbox: {printable(message)}", file=sys.stderr)
        sys.exit(EXIT_FAILURE)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of *argv*; their `run` executes the verb. Exit for --help, --version and mistakes."""
    position = next((index for index, word in enumerate(argv) if not word.startswith("-")), None)
    if position is None or position > 0:
        return _overview_only(argv)
    verb, rest = argv[0], list(argv[1:])
    if verb not in VERBS:
        _top().error(_unknown(verb))
    from sandbox.cli.options import split_command

    parser = Parser(prog=f"sandbox {verb}", formatter_class=Formatter)
    fill(parser, verb)
    if verb != "up":
        return parser.parse_args(rest)
    rest, command = split_command(rest)
    arguments = parser.parse_args(rest)
    arguments.command = [*arguments.command, *command]
    return arguments


def fill(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the arguments of *verb* to *parser*, and set `run` to the function that executes the verb."""
    import importlib

    from sandbox.cli.options import add_common

    module: VerbModule = importlib.import_module(f"sandbox.cli.{verb}")
    parser.description = module.DESCRIPTION
    parser.formatter_class = Formatter
    epilog = getattr(module, "EPILOG", "")
    parser.epilog = epilog if "exit status: " in epilog else f"{epilog}\n\n{EXIT_STATUS}".lstrip()
    parser.usage = getattr(module, "USAGE", None)
    module.add_arguments(parser)
    add_common(parser, module.run)


def whole(filled: Collection[str] = VERBS) -> Parser:
    """Return the parser of the whole command; only the verbs in *filled* get their arguments."""
    top = _top(help_of_verbs=False)
    verbs = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for verb, summary in VERBS.items():
        parser = verbs.add_parser(verb, help=summary)
        if verb in filled:
            fill(parser, verb)
    return top


def _top(*, help_of_verbs: bool = True) -> Parser:
    top = Parser(
        prog="sandbox",
        usage="sandbox COMMAND [OPTION ...]" if help_of_verbs else None,
        description=DESCRIPTION + ("\n\n" + _verbs() if help_of_verbs else ""),
        epilog=f"`sandbox COMMAND --help` describes one of them.\n\n{PROGRAM_EXIT_STATUS}",
        formatter_class=Formatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    return top


class _Version(argparse.Action):
    """Imports what prints the version only when it is requested."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from sandbox.cli.version import describe

        print(describe())
        parser.exit()


def _overview_only(argv: Sequence[str]) -> NoReturn:
    """Handle a command line that does not begin with a verb."""
    top = _top()
    top.parse_known_args(argv)  # --help and --version end here
    options = [word for word in argv if word.startswith("-")]
    top.error(
        f"{options[0]} must follow a command"
        if options
        else "no command given; `sandbox --help` lists the commands"
    )


_EQUIVALENTS = {
    "run": "up",
    "start": "up",
    "validate": "check",
    "lint": "check",
    "clone": "fork",
    "restore": "rollback",
    "revert": "rollback",
    "version": "--version",
    "help": "--help",
}
"""Verbs of similar programs, and the equivalents in this one."""
_WITHOUT_EQUIVALENT = frozenset(("attach", "create", "exec", "pause", "restart"))
"""Verbs of similar programs for running containers, which have no equivalent in this one."""


def _unknown(verb: str) -> str:
    if verb in _EQUIVALENTS:
        return f"{verb!r} is not a command; did you mean {_EQUIVALENTS[verb]}?"
    if verb in _WITHOUT_EQUIVALENT:
        return (
            f"{verb!r} is not a command: no command can enter or change a running sandbox yet; "
            "`sandbox --help` lists the commands"
        )
    from difflib import get_close_matches  # slow to import, and only needed for a mistake

    close = get_close_matches(verb, VERBS, n=1)
    if verb.endswith(".toml"):
        return f"{verb} is not a command; did you mean `sandbox up {verb}`?"
    return f"{verb!r} is not a command; " + (
        f"did you mean {close[0]}?" if close else "`sandbox --help` lists them"
    )


def _verbs() -> str:
    width = max(map(len, VERBS))
    lines = []
    for group, verbs in GROUPS.items():
        lines += [f"{group}:", *(f"  {name:{width}}  {summary}" for name, summary in verbs.items()), ""]
    return "\n".join(lines).rstrip()

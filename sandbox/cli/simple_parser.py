"""Parse a simple command line of `up` without argparse, whose import and parser construction would slow down every start.

The verb declares its arguments as usual, but to a `Declared` instead of a parser. Any other command line (help, an
abbreviation, `--name=value`, a mistake) is left to argparse, which also prints the messages. A test checks that both parsers
return the same arguments for simple command lines.
"""

from __future__ import annotations

from sandbox.cli import up
from sandbox.cli.options import add_common, split_command

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    class Arguments(argparse.Namespace):
        """The arguments, for type checkers: readers may use either class."""

        command: list[str]

else:

    class Arguments:
        """The arguments as attributes, like argparse.Namespace."""


class Declared:
    """Records the arguments that `add_arguments` of a verb declares. With an unknown declaration, `read` always returns None."""

    def __init__(self) -> None:
        self._positionals: list[tuple[str, str | None, object]] = []
        self._flags: dict[str, str] = {}
        self._lists: dict[str, str] = {}
        self._defaults: dict[str, object] = {}
        self._known = True

    def add_argument(
        self,
        name: str,
        *,
        action: str = "store",
        nargs: str | None = None,
        default: object = None,
        dest: str | None = None,
        **given: object,
    ) -> None:
        """Record an argument, like the method of argparse."""
        kind = (name.startswith("-"), action, nargs, default)
        short = len(name) == 2 and action == "append"
        place = dest or name.removeprefix("--").replace("-", "_")
        if not given.keys() <= {"help", "metavar"} or (
            name.startswith("-") and not (name.startswith("--") or short)
        ):
            self._known = False
        elif kind == (True, "store_true", None, None):
            self._flags[name] = place
        elif kind == (True, "append", None, []):
            self._lists[name] = place
        elif kind[:2] == (False, "store") and (nargs == "?" or kind[2:] in ((None, None), ("*", None))):
            self._positionals.append((place, nargs, default))
        else:
            self._known = False

    def set_defaults(self, **values: object) -> None:
        """Record attributes that no argument sets."""
        self._defaults |= values

    def read(self, words: Sequence[str]) -> Arguments | None:
        """Return the arguments in *words*; None if they are not simple."""
        if not self._known:
            return None
        values = {**self._defaults, **dict.fromkeys(self._flags.values(), False)}
        lists: dict[str, list[str]] = {place: [] for place in self._lists.values()}
        positionals: list[str] = []
        last = -1
        remaining = iter(enumerate(words))
        for at, word in remaining:
            if word in self._flags:
                values[self._flags[word]] = True
            elif word in self._lists:
                _, value = next(remaining, (0, "-"))
                if value.startswith("-"):
                    return None
                lists[self._lists[word]].append(value)
            elif word.startswith("-") and word != "-":
                return None
            else:
                # argparse assigns the first of several separated groups to all positionals of any number: leave that to it.
                if positionals and last != at - 1:
                    return None
                positionals.append(word)
                last = at
        for place, nargs, default in self._positionals:
            if nargs == "*":
                values[place], positionals = positionals, []
            elif positionals:
                values[place], *positionals = positionals
            elif nargs == "?":
                values[place] = default
            else:
                return None
        if positionals:
            return None
        arguments = Arguments()
        vars(arguments).update(values, **lists)
        return arguments


def read(argv: Sequence[str]) -> Arguments | None:
    """Return the arguments of *argv*, whose verb is `up`; None if `sandbox.cli.parser.parse` has to parse them."""
    declared = Declared()
    up.add_arguments(declared)
    add_common(declared, up.run)
    words, command = split_command(argv[1:])
    arguments = declared.read(words)
    if arguments is not None:
        arguments.command += command
    return arguments

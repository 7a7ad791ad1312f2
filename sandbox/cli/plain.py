"""Reads a command line that has nothing unusual, without argparse: importing it and building a parser takes longer than a start has.

The verb declares its arguments as ever, to a `Declared` instead of to a parser. Whatever is not plain (help, an abbreviation, `--name=value`,
a mistake) is left to argparse, which knows all of it and words the messages; what is plain means the same to both, which a test holds.
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
        """For what reads it, the one is as good as the other."""

        command: list[str]

else:

    class Arguments:
        """What argparse calls a Namespace: the arguments as attributes."""


class Declared:
    """Takes what `add_arguments` of a verb declares. A declaration that it does not know makes no command line plain."""

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
        """Take one, as argparse's method of this name does."""
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
        """Set attributes that no argument sets."""
        self._defaults |= values

    def read(self, words: Sequence[str]) -> Arguments | None:
        """Return what *words* mean; None if they are not plain."""
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
                # Of those in several places, argparse gives the first to all that take any number.
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
    """Return the arguments of *argv*, whose verb is `up`, as `sandbox.cli.parser.parse` would; None where that is to be asked."""
    declared = Declared()
    up.add_arguments(declared)
    add_common(declared, up.run)
    words, command = split_command(argv[1:])
    arguments = declared.read(words)
    if arguments is not None:
        arguments.command += command
    return arguments

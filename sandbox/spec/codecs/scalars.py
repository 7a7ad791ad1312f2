"""Codecs of single values: booleans, numbers, strings, words from a list.

Messages state the expected and the found value; hints state what to write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from sandbox.spec import units
from sandbox.spec.notation import literal, nearest, quote, shown, type_name
from sandbox.spec.patterns import pattern as lazy_pattern
from sandbox.spec.settings import NOT_ENFORCED, Codec, Cursor, Invalid, words
from unionfs._stdlib.typing import Any, TypeVar

T = TypeVar("T")
N = TypeVar("N", int, float)

ID_MAX = (1 << 32) - 2
"""The largest user or group id. The next one, 4294967295, is (uid_t) -1, which chown(2) takes as "unchanged"."""

_REFERENCE = r"\$\{"


def mismatch(codec: Codec[Any], value: object, hint: str | None = None) -> Invalid:
    """Return the error for a value of the wrong TOML type."""
    return Invalid(f"expected {codec.expects}, found {type_name(value)}", hint)


def expect_text(codec: Codec[Any], value: object) -> str:
    """Return *value* if it is a string without NUL; raise Invalid otherwise."""
    if not isinstance(value, str):
        hint = None
        if isinstance(value, (bool, int, float)):
            hint = f"put it in quotes: {quote(literal(value))}"
        elif hasattr(value, "isoformat"):
            hint = "put it in quotes"  # a date or time, which has more than one notation
        raise mismatch(codec, value, hint)
    if "\0" in value:
        raise Invalid("a NUL character cannot be passed to the kernel", "remove \\u0000", fragment="\\u0000")
    return value


def text_schema(pattern: str = "") -> dict[str, object]:
    """Return the JSON Schema of a string that matches *pattern*, or that contains a reference (its expansion may match)."""
    return {"type": "string", "pattern": f"{pattern}|{_REFERENCE}"} if pattern else {"type": "string"}


def words_schema(words: Sequence[str]) -> dict[str, object]:
    """Return the JSON Schema of one of *words*, or of a string with a reference, which may expand to one."""
    return {"anyOf": [{"enum": list(words)}, {"type": "string", "pattern": _REFERENCE}]}


def described_words(choices: Sequence[str], planned: Sequence[str]) -> str:
    """Return the description of a value that is one of *choices*, or of *planned*, which are not enforced yet."""
    return ("one of " if len(choices) > 1 else "") + _all_words(choices, planned)


def hint_of_words(choices: Sequence[str], planned: Sequence[str]) -> str:
    """Return the hint for a value that is none of the allowed words.

    The hint marks the *planned* words as not enforced yet, because a file that uses one of them is refused, too.
    """
    return f"write {_all_words(choices, planned)}"


def _all_words(choices: Sequence[str], planned: Sequence[str]) -> str:
    return words(choices) + (f"; {words(planned)}: {NOT_ENFORCED}" if planned else "")


def check_bounds(value: N, minimum: N, maximum: N, show: Callable[[N], str]) -> None:
    """Raise Invalid when *value* is not between *minimum* and *maximum*; *show* formats a value in the setting's notation."""
    if value < minimum:
        # The formats of sizes, durations and modes have no sign.
        raise Invalid(f"must be at least {show(minimum)}, found {show(value) if value >= 0 else value}")
    if value > maximum:
        raise Invalid(f"must be at most {show(maximum)}, found {show(value)}")


class Boolean(Codec[bool]):
    """true or false. The *planned* value belongs to the language, but this version does not enforce it."""

    expects = "boolean"
    toml_types = ("boolean",)

    def __init__(self, *, planned: bool | None = None) -> None:
        self.planned = planned

    def decode(self, value: object, cursor: Cursor, /) -> bool:
        if not isinstance(value, bool):
            raise mismatch(self, value, "write true or false, without quotes")
        if value is self.planned:
            cursor.unenforced(literal(value), f"write {literal(not value)}")
        return value

    def schema(self) -> dict[str, object]:
        return {"type": "boolean"}

    def describe(self) -> str:
        later = "" if self.planned is None else f"; {literal(self.planned)}: {NOT_ENFORCED}"
        return self.expects + later


class Integer(Codec[int]):
    """A whole number within bounds. Booleans are refused, because in TOML they are not integers."""

    expects = "integer"
    toml_types = ("integer",)

    def __init__(self, minimum: int, maximum: int = units.INT64_MAX) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def decode(self, value: object, _cursor: Cursor, /) -> int:
        if type(value) is not int:
            hint = "write it without quotes" if isinstance(value, str) and value.isdecimal() else None
            raise mismatch(self, value, hint)
        check_bounds(value, self.minimum, self.maximum, str)
        return value

    def schema(self) -> dict[str, object]:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}

    def describe(self) -> str:
        return f"integer from {self.minimum}" + (
            f" to {self.maximum}" if self.maximum != units.INT64_MAX else ""
        )


class Number(Codec[float]):
    """A finite number, with or without a fraction."""

    expects = "number"
    toml_types = ("integer", "float")

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def decode(self, value: object, _cursor: Cursor, /) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise mismatch(self, value)
        if not math.isfinite(value):
            raise Invalid(f"must be a finite number, found {value}")
        check_bounds(value, self.minimum, self.maximum, "{:g}".format)
        return float(value)

    def encode(self, value: float, /) -> object:
        return int(value) if value.is_integer() else value

    def schema(self) -> dict[str, object]:
        return {"type": "number", "minimum": self.minimum, "maximum": self.maximum}

    def describe(self) -> str:
        return f"number from {self.minimum:g} to {self.maximum:g}"


class Text(Codec[str]):
    """A string. *pattern* must match all of it; *rule* describes the pattern to the user."""

    expects = "string"
    toml_types = ("string",)

    def __init__(self, pattern: str = "", rule: str = "") -> None:
        self.pattern = lazy_pattern(pattern) if pattern else None
        self.rule = rule

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        if self.pattern is not None and not self.pattern.fullmatch(text):
            raise Invalid(f"{shown(text)} is not allowed", self.rule)
        return text

    def schema(self) -> dict[str, object]:
        return text_schema(f"^({self.pattern.pattern})$" if self.pattern else "")

    def describe(self) -> str:
        return f"{self.expects}: {self.rule}" if self.rule else self.expects


class Choice(Codec[str]):
    """One of a few words. The *planned* words belong to the language, but this version does not enforce them."""

    expects = "string"
    toml_types = ("string",)

    def __init__(self, *choices: str, planned: tuple[str, ...] = ()) -> None:
        self.choices = choices
        self.planned = planned

    def decode(self, value: object, cursor: Cursor, /) -> str:
        if not isinstance(value, str):
            raise mismatch(self, value, hint_of_words(self.choices, self.planned))
        if value in self.planned:
            cursor.unenforced(quote(value), f"write {words(self.choices)}")
            return value
        if value not in self.choices:
            from sandbox.spec import other_engines  # imported only after a mistake

            meaning = other_engines.meaning_of_value(value, cursor.path)
            meant = nearest(value, (*self.choices, *self.planned))
            if meaning is not None and meaning not in self.planned:
                hint = f"write {quote(meaning)}"
            elif meant and meaning is None:
                hint = f"did you mean {quote(meant)}?"
            else:
                hint = hint_of_words(self.choices, self.planned)
            raise Invalid(f"unknown value {shown(value)}", hint)
        return value

    def schema(self) -> dict[str, object]:
        return words_schema((*self.choices, *self.planned))

    def describe(self) -> str:
        return described_words(self.choices, self.planned)


class Parsed(Codec[T]):
    """A string that *parse* converts; *parse* raises ValueError for an invalid one.

    If the valid strings are a list of names, *candidates* returns that list, for "did you mean" hints.
    """

    toml_types = ("string",)

    def __init__(
        self,
        parse: Callable[[str], T],
        *,
        expects: str,
        hint: str,
        candidates: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.expects = expects
        self.parse = parse
        self.hint = hint
        self.candidates = candidates

    def decode(self, value: object, _cursor: Cursor, /) -> T:
        text = expect_text(self, value)
        try:
            return self.parse(text)
        except ValueError as error:
            meant = nearest(text, self.candidates())
            raise Invalid(str(error), f"did you mean {quote(meant)}?" if meant else self.hint) from None

    def schema(self) -> dict[str, object]:
        return text_schema()

    def describe(self) -> str:
        return f"{self.expects}: {self.hint}"

"""Codecs for the values of the language: scalars, quantities, paths, lists and tables.

Each class is one kind of value. Messages say what was expected and found; hints say what to write. Kinds with a
syntax of their own (a layer, a user) are in `values`.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

from sandbox.spec import names, units
from sandbox.spec.notation import literal, nearest, quote, shown, shown_list, type_name
from sandbox.spec.settings import Codec, Context, Cursor, Invalid

T = TypeVar("T")
N = TypeVar("N", int, float)

Unlimited = Literal["unlimited"]

NOT_ENFORCED = "not enforced by this version"

ID_MAX = (1 << 32) - 2
"""The largest user or group id: 4294967295 is (uid_t) -1, which means "unchanged" to chown(2)."""


def mismatch(codec: Codec[Any], value: object, hint: str | None = None) -> Invalid:
    """Return the error for a value of the wrong TOML type."""
    return Invalid(f"expected {codec.expects}, found {type_name(value)}", hint)


def expect_text(codec: Codec[Any], value: object) -> str:
    """Return *value* if it is a string that the kernel can take; raise Invalid otherwise."""
    if not isinstance(value, str):
        hint = f"put it in quotes: {quote(literal(value))}" if isinstance(value, (bool, int, float)) else None
        raise mismatch(codec, value, hint)
    if "\0" in value:
        raise Invalid("a NUL character cannot be passed to the kernel", "remove \\u0000", fragment="\\u0000")
    return value


class Boolean(Codec[bool]):
    """true or false."""

    expects = "boolean"
    toml_types = ("boolean",)

    def decode(self, value: object, _cursor: Cursor, /) -> bool:
        if not isinstance(value, bool):
            raise mismatch(self, value, "write true or false, without quotes")
        return value


class Integer(Codec[int]):
    """A whole number within bounds. TOML keeps booleans apart from integers, and so does this."""

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


class Text(Codec[str]):
    """A string. *pattern* must match all of it, and *rule* says what that means."""

    expects = "string"
    toml_types = ("string",)

    def __init__(self, pattern: str = "", rule: str = "") -> None:
        self.pattern = re.compile(pattern) if pattern else None
        self.rule = rule

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        if self.pattern is not None and not self.pattern.fullmatch(text):
            raise Invalid(f"{shown(text)} is not allowed", self.rule)
        return text


class Choice(Codec[str]):
    """One of a few words. Those *planned* belong to the language, but this version would not do what they say."""

    expects = "string"
    toml_types = ("string",)

    def __init__(self, *choices: str, planned: tuple[str, ...] = ()) -> None:
        self.choices = choices
        self.planned = planned

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        allowed = (
            f"one of {shown_list(self.choices)}"
            if len(self.choices) > 1
            else f"write {quote(self.choices[0])}"
        )
        if not isinstance(value, str):
            raise mismatch(self, value, allowed)
        if value in self.planned:
            raise Invalid(f"{quote(value)} is {NOT_ENFORCED}", allowed)
        if value not in self.choices:
            meant = nearest(value, self.choices)
            raise Invalid(
                f"unknown value {shown(value)}", f"did you mean {quote(meant)}?" if meant else allowed
            )
        return value


class Parsed(Codec[T]):
    """A string that a function understands, which raises ValueError for the others.

    Where what it understands is a list of names, *candidates* returns them.
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


class Size(Codec[int]):
    """Bytes: an integer, or a string with a unit."""

    expects = "size"
    toml_types = ("integer", "string")

    def __init__(self, minimum: int = 0) -> None:
        self.minimum = minimum

    def decode(self, value: object, _cursor: Cursor, /) -> int:
        if isinstance(value, str):
            try:
                size = units.parse_size(value)
            except ValueError as error:
                raise Invalid(
                    str(error), 'write bytes as a number, or a string such as "512M" or "1.5G"'
                ) from None
        elif type(value) is int:
            size = value
        else:
            raise mismatch(self, value)
        check_bounds(size, self.minimum, units.INT64_MAX, units.format_size)
        return size


class Duration(Codec[float]):
    """Seconds: a number, or a string with units."""

    expects = "duration"
    toml_types = ("integer", "float", "string")
    _hint = 'write seconds as a number, or a string such as "30s" or "1h30m"'

    def __init__(self, minimum: float = 0.0) -> None:
        self.minimum = minimum

    def decode(self, value: object, _cursor: Cursor, /) -> float:
        if isinstance(value, str):
            try:
                seconds = units.parse_duration(value)
            except ValueError as error:
                raise Invalid(str(error), self._hint) from None
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        else:
            raise mismatch(self, value, self._hint)
        if not math.isfinite(seconds):
            raise Invalid(f"must be a finite number of seconds, found {seconds}", self._hint)
        check_bounds(seconds, self.minimum, units.DURATION_MAX, units.format_duration)
        return seconds


class WholeSeconds(Codec[int]):
    """A duration that the kernel counts in whole seconds."""

    expects = "duration"
    toml_types = Duration.toml_types

    def __init__(self, minimum: int = 0) -> None:
        self._duration = Duration(minimum)

    def decode(self, value: object, cursor: Cursor, /) -> int:
        seconds = self._duration.decode(value, cursor)
        if seconds != int(seconds):
            raise Invalid(f"must be a whole number of seconds, found {seconds:g}")
        return int(seconds)


class Octal(Codec[int]):
    """Permission bits, as a string so that 755 cannot be read as a decimal number."""

    expects = "string of octal digits"
    toml_types = ("string",)

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum

    def decode(self, value: object, _cursor: Cursor, /) -> int:
        hint = 'write it as a string of octal digits, such as "0755"'
        if not isinstance(value, str):
            raise mismatch(self, value, hint)
        try:
            mode = units.parse_octal(value)
        except ValueError as error:
            raise Invalid(str(error), hint) from None
        check_bounds(mode, 0, self.maximum, units.format_octal)
        return mode


class OrUnlimited(Codec["int | Unlimited"]):
    """What another codec reads, or the word "unlimited"."""

    choices = (units.UNLIMITED,)

    def __init__(self, codec: Codec[int]) -> None:
        self.codec = codec
        self.expects = f'{codec.expects} or "unlimited"'
        self.toml_types = (
            (*codec.toml_types, "string") if "string" not in codec.toml_types else codec.toml_types
        )

    def decode(self, value: object, cursor: Cursor, /) -> int | Unlimited:
        if value == units.UNLIMITED:
            return "unlimited"
        if isinstance(value, str) and "string" not in self.codec.toml_types:
            raise Invalid(f"expected {self.expects}, found {shown(value)}")
        if type_name(value) not in self.codec.toml_types:
            raise mismatch(self, value)
        return self.codec.decode(value, cursor)


class HostPath(Codec[str]):
    """A path on this machine: absolute, relative to the directory of the file, or below ~."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, cursor: Cursor, /) -> str:
        return resolve_host_path(expect_text(self, value), cursor)


class SandboxPath(Codec[str]):
    """An absolute path in the sandbox."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        return check_sandbox_path(expect_text(self, value))


class ListOf(Codec[tuple[T, ...]]):
    """An array whose elements are all of one kind: at least *minimum*, and with *distinct*, none twice."""

    toml_types = ("array",)

    def __init__(self, codec: Codec[T], *, minimum: int = 0, distinct: bool = False) -> None:
        self.codec = codec
        self.minimum = minimum
        self.distinct = distinct
        self.expects = f"array of {plural(codec.expects)}"

    def decode(self, value: object, cursor: Cursor, /) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise mismatch(self, value, self._hint(value, cursor))
        if len(value) < self.minimum:
            least = f"hold at least {self.minimum} elements" if self.minimum > 1 else "not be empty"
            raise Invalid(f"must {least}")
        items: list[T] = []
        seen: set[T] = set()
        for index, element in enumerate(value):
            here = cursor.child(index)
            try:
                item = self.codec.decode(element, here)
            except Invalid as error:
                here.report(error.message, error.hint, fragment=error.fragment)
                # Keeps the position of those behind it; a specification with a problem is never handed out.
                items.append(cast("T", None))
                continue
            items.append(item)
            if self.distinct:
                if item in seen:
                    here.report(f"{shown(str(element))} is listed twice", "remove one of them")
                seen.add(item)
        return tuple(items)

    def _hint(self, value: object, cursor: Cursor) -> str | None:
        if isinstance(value, dict) and self.codec.toml_types == ("table",):
            return f"write [[{cursor.path[-1]}]], with two brackets"
        if isinstance(value, str) and "string" in self.codec.toml_types:
            return f"put it in brackets: [{shown(value)}]"
        return None


class TableOf(Codec[Mapping[str, T]]):
    """A table with keys of the user's choice and values of one kind. *check_key* raises Invalid for a bad key."""

    toml_types = ("table",)

    def __init__(self, codec: Codec[T], check_key: Callable[[str], object] | None = None) -> None:
        self.codec = codec
        self.check_key = check_key
        self.expects = f"table of {plural(codec.expects)}"

    def decode(self, value: object, cursor: Cursor, /) -> Mapping[str, T]:
        if not isinstance(value, dict):
            raise mismatch(self, value)
        items: dict[str, T] = {}
        for key, element in value.items():
            here = cursor.child(key)
            try:
                if self.check_key is not None:
                    self.check_key(key)
            except Invalid as error:
                here.report(error.message, error.hint, part="key")
            try:
                items[key] = self.codec.decode(element, here)
            except Invalid as error:
                here.report(error.message, error.hint, fragment=error.fragment)
        return MappingProxyType(items)


class Reserved(Codec[Any]):
    """A part of the language whose inside this version does not know, so that its setting cannot be enforced."""

    def __init__(self, expects: str, *toml_types: str) -> None:
        self.expects = expects
        self.toml_types = toml_types

    def decode(self, _value: object, _cursor: Cursor, /) -> Any:
        raise Invalid(NOT_ENFORCED)


def check_bounds(value: N, minimum: N, maximum: N, show: Callable[[N], str]) -> None:
    """Raise Invalid when *value* is not between *minimum* and *maximum*; *show* writes a value as its setting does."""
    if value < minimum:
        # The formats of sizes, durations and modes have no sign.
        raise Invalid(f"must be at least {show(minimum)}, found {show(value) if value >= 0 else value}")
    if value > maximum:
        raise Invalid(f"must be at most {show(maximum)}, found {show(value)}")


def check_env_name(name: str) -> str:
    """Return *name* if environ(7) can hold it; raise Invalid otherwise."""
    if not name or "=" in name or "\0" in name:
        raise Invalid(
            f"{shown(name)} cannot name an environment variable", 'a name is not empty, without "=" and NUL'
        )
    return name


def check_sandbox_path(text: str) -> str:
    """Return *text* without repeated slashes and "." parts; raise Invalid unless it is absolute and free of ".."."""
    if not text.startswith("/"):
        raise Invalid(
            f"{shown(text)} is not an absolute path", "start it with /: it is a path in the sandbox"
        )
    if ".." in text.split("/"):
        raise Invalid(f'{shown(text)} contains ".."', "write the path that is meant")
    # normpath() keeps exactly two leading slashes, to which POSIX allows a meaning that Linux does not give them.
    return posixpath.normpath("/" + text.lstrip("/"))


def resolve_host_path(text: str, cursor: Cursor) -> str:
    """Return the absolute path of *text*, relative to the directory of the file that it is written in.

    ".." stays as it is: behind a symlink it means something that only the kernel knows.
    """
    context = cursor.context
    if not text:
        raise Invalid("the path is empty", 'write "." for the directory of this file')
    if text == "~" or text.startswith("~/"):
        text = _home(context) + text[1:]
    elif text.startswith("~"):
        raise Invalid(
            f"{shown(text)} is the home of another user", "write the path itself, or ./~ for a name with ~"
        )
    path = posixpath.join(context.origins.directory(cursor.path), text)
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _home(context: Context) -> str:
    if not context.home or not context.home.startswith("/"):
        raise Invalid("~ needs HOME to be set to an absolute path", "set HOME, or write the path itself")
    return context.home


def capability() -> Codec[str]:
    """Return the codec of a capability name or "all"."""
    return Parsed(
        names.parse_capability,
        expects="string",
        hint='a name such as "NET_RAW", or "all"; see capabilities(7)',
        candidates=lambda: [name.removeprefix("CAP_") for name in names.CAPABILITIES],
    )


def signal_name() -> Codec[str]:
    """Return the codec of a signal name."""
    return Parsed(
        names.parse_signal,
        expects="string",
        hint='a name such as "SIGTERM" or "SIGRTMIN+3"',
        candidates=names.signal_names,
    )


def env_name() -> Codec[str]:
    """Return the codec of the name of an environment variable."""
    return _EnvName()


class _EnvName(Text):
    def decode(self, value: object, _cursor: Cursor, /) -> str:
        return check_env_name(expect_text(self, value))


def plural(noun: str) -> str:
    """Return *noun*, a phrase that `Codec.expects` holds, in the plural."""
    head, of, rest = noun.partition(" of ")
    head = head[:-1] + "ies" if head.endswith("y") and head[-2:-1] not in "aeiou" else head + "s"
    return head + of + rest


def joined(values: Iterable[str]) -> str:
    """Return "a, b or c"."""
    *first, last = values
    return f"{', '.join(first)} or {last}" if first else last

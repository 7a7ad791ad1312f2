"""Codecs of namespaces, of the offsets of a time namespace, and of the host name of a uts namespace."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sandbox.spec.codecs import (
    Duration,
    described_words,
    expect_text,
    mismatch,
    text_schema,
    words_schema,
)
from sandbox.spec.decode import Record
from sandbox.spec.notation import joined, nearest, quote, shown
from sandbox.spec.patterns import pattern
from sandbox.spec.settings import Codec, Cursor, Invalid, setting, settings_of, words
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

SANDBOX_NAME = r"[a-z0-9][a-z0-9_.-]{0,62}"
SANDBOX_NAME_RULE = "use 1 to 63 lower-case letters, digits, '_', '.' and '-', the first a letter or digit"

_HOST_LABEL = pattern(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_HOST_NAME_MAX = 64  # gethostname(2); DNS would allow 253


class NamespaceCodec(Codec[str]):
    """The word "private", for some namespaces "host", or the namespace to join: "path:PATH", "sandbox:NAME".

    *refused* maps "host" and "join" to the reason why this kind of namespace does not allow them.
    """

    expects = "string"
    toml_types = ("string",)

    def __init__(self, *choices: str, refused: Mapping[str, str] | None = None) -> None:
        self.choices = choices
        self.refused = refused or {}

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        joins = () if "join" in self.refused else ("sandbox:NAME",)
        allowed = f"write {words((*self.choices, *joins))}"
        text = expect_text(self, value)
        if text in self.choices:
            return text
        if text in self.refused:
            raise Invalid(f"{quote(text)} is not supported: {self.refused[text]}", allowed)
        kind, colon, rest = text.partition(":")
        if colon and kind == "path":
            if not rest.startswith("/"):
                raise Invalid(
                    f"{shown(rest)} is not an absolute path", 'write a path such as "path:/proc/1234/ns/net"'
                )
        elif colon and kind == "sandbox":
            if not re.fullmatch(SANDBOX_NAME, rest):
                raise Invalid(f"{shown(rest)} is not the name of a sandbox", SANDBOX_NAME_RULE)
        else:
            meant = nearest(text, self.choices)
            hint = f"did you mean {quote(meant)}?" if meant else allowed
            raise Invalid(f"unknown value {shown(text)}", hint)
        if "join" in self.refused:
            raise Invalid(f"cannot be joined: {self.refused['join']}", allowed)
        return text

    def schema(self) -> dict[str, object]:
        if "join" in self.refused:
            return words_schema(self.choices)
        return {"anyOf": [{"enum": [*self.choices]}, text_schema("^(path:/|sandbox:)")]}

    def describe(self) -> str:
        joins = () if "join" in self.refused else ("path:/proc/PID/ns/KIND", "sandbox:NAME")
        return described_words((*self.choices, *joins), ())


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeOffsets:
    """The offsets of the clocks in a private time namespace; see time_namespaces(7)."""

    monotonic: float | None = setting(
        Duration(), doc="Added to CLOCK_MONOTONIC.", example="1h", unit="seconds"
    )
    boottime: float | None = setting(
        Duration(), doc="Added to CLOCK_BOOTTIME, which uptime shows.", example="1d", unit="seconds"
    )


class TimeCodec(Codec["str | TimeOffsets"]):
    """A value of `NamespaceCodec`, or a table of offsets."""

    expects = "string or table"
    toml_types = ("string", "table")
    choices = ("private", "host")

    def __init__(self) -> None:
        self._word = NamespaceCodec("private", "host")
        self._offsets = Record(TimeOffsets)

    def decode(self, value: object, cursor: Cursor, /) -> str | TimeOffsets:
        if isinstance(value, dict):
            return self._offsets.decode(value, cursor)
        if not isinstance(value, str):
            raise mismatch(self, value)
        return self._word.decode(value, cursor)

    def encode(self, value: str | TimeOffsets, /) -> object:
        return value if isinstance(value, str) else self._offsets.encode(value)

    def schema(self) -> dict[str, object]:
        return {"anyOf": [self._word.schema(), self._offsets.schema()]}

    def describe(self) -> str:
        keys = joined(settings_of(TimeOffsets))
        return f"{self._word.describe()}; or a table of {keys}"

    def inside(self, key: str | int, /) -> Codec[Any] | None:
        return self._offsets.inside(key)


class HostnameCodec(Codec[str]):
    """A host name: labels of letters, digits and inner hyphens (RFC 1123), at most 64 characters (gethostname(2))."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        if not all(_HOST_LABEL.fullmatch(label) for label in text.split(".")):
            raise Invalid(
                f"{shown(text)} is not a host name",
                "use letters, digits and inner hyphens, in labels separated by dots",
            )
        if len(text) > _HOST_NAME_MAX:
            raise Invalid(
                f"the host name has {len(text)} characters", f"the kernel accepts at most {_HOST_NAME_MAX}"
            )
        return text

    def schema(self) -> dict[str, object]:
        return text_schema()

    def describe(self) -> str:
        return f"host name of at most {_HOST_NAME_MAX} characters"

"""Codecs of a command and of process.terminal."""

from __future__ import annotations

from sandbox.spec.codecs import ListOf, expect_text, mismatch, text_schema, words_schema
from sandbox.spec.notation import shown
from sandbox.spec.settings import Codec, Cursor, Invalid
from unionfs._stdlib.typing import Any, Literal

_SHELL = ("/bin/sh", "-c")
_SHELL_NAME = "sh"
"""The argument after the text becomes $0 (sh(1)), so that process.args become $1 and following."""


class CommandCodec(Codec[tuple[str, ...]]):
    """An array with the words of a command, or one string that /bin/sh -c runs."""

    expects = "array of strings or string"
    toml_types = ("array", "string")

    def __init__(self, words: ListOf[str], *, otherwise: str = "") -> None:
        """Decode arrays with *words*. *otherwise* names, for the hint, the program that runs without the key."""
        self._words = words
        self._hint = "write a command" + (f", or leave the key out for {otherwise}" if otherwise else "")

    def decode(self, value: object, cursor: Cursor, /) -> tuple[str, ...]:
        if isinstance(value, str):
            text = expect_text(self, value)
            if not text.strip():
                raise Invalid("the command is empty", self._hint)
            return (*_SHELL, text, _SHELL_NAME)
        if not isinstance(value, list):
            raise mismatch(self, value)
        words = self._words.decode(value, cursor)
        if not words or words[0] == "":
            raise Invalid("the command is empty", self._hint)
        return words

    def encode(self, value: tuple[str, ...], /) -> object:
        # A command that was written as one string is written as one string again.
        shell = len(value) == 4 and (*value[:2], value[3]) == (*_SHELL, _SHELL_NAME) and value[2].strip()
        return value[2] if shell else list(value)

    def schema(self) -> dict[str, object]:
        return {"anyOf": [text_schema(), self._words.schema()]}

    def describe(self) -> str:
        return "array of words, or one string that /bin/sh -c runs"

    def inside(self, key: str | int, /) -> Codec[Any] | None:
        return self._words.inside(key)


class TerminalCodec(Codec["bool | Literal['auto']"]):
    """true, false, or "auto"."""

    expects = 'boolean or "auto"'
    toml_types = ("boolean", "string")
    choices = ("auto",)

    def decode(self, value: object, _cursor: Cursor, /) -> bool | Literal["auto"]:
        if isinstance(value, bool):
            return value
        if value == "auto":
            return "auto"
        if isinstance(value, str):
            raise Invalid(f"unknown value {shown(value)}", 'write true, false or "auto"')
        raise mismatch(self, value, 'write true, false or "auto"')

    def schema(self) -> dict[str, object]:
        return {"anyOf": [{"type": "boolean"}, words_schema(self.choices)]}

"""Find the position of every key and value of a TOML document in its text.

tomllib returns values without positions. This scanner walks the same text and records spans; the values still come from
tomllib. For a valid document, the paths found here are exactly those of the parsed tree (a property test compares the
two). For an invalid document, the scanner stops at the first place it cannot scan and keeps its results; tomllib then
reports the mistake. Nothing here recurses, so no document can exhaust the stack.

Follows TOML 1.0 (toml.io/en/v1.0.0), and accepts newlines and trailing commas in inline tables as TOML 1.1 does.
"""

from __future__ import annotations

import re

from sandbox.spec.notation import KeyPath, unquote
from sandbox.spec.patterns import pattern
from unionfs._stdlib.dataclasses import dataclass

MAX_DEPTH = 64
"""Longest key path that is accepted. Far longer than in any real file; keeps tomllib, which recurses, within its limits."""

_BLANK = pattern(r"[ \t]*")
_TRIVIA = pattern(r"(?:[ \t\n]+|#[^\n]*)*")
_KEY_PART = pattern(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[A-Za-z0-9_-]+')
_STRING = pattern(
    r'''"""(?:[^\\]|\\.)*?""""{0,2}|\'\'\'.*?\'\'\'\'{0,2}|"(?!"")(?:[^"\\\n]|\\.)*"|'(?!\'\')[^'\n]*\'''',
    re.DOTALL,
)
# Of the values without quotes, only a date-time may contain a space; all others end at TOML punctuation.
_BARE_VALUE = pattern(r"\d{4}-\d\d-\d\d[ ]\d\d:[^\s,\]}#]*|[^\s,\[\]{}#=\"']+")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the text: character offsets, the end exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Entry:
    """The position of one key and its value.

    `literal` is true when the value is written in one piece, so that `value` spans all of it. It is false for tables and
    arrays built from statements (`[table]`, `[[array]]`, the `a` of `a.b = 1`). There both spans are the first mention of the
    name. The elements of an array have no key: both spans are the element.
    """

    key: Span
    value: Span
    literal: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """One `key = value` (in inline tables too) or one header. `end` is the offset after the value or the brackets."""

    path: KeyPath
    key: Span
    end: int
    header: bool


@dataclass(frozen=True, slots=True)
class Located:
    """The result of a scan: positions, and all statements in the order in which they end, repeated ones too.

    `stopped` is the offset where the scan failed, None after a complete scan. If it failed, `too_deep` tells whether a key
    path was longer than MAX_DEPTH. `inside` is the start of the outermost array or inline table there, if any.
    """

    entries: dict[KeyPath, Entry]
    statements: list[Statement]
    stopped: int | None = None
    too_deep: bool = False
    inside: int | None = None


def locate(text: str) -> Located:
    """Return the positions of all keys and values of *text*, whose line ends are "\\n". Never raises."""
    scanner = _Scanner(text)
    try:
        scanner.scan()
    except _ScanError as stop:
        inside = scanner.pending[0].start if scanner.pending else None
        return Located(scanner.entries, scanner.statements, stop.position, stop.too_deep, inside)
    return Located(scanner.entries, scanner.statements)


class _ScanError(Exception):
    """The scanner cannot continue at *position*."""

    def __init__(self, position: int, *, too_deep: bool = False) -> None:
        super().__init__()
        self.position = position
        self.too_deep = too_deep


class _Open:
    """An array or inline table whose end has not been reached."""

    def __init__(self, path: KeyPath, key: Span | None, start: int, close: str) -> None:
        self.path = path
        self.key = key
        self.start = start
        self.close = close
        self.length = 0


class _Scanner:
    """One pass over a text, from statement to statement."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.entries: dict[KeyPath, Entry] = {}
        self.statements: list[Statement] = []
        self.pending: list[_Open] = []
        # The length so far of each array made by [[headers]]: later mentions of its name mean the last element.
        self._table_arrays: dict[KeyPath, int] = {}

    def scan(self) -> None:
        table: KeyPath = ()
        position = self._skip(_TRIVIA, 0)
        while position < len(self.text):
            if self.text[position] == "[":
                table, position = self._header(position)
            else:
                path, key, position = self._key(table, position)
                position = self._value(path, key, position)
            position = self._skip(_TRIVIA, position)

    def _header(self, position: int) -> tuple[KeyPath, int]:
        """Scan `[a.b]` or `[[a.b]]`; return the table that it opens."""
        brackets = 2 if self.text.startswith("[[", position) else 1
        parts, position = self._parts(position + brackets)
        position = self._expect("]" * brackets, position)
        path = self._enter((), parts if brackets == 1 else parts[:-1])
        if brackets == 2:
            name, span = parts[-1]
            path = (*path, name)
            index = self._table_arrays.get(path, 0)
            self._table_arrays[path] = index + 1
            self._note(path, span)
            path = (*path, index)
            self._note(path, span)
        self.statements.append(
            Statement(path, Span(parts[0][1].start, parts[-1][1].end), position, header=True)
        )
        return path, position

    def _key(self, table: KeyPath, position: int) -> tuple[KeyPath, Span, int]:
        """Scan `a.b =` inside *table*; return the path, the span of its last part, and the position of the value."""
        parts, position = self._parts(position)
        position = self._expect("=", position)
        name, span = parts[-1]
        path = (*self._enter(table, parts[:-1]), name)
        self._check_depth(path, span)
        return path, span, self._skip(_BLANK, position)

    def _parts(self, position: int) -> tuple[list[tuple[str, Span]], int]:
        """Scan the parts of a dotted key; return them and the position after the last."""
        parts: list[tuple[str, Span]] = []
        while True:
            match = _KEY_PART.match(self.text, self._skip(_BLANK, position))
            if match is None:
                raise _ScanError(position)
            text, span = match[0], Span(*match.span())
            if len(parts) == MAX_DEPTH:
                raise _ScanError(span.start, too_deep=True)
            try:
                parts.append((unquote(text) if text[0] in "\"'" else text, span))
            except ValueError:
                raise _ScanError(span.start) from None
            position = self._skip(_BLANK, span.end)
            if not self.text.startswith(".", position):
                return parts, position
            position += 1

    def _enter(self, path: KeyPath, parts: list[tuple[str, Span]]) -> KeyPath:
        """Return the path of the table below *path* that *parts* name; record the tables on the way."""
        for name, span in parts:
            path = (*path, name)
            self._note(path, span)
            if path in self._table_arrays:
                path = (*path, self._table_arrays[path] - 1)
        return path

    def _value(self, path: KeyPath, key: Span | None, position: int) -> int:
        """Scan the value of *path* with all its elements; return the position after it."""
        pending = self.pending = []
        while True:
            char = self.text[position : position + 1]
            if char in ("[", "{"):
                pending.append(_Open(path, key, position, "]" if char == "[" else "}"))
                position += 1
            else:
                end = self._scalar(position)
                self._note_literal(path, key, Span(position, end))
                position = end
            while pending:
                innermost = pending[-1]
                position = self._skip(_TRIVIA, position)
                if self.text.startswith(",", position):
                    position = self._skip(_TRIVIA, position + 1)
                if self.text.startswith(innermost.close, position):
                    position += 1
                    self._note_literal(innermost.path, innermost.key, Span(innermost.start, position))
                    pending.pop()
                    continue
                if innermost.close == "}":
                    path, key, position = self._key(innermost.path, position)
                else:
                    path, key = (*innermost.path, innermost.length), None
                    innermost.length += 1
                    self._check_depth(path, Span(position, position + 1))
                break
            else:
                return position

    def _scalar(self, position: int) -> int:
        """Return the position after the string, number, boolean or date at *position*."""
        pattern = _STRING if self.text[position : position + 1] in ('"', "'") else _BARE_VALUE
        match = pattern.match(self.text, position)
        if match is None:
            raise _ScanError(position)
        return match.end()

    def _note(self, path: KeyPath, span: Span) -> None:
        self._check_depth(path, span)
        self.entries.setdefault(path, Entry(span, span, literal=False))

    def _note_literal(self, path: KeyPath, key: Span | None, value: Span) -> None:
        self.entries.setdefault(path, Entry(key or value, value, literal=True))
        if key is not None:
            self.statements.append(Statement(path, key, value.end, header=False))

    def _check_depth(self, path: KeyPath, span: Span) -> None:
        if len(path) > MAX_DEPTH:
            raise _ScanError(span.start, too_deep=True)

    def _skip(self, pattern: re.Pattern[str], position: int) -> int:
        match = pattern.match(self.text, position)
        return position if match is None else match.end()

    def _expect(self, token: str, position: int) -> int:
        if not self.text.startswith(token, position):
            raise _ScanError(position)
        return position + len(token)

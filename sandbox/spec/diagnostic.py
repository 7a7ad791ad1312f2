"""A diagnostic: one mistake in a file, its position, a message, and a hint that says what to write instead.

A diagnostic renders itself as text with the source line and a caret, or as a dictionary for JSON. This module does not
depend on TOML.
"""

from __future__ import annotations

from sandbox.errors import hint_line, printable
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Literal

Severity = Literal["error", "warning"]

_BOLD, _RED, _CYAN, _RESET = "\x1b[1m", "\x1b[31m", "\x1b[36m", "\x1b[0m"
_LONGEST_LINE = 200  # characters shown of a source line; only generated files have longer lines
_REPLACEMENT = "\ufffd"  # as a number: compiling a "\N{...}" escape imports unicodedata


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnostic:
    """One mistake. Lines and columns count from 1, columns in characters; the end column is exclusive.

    `line` is None when the mistake has no position: a file that does not exist, a table that is missing.
    """

    file: str
    message: str
    key: str = ""
    hint: str | None = None
    line: int | None = None
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None
    source_line: str | None = None
    severity: Severity = "error"

    def render(self, *, color: bool = False) -> str:
        """Return `file:line:col: key: message`, the source line, and a line with the caret and the hint."""
        bold, red, cyan, reset = (_BOLD, _RED, _CYAN, _RESET) if color else ("", "", "", "")
        place = _printable(self.file)
        if self.line is not None:
            place += f":{self.line}:{self.column}"
        key = f"{self.key}: " if self.key else ""
        warning = "warning: " if self.severity == "warning" else ""
        lines = [f"{bold}{place}:{reset} {warning}{key}{red}{printable(self.message)}{reset}"]
        if self.source_line is None or self.line is None or self.column is None:
            if self.hint:
                lines.append(hint_line(self.hint, color=color))
            return "\n".join(lines)
        length = len(self.source_line)
        source, start, end = _window(
            self.source_line, min(self.column - 1, length), self._last_column(length)
        )
        source = _printable(source)
        lines.append(f"{self.line:5} | {source}".rstrip())
        caret = "^" + "~" * max(_cells(source[start:end]) - 1, 0)
        hint = f" {cyan}{printable(self.hint)}{reset}" if self.hint else ""
        lines.append(f"      | {_indent(source[:start])}{red}{caret}{reset}{hint}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return the diagnostic for JSON; each key is the name of its field."""
        return {
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "end_line": self.end_line,
            "end_column": self.end_column,
            "key": self.key,
            "message": self.message,
            "hint": self.hint,
            "source_line": self.source_line,
        }

    def sort_key(self) -> tuple[str, int, int]:
        """Return the sort key for the order of positions in the files; diagnostics without a line come first."""
        return (self.file, self.line or 0, self.column or 0)

    def _last_column(self, length: int) -> int:
        """Return where the underline ends: at the latest at the end of the first line that is marked."""
        if self.end_column is None or self.end_line != self.line:
            return length
        return min(self.end_column - 1, length)


def _window(source: str, start: int, end: int) -> tuple[str, int, int]:
    """Return the part of a long line around the mark, and the start and end of the mark in that part."""
    if len(source) <= _LONGEST_LINE:
        return source, start, end
    first = max(min(start - _LONGEST_LINE // 2, len(source) - _LONGEST_LINE), 0)
    last = first + _LONGEST_LINE
    before, after = "…" if first else "", "…" if last < len(source) else ""
    return (
        before + source[first:last] + after,
        start - first + len(before),
        min(end, last) - first + len(before),
    )


def _printable(text: str) -> str:
    """Return *text* with each unprintable character replaced by one replacement character; tabs are kept."""
    return "".join(char if char == "\t" or char.isprintable() else _REPLACEMENT for char in text)


def _indent(text: str) -> str:
    """Return blanks as wide as *text*. Tabs stay tabs, so that the caret lines up for every tab width."""
    if text.isascii():
        return "".join("\t" if char == "\t" else " " for char in text)
    return "".join("\t" if char == "\t" else " " * _cells(char) for char in text)


def _cells(text: str) -> int:
    """Return how many terminal cells *text* takes: two for wide characters, none for combining ones (UAX #11)."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )

"""Where every value of a specification comes from, so that whoever finds it wrong can point at it.

A `Source` is one text; `Origins` says for every key path which source it is from and where it stands there. Several
sources can be behind one specification; whoever merges them merges the tables of origins likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.locate import Entry, Span
from sandbox.spec.notation import KeyPath, format_key_path, parse_key_path

Part = Literal["key", "value"]


@dataclass(frozen=True, slots=True)
class Place:
    """A place to show to a user: the file as it was named, line and column counted from 1."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A text that values come from. `directory` is what relative paths and ${config_dir} mean in it."""

    file: str
    directory: str
    text: str = field(repr=False)

    def position(self, offset: int) -> tuple[int, int]:
        """Return line and column, from 1, of the character at *offset*."""
        return self.text.count("\n", 0, offset) + 1, offset - (self.text.rfind("\n", 0, offset) + 1) + 1

    def offset(self, line: int, column: int) -> int:
        """Return the offset of a line and column, both from 1."""
        start = 0
        for _ in range(line - 1):
            start = self.text.find("\n", start) + 1
        return start + column - 1

    def place(self, span: Span) -> Place:
        """Return where *span* starts."""
        line, column = self.position(span.start)
        return Place(self.file, line, column)

    def diagnostic(
        self, span: Span | None, message: str, hint: str | None = None, *, key: str = ""
    ) -> Diagnostic:
        """Return a diagnostic at *span*, or about the file as a whole."""
        if span is None:
            return Diagnostic(file=self.file, key=key, message=message, hint=hint)
        line, column = self.position(span.start)
        end_line, end_column = self.position(span.end)
        line_start = span.start - column + 1
        line_end = self.text.find("\n", span.start)
        return Diagnostic(
            file=self.file,
            key=key,
            message=message,
            hint=hint,
            line=line,
            column=column,
            end_line=end_line,
            end_column=end_column,
            source_line=self.text[line_start : len(self.text) if line_end < 0 else line_end],
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one key path comes from."""

    source: Source
    entry: Entry


@dataclass(frozen=True, slots=True)
class Origins:
    """The origin of every key path that was written, and the source that stands for what was not."""

    main: Source
    by_path: Mapping[KeyPath, Origin] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, source: Source, entries: Mapping[KeyPath, Entry]) -> Origins:
        """Return the origins of a specification that is one source."""
        return cls(source, {path: Origin(source, entry) for path, entry in entries.items()})

    def find(self, path: KeyPath | str) -> Origin | None:
        """Return the origin of exactly *path*; None when nobody wrote it."""
        return self.by_path.get(parse_key_path(path) if isinstance(path, str) else path)

    def directory(self, path: KeyPath) -> str:
        """Return the directory that relative paths mean in the source of *path*."""
        origin = self._closest(path)[0]
        return (self.main if origin is None else origin.source).directory

    def diagnose(
        self,
        path: KeyPath | str,
        message: str,
        hint: str | None = None,
        *,
        part: Part = "value",
        fragment: str | None = None,
    ) -> Diagnostic:
        """Return a diagnostic at the *part* of *path*, or at the innermost table around it that was written.

        With *fragment*, a piece of the value as it is written, only that piece is marked if it can be found.
        """
        if isinstance(path, str):
            path = parse_key_path(path)
        key = format_key_path(path)
        origin, exact = self._closest(path)
        if origin is None:
            return self.main.diagnostic(None, message, hint, key=key)
        span = origin.entry.value if exact and part == "value" else origin.entry.key
        if fragment:
            start = origin.source.text.find(fragment, span.start, span.end)
            if start >= 0:
                span = Span(start, start + len(fragment))
        return origin.source.diagnostic(span, message, hint, key=key)

    def _closest(self, path: KeyPath) -> tuple[Origin | None, bool]:
        """Return the origin of *path* or of the closest table around it, and whether it is that of *path* itself."""
        for length in range(len(path), 0, -1):
            origin = self.by_path.get(path[:length])
            if origin is not None:
                return origin, length == len(path)
        return None, False

"""Record the origin of every value of a specification, so that diagnostics can point to it.

A `Source` is one text. `Origins` maps every key path to its source and its position there. A specification may come from
several sources; the code that merges them also merges their origins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping

from sandbox.spec.diagnostic import Diagnostic, Severity
from sandbox.spec.locate import Entry, Span
from sandbox.spec.notation import KeyPath, format_key_path, parse_key_path
from sandbox.spec.patterns import pattern
from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import Literal

Part = Literal["key", "value"]

MAX_DIAGNOSTICS = 100
"""Number of diagnostics that are reported; a file with more is probably no environment file."""

_LINE_END = pattern("\n")


@dataclass(frozen=True, slots=True)
class Place:
    """A place to show to a user: the file as it was named, line and column counted from 1."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A text that values come from. Relative paths and ${config_dir} in it refer to `directory`."""

    file: str
    directory: str
    text: str = field(repr=False)
    _line_starts: list[int] = field(init=False, repr=False, compare=False)
    _lines: dict[int, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = [0, *(match.end() for match in _LINE_END.finditer(self.text))]
        object.__setattr__(self, "_line_starts", starts)

    def position(self, offset: int) -> tuple[int, int]:
        """Return line and column, from 1, of the character at *offset*."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def offset(self, line: int, column: int) -> int:
        """Return the offset of a line and column, both from 1."""
        return self._line_starts[line - 1] + column - 1

    def place(self, span: Span) -> Place:
        """Return where *span* starts."""
        line, column = self.position(span.start)
        return Place(self.file, line, column)

    def diagnostic(
        self,
        span: Span | None,
        message: str,
        hint: str | None = None,
        *,
        key: str = "",
        severity: Severity = "error",
    ) -> Diagnostic:
        """Return a diagnostic at *span*, or about the file as a whole."""
        if span is None:
            return Diagnostic(file=self.file, key=key, message=message, hint=hint, severity=severity)
        line, column = self.position(span.start)
        end_line, end_column = self.position(span.end)
        return Diagnostic(
            file=self.file,
            key=key,
            message=message,
            hint=hint,
            line=line,
            column=column,
            end_line=end_line,
            end_column=end_column,
            source_line=self._line(line),
            severity=severity,
        )

    def _line(self, line: int) -> str:
        """Return a line, always the same object: a long line may have many mistakes, and each diagnostic keeps it."""
        if line not in self._lines:
            end = self._line_starts[line] - 1 if line < len(self._line_starts) else len(self.text)
            self._lines[line] = self.text[self._line_starts[line - 1] : end]
        return self._lines[line]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A mistake at a key path, before its place is looked up.

    *fragment* is the wrong part of the value, as written, if only a part is wrong. *unenforced* is set if the value is
    valid but this version does not enforce it; *warning*, if the sandbox starts nevertheless.
    """

    path: KeyPath
    message: str
    hint: str | None = None
    part: Part = "value"
    fragment: str | None = None
    unenforced: bool = False
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """The source and the position of one key path."""

    source: Source
    entry: Entry


@dataclass(frozen=True, slots=True)
class Origins:
    """The origin of every key path that was written, and the source that is named for paths that were not."""

    main: Source
    by_path: Mapping[KeyPath, Origin] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, source: Source, entries: Mapping[KeyPath, Entry]) -> Origins:
        """Return the origins of a specification that has one source."""
        return cls(source, {path: Origin(source, entry) for path, entry in entries.items()})

    def find(self, path: KeyPath | str) -> Origin | None:
        """Return the origin of exactly *path*; None if it is not written in any source."""
        return self.by_path.get(parse_key_path(path) if isinstance(path, str) else path)

    def directory(self, path: KeyPath) -> str:
        """Return the directory that relative paths refer to in the source of *path*."""
        origin = self._closest(path)[0]
        return (self.main if origin is None else origin.source).directory

    def diagnose(
        self, path: KeyPath | str, message: str, hint: str | None = None, *, part: Part = "value"
    ) -> Diagnostic:
        """Return a diagnostic at the *part* of *path*, or at the innermost table around it that was written."""
        path = parse_key_path(path) if isinstance(path, str) else path
        return self._diagnostic(Problem(path=path, message=message, hint=hint, part=part))

    def diagnose_all(self, problems: Iterable[Problem]) -> list[Diagnostic]:
        """Return diagnostics for *problems* in the order of the text, those without a place first.

        Only the first MAX_DIAGNOSTICS are returned, followed by one with the number of all.
        """
        ordered = sorted(problems, key=self._order)
        diagnostics = [self._diagnostic(problem) for problem in ordered[:MAX_DIAGNOSTICS]]
        if len(ordered) > MAX_DIAGNOSTICS:
            more = f"{len(ordered)} mistakes in all, of which the first are shown"
            diagnostics.append(self.main.diagnostic(None, more, "correct the mistakes above first"))
        return diagnostics

    def _diagnostic(self, problem: Problem) -> Diagnostic:
        source, span = self._locate(problem)
        return source.diagnostic(
            span,
            problem.message,
            problem.hint,
            key=format_key_path(problem.path),
            severity="warning" if problem.warning else "error",
        )

    def _order(self, problem: Problem) -> tuple[str, int]:
        source, span = self._locate(problem)
        return source.file, -1 if span is None else span.start

    def _locate(self, problem: Problem) -> tuple[Source, Span | None]:
        """Return the position of *problem*: a fragment of its value, the value or key itself, or the table around it."""
        origin, exact = self._closest(problem.path)
        if origin is None:
            return self.main, None
        span = origin.entry.value if exact and problem.part == "value" else origin.entry.key
        if problem.fragment:
            start = origin.source.text.find(problem.fragment, span.start, span.end)
            if start >= 0:
                span = Span(start, start + len(problem.fragment))
        return origin.source, span

    def _closest(self, path: KeyPath) -> tuple[Origin | None, bool]:
        """Return the origin of *path* or of the closest table around it, and whether it is that of *path* itself."""
        for length in range(len(path), 0, -1):
            origin = self.by_path.get(path[:length])
            if origin is not None:
                return origin, length == len(path)
        return None, False

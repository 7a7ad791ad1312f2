"""Divide the text of a Containerfile into instructions as lines, without comments and continuations.

The rules are those of the Dockerfile reference ("Format", "Parser directives", "Here-documents"). Every character of a line
keeps its place in the file, so that each mistake is reported with line and column. The directives `syntax` and `check` are for
other programs and have no effect.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from sandbox.errors import SpecError
from sandbox.images.build.here_documents import Heredoc, Opening, openings
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.locate import Span
from sandbox.spec.notation import shown
from sandbox.spec.origin import Source
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_SIZE = 1 << 19
"""Bytes. A larger file is refused: no file written by hand is larger, and the size bounds memory and time."""

MAX_INSTRUCTIONS = 1000
"""Instructions of one file. Most of them become a layer or an entry of the history of the image."""

BLANKS = " \t\v\f\r\n"
"""The characters that separate words. The others of Unicode are part of words."""

_DIRECTIVE = re.compile(r"#[ \t]*([A-Za-z][A-Za-z0-9]*)[ \t]*=[ \t]*(.+?)[ \t]*")
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_NOT_UTF8 = "save it as UTF-8"


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction as one line of text: continuation lines are joined, comments and blank lines between them are left out.

    `pieces` has the parts that are contiguous in the file: where each begins in `text`, and where in the file.
    `end` is the offset in the file behind the last character, without here-documents.
    """

    text: str
    pieces: tuple[tuple[int, int], ...]
    end: int
    heredocs: tuple[Heredoc, ...] = ()

    def span(self, start: int, end: int) -> Span:
        """Return the place in the file of the characters from *start* to *end*, exclusive, of `text`."""
        first = self._offset(start)
        return Span(first, max(self._offset(end - 1) + 1, first) if end > start else first)

    def _offset(self, index: int) -> int:
        number = bisect_right(self.pieces, index, key=lambda piece: piece[0]) - 1
        begin, offset = self.pieces[max(number, 0)]
        return min(offset + max(index - begin, 0), self.end)


@dataclass(frozen=True, slots=True)
class Lines:
    """The instructions of a file in their order, and its escape character: a backslash or a backquote."""

    source: Source
    lines: tuple[Line, ...]
    escape: str


def decode(data: bytes, file: str) -> Source:
    """Return the text of *data* with line ends as "\\n" and without byte order mark. *file* is its name for messages.

    Raises:
        SpecError: the text is larger than MAX_SIZE, is not UTF-8, or has a NUL character.
    """
    if len(data) > MAX_SIZE:
        text = f"larger than {MAX_SIZE >> 10} KiB"
        raise SpecError([Diagnostic(file=file, message=text, hint="move long texts to files and COPY them")])
    try:
        text = data.decode().removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        good = data[: error.start].decode().replace("\r\n", "\n")
        source = Source(file=file, directory="", text=good + data[error.start :].decode(errors="replace"))
        message = f"the file is not UTF-8: byte 0x{data[error.start]:02x}"
        span = Span(len(good), len(good) + 1)
        raise SpecError([source.diagnostic(span, message, _NOT_UTF8)]) from None
    source = Source(file=file, directory="", text=text)
    if (at := text.find("\0")) >= 0:
        message = "the file has a NUL character, which no argument of a program can have"
        raise SpecError([source.diagnostic(Span(at, at + 1), message, "remove it")])
    return source


def split(source: Source, can_have_heredoc: Callable[[str], bool]) -> Lines:
    """Return the instructions of *source*. *can_have_heredoc* returns whether the instruction in a line may have one.

    Raises:
        SpecError: a directive is wrong, a here-document is not closed, or there are more than MAX_INSTRUCTIONS instructions.
    """
    reader = _Reader(source)
    escape = reader.directives()
    lines: list[Line] = []
    while (line := reader.line(escape)) is not None:
        if len(lines) == MAX_INSTRUCTIONS:
            span = line.span(0, len(line.text))
            hint = "join RUN instructions with &&, and ENV and LABEL instructions into one"
            message = f"more than {MAX_INSTRUCTIONS} instructions"
            raise SpecError([source.diagnostic(span, message, hint)])
        lines.append(reader.with_heredocs(line) if can_have_heredoc(line.text) else line)
    return Lines(source, tuple(lines), escape)


class _Reader:
    """Reads the lines of one text. `split` creates it; there is nothing to close."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._physical = list(_physical_lines(source.text))
        self._next = 0

    def directives(self) -> str:
        """Read the directives at the beginning of the text, and return the escape character."""
        escape = "\\"
        seen: dict[str, int] = {}
        while self._next < len(self._physical):
            offset, text = self._physical[self._next]
            match = _DIRECTIVE.fullmatch(text.strip(BLANKS))
            if match is None or match[1].lower() not in _DIRECTIVES:
                break
            indent = offset + len(text) - len(text.lstrip(BLANKS))
            name = match[1].lower()
            if name in seen:
                span = Span(indent + match.start(1), indent + match.end(1))
                message = f"the directive {name} is repeated; the first is on line {seen[name]}"
                raise SpecError([self._source.diagnostic(span, message, "remove one of them")])
            if name == "escape":
                if match[2] not in {"\\", "`"}:
                    span = Span(indent + match.start(2), indent + match.end(2))
                    message = f"{shown(match[2])} cannot be the escape character"
                    raise SpecError([self._source.diagnostic(span, message, "write \\ or `")])
                escape = match[2]
            seen[name] = self._next + 1
            self._next += 1
        return escape

    def line(self, escape: str) -> Line | None:
        """Return the next instruction, without its here-documents; None at the end of the text."""
        while self._next < len(self._physical):
            line = self._joined(escape)
            if line.text.strip(BLANKS):
                return line
        return None

    def _joined(self, escape: str) -> Line:
        """Return the next line and its continuation lines as one; comments and blank lines between them do not end it."""
        texts: list[str] = []
        pieces: list[tuple[int, int]] = []
        length = end = 0
        while self._next < len(self._physical):
            offset, text = self._physical[self._next]
            self._next += 1
            stripped = text.lstrip(BLANKS)
            if not stripped or stripped.startswith("#"):
                continue
            if not texts:
                offset, text = offset + len(text) - len(stripped), stripped
            content, continues = _without_continuation(text, escape)
            texts.append(content)
            pieces.append((length, offset))
            length += len(content)
            end = offset + len(content)
            if not continues:
                break
        return Line("".join(texts), tuple(pieces), end)

    def with_heredocs(self, line: Line) -> Line:
        """Return *line* with the here-documents that it opens, which follow it in the text."""
        found = tuple(self._heredoc(line, opening) for opening in openings(line.text))
        return Line(line.text, line.pieces, line.end, found) if found else line

    def _heredoc(self, line: Line, opening: Opening) -> Heredoc:
        start = self._physical[self._next][0] if self._next < len(self._physical) else len(self._source.text)
        texts: list[str] = []
        while self._next < len(self._physical):
            offset, text = self._physical[self._next]
            self._next += 1
            if (text.lstrip("\t") if opening.strip_tabs else text) == opening.name:
                return Heredoc(opening, "".join(texts), Span(start, offset))
            texts.append(text + "\n")
        span = line.span(opening.start, opening.end)
        message = f"the here-document {shown(opening.name)} is not closed"
        hint = f"end it with a line that has only {shown(opening.name)}"
        raise SpecError([self._source.diagnostic(span, message, hint)])


def _physical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of *text* without their ends, each with its offset."""
    offset = 0
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    for line in lines:
        yield offset, line
        offset += len(line) + 1


def _without_continuation(text: str, escape: str) -> tuple[str, bool]:
    """Return *text* without the escape character at its end, and whether the instruction continues on the next line.

    An escape character directly before it makes it an ordinary one.
    """
    end = text.rstrip(" \t")
    if not end.endswith(escape) or end.endswith(escape * 2):
        return text, False
    return end[:-1], True

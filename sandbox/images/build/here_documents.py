"""Find the here-documents that an instruction opens: `<<NAME`, `<<-NAME`, with the name quoted or not.

The Dockerfile reference takes the notation from POSIX (XCU 2.7.4, Here-Document). As in BuildKit, the operator begins a word,
behind digits at most; "$((1<<X))" opens none.
"""

from __future__ import annotations

import re

from sandbox.spec.locate import Span
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENING = re.compile(r"[0-9]*<<(-?)[ \t]*([^<]+)")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Opening:
    """`<<NAME` in a line, from `start` to `end`. With `strip_tabs`, leading tabs of the content do not count.

    `expand` is whether variables in the content are expanded: no part of the name is quoted.
    """

    name: str
    strip_tabs: bool
    expand: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document: how it was opened, its lines as they are in the file, and their place there."""

    opening: Opening
    content: str
    span: Span

    @property
    def text(self) -> str:
        """Return the content, without leading tabs if it was opened by `<<-`."""
        return _LEADING_TABS.sub("", self.content) if self.opening.strip_tabs else self.content


def openings(line: str) -> Iterator[Opening]:
    """Yield the here-documents that *line* opens. A line with a quote that is not closed opens none."""
    if "<<" not in line:
        return
    found = _words(line)
    if found is None:
        return
    for start, end in found:
        opening = opening_of(line[start:end], start)
        if opening is not None:
            yield opening


def opening_of(word: str, start: int = 0) -> Opening | None:
    """Return the here-document that *word*, at *start* of its line, opens; None if it opens none."""
    match = _OPENING.fullmatch(word)
    if match is None:
        return None
    if len(_words(match[2]) or ()) != 1:
        return None
    name = _unquoted(match[2])
    if not name:
        return None
    quoted = any(char in match[2] for char in "'\"")
    return Opening(name, match[1] == "-", not quoted, start, start + len(word))


def _words(line: str) -> list[tuple[int, int]] | None:
    """Return start and end of the words of a shell command; None if a quote is not closed.

    Blanks between "<<" and the name are part of the word.
    """
    words = []
    start = -1
    quote = ""
    at = 0
    while at < len(line):
        char = line[at]
        if quote:
            at += 2 if char == "\\" and quote == '"' else 1
            quote = "" if char == quote else quote
            continue
        if char in " \t\v\f\r\n":
            if start >= 0:
                words.append((start, at))
            start = -1
            at += 1
            continue
        start = at if start < 0 else start
        if line.startswith("<<", at):
            at += 3 if line.startswith("<<-", at) else 2
            while at < len(line) and line[at] in " \t":
                at += 1
            continue
        quote = char if char in "'\"" else ""
        at += 2 if char == "\\" else 1
    if quote:
        return None
    return [*words, (start, min(at, len(line)))] if start >= 0 else words


def _unquoted(name: str) -> str:
    """Return *name* without quotes and without the backslashes that escape a character."""
    result = []
    quote = ""
    characters = iter(name)
    for char in characters:
        if quote and char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char == "\\" and not quote:
            result.append(next(characters, ""))
        else:
            result.append(char)
    return "".join(result)

"""Find the statements of a TOML text by table, its comments and its line ends. This module does not change the text.

Texts have "\\n" as line ends here; `normalised` and `with_line_ends_of` convert to this form and back.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

from sandbox.spec.locate import Located, Statement, locate
from sandbox.spec.notation import KeyPath
from unionfs._stdlib.dataclasses import dataclass, field

_COMMENT_LINE = re.compile(r"[ \t]*#[^\n]*(?:\n|$)")
_COMMENTED_OUT = re.compile(
    r"[ \t]*#[ \t]*(?:\[[^\n]*\][ \t]*|[A-Za-z0-9_.\"'-]+[ \t]*=[^\n]*)(?:#[^\n]*)?(?:\n|$)"
)
_STRING_OR_COMMENT = re.compile(
    r'''"""(?:[^\\]|\\.)*?""""{0,2}|\'\'\'.*?\'\'\'\'{0,2}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*''',
    re.DOTALL,
)
_MOST_COMPARISONS = 1_000_000
"""Most comparisons of lines or elements. Above it, everything between the first and the last change counts as changed."""

Change = tuple[str, int, int, int, int]
"""A change of a range: "equal", "replace", "delete" or "insert", then its start and end before and after the change."""

_BLANK_LINE = re.compile(r"[ \t]*(?:\n|$)")


@dataclass(frozen=True, slots=True)
class Pair:
    """One `key = value` or header: the offsets of the start of its first line and behind the line end of its last line."""

    path: KeyPath
    start: int
    end: int


@dataclass(slots=True)
class Section:
    """A header with the pairs below it. The pairs above the first header have a section with `path` () and `header` None.

    The path of `[[volumes]]` ends with the index of the element.
    """

    path: KeyPath
    header: Pair | None
    pairs: list[Pair] = field(default_factory=list)

    @property
    def last(self) -> Pair | None:
        """Return the last statement, or None in an empty section above the first header."""
        return self.pairs[-1] if self.pairs else self.header


@dataclass(frozen=True, slots=True)
class Layout:
    """A text, the positions of its keys and values, and its sections in order. The first section has no header."""

    text: str = field(repr=False)
    located: Located = field(repr=False)
    sections: list[Section]
    #: The offsets where the lines of the statements end, in order.
    _ends: list[int] = field(default_factory=list, repr=False)

    def section(self, path: KeyPath) -> Section | None:
        """Return the section whose header names the table *path*; for (), the section above all headers."""
        return next((section for section in self.sections if section.path == path), None)

    def below(self, path: KeyPath) -> list[Section]:
        """Return the sections of the table or array *path* and of the tables in it."""
        return [one for one in self.sections if one.header is not None and is_below(one.path, path)]

    def end_of(self, section: Section) -> int:
        """Return where *section* ends: behind its last statement and the comment directly below it.

        A comment directly above the next header belongs to that header, as does everything behind a blank line.
        """
        last = section.last
        if last is None:
            return 0
        end = after_comments(self.text, last.end)
        return end if end == len(self.text) or _is_blank(self.text, end) else last.end

    def start_of(self, section: Section) -> int:
        """Return where *section* starts: at its header, or at the comment directly above it.

        A comment that begins on the first line of a file belongs to the file instead.
        """
        assert section.header is not None
        return next(
            (line for line, _ in reversed(self._comment_above(section.header.start))), section.header.start
        )

    def with_comment(self, start: int, end: int) -> int:
        """Return where the lines from *start* to *end* begin, including the comment that belongs to them.

        The comment directly above belongs to them, except in two cases: the next key or header follows directly below *end*,
        or the comment begins the file. A setting that is commented out, and the lines above it, are not included.
        """
        text = self.text
        if end < len(text) and not (_is_blank(text, end) or _COMMENT_LINE.match(text, end)):
            return start
        for line, line_end in self._comment_above(start):
            if _COMMENTED_OUT.fullmatch(text, line, line_end):
                break
            start = line
        return start

    def _comment_above(self, start: int) -> list[tuple[int, int]]:
        """Return the lines of the comment directly above *start*, the lowest first; no lines if it begins the file."""
        above = bisect_right(self._ends, start)
        floor = self._ends[above - 1] if above else 0
        lines: list[tuple[int, int]] = []
        while start > floor:
            line = self.text.rfind("\n", 0, start - 1) + 1
            # A line that looks like a comment may be the end of a multi-line string.
            if line < floor or not _COMMENT_LINE.fullmatch(self.text, line, start):
                break
            lines.append((line, start))
            start = line
        return lines if start > 0 else []


def read_layout(text: str) -> Layout:
    """Return the layout of *text*, which is valid TOML."""
    located = locate(text)
    sections = [Section((), None)]
    ends: list[int] = []
    for statement in top_statements(located):
        start = text.rfind("\n", 0, statement.key.start) + 1
        line_end = text.find("\n", statement.end)
        pair = Pair(statement.path, start, len(text) if line_end < 0 else line_end + 1)
        ends.append(pair.end)
        if statement.header:
            sections.append(Section(statement.path, pair))
        else:
            sections[-1].pairs.append(pair)
    return Layout(text, located, sections, ends)


def top_statements(located: Located) -> list[Statement]:
    """Return the statements that are not in an inline table."""
    found: list[Statement] = []
    for statement in located.statements:
        # A statement inside an inline table ends before the outer one, and so comes first in the list.
        while found and found[-1].key.start > statement.key.start:
            found.pop()
        found.append(statement)
    return found


def is_below(path: KeyPath, around: KeyPath) -> bool:
    """Tell whether *path* is *around* or inside it."""
    return path[: len(around)] == around


def after_comments(text: str, position: int) -> int:
    """Return the end of the comment lines that start at *position*, the start of a line."""
    while position < len(text) and (match := _COMMENT_LINE.match(text, position)):
        position = match.end()
    return position


def after_blanks(text: str, position: int) -> int:
    """Return the end of the blank lines that start at *position*, the start of a line."""
    while position < len(text) and (match := _BLANK_LINE.match(text, position)):
        position = match.end()
    return position


def _is_blank(text: str, position: int) -> bool:
    return _BLANK_LINE.match(text, position) is not None


def comments(text: str) -> list[str]:
    """Return the comments of *text*, which is valid TOML, in order and without trailing blanks."""
    return [match[0].rstrip() for match in _STRING_OR_COMMENT.finditer(text) if match[0].startswith("#")]


# --- line ends ---


def normalised(text: str) -> str:
    """Return *text* with "\\n" as line ends, as tomllib does."""
    return text.replace("\r\n", "\n")


def with_line_ends_of(original: str, text: str) -> str:
    """Return *text* with the line ends of *original*: unchanged lines keep theirs, new lines get the most frequent one."""
    windows = original.count("\r\n")
    if not windows:
        return text
    if windows == original.count("\n"):
        return text.replace("\n", "\r\n")
    usual = "\r\n" if windows * 2 > original.count("\n") else "\n"
    before, after = _lines(original), _lines(text)
    plain = [normalised(line) for line in before]
    for tag, start, _, first, last in changes_between(plain, list(after)):
        for index in range(first, last):
            if tag == "equal":
                after[index] = before[start + index - first]
            elif after[index].endswith("\n"):
                after[index] = after[index][:-1] + usual
    return "".join(after)


def changes_between(before: Sequence[str], after: Sequence[str]) -> list[Change]:
    """Return the changes from *before* to *after*, as difflib.SequenceMatcher.get_opcodes() returns them."""
    # Equal lines at both ends are cut off first: difflib takes the square of the number of equal lines.
    shorter = min(len(before), len(after))
    head = next((index for index in range(shorter) if before[index] != after[index]), shorter)
    shorter -= head
    tail = next((index for index in range(shorter) if before[-1 - index] != after[-1 - index]), shorter)
    ends = len(before) - tail, len(after) - tail
    changes: list[Change] = [("equal", 0, head, 0, head)] if head else []
    if (ends[0] - head) * (ends[1] - head) > _MOST_COMPARISONS:
        changes.append(("replace", head, ends[0], head, ends[1]))
    elif ends != (head, head):
        from difflib import SequenceMatcher

        matcher = SequenceMatcher(None, before[head : ends[0]], after[head : ends[1]], autojunk=False)
        changes += [
            (tag, start + head, end + head, first + head, last + head)
            for tag, start, end, first, last in matcher.get_opcodes()
        ]
    if tail:
        changes.append(("equal", ends[0], len(before), ends[1], len(after)))
    return changes


def _lines(text: str) -> list[str]:
    """Return the lines of *text* with their ends. Unlike for str.splitlines(), only "\\n" ends a line."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def indent_at(text: str, start: int) -> str:
    """Return the spaces and tabs of *text* that begin at *start*."""
    return text[start : start + len(text[start:]) - len(text[start:].lstrip(" \t"))]

"""The statements of a TOML text, by table; its comments; its line ends. Pure text, changed by nobody here.

Texts have "\\n" as line ends; `normalised` and `with_line_ends_of` lead there and back.
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
"""Of lines or elements; where more would be needed, everything between the first and last change counts as changed."""

Change = tuple[str, int, int, int, int]
"""What became of a range: "equal", "replace", "delete" or "insert", its start and end before, and after."""

_BLANK_LINE = re.compile(r"[ \t]*(?:\n|$)")


@dataclass(frozen=True, slots=True)
class Pair:
    """One `key = value` on lines of its own: from the start of its first line to the end of its last, line end included."""

    path: KeyPath
    start: int
    end: int


@dataclass(slots=True)
class Section:
    """A header with the pairs below it, or the pairs above the first header, whose `path` is () and `header` None.

    The path of `[[volumes]]` ends with the number of the element.
    """

    path: KeyPath
    header: Pair | None
    pairs: list[Pair] = field(default_factory=list)

    @property
    def last(self) -> Pair | None:
        """The last statement; None in an empty section above the first header."""
        return self.pairs[-1] if self.pairs else self.header


@dataclass(frozen=True, slots=True)
class Layout:
    """A text, where everything in it stands, and its sections in their order; the first is the one without header."""

    text: str = field(repr=False)
    located: Located = field(repr=False)
    sections: list[Section]
    #: Where the statements end, each with its line.
    _ends: list[int] = field(default_factory=list, repr=False)

    def section(self, path: KeyPath) -> Section | None:
        """Return the section whose header names the table *path*; for () the one above all headers."""
        return next((section for section in self.sections if section.path == path), None)

    def below(self, path: KeyPath) -> list[Section]:
        """Return the sections of the table or array *path* and of what is in it."""
        return [one for one in self.sections if one.header is not None and is_below(one.path, path)]

    def end_of(self, section: Section) -> int:
        """Return where *section* ends: behind its last statement, and the comment directly below that.

        A comment directly above the next header belongs to that, as does all behind a blank line.
        """
        last = section.last
        if last is None:
            return 0
        end = after_comments(self.text, last.end)
        return end if end == len(self.text) or _is_blank(self.text, end) else last.end

    def start_of(self, section: Section) -> int:
        """Return where *section* starts: at its header, or at the comment directly above that.

        The comment on the first line of a file is about the file.
        """
        assert section.header is not None
        return next(
            (line for line, _ in reversed(self._comment_above(section.header.start))), section.header.start
        )

    def with_comment(self, start: int, end: int) -> int:
        """Return where the lines from *start* to *end* begin with the comment that belongs to them.

        That is the comment directly above, unless it introduces more: the next key or header follows directly below *end*, or
        the comment begins the file. A setting that is commented out, and what stands above it, stays.
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
        """Return the lines of the comment directly above *start*, the lowest first; none if it begins the file."""
        above = bisect_right(self._ends, start)
        floor = self._ends[above - 1] if above else 0
        lines: list[tuple[int, int]] = []
        while start > floor:
            line = self.text.rfind("\n", 0, start - 1) + 1
            # What looks like a comment may be the end of a string over several lines.
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
    """Return the statements that are in no inline table."""
    found: list[Statement] = []
    for statement in located.statements:
        # What is inside an inline table ends, and is noted, before it.
        while found and found[-1].key.start > statement.key.start:
            found.pop()
        found.append(statement)
    return found


def is_below(path: KeyPath, around: KeyPath) -> bool:
    """Tell whether *path* is *around* or something in it."""
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
    """Return the comments of *text*, which is valid TOML, without the blanks behind them, in their order."""
    return [match[0].rstrip() for match in _STRING_OR_COMMENT.finditer(text) if match[0].startswith("#")]


# --- line ends ---


def normalised(text: str) -> str:
    """Return *text* with "\\n" as line ends, as tomllib reads it."""
    return text.replace("\r\n", "\n")


def with_line_ends_of(original: str, text: str) -> str:
    """Return *text* with the line ends of *original*: an unchanged line keeps its own, new lines have the usual one."""
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
    """Return how *before* became *after*, as difflib.SequenceMatcher says it."""
    # What is the same at both ends goes first: difflib takes the square of the number of equal lines.
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
    """Return the lines of *text* with their ends; only "\\n" ends a line, unlike for str.splitlines()."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)

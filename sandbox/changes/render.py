"""Show changes as text: one line each, as a summary per directory, or as a unified diff. `sandbox diff` prints the lines.

All names and contents come from the file system of an untrusted program. `escaped` replaces each character that a terminal could
interpret, so no line contains a control character except in the escape sequences of colors. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sandbox.changes.folding import Folding
from sandbox.changes.rows import KINDS, Change, Kind, text_of
from sandbox.errors import printable
from sandbox.sizes import human_size
from unionfs._stdlib.dataclasses import dataclass, field

#: The colors of the kinds, and of the lines of a diff: parameters of SGR (console_codes(4)).
_COLORS = {"A": "32", "C": "33", "D": "31", "R": "36", "+": "32", "-": "31", "@": "36"}
_IN_WORDS: dict[Kind, str] = {"A": "added", "C": "changed", "D": "deleted", "R": "moved"}
NOTHING = "nothing has changed"

_BYTES = 0xDC00
"""A byte that is not UTF-8 is the surrogate of this number plus the byte (PEP 383)."""

_INDENT = "  "
_LEAST_LABEL = 12
"""The least columns of the names in a summary; on a narrower terminal its lines are wider than the terminal."""


def escaped(text: str) -> str:
    r"""Return *text* as one line: TOML escapes for unprintable characters, and \xNN for a byte that is not UTF-8."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    byte = ord(char) - _BYTES
    return f"\\x{byte:02X}" if 0x80 <= byte <= 0xFF else printable(char)


def shown(path: bytes) -> str:
    """Return *path* as text for a terminal."""
    return escaped(text_of(path))


def _colored(text: str, key: str, *, color: bool) -> str:
    return f"\x1b[{_COLORS[key]}m{text}\x1b[0m" if color and key in _COLORS else text


# -- one line per change ---------------------------------------------------------------------------


def lines(changes: Sequence[Change], *, color: bool = False) -> Iterator[str]:
    """Yield a line for each of *changes*: "A /path (1.2 KiB)".

    A deleted directory is one line with the number of entries that were in it. So is one that another object replaced.
    """
    folding = Folding(changes)
    for index, change in enumerate(changes):
        if index not in folding.hidden:
            yield _line(change, folding.entries.get(index, 0), color=color)


def _line(change: Change, entries: int, *, color: bool, note: str | None = None) -> str:
    """Return the line of *change*, with *note* or the default text in parentheses.

    *entries* is the number of rows that are folded into it.
    """
    slash = "/" if change.type == "directory" and change.path != b"/" else ""
    moved = "" if change.from_path is None else f"{shown(change.from_path)}{slash} -> "
    notes = [note or _note(change, entries)]
    if entries and change.type != "directory":
        notes.append(f"was a directory with {_counted(entries)}")
    text = f"{moved}{shown(change.path)}{slash}"
    behind = ", ".join(filter(None, notes))
    return f"{_colored(change.kind, change.kind, color=color)} {text}" + (f" ({behind})" if behind else "")


def _note(change: Change, entries: int) -> str:
    if change.type == "file":
        return human_size(change.size)
    if change.type == "directory":
        return _counted(entries) if change.kind == "D" else ""
    return change.type.replace("-", " ")


def _counted(entries: int) -> str:
    return f"{entries} entr{'y' if entries == 1 else 'ies'}"


# -- the summary per directory ---------------------------------------------------------------------


@dataclass(slots=True)
class _Directory:
    """A directory with changes in it or below, or several of which each has no changes but those of the next."""

    #: The names from the line above, which for the root is none.
    names: list[bytes]
    #: The number of changes in it and below, by kind, and the bytes of added files.
    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    size: int = 0
    children: dict[bytes, _Directory] = field(default_factory=dict)
    is_shown: bool = True

    def add(self, change: Change) -> None:
        """Count *change*."""
        self.counts[change.kind] += 1
        if change.kind == "A" and change.type == "file":
            self.size += change.size

    @property
    def total(self) -> int:
        """The number of changes."""
        return sum(self.counts.values())

    @property
    def rank(self) -> tuple[int, int, list[bytes]]:
        """The key that sorts the directory with most bytes first."""
        return -self.size, -self.total, self.names


def tree(
    changes: Sequence[Change], *, height: int | None = None, width: int | None = None, color: bool = False
) -> Iterator[str]:
    """Yield a line for each directory with changes, with their number by kind and the bytes of added files, and one of the totals.

    A change counts for the directory that it is in and for those above. Below a deleted directory there are no more lines. With *height*, there are at most so many lines (three
    at least): the deepest directories are left out, the smallest first. With *width*, names are shortened to so many columns.
    """
    if not changes:
        yield NOTHING
        return
    root = _directories(changes)
    count = sum(1 for _ in _walk(root))
    left_out = 0
    if height is not None and count > height - 1:
        left_out = count - _select(root, max(height - 2, 1))
    yield from _table(root, width, color=color)
    if left_out:
        yield f"... {left_out} more director{'y' if left_out == 1 else 'ies'}"
    yield totals(changes)


def totals(changes: Sequence[Change]) -> str:
    """Return the number of *changes* by kind, and the bytes of added files: "3 added, 1 deleted, 4.1 MiB"."""
    root = _Directory([])
    for change in changes:
        root.add(change)
    words = [f"{count} {_IN_WORDS[kind]}" for kind, count in root.counts.items() if count]
    return ", ".join([*words, *([human_size(root.size)] if root.counts["A"] else [])]) or NOTHING


def _directories(changes: Sequence[Change]) -> _Directory:
    """Return the root of the directories with changes. A directory whose changes are all in one other is one line with it."""
    root = _Directory([])
    hidden = Folding(changes).hidden
    for index, change in enumerate(changes):
        at = root
        at.add(change)
        for name in _place(change, changes[hidden[index]] if index in hidden else None):
            at = at.children.setdefault(name, _Directory([name]))
            at.add(change)
    for directory in _walk(root):
        while len(directory.children) == 1:
            (child,) = directory.children.values()
            if child.total != directory.total:
                break
            directory.names += child.names
            directory.children = child.children
    return root


def _place(change: Change, top: Change | None) -> list[bytes]:
    """Return the names of the directory for which *change* counts; *top* is the row of a directory that is gone with it."""
    if top is None:
        return change.path[1:].split(b"/")[:-1]
    names = top.path[1:].split(b"/")
    return names if top.kind == "D" else names[:-1]


def _walk(root: _Directory) -> Iterator[_Directory]:
    """Yield *root* and all below; the children of each are read after it was yielded."""
    pending = [root]
    while pending:
        directory = pending.pop()
        yield directory
        pending += directory.children.values()


def _select(root: _Directory, most: int) -> int:
    """Show at most *most* directories, whole levels first, then the largest of one level; return how many are shown."""
    shown_now = 0
    level = [root]
    while level:
        level.sort(key=lambda directory: directory.rank)
        for directory in level[most - shown_now :]:
            directory.is_shown = False
        shown_now += min(len(level), most - shown_now)
        level = [child for directory in level for child in directory.children.values()]
    return shown_now


def _table(root: _Directory, width: int | None, *, color: bool) -> Iterator[str]:
    """Yield the lines of the directories that are shown, in columns."""
    rows: list[tuple[str, _Directory]] = []
    pending = [(0, root)]
    while pending:
        depth, directory = pending.pop()
        label = "" if directory is root else _INDENT * depth
        rows.append((label + _label(directory, is_root=directory is root), directory))
        below = sorted(directory.children.values(), key=lambda child: child.names, reverse=True)
        pending += ((depth + 1, child) for child in below if child.is_shown)
    kinds = [kind for kind in KINDS if root.counts[kind]]
    digits = {kind: len(str(root.counts[kind])) for kind in kinds}
    sizes = [human_size(directory.size) if directory.size else "" for _, directory in rows]
    size_width = max(map(len, sizes))
    if width is not None:
        others = sum(len(_INDENT) + 2 + digits[kind] for kind in kinds) + len(_INDENT) + size_width
        rows = [(_fit(label, max(width - others, _LEAST_LABEL)), directory) for label, directory in rows]
    label_width = max(_columns(label) for label, _ in rows)
    for (label, directory), size in zip(rows, sizes, strict=True):
        cells = [label + " " * (label_width - _columns(label))]
        for kind in kinds:
            count = directory.counts[kind]
            cell = f"{kind} {count:{digits[kind]}}" if count else " " * (2 + digits[kind])
            cells.append(_colored(cell, kind, color=color and count > 0))
        yield _INDENT.join([*cells, size.rjust(size_width)]).rstrip()


def _label(directory: _Directory, *, is_root: bool) -> str:
    joined = shown(b"/".join(directory.names))
    return f"/{joined}/" if is_root and joined else f"{joined}/"


def _fit(text: str, room: int) -> str:
    """Return the end of *text* that takes at most *room* columns."""
    if _columns(text) <= room:
        return text
    start, left = len(text), room - len("...")
    while (left := left - _columns(text[start - 1])) >= 0:
        start -= 1
    return f"...{text[start:]}"


def _columns(text: str) -> int:
    """Return the number of columns that a terminal needs for the printable *text*."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(char) in {"W", "F"} for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


# -- unified diff ----------------------------------------------------------------------------------


def text(changes: Sequence[Change], *, color: bool = False) -> Iterator[str]:
    """Yield the lines of a unified diff of *changes*, which were read with texts.

    Other changes are one line each. A directory that is gone is one line and the texts that were in it.
    """
    folding = Folding(changes)
    for index, change in enumerate(changes):
        name = shown(change.path)
        if change.contents == "binary":
            yield f"Binary file {name} differs"
        elif change.contents == "large":
            yield f"File {name} is larger than 1 MiB"
        elif change.diff:
            yield "--- " + ("/dev/null" if change.kind == "A" else f"a{shown(folding.old_path(change.path))}")
            yield "+++ " + ("/dev/null" if change.kind == "D" else f"b{name}")
            for line in change.diff:
                # A tab is common in texts, and not readable as \u0009.
                yield _colored(escaped(line.replace("\t", "\\t")), line[:1], color=color)
        elif index not in folding.hidden:
            entries = folding.entries.get(index, 0)
            same = change.kind == "C" and change.type == "file" and not entries
            yield _line(change, entries, color=color, note="metadata" if same else None)

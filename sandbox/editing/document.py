"""An environment file as text and as tree, changed together.

Every change is made twice: to the text, so that comments, order and layout stay, and to the tree that tomllib gave, where
it is a plain assignment or deletion. Then tomllib reads the new text, and what it finds has to be the new tree: a fault
of ours, of `locate` or of tomlkit ends in an error and never in a file that says something else.

Where things go:

* A value is replaced where it stands. A table that replaces a table, and an array that replaces an array, change only
  what differs.
* A new key goes behind the last key of its table, in the form that the table has: below its header, as a dotted key,
  in the inline table. A new table gets a header behind the others, unless the file is written with dotted keys alone.
* A new element of `[[volumes]]` goes behind the last one; the comment directly above the next header stays above that.
* What is removed takes the comment on its line along, and a table the comments between its lines. The comment directly
  above it goes, too, unless it introduces more (`Layout.with_comment`). A table that lost its last key goes, too, if that
  means the same.
"""

from __future__ import annotations

from typing import Any

from sandbox.editing.arrays import changed_array
from sandbox.editing.layout import (
    Layout,
    Pair,
    Section,
    after_blanks,
    comments,
    is_below,
    normalised,
    read_layout,
    with_line_ends_of,
)
from sandbox.editing.placement import (
    PROFILE,
    header_length,
    holds,
    inside_profile,
    is_dotted,
    is_list_of_tables,
    is_spaced,
    is_tables,
    is_void,
    pairs_below,
)
from sandbox.editing.values import (
    MISSING,
    lookup,
    same,
    texts,
    tree_with,
    tree_without,
    unsafe,
    written,
)
from sandbox.errors import EditError
from sandbox.spec.document import parse_document
from sandbox.spec.locate import MAX_DEPTH
from sandbox.spec.notation import KeyPath, format_key, format_key_path, is_unicode, literal, type_name


class Document:
    """The text of an environment file and its tree. `name` is the file's name for messages."""

    def __init__(self, data: bytes, name: str) -> None:
        """Read *data*. Raises SpecError unless it is TOML."""
        import os

        self.name = name
        self.tree: dict[str, Any]
        self.tree, origins = parse_document(data, file=name, directory=os.path.dirname(os.path.abspath(name)))
        self._original = data.decode()
        self.text = origins.main.text
        self._known: Layout | None = None

    def encode(self) -> bytes:
        """Return the content for the file, with the line ends that it had."""
        return with_line_ends_of(self._original, self.text).encode()

    def get(self, path: KeyPath) -> Any:
        """Return the value at *path* as the file says it, or MISSING."""
        return lookup(self.tree, path)

    def put(self, path: KeyPath, value: object) -> None:
        """Make *path* be *value*. Raises EditError when what is around it is no table."""
        self._check_place(path, value)
        wanted = tree_with(self.tree, path, value)
        self._put(path, value)
        if not same(self.tree, wanted):
            raise unsafe(self.name)

    def remove(self, *paths: KeyPath) -> None:
        """Remove what is at *paths*, which count elements as they are now. Raises EditError when there is nothing."""
        for path in paths:
            if lookup(self.tree, path) is MISSING:
                raise EditError(f"{self.name}: {format_key_path(path)} is not set", hint=self._nearest(path))
        outermost = {path for path in paths if not any(path != one and is_below(path, one) for one in paths)}
        # The last elements first, so that the others keep their numbers.
        for path in sorted(outermost, key=_by_number, reverse=True):
            self._remove(path)

    def append(self, path: KeyPath, value: object) -> None:
        """Add *value* to the list *path*, which is made if there is none. Raises EditError when it is no list."""
        self._check_place(path, value)
        present = lookup(self.tree, path)
        if present is MISSING:
            inline = self._innermost_inline(self._layout(), path) is not None
            if isinstance(value, dict) and is_list_of_tables(path) and not inline:
                self._new_section(path, value, array=True)
            else:
                self._put(path, [value])
        elif not isinstance(present, list):
            raise EditError(f"{self.name}: {format_key_path(path)} is {_a(present)}, and no list")
        elif isinstance(value, dict) and self._is_made_of_headers(path):
            self._new_section(path, value, array=True)
        else:
            self._put(path, [*present, value])

    # --- values that are there ---

    def _put(self, path: KeyPath, value: object) -> None:
        old = lookup(self.tree, path)
        if old is MISSING:
            self._insert(path, value)
        elif same(old, value):
            return
        elif isinstance(old, dict) and isinstance(value, dict) and (value or not self._is_literal(path)):
            for key, item in value.items():
                self._put((*path, key), item)
            for key in [key for key in old if key not in value]:
                self._cut((*path, key))
            if lookup(self.tree, path) is MISSING:
                self._insert(path, {})
        elif self._is_literal(path):
            self._replace(path, old, value)
        elif is_tables(value) and self._is_made_of_headers(path):
            self._put_elements(path, old, value)
        elif isinstance(path[-1], int):
            # A table of [[a]] cannot be anything but a table: the list becomes an array.
            self._put(path[:-1], lookup(tree_with(self.tree, path, value), path[:-1]))
        else:
            self._cut(path)
            if lookup(self.tree, path) is MISSING:
                self._insert(path, value)
            else:
                self._put(path, value)  # an emptied table stayed, as it means something

    def _replace(self, path: KeyPath, old: object, value: object) -> None:
        layout = self._layout()
        span = layout.located.entries[path].value
        text = self.text[span.start : span.end]
        column = span.start - (self.text.rfind("\n", 0, span.start) + 1)
        if isinstance(old, list) and isinstance(value, list):
            if self._replace_elements(path, old, value):
                return
            indent = _indent(self.text, span.start - column)
            new = changed_array(text, old, value, before=column, indent=indent)
        else:
            new = written(value, before=column)
            if "\n" in new and any(
                holds(layout, outer, span.start)
                for outer in (path[:length] for length in range(1, len(path)))
            ):
                new = literal(value)  # an inline table ends on its line
        self._accept(self.text[: span.start] + new + self.text[span.end :], tree_with(self.tree, path, value))

    def _replace_elements(self, path: KeyPath, old: list[Any], new: list[Any]) -> bool:
        """Change elements of an array in place if only few differ, and return whether that was possible."""
        differing = [index for index, pair in enumerate(zip(old, new, strict=False)) if not same(*pair)]
        if len(old) != len(new) or len(differing) > 1:
            return False
        for index in differing:
            self._put((*path, index), new[index])
        return True

    def _put_elements(self, path: KeyPath, old: list[Any], new: list[Any]) -> None:
        for index in range(len(old) - 1, len(new) - 1, -1):
            self._cut((*path, index))
        for index, item in enumerate(new):
            if index < len(old):
                self._put((*path, index), item)
            else:
                self._new_section(path, item, array=True)

    # --- new values ---

    def _check_place(self, path: KeyPath, value: object) -> None:
        """Raise EditError unless *value* can be put at *path*."""
        if not all(map(is_unicode, texts((list(path), value)))):
            # How Python has the bytes of a command line that are not UTF-8.
            raise EditError(f"{self.name}: the value is not UTF-8, and all TOML is")
        around: Any = self.tree
        for depth, part in enumerate(path):
            here = f"{self.name}: {format_key_path(path[:depth])}"
            if isinstance(part, int):
                if around is MISSING:
                    raise EditError(f"{here} is not set", hint="`sandbox add` adds an element to a list")
                if not isinstance(around, list):
                    raise EditError(f"{here} is {_a(around)}, and has no element {part}")
                if part >= len(around):
                    elements = "1 element" if len(around) == 1 else f"{len(around)} elements"
                    raise EditError(
                        f"{here} has {elements}, counted from 0, and no element {part}",
                        hint="`sandbox add` adds one",
                    )
            elif around is not MISSING and not isinstance(around, dict):
                hint = "write the number of an element, such as [0]" if isinstance(around, list) else None
                raise EditError(f"{here} is {_a(around)}, and has no key {format_key(part)}", hint=hint)
            around = MISSING if around is MISSING else lookup(around, (part,))

    def _insert(self, path: KeyPath, value: object) -> None:
        """Write *path*, which is not there. All parts of it that are missing are keys."""
        depth = next(
            length for length in range(len(path)) if lookup(self.tree, path[: length + 1]) is MISSING
        )
        around, key = path[:depth], path[depth:]
        layout = self._layout()
        inline = self._innermost_inline(layout, path)
        if inline is not None:
            self._insert_inline(inline, path[len(inline) :], value)
            return
        section = layout.section(around) if around else None
        if section is not None:
            self._insert_pair(section, section.last, around, key, value)
        elif (pairs := pairs_below(layout, around)) and (around or is_dotted(layout)):
            self._insert_pair(*pairs[-1], around, key, value)
        elif len(path) == 1 and not (isinstance(value, dict) or is_tables(value)):
            top = layout.sections[0]
            self._insert_pair(top, top.last, (), key, value)
        elif is_tables(value) and is_list_of_tables(path):
            for item in value:
                self._new_section(path, item, array=True)
        else:
            header = path[: max(header_length(path), depth)]
            if isinstance(value, dict) and len(header) == len(path):
                self._new_section(path, value)
            else:
                header = header if len(header) < len(path) else path[:-1]
                self._new_section(header, {}, key=path[len(header) :], value=value)

    def _insert_inline(self, around: KeyPath, key: KeyPath, value: object) -> None:
        """Write `key = value` behind the last pair of the inline table *around*."""
        entries = self._layout().located.entries
        span = entries[around].value
        inside = [
            entry.value.end
            for path, entry in entries.items()
            if len(path) > len(around) and is_below(path, around) and entry.literal
        ]
        pair = f"{format_key_path(key)} = {literal(value)}"
        if inside:
            end = max(inside)
            text = f"{self.text[:end]}, {pair}{self.text[end:]}"
        else:
            text = f"{self.text[: span.start]}{{ {pair} }}{self.text[span.end :]}"
        self._accept(text, tree_with(self.tree, (*around, *key), value))

    def _insert_pair(
        self, section: Section, after: Pair | None, around: KeyPath, key: KeyPath, value: object
    ) -> None:
        """Write a pair of the table *around* into *section*, behind the pair or header *after*."""
        layout = self._layout()
        name = format_key_path((*around, *key)[len(section.path) :])
        if after is None:
            position = self._top(layout)
            line = f"{name} = {written(value, before=len(name) + 3)}\n"
            rest = self.text[position:]
            line += "" if not rest or rest.startswith("\n") else "\n"
        else:
            position = after.end
            indent = _indent(self.text, after.start) if after is not section.header else ""
            line = f"{indent}{name} = {written(value, before=len(indent) + len(name) + 3)}\n"
        before = self.text[:position]
        if before and not before.endswith("\n"):
            before += "\n"
        self._accept(before + line + self.text[position:], tree_with(self.tree, (*around, *key), value))

    def _top(self, layout: Layout) -> int:
        """Return where the first pair above all headers goes: behind the comment that begins the file."""
        if len(layout.sections) > 1:
            return layout.start_of(layout.sections[1])
        return len(self.text)

    def _new_section(
        self,
        path: KeyPath,
        content: dict[str, object],
        *,
        array: bool = False,
        key: KeyPath = (),
        value: object = None,
    ) -> None:
        """Write a header for *path*, and below it *content* and, with *key*, that pair."""
        pairs: list[tuple[KeyPath, object]] = [((name,), item) for name, item in content.items()]
        if key:
            pairs.append((key, value))
        name = format_key_path(tuple(part for part in path if isinstance(part, str)))
        block = f"[[{name}]]\n" if array else f"[{name}]\n"
        for inside, item in pairs:
            written_key = format_key_path(inside)
            block += f"{written_key} = {written(item, before=len(written_key) + 3)}\n"
        layout = self._layout()
        before, after = self._split_for_section(layout, path, array=array)
        if before and not before.endswith("\n"):
            before += "\n"
        if before and is_spaced(layout) and not before.endswith("\n\n"):
            before += "\n"
        if after and is_spaced(layout) and not after.startswith("\n"):
            block += "\n"
        new = dict(content) if not key else tree_with(content, key, value)
        present = lookup(self.tree, path)
        if array:
            tree = tree_with(self.tree, path, [*(present if present is not MISSING else []), new])
        else:
            tree = tree_with(self.tree, path, {**(present if present is not MISSING else {}), **new})
        self._accept(before + block + after, tree)

    def _split_for_section(self, layout: Layout, path: KeyPath, *, array: bool) -> tuple[str, str]:
        """Return what stands before and behind the place of a new section for *path*."""
        text = self.text
        if not array and lookup(self.tree, path) is not MISSING and (inner := layout.below(path)):
            # A header for what only tables inside it have made so far: it goes above them.
            position = layout.start_of(inner[0])
            return text[:position], text[position:]
        for length in range(len(path), 0, -1):
            siblings = layout.below(path[:length])
            if siblings and siblings[-1] is not layout.sections[-1]:
                position = layout.end_of(siblings[-1])
                return text[:position], text[position:]
            if siblings:
                break
        return text, ""

    # --- removal ---

    def _remove(self, path: KeyPath) -> None:
        """Remove *path*, and the tables around it that are empty then and mean nothing."""
        if isinstance(path[-1], int):
            self._remove_element(path)
            return
        parents = [path[:length] for length in range(len(path) - 1, 0, -1)]
        layout = self._layout()
        going = path
        for parent in parents:
            table = lookup(self.tree, parent)
            if not isinstance(table, dict) or len(table) > 1 or not is_void(parent):
                break
            section = layout.section(parent)
            if section is not None and comments(self._inside(layout, section, path)):
                break
            going = parent
        self._cut(going, comment=True)

    def _inside(self, layout: Layout, section: Section, path: KeyPath) -> str:
        """Return the text of *section* below its header without the pairs of *path*."""
        assert section.header is not None
        text, position = "", section.header.end
        for pair in section.pairs:
            if is_below(pair.path, path):
                start = layout.with_comment(pair.start, pair.end)
                text += self.text[position : max(position, start)]
                position = pair.end
        return text + self.text[position : layout.end_of(section)]

    def _remove_element(self, path: KeyPath) -> None:
        around, index = path[:-1], path[-1]
        elements = lookup(self.tree, around)
        if self._is_literal(around):
            self._put(around, [item for number, item in enumerate(elements) if number != index])
        elif len(elements) > 1:
            self._cut(path, comment=True)
        elif around[0] == PROFILE or "extends" in self.tree:
            # No list would leave that of the other file in force.
            self._cut(around, comment=True)
            self._insert(around, [])
        else:
            self._remove(around)

    def _cut(self, path: KeyPath, *, comment: bool = False) -> None:
        """Remove *path* alone, with *comment* also the comments that belong to it. A table that only it made, as in `a.b = 1`, becomes `a = {}` if that means something."""
        layout = self._layout()
        around = self._innermost_inline(layout, path)
        if around is not None:
            text = self._without_inline(layout, around, path)
        elif isinstance(path[-1], int) and layout.located.entries[path[:-1]].literal:
            self._put(path[:-1], lookup(tree_without(self.tree, path), path[:-1]))
            return
        else:
            cuts = [
                (section.header.start, layout.end_of(section))
                for section in layout.below(path)
                if section.header
            ]
            cuts += [
                (pair.start, pair.end)
                for section in layout.sections
                if section.header is None or not is_below(section.path, path)
                for pair in section.pairs
                if is_below(pair.path, path)
            ]
            text = self.text
            for start, end in reversed(_joined(cuts)):
                text = _without_lines(text, layout.with_comment(start, end) if comment else start, end)
        wanted = tree_without(self.tree, path)
        gone: list[KeyPath] = []
        outer = path[:-1]
        while outer and lookup(wanted, outer) in ({}, []) and not self._is_explicit(layout, outer):
            gone.append(outer)
            wanted = tree_without(wanted, outer)
            outer = outer[:-1]
        self._accept(text, wanted)
        meant = next((table for table in gone if isinstance(table[-1], str) and not is_void(table)), None)
        if meant is not None:
            self._insert(meant, {})

    def _is_explicit(self, layout: Layout, path: KeyPath) -> bool:
        """Tell whether *path* is written itself, and not only there because of what it holds."""
        entry = layout.located.entries.get(path)
        return layout.section(path) is not None or (entry is not None and entry.literal)

    def _innermost_inline(self, layout: Layout, path: KeyPath) -> KeyPath | None:
        """Return the inline table that *path* is written in, None for what has lines of its own."""
        for length in range(len(path) - 1, 0, -1):
            entry = layout.located.entries.get(path[:length])
            if entry is not None and entry.literal and isinstance(lookup(self.tree, path[:length]), dict):
                return path[:length]
        return None

    def _without_inline(self, layout: Layout, around: KeyPath, path: KeyPath) -> str:
        """Return the text without the pairs of *path* in the inline table *around*."""
        span = layout.located.entries[around].value
        pairs = [
            statement
            for statement in layout.located.statements
            if not statement.header
            and span.start < statement.key.start < span.end
            and self._innermost_inline(layout, statement.path) == around
        ]
        text, position, kept = "{", span.start + 1, 0
        for statement in pairs:
            piece = self.text[position : statement.end]
            position = statement.end
            if not is_below(statement.path, path):
                # The first pair has no comma before it.
                text += piece if kept or piece.lstrip()[:1] != "," else piece.lstrip()[1:]
                kept += 1
        text = text + self.text[position : span.end] if kept else "{}"
        return self.text[: span.start] + text + self.text[span.end :]

    # --- what all of it rests on ---

    def _layout(self) -> Layout:
        if self._known is None or self._known.text is not self.text:
            self._known = read_layout(self.text)
        return self._known

    def _accept(self, text: str, tree: dict[str, Any]) -> None:
        """Make *text* the text of the document, if it says *tree*; raise EditError otherwise."""
        import tomllib

        try:
            found: object = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, ValueError, RecursionError):
            raise unsafe(self.name) from None
        if not same(found, tree):
            raise unsafe(self.name)
        layout = read_layout(normalised(text))
        if layout.located.stopped is not None:
            raise EditError(
                f"{self.name}: the value is nested more than {MAX_DEPTH} levels deep", hint="flatten it"
            )
        self.text, self.tree, self._known = layout.text, tree, layout

    def _is_made_of_headers(self, path: KeyPath) -> bool:
        value = lookup(self.tree, path)
        return isinstance(value, list) and not self._is_literal(path)

    def _is_literal(self, path: KeyPath) -> bool:
        """Tell whether the value at *path* is written in one piece."""
        return self._layout().located.entries[path].literal

    def _nearest(self, path: KeyPath) -> str | None:
        from sandbox.spec.lookup import setting_at
        from sandbox.spec.notation import nearest

        if setting_at(inside_profile(path)) is not None:
            return None  # it is spelt right, so no other key was meant: least of all the whole table
        known = [format_key_path(one) for one in self._layout().located.entries]
        meant = nearest(format_key_path(path), known)
        return f"did you mean {meant}?" if meant else None


def _by_number(path: KeyPath) -> list[tuple[str, int]]:
    return [(part, 0) if isinstance(part, str) else ("", part) for part in path]


def _indent(text: str, start: int) -> str:
    return text[start : start + len(text[start:]) - len(text[start:].lstrip(" \t"))]


def _joined(cuts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return *cuts* in their order, those that follow each other directly as one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(cuts):
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _without_lines(text: str, start: int, end: int) -> str:
    """Return *text* without the lines from *start* to *end*, and without the blank lines that are too many then."""
    before = text[:start]
    if not before or before.endswith("\n\n") or before == "\n":
        end = after_blanks(text, end)
    if end == len(text):
        before = before.rstrip("\n") + "\n" if before.strip("\n") else ""
    return before + text[end:]


def _a(value: object) -> str:
    noun = type_name(value)
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"

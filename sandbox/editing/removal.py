"""Remove keys, tables and elements from a text, with their comments.

`document` calls `remove` for what the user removes, and `delete` for what another value replaces.
"""

from __future__ import annotations

from sandbox.editing.insertion import insert
from sandbox.editing.layout import Layout, Section, after_blanks, comments, is_below
from sandbox.editing.placement import PROFILE, is_same_if_absent
from sandbox.editing.replacement import replace_literal
from sandbox.editing.values import lookup, tree_without
from sandbox.editing.verified_text import VerifiedText
from sandbox.spec.notation import KeyPath


def remove(source: VerifiedText, path: KeyPath) -> None:
    """Remove *path*, and the tables around it that become empty and have no meaning."""
    if isinstance(path[-1], int):
        _remove_element(source, path)
        return
    parents = [path[:length] for length in range(len(path) - 1, 0, -1)]
    layout = source.layout()
    going = path
    for parent in parents:
        table = lookup(source.tree, parent)
        if not isinstance(table, dict) or len(table) > 1 or not is_same_if_absent(parent):
            break
        section = layout.section(parent)
        if section is not None and comments(_inside(source, layout, section, path)):
            break
        going = parent
    delete(source, going, comment=True)


def delete(source: VerifiedText, path: KeyPath, *, comment: bool = False) -> None:
    """Remove *path* alone; with *comment* also the comments that belong to it.

    A table that only this key defined, as in `a.b = 1`, becomes `a = {}` if an empty table has a meaning.
    """
    layout = source.layout()
    around = source.innermost_inline(layout, path)
    if around is not None:
        text = _without_inline(source, layout, around, path)
    elif isinstance(path[-1], int) and layout.located.entries[path[:-1]].literal:
        array = lookup(source.tree, path[:-1])
        replace_literal(source, path[:-1], array, lookup(tree_without(source.tree, path), path[:-1]))
        return
    else:
        cuts = [
            (section.header.start, layout.end_of(section)) for section in layout.below(path) if section.header
        ]
        cuts += [
            (pair.start, pair.end)
            for section in layout.sections
            if section.header is None or not is_below(section.path, path)
            for pair in section.pairs
            if is_below(pair.path, path)
        ]
        text = source.text
        for start, end in reversed(_joined(cuts)):
            text = _without_lines(text, layout.with_comment(start, end) if comment else start, end)
    wanted = tree_without(source.tree, path)
    gone: list[KeyPath] = []
    outer = path[:-1]
    while outer and lookup(wanted, outer) in ({}, []) and not source.is_explicit(layout, outer):
        gone.append(outer)
        wanted = tree_without(wanted, outer)
        outer = outer[:-1]
    source.accept(text, wanted)
    meant = next(
        (table for table in gone if isinstance(table[-1], str) and not is_same_if_absent(table)), None
    )
    if meant is not None:
        insert(source, meant, {})


def _remove_element(source: VerifiedText, path: KeyPath) -> None:
    """Remove the element *path* of a list, and the list if it becomes empty and has no meaning."""
    around, index = path[:-1], path[-1]
    elements = lookup(source.tree, around)
    if source.is_literal(around):
        replace_literal(
            source, around, elements, [item for number, item in enumerate(elements) if number != index]
        )
    elif len(elements) > 1:
        delete(source, path, comment=True)
    elif around[0] == PROFILE or "extends" in source.tree:
        # Without a list, the list of the other file would apply.
        delete(source, around, comment=True)
        insert(source, around, [])
    else:
        remove(source, around)


def _inside(source: VerifiedText, layout: Layout, section: Section, path: KeyPath) -> str:
    """Return the text of *section* below its header without the pairs of *path*."""
    assert section.header is not None
    text, position = "", section.header.end
    for pair in section.pairs:
        if is_below(pair.path, path):
            start = layout.with_comment(pair.start, pair.end)
            text += source.text[position : max(position, start)]
            position = pair.end
    return text + source.text[position : layout.end_of(section)]


def _without_inline(source: VerifiedText, layout: Layout, around: KeyPath, path: KeyPath) -> str:
    """Return the text without the pairs of *path* in the inline table *around*."""
    span = layout.located.entries[around].value
    pairs = [
        statement
        for statement in layout.located.statements
        if not statement.header
        and span.start < statement.key.start < span.end
        and source.innermost_inline(layout, statement.path) == around
    ]
    text, position, kept = "{", span.start + 1, 0
    for statement in pairs:
        piece = source.text[position : statement.end]
        position = statement.end
        if not is_below(statement.path, path):
            # The first pair has no comma before it.
            text += piece if kept or piece.lstrip()[:1] != "," else piece.lstrip()[1:]
            kept += 1
    text = text + source.text[position : span.end] if kept else "{}"
    return source.text[: span.start] + text + source.text[span.end :]


def _joined(cuts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return *cuts* in order, with adjacent ones joined."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(cuts):
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _without_lines(text: str, start: int, end: int) -> str:
    """Return *text* without the lines from *start* to *end*, and without blank lines that become redundant."""
    before = text[:start]
    if not before or before.endswith("\n\n") or before == "\n":
        end = after_blanks(text, end)
    if end == len(text):
        before = before.rstrip("\n") + "\n" if before.strip("\n") else ""
    return before + text[end:]

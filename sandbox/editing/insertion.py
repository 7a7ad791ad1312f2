"""Insert a key, a table or an element of a list of tables into a text, in the form that its surroundings have.

`document` and `removal` call `insert`, and `insert_section` for one more `[[table]]`.
"""

from __future__ import annotations

from sandbox.editing.layout import Layout, Pair, Section, indent_at, is_below
from sandbox.editing.placement import (
    header_length,
    is_dotted,
    is_list_of_tables,
    is_spaced,
    is_tables,
    pairs_below,
)
from sandbox.editing.values import MISSING, lookup, tree_with, written
from sandbox.editing.verified_text import VerifiedText
from sandbox.spec.notation import KeyPath, format_key_path, literal


def insert(source: VerifiedText, path: KeyPath, value: object) -> None:
    """Insert *path*, which is missing. All missing parts of it are keys."""
    depth = next(length for length in range(len(path)) if lookup(source.tree, path[: length + 1]) is MISSING)
    around, key = path[:depth], path[depth:]
    layout = source.layout()
    inline = source.innermost_inline(layout, path)
    if inline is not None:
        _insert_inline(source, inline, path[len(inline) :], value)
        return
    section = layout.section(around) if around else None
    if section is not None:
        _insert_pair(source, section, section.last, around, key, value)
    elif (pairs := pairs_below(layout, around)) and (around or is_dotted(layout)):
        _insert_pair(source, *pairs[-1], around, key, value)
    elif len(path) == 1 and not (isinstance(value, dict) or is_tables(value)):
        top = layout.sections[0]
        _insert_pair(source, top, top.last, (), key, value)
    elif is_tables(value) and is_list_of_tables(path):
        for item in value:
            insert_section(source, path, item, array=True)
    else:
        header = path[: max(header_length(path), depth)]
        if isinstance(value, dict) and len(header) == len(path):
            insert_section(source, path, value)
        else:
            header = header if len(header) < len(path) else path[:-1]
            insert_section(source, header, {}, key=path[len(header) :], value=value)


def _insert_inline(source: VerifiedText, around: KeyPath, key: KeyPath, value: object) -> None:
    """Write `key = value` behind the last pair of the inline table *around*."""
    entries = source.layout().located.entries
    span = entries[around].value
    inside = [
        entry.value.end
        for path, entry in entries.items()
        if len(path) > len(around) and is_below(path, around) and entry.literal
    ]
    pair = f"{format_key_path(key)} = {literal(value)}"
    if inside:
        end = max(inside)
        text = f"{source.text[:end]}, {pair}{source.text[end:]}"
    else:
        text = f"{source.text[: span.start]}{{ {pair} }}{source.text[span.end :]}"
    source.accept(text, tree_with(source.tree, (*around, *key), value))


def _insert_pair(
    source: VerifiedText, section: Section, after: Pair | None, around: KeyPath, key: KeyPath, value: object
) -> None:
    """Write a pair of the table *around* into *section*, behind the pair or header *after*."""
    layout = source.layout()
    name = format_key_path((*around, *key)[len(section.path) :])
    if after is None:
        position = _top(source, layout)
        line = f"{name} = {written(value, before=len(name) + 3)}\n"
        rest = source.text[position:]
        line += "" if not rest or rest.startswith("\n") else "\n"
    else:
        position = after.end
        indent = indent_at(source.text, after.start) if after is not section.header else ""
        line = f"{indent}{name} = {written(value, before=len(indent) + len(name) + 3)}\n"
    before = source.text[:position]
    if before and not before.endswith("\n"):
        before += "\n"
    source.accept(before + line + source.text[position:], tree_with(source.tree, (*around, *key), value))


def _top(source: VerifiedText, layout: Layout) -> int:
    """Return the place of the first pair above all headers: behind the comment that begins the file."""
    if len(layout.sections) > 1:
        return layout.start_of(layout.sections[1])
    return len(source.text)


def insert_section(
    source: VerifiedText,
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
    layout = source.layout()
    before, after = _split_for_section(source, layout, path, array=array)
    if before and not before.endswith("\n"):
        before += "\n"
    if before and is_spaced(layout) and not before.endswith("\n\n"):
        before += "\n"
    if after and is_spaced(layout) and not after.startswith("\n"):
        block += "\n"
    new = dict(content) if not key else tree_with(content, key, value)
    present = lookup(source.tree, path)
    if array:
        tree = tree_with(source.tree, path, [*(present if present is not MISSING else []), new])
    else:
        tree = tree_with(source.tree, path, {**(present if present is not MISSING else {}), **new})
    source.accept(before + block + after, tree)


def _split_for_section(
    source: VerifiedText, layout: Layout, path: KeyPath, *, array: bool
) -> tuple[str, str]:
    """Return the text before and the text behind the place of a new section for *path*."""
    text = source.text
    if not array and lookup(source.tree, path) is not MISSING and (inner := layout.below(path)):
        # So far only tables inside it define the table: its header goes above them.
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

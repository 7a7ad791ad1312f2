"""Replace a value that is written in one piece, where it stands. `document` and `removal` call it."""

from __future__ import annotations

from sandbox.editing.arrays import changed_array
from sandbox.editing.layout import indent_at
from sandbox.editing.placement import contains_position
from sandbox.editing.values import tree_with, written
from sandbox.editing.verified_text import VerifiedText
from sandbox.spec.notation import KeyPath, literal


def replace_literal(source: VerifiedText, path: KeyPath, old: object, value: object) -> None:
    """Write *value* in place of *old*, the value of *path*. An array keeps its elements and comments where it can."""
    layout = source.layout()
    span = layout.located.entries[path].value
    text = source.text[span.start : span.end]
    column = span.start - (source.text.rfind("\n", 0, span.start) + 1)
    if isinstance(old, list) and isinstance(value, list):
        indent = indent_at(source.text, span.start - column)
        new = changed_array(text, old, value, before=column, indent=indent)
    else:
        new = written(value, before=column)
        if "\n" in new and any(
            contains_position(layout, outer, span.start)
            for outer in (path[:length] for length in range(1, len(path)))
        ):
            new = literal(value)  # an inline table ends on its line
    source.accept(
        source.text[: span.start] + new + source.text[span.end :], tree_with(source.tree, path, value)
    )

"""Rows and archives of a union of a test, as the launcher gets them from `unionfs changes`."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from sandbox.changes.rows import Change, parse
from tests.unit.unionfs.changes.trees import source_of
from unionfs.changes.compared_stack import open_stack_to_compare
from unionfs.changes.comparison import Comparison
from unionfs.changes.report import VERSION, Facts
from unionfs.changes.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.unionfs.support import Union


def rows_of(union: Union) -> list[Change]:
    """Return the rows of *union* with facts, as if no object below had changed since."""
    stack = open_stack_to_compare(source_of(union))
    try:
        facts = Facts(stack)
        values = [facts.of(row) for row in Comparison(stack).rows()]
    finally:
        stack.close()
    for value in values:
        for old in (value.get("old"), *value.get("replaced", ())):
            if old is not None:
                old["since"] = "same"
    values.append({"version": VERSION, "rows": len(values)})
    return parse(json.dumps(value).encode() for value in values)


def archive_of(union: Union, paths: Sequence[bytes], form: str = "members") -> bytes:
    """Return what `unionfs changes --archive` writes about *paths*."""
    stack = open_stack_to_compare(source_of(union))
    output = io.BytesIO()
    try:
        getattr(Stream(stack, output), form)(paths)
    finally:
        stack.close()
    return output.getvalue()

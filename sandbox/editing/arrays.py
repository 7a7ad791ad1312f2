"""Read the elements and comments of an array from its text, and change them.

tomlkit changes an array and keeps the layout of the unchanged elements. With some layouts, such as commas at the beginning
of lines, it loses a comment or writes a wrong value. Then the array is rewritten in the usual layout: one element to a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sandbox.editing.layout import changes_between, comments
from sandbox.editing.values import same, written
from sandbox.spec.locate import Span, locate
from sandbox.spec.notation import INDENT, literal
from unionfs._stdlib.dataclasses import dataclass, field

_GAP = re.compile(r"(?P<blank>[ \t]*)(?P<comment>#[^\n]*)|(?P<end>\n)|,|[ \t]+")
_HOLDER = "v"
_BEFORE = f"{_HOLDER} = "


@dataclass(slots=True)
class Element:
    """An element of an array: its text, the comments on the lines above it, and the comment behind it on its line.

    The last element stands for the end of the array, and has no text.
    """

    text: str = ""
    above: list[str] = field(default_factory=list)
    behind: str = ""


def elements_of(text: str, spans: Sequence[Span], whole: Span) -> tuple[list[Element], bool]:
    """Return the elements of the array at *whole* in *text*, and whether the array has several lines.

    *spans* are the places of its elements. The last element returned stands for the end of the array. A comment between
    two elements belongs to the first if it is on its line, and else to the second.
    """
    elements: list[Element] = []
    several_lines = False
    position = whole.start + 1
    for span in [*spans, Span(whole.end - 1, whole.end)]:
        element = Element(text[span.start : span.end] if span.end < whole.end else "")
        on_line_of_last = bool(elements)
        for match in _GAP.finditer(text, position, span.start):
            if match["end"]:
                several_lines, on_line_of_last = True, False
            elif match["comment"] and on_line_of_last:
                elements[-1].behind = f"{match['blank'] or ' '}{match['comment'].rstrip()}"
            elif match["comment"]:
                element.above.append(match["comment"].rstrip())
        elements.append(element)
        position = span.end
    return elements, several_lines


def in_lines(elements: Sequence[Element], indent: str) -> str:
    """Return *elements* as an array with one element to a line, indented by one level more than *indent*."""
    lines = []
    for element in elements:
        lines += [f"{indent}{INDENT}{comment}\n" for comment in element.above]
        if element.text:
            lines.append(f"{indent}{INDENT}{element.text},{element.behind}\n")
    return f"[\n{''.join(lines)}{indent}]" if lines else "[]"


def changed_array(
    text: str, old: Sequence[object], new: Sequence[object], *, before: int = 0, indent: str = ""
) -> str:
    """Return *text*, an array with the elements *old*, changed to the elements *new*.

    Elements in both keep their spelling, layout and comments. A comment behind a removed element, on its line, is removed
    with it; all other comments stay. *before* is the number of characters before the array on its line, and *indent* is
    the indentation of that line.
    """
    if "#" not in text and not (old and new):
        return written(list(new), before=before)
    whole = Span(len(_BEFORE), len(_BEFORE) + len(text))
    entries = locate(f"{_BEFORE}{text}\n").entries
    spans = sorted(
        (entry.value for path, entry in entries.items() if len(path) == 2), key=lambda one: one.start
    )
    elements, _ = elements_of(_BEFORE + text, spans, whole)
    changes = changes_between(list(map(repr, old)), list(map(repr, new)))
    if "\n" not in text:
        padding = text[1 : len(text) - len(text[1:].lstrip(" \t"))]
        texts = [element.text for element in _changed(elements, changes, new)[:-1]]
        return f"[{padding}{', '.join(texts)}{padding}]"
    usual = in_lines(_changed(elements, changes, new), indent)
    try:
        found = _changed_by_tomlkit(text, changes, new)
        if not same(_value(found), list(new)) or comments(found) != comments(usual):
            return usual
    except Exception:  # noqa: BLE001 - a fault of tomlkit may raise anything; the usual layout needs no tomlkit
        return usual
    ends = [
        entry.value.end for path, entry in locate(f"{_BEFORE}{found}\n").entries.items() if len(path) == 2
    ]
    if (
        ends
        and spans
        and _has_comma(_BEFORE + text, spans[-1].end)
        and not _has_comma(_BEFORE + found, max(ends))
    ):
        end = max(ends) - len(_BEFORE)
        found = f"{found[:end]},{found[end:]}"
    return found


def _changed(
    elements: Sequence[Element], changes: Sequence[tuple[str, int, int, int, int]], new: Sequence[object]
) -> list[Element]:
    """Return *elements* after *changes*. The comments above a removed element move to the next one."""
    result: list[Element] = []
    waiting: list[str] = []
    for tag, start, end, first, last in changes:
        before = elements[start:end]
        after = before if tag == "equal" else [Element(literal(item)) for item in new[first:last]]
        for position, one in enumerate(after):
            above = [*waiting, *(before[position].above if position < len(before) else [])]
            behind = before[position].behind if position < len(before) else ""
            result.append(Element(one.text, above, behind))
            waiting = []
        waiting += [comment for one in before[len(after) :] for comment in one.above]
    return [*result, Element(above=[*waiting, *elements[-1].above])]


def _changed_by_tomlkit(
    text: str, changes: Sequence[tuple[str, int, int, int, int]], new: Sequence[object]
) -> str:
    import tomlkit

    array: Any = tomlkit.parse(f"{_BEFORE}{text}\n")[_HOLDER]
    # From the end, so that earlier positions stay valid.
    for tag, start, end, first, last in reversed(changes):
        if tag == "equal":
            continue
        common = min(end - start, last - first)
        for offset in range(common):
            array[start + offset] = _item(new[first + offset])
        for index in reversed(range(start + common, end)):
            del array[index]
        for index in reversed(range(first + common, last)):
            array.insert(start + common, _item(new[index]))
    return str(array.as_string())


def _item(value: object) -> Any:
    """Return *value* as an item of tomlkit, in the spelling of `literal`."""
    import tomlkit

    return tomlkit.parse(f"{_BEFORE}{literal(value)}\n")[_HOLDER]


def _value(text: str) -> object:
    import tomllib

    return tomllib.loads(f"{_BEFORE}{text}\n")[_HOLDER]


def _has_comma(text: str, position: int) -> bool:
    """Tell whether *text* has a comma behind *position*, outside comments."""
    return "," in re.sub(r"#[^\n]*", "", text[position:])

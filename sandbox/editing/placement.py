"""Determine the place and the form of a new value in a text. All functions are pure."""

from __future__ import annotations

from typing import TypeGuard

from sandbox.editing.layout import Layout, Pair, Section, is_below
from sandbox.spec.codecs.containers import APPEND
from sandbox.spec.decode import Record
from sandbox.spec.lookup import codec_at, setting_at
from sandbox.spec.notation import KeyPath

PROFILE = "profile"


def pairs_below(layout: Layout, path: KeyPath) -> list[tuple[Section, Pair]]:
    """Return the pairs of the table *path*, each with its section, except those below headers of tables inside it."""
    return [
        (section, pair)
        for section in layout.sections
        if len(section.path) <= len(path) and is_below(path, section.path)
        for pair in section.pairs
        if is_below(pair.path, path) and len(pair.path) > len(path)
    ]


def is_dotted(layout: Layout) -> bool:
    """Tell whether the file is written with dotted keys instead of tables."""
    tables = [one for one in layout.sections if one.header is not None and not isinstance(one.path[-1], int)]
    return not tables and any(len(pair.path) > 1 for pair in layout.sections[0].pairs)


def is_spaced(layout: Layout) -> bool:
    """Tell whether blank lines stand between the tables of the file."""
    headers = [section for section in layout.sections[1:] if section is not layout.sections[1]]
    return not headers or any(layout.text[: layout.start_of(section)].endswith("\n\n") for section in headers)


def header_length(path: KeyPath) -> int:
    """Return how many keys of *path* belong in its header: one, or two where the user chooses the second."""
    codec = codec_at(path[:1])
    return 1 if codec is None or isinstance(codec, Record) else 2


def inside_profile(path: KeyPath) -> KeyPath:
    """Return *path* without a leading profile.NAME: the tables in a profile are those of a file."""
    return path[2:] if path[:1] == (PROFILE,) else path


def is_list_of_tables(path: KeyPath) -> bool:
    """Tell whether new elements of the list *path* are written as `[[path]]`: those of lists at the top of a file or profile."""
    inside = inside_profile(path)
    return len(inside[:-1] if inside[-1:] == (APPEND,) else inside) == 1


def is_tables(value: object) -> TypeGuard[list[dict[str, object]]]:
    """Tell whether *value* can be written as `[[tables]]`."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def is_same_if_absent(path: KeyPath) -> bool:
    """Tell whether the table *path* means the same when it is empty as when it is absent."""
    if isinstance(path[-1], int):
        return False
    inside = inside_profile(path)
    if not inside:
        return len(path) < 2  # an empty [profile.NAME] still defines a profile that can be selected
    setting = setting_at(inside)
    if setting is None:
        return codec_at(inside) is None
    return setting.required or setting.default is not None


def contains_position(layout: Layout, path: KeyPath, position: int) -> bool:
    """Tell whether *path* is an inline table or array whose text contains *position*."""
    entry = layout.located.entries.get(path)
    return entry is not None and entry.literal and entry.value.start < position < entry.value.end

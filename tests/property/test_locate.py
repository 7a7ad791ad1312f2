"""Compare the scanner of positions with tomllib on generated documents, in all syntactic forms of TOML."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.spec.locate import Entry, locate
from sandbox.spec.notation import KeyPath
from tests.support.documents import documents


def walk(tree: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    if path:
        yield path, tree
    if isinstance(tree, dict):
        for key, item in tree.items():
            yield from walk(item, (*path, key))
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from walk(item, (*path, index))


def same(one: object, other: object) -> bool:
    """Return whether two values are equal and of one type; NaN equals itself here."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(item, other[key]) for key, item in one.items())
    return one == other


def check_entry(text: str, path: KeyPath, found: object, entry: Entry) -> None:
    key = text[entry.key.start : entry.key.end]
    written = text[entry.value.start : entry.value.end]
    if entry.literal:
        assert same(tomllib.loads(f"v = {written}")["v"], found), (path, written)
    else:
        assert isinstance(found, (dict, list))
        assert key == written
    names_of_path = [part for part in path if isinstance(part, str)]
    if isinstance(path[-1], str) or not entry.literal:
        assert list(tomllib.loads(f"{key} = 0")) == [names_of_path[-1]]
    else:
        assert key == written  # an element of an array has no key


@settings(max_examples=250, deadline=None)
@given(documents())
def test_every_path_of_a_document_has_a_span_that_parses_to_the_same_value(text: str) -> None:
    tree = dict(walk(tomllib.loads(text)))
    located = locate(text)
    assert located.stopped is None
    assert set(located.entries) == set(tree)
    for path, found in tree.items():
        check_entry(text, path, found, located.entries[path])


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text(st.sampled_from("a1.=[]{},'\"\\ \t\n#-:"), max_size=40)))
def test_any_text_is_scanned_without_an_error_and_agrees_where_it_is_toml(text: str) -> None:
    text = text.replace("\r\n", "\n")
    located = locate(text)
    try:
        tree = dict(walk(tomllib.loads(text)))
    except tomllib.TOMLDecodeError:
        return
    assert set(located.entries) == set(tree)


@settings(max_examples=100, deadline=None)
@given(documents(), st.data())
def test_a_document_cut_anywhere_is_scanned_without_an_error(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    located = locate(text[:cut])
    assert all(0 <= entry.value.start <= entry.value.end <= cut for entry in located.entries.values())
    whole = locate(text).entries
    for statement in located.statements:
        assert statement.path in whole or statement.end == cut

"""Change generated TOML documents in all syntactic forms: the tree is the requested one, and the comments stay."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sandbox.editing.document import Document
from sandbox.editing.layout import comments, is_below, read_layout
from sandbox.editing.style import formatted
from sandbox.editing.values import MISSING, lookup, same, tree_with, tree_without
from sandbox.spec.locate import locate
from sandbox.spec.notation import KeyPath
from tests.support.documents import documents

SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.dates(),
    st.times().filter(lambda one: one.tzinfo is None),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text(st.sampled_from("a \"'\\\n\t#=[]{}"), max_size=12),
)
NEW_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NEW_NAMES, inner, max_size=3)),
    max_leaves=6,
)


def walk(tree: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value of *tree* with its path, *tree* itself first."""
    yield path, tree
    if isinstance(tree, dict):
        for key, item in tree.items():
            yield from walk(item, (*path, key))
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from walk(item, (*path, index))


def read(document: Document) -> dict[str, Any]:
    """Return the tree that tomllib reads from the content of *document*."""
    return tomllib.loads(document.encode().decode())


def is_subsequence(some: list[str], of: list[str]) -> bool:
    """Tell whether *some* is a subsequence of *of*."""
    left = iter(of)
    return all(one in left for one in some)


def without_empty_tables(tree: Any) -> Any:
    """Return *tree* without empty tables and arrays."""
    if isinstance(tree, dict):
        kept = {key: without_empty_tables(item) for key, item in tree.items()}
        return {key: item for key, item in kept.items() if item not in ({}, [])}
    return [without_empty_tables(item) for item in tree] if isinstance(tree, list) else tree


@settings(max_examples=100, deadline=None)
@given(documents(), VALUES, st.data())
def test_an_existing_value_is_replaced_and_nothing_else_changes(
    text: str, value: object, data: st.DataObject
) -> None:
    document = Document(text.encode(), "x.toml")
    paths = [path for path, _ in walk(document.tree) if path]
    assume(paths)
    path = data.draw(st.sampled_from(paths))
    before = document.tree
    entry = locate(document.text).entries[path]
    outside = document.text[: entry.value.start] + '""' + document.text[entry.value.end :]
    document.put(path, value)
    assert same(read(document), tree_with(before, path, value))
    if entry.literal:
        assert is_subsequence(comments(outside), comments(document.text))


@settings(max_examples=100, deadline=None)
@given(documents(), NEW_NAMES, st.lists(NEW_NAMES, max_size=2), VALUES, st.data())
def test_a_new_key_gets_its_value_in_any_table_and_all_comments_stay_in_their_order(
    text: str, name: str, more: list[str], value: object, data: st.DataObject
) -> None:
    document = Document(text.encode(), "x.toml")
    tables = [path for path, item in walk(document.tree) if isinstance(item, dict)]
    around = data.draw(st.sampled_from(tables))
    path = (*around, name, *more)
    assume(lookup(document.tree, path[: len(around) + 1]) is MISSING)
    before, told = document.tree, comments(document.text)
    document.put(path, value)
    assert same(read(document), tree_with(before, path, value))
    assert comments(document.text) == told
    document.remove(path)
    assert same(without_empty_tables(read(document)), without_empty_tables(before))
    assert is_subsequence(comments(document.text), told)


@settings(max_examples=100, deadline=None)
@given(documents(), st.data())
def test_a_removal_removes_only_the_value(text: str, data: st.DataObject) -> None:
    document = Document(text.encode(), "x.toml")
    paths = [path for path, _ in walk(document.tree) if path]
    assume(paths)
    path = data.draw(st.sampled_from(paths))
    before, told = document.tree, comments(document.text)
    document.remove(path)
    wanted = without_empty_tables(tree_without(before, path))
    assert same(without_empty_tables(read(document)), wanted)
    assert is_subsequence(comments(document.text), told)


@settings(max_examples=100, deadline=None)
@given(documents(), VALUES, st.data())
def test_an_element_is_added_behind_the_others_and_all_comments_stay_in_their_order(
    text: str, value: object, data: st.DataObject
) -> None:
    document = Document(text.encode(), "x.toml")
    lists = [path for path, item in walk(document.tree) if isinstance(item, list)]
    assume(lists)
    path = data.draw(st.sampled_from(lists))
    before, told = document.tree, comments(document.text)
    literal = locate(document.text).entries[path].literal
    document.append(path, value)
    assert same(read(document), tree_with(before, path, [*lookup(before, path), value]))
    if literal or isinstance(value, dict):  # else a list of [[tables]] becomes an array
        assert comments(document.text) == told


@settings(max_examples=150, deadline=None)
@given(documents())
def test_the_usual_layout_keeps_values_and_comments_and_is_stable(text: str) -> None:
    once = formatted(text.encode(), "x.toml")
    assert same(tomllib.loads(once.decode()), tomllib.loads(text))
    assert comments(once.decode()) == comments(text.replace("\r\n", "\n"))
    assert formatted(once, "x.toml") == once


@settings(max_examples=200, deadline=None)
@given(documents(), st.data())
def test_a_removal_removes_only_comments_on_its_lines_and_directly_above(
    text: str, data: st.DataObject
) -> None:
    document = Document(text.encode(), "x.toml")
    paths = [path for path, _ in walk(document.tree) if path]
    assume(paths)
    path = data.draw(st.sampled_from(paths))
    layout = read_layout(document.text)
    told = comments(document.text)
    document.remove(path)
    # Tables around it that lost their last key are removed, too.
    gone = [path[:n] for n in range(1, len(path) + 1) if lookup(document.tree, path[:n]) is MISSING] or [path]
    near: Counter[str] = Counter()
    for section in layout.sections:
        statements = [*([section.header] if section.header else []), *section.pairs]
        around = [
            one
            for one in statements
            if any(is_below(one.path, top) or is_below(path, one.path) for top in gone)
        ]
        for one in around:
            end = (
                max(one.end, layout.end_of(section))
                if one is section.header or one is section.last
                else one.end
            )
            near += Counter(comments(layout.text[above(layout.text, one.start) : end]))
    assert Counter(told) - Counter(comments(document.text)) <= near


def above(text: str, start: int) -> int:
    """Return where the comment lines directly above *start* begin."""
    while (
        start
        and (line := text.rfind("\n", 0, start - 1) + 1) < start
        and text[line:start].lstrip().startswith("#")
    ):
        start = line
    return start


COMMENT = st.sampled_from(["# why", "# more of it", "#", "# key = 1", "# [table]"])
ENTRIES = st.lists(
    st.tuples(st.lists(COMMENT, max_size=3), st.booleans(), st.booleans()), min_size=1, max_size=6
)


@settings(max_examples=300, deadline=None)
@given(ENTRIES, st.data())
def test_a_comment_is_removed_with_the_key_below_unless_it_introduces_more(
    entries: list[tuple[list[str], bool, bool]], data: st.DataObject
) -> None:
    # For each entry: the comment, whether a blank line follows the comment, and whether one follows the key.
    lines = ["first = 0", ""]
    places = []
    for number, (comment, parted, blank) in enumerate(entries):
        start = len(lines)
        lines += [*comment, *([""] if parted and comment else []), f"key{number} = {number}"]
        places.append((start, len(lines) - 1))
        lines += [""] * blank
    number = data.draw(st.integers(0, len(entries) - 1))
    comment, parted, blank = entries[number]
    start, at = places[number]
    alone = blank or number == len(entries) - 1 or bool(entries[number + 1][0])
    own: list[str] = []
    if alone and not parted:
        for line in reversed(comment):
            if line in ("# key = 1", "# [table]"):
                break
            own.insert(0, line)
    kept = lines[: at - len(own)] + lines[at + 1 :]
    document = Document("".join(f"{line}\n" for line in lines).encode(), "x.toml")
    document.remove((f"key{number}",))
    assert [line for line in document.text.split("\n") if line] == [line for line in kept if line]


def test_a_string_that_ends_like_a_comment_is_none() -> None:
    document = Document(b"a = 1\nb = '''\n# x\n# y'''\nc = 3\n\nd = 4\n", "x.toml")
    document.remove(("c",))
    assert document.text == "a = 1\nb = '''\n# x\n# y'''\n\nd = 4\n"

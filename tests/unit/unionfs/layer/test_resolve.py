"""The rules of the union, tested on dictionaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from unionfs.layer.resolve import Resolved, merge, resolve, roots
from unionfs.types import Mark

if TYPE_CHECKING:
    from collections.abc import Iterable

WHITEOUT, DIRECTORY, OTHER, OPAQUE = Mark.WHITEOUT, Mark.DIRECTORY, Mark.OTHER, Mark.OPAQUE_DIRECTORY


class Names:
    """A directory of a layer as a dictionary. It records the directories whose opaque marks were read."""

    def __init__(
        self, marks: dict[bytes, Mark], opaque: Iterable[bytes] = (), *, skeleton: bool = False
    ) -> None:
        self.marks = marks
        self.skeleton = skeleton
        self._opaque = frozenset(opaque)
        self.asked: list[bytes] = []
        #: For the root of a layer: it is opaque.
        self.hides = False

    def mark(self, name: bytes) -> Mark | None:
        return self.marks.get(name)

    def names(self) -> Iterable[bytes]:
        return self.marks

    def opaque(self, name: bytes) -> bool:
        self.asked.append(name)
        return name in self._opaque

    def hides_below(self) -> bool:
        return self.hides

    def redirect(self, name: bytes) -> bytes | None:
        return None

    def child(self, name: bytes) -> Names:
        raise AssertionError(name)

    def roots_below(self) -> list[Names]:
        raise AssertionError


def layers(*marks: Mark | None, opaque: Iterable[int] = ()) -> list[Names]:
    """Return views, top first, each of which has the name ``x`` with one of the marks."""
    hiding = set(opaque)
    return [
        Names({} if mark is None else {b"x": mark}, [b"x"] if position in hiding else [])
        for position, mark in enumerate(marks)
    ]


def test_a_name_that_no_layer_has_does_not_exist() -> None:
    assert resolve(layers(None, None), b"x") is None


def test_a_union_of_no_layers_is_empty() -> None:
    assert resolve([], b"x") is None
    assert merge([]) == {}


def test_the_topmost_file_hides_those_below() -> None:
    assert resolve(layers(None, OTHER, OTHER), b"x") == Resolved(is_dir=False, sources=(1,))


def test_directories_merge_from_top_to_bottom() -> None:
    assert resolve(layers(DIRECTORY, None, DIRECTORY), b"x") == Resolved(is_dir=True, sources=(0, 2))


def test_a_whiteout_hides_everything_below() -> None:
    assert resolve(layers(WHITEOUT, OTHER), b"x") is None
    assert resolve(layers(WHITEOUT, DIRECTORY), b"x") is None


def test_a_whiteout_hides_nothing_above() -> None:
    assert resolve(layers(OTHER, WHITEOUT, OTHER), b"x") == Resolved(is_dir=False, sources=(0,))
    assert resolve(layers(DIRECTORY, WHITEOUT, DIRECTORY), b"x") == Resolved(is_dir=True, sources=(0,))


def test_a_file_over_a_directory_is_a_file() -> None:
    assert resolve(layers(OTHER, DIRECTORY), b"x") == Resolved(is_dir=False, sources=(0,))


def test_a_file_below_a_directory_ends_the_merge() -> None:
    assert resolve(layers(DIRECTORY, OTHER, DIRECTORY), b"x") == Resolved(is_dir=True, sources=(0,))


def test_an_opaque_directory_takes_part_and_hides_what_is_below() -> None:
    assert resolve(layers(DIRECTORY, DIRECTORY, DIRECTORY, opaque=[1]), b"x") == Resolved(
        is_dir=True, sources=(0, 1)
    )


def test_a_directory_known_to_be_opaque_needs_no_asking() -> None:
    views = layers(OPAQUE, DIRECTORY)
    assert resolve(views, b"x") == Resolved(is_dir=True, sources=(0,))
    assert views[0].asked == []


def test_a_directory_of_one_layer_is_not_asked_whether_it_is_opaque() -> None:
    views = layers(None, DIRECTORY, None, opaque=[1])
    assert resolve(views, b"x") == Resolved(is_dir=True, sources=(1,))
    assert views[1].asked == []


def test_a_listing_has_upper_names_first_and_no_whiteouts() -> None:
    views = [
        Names({b"b": OTHER, b"gone": WHITEOUT}),
        Names({b"a": OTHER, b"gone": OTHER, b"b": DIRECTORY}),
    ]
    assert list(merge(views)) == [b"b", b"a"]


_NAMES = st.sampled_from([b"a", b"b", b"c", b"d"])
_VIEWS = st.lists(
    st.builds(Names, st.dictionaries(_NAMES, st.sampled_from(Mark)), st.sets(_NAMES)), max_size=6
)


@given(_VIEWS, _NAMES)
def test_a_lookup_and_a_listing_always_agree(views: list[Names], name: bytes) -> None:
    found = resolve(views, name)
    assert merge(views).get(name) == (None if found is None else found.is_dir)


@given(_VIEWS)
def test_a_listing_asks_nothing_of_the_directories_that_it_names(views: list[Names]) -> None:
    merge(views)
    assert all(view.asked == [] for view in views)


@given(_VIEWS, _NAMES)
def test_what_is_found_exists_in_its_first_source_and_is_a_directory_in_all(
    views: list[Names], name: bytes
) -> None:
    found = resolve(views, name)
    if found is not None:
        kinds = [views[source].mark(name) for source in found.sources]
        assert list(found.sources) == sorted(set(found.sources))
        assert kinds == [OTHER] if not found.is_dir else set(kinds) <= {DIRECTORY, OPAQUE}


_SKELETON = st.builds(
    Names, st.dictionaries(_NAMES, st.sampled_from([DIRECTORY, OTHER])), skeleton=st.just(True)
)


@given(_VIEWS, _SKELETON, _NAMES)
def test_no_mark_of_a_layer_hides_what_the_skeleton_has(
    views: list[Names], skeleton: Names, name: bytes
) -> None:
    alone, mark = resolve(views, name), skeleton.mark(name)
    expected = alone
    if alone is None and mark is not None:
        expected = Resolved(is_dir=mark is DIRECTORY, sources=(len(views),))
    elif alone is not None and alone.is_dir and mark is DIRECTORY:
        expected = Resolved(is_dir=True, sources=(*alone.sources, len(views)))
    assert resolve([*views, skeleton], name) == expected


@given(_VIEWS, _SKELETON)
def test_a_listing_has_the_names_of_the_skeleton_whatever_marks_there_are(
    views: list[Names], skeleton: Names
) -> None:
    shown, alone = merge([*views, skeleton]), merge(views)
    below = {name: mark is DIRECTORY for name, mark in skeleton.marks.items()}
    assert shown == {**below, **alone}


@given(_VIEWS, _SKELETON, st.integers(min_value=0, max_value=6))
def test_an_opaque_root_hides_the_layers_below_it_and_not_the_skeleton(
    views: list[Names], skeleton: Names, position: int
) -> None:
    for number, view in enumerate(views):
        view.hides = number == position
    shown = views[: position + 1]
    assert roots([*views, skeleton]) == [*shown, skeleton]
    assert roots(views) == shown


@given(_VIEWS, st.integers(min_value=0, max_value=6), _NAMES)
def test_a_whiteout_on_top_hides_whatever_the_layers_below_have(
    views: list[Names], position: int, name: bytes
) -> None:
    covered = [*views[:position], Names({name: WHITEOUT}), *views[position:]]
    assert resolve(covered, name) == resolve(views[:position], name)

"""Renamed directories: resolution is compared with a second, independent implementation of the kernel's rules.

The model walks one path through one layer after the other, as fs/overlayfs/namei.c does. A layer may end the search,
or rewrite the path for the layers below it. ``resolve`` descends name by name through merged directories instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from unionfs.layer.resolve import merge, resolve
from unionfs.types import Mark


@dataclass(eq=False)
class Entry:
    """One entry of a layer: a directory, unless *mark* is another kind."""

    mark: Mark = Mark.DIRECTORY
    entries: dict[bytes, Entry] = field(default_factory=dict)
    opaque: bool = False
    redirect: bytes | None = None
    #: The root of its layer, its path in the layer, and the roots of the layers below.
    layer: int = -1
    path: tuple[bytes, ...] = ()
    below: list[Entry] = field(default_factory=list)
    skeleton: bool = False


class View:
    """A directory of a layer for ``resolve``."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    @property
    def skeleton(self) -> bool:
        return self.entry.skeleton

    def mark(self, name: bytes) -> Mark | None:
        found = self.entry.entries.get(name)
        return None if found is None else found.mark

    def names(self) -> list[bytes]:
        return list(self.entry.entries)

    def opaque(self, name: bytes) -> bool:
        return self.entry.entries[name].opaque

    def hides_below(self) -> bool:
        return self.entry.opaque

    def redirect(self, name: bytes) -> bytes | None:
        return self.entry.entries[name].redirect

    def child(self, name: bytes) -> View:
        return View(self.entry.entries[name])

    def roots_below(self) -> list[View]:
        return [View(root) for root in self.entry.below]


def settle(roots: list[Entry]) -> list[Entry]:
    """Set the root, path and lower roots of every entry."""

    def visit(entry: Entry, layer: int, path: tuple[bytes, ...]) -> None:
        entry.layer, entry.path, entry.below = layer, path, roots[layer + 1 :]
        for name, child in entry.entries.items():
            child.skeleton = entry.skeleton
            visit(child, layer, (*path, name))

    for layer, root in enumerate(roots):
        visit(root, layer, ())
    return roots


def model(roots: list[Entry], path: tuple[bytes, ...]) -> list[Entry]:
    """Return the directories that contribute to *path*, top first, by walking it through each layer."""
    found: list[Entry] = []
    for root in roots:
        at, rewritten, last = root, path, False
        for depth, name in enumerate(path):
            entry = at.entries.get(name)
            if entry is None:
                break
            if entry.mark is Mark.WHITEOUT:
                return found
            final = depth == len(path) - 1
            if entry.mark is Mark.OTHER:
                return found if found or not final else [entry]
            if entry.opaque:
                last = True
            elif entry.redirect is not None:
                rest = path[depth + 1 :]
                if entry.redirect.startswith(b"/"):
                    # An opaque directory or whiteout on the path, from the root on, hides the layers below.
                    rewritten, last = (*entry.redirect[1:].split(b"/"), *rest), False
                else:
                    # The parent's path in the layers below, by the redirects of this layer.
                    rewritten = (*rewritten[: len(rewritten) - len(rest) - 1], entry.redirect, *rest)
            if final:
                found.append(entry)
            at = entry
        if last:
            return found
        path = rewritten
    return found


def model_with_skeleton(roots: list[Entry], skeleton: Entry, path: tuple[bytes, ...]) -> list[Entry]:
    """Return the directories that contribute to *path*: those of *roots*, then that of the skeleton."""
    found: list[Entry] = []
    for depth in range(1, len(path) + 1):
        if found and found[0].mark is Mark.OTHER:
            return []  # an ancestor is not a directory
        found = model(roots, path[:depth])
        at: Entry | None = skeleton
        for name in path[:depth]:
            at = at.entries.get(name) if at is not None else None
        if at is not None and (not found or found[0].mark is at.mark is Mark.DIRECTORY):
            found = [*found, at]
        if not found:
            return []
    return found


def resolved(roots: list[Entry], path: tuple[bytes, ...]) -> list[Entry]:
    """Return the directories that contribute to *path* according to ``resolve``."""
    views = [View(root) for root in roots]
    places: list[tuple[View, bytes]] = []
    for depth, name in enumerate(path):
        found = resolve(views, name)
        if found is None:
            return []
        places = found.places(views, name)
        if depth < len(path) - 1:
            if not found.is_dir:
                return []
            views = [view.child(at) for view, at in places]
    return [view.entry.entries[name] for view, name in places]


_NAMES = st.sampled_from([b"a", b"b", b"c"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(tuple)
_REDIRECTS = st.one_of(
    st.none(), st.none(), _NAMES, _PATHS.map(lambda names: b"".join(b"/" + name for name in names))
)
_LEAVES = st.sampled_from([Mark.WHITEOUT, Mark.OTHER]).map(Entry)


def _directories(children: st.SearchStrategy[Entry]) -> st.SearchStrategy[Entry]:
    entries = st.dictionaries(_NAMES, children, max_size=3)
    return st.builds(
        lambda found, opaque, redirect: Entry(entries=found, opaque=opaque, redirect=redirect),
        entries,
        st.sampled_from([False, False, False, True]),
        _REDIRECTS,
    )


_ROOTS = st.lists(
    st.dictionaries(
        _NAMES,
        st.recursive(st.one_of(_LEAVES, _directories(_LEAVES)), _directories, max_leaves=8),
        max_size=3,
    ).map(lambda entries: Entry(entries=entries)),
    min_size=1,
    max_size=4,
).map(settle)


@settings(max_examples=600)
@given(_ROOTS, _PATHS)
def test_resolving_name_by_name_finds_what_walking_each_layer_finds(
    roots: list[Entry], path: tuple[bytes, ...]
) -> None:
    expected = [(entry.layer, entry.path) for entry in model(roots, path)]
    note(str(expected))
    assert [(entry.layer, entry.path) for entry in resolved(roots, path)] == expected


def _plain(children: st.SearchStrategy[Entry]) -> st.SearchStrategy[Entry]:
    return st.dictionaries(_NAMES, children, max_size=3).map(lambda found: Entry(entries=found))


_SKELETONS = _plain(st.recursive(st.builds(Entry, st.just(Mark.OTHER)), _plain, max_leaves=6))


@settings(max_examples=300)
@given(_ROOTS, _SKELETONS, _PATHS)
def test_the_skeleton_shows_at_its_own_paths_under_every_mark_and_redirect_and_at_no_other(
    roots: list[Entry], skeleton: Entry, path: tuple[bytes, ...]
) -> None:
    skeleton.skeleton = True
    settle([*roots, skeleton])
    settle(roots)  # no redirect refers to the skeleton
    expected = [(entry.layer, entry.path) for entry in model_with_skeleton(roots, skeleton, path)]
    note(str(expected))
    assert [(entry.layer, entry.path) for entry in resolved([*roots, skeleton], path)] == expected


@given(_ROOTS)
def test_lookup_and_listing_agree_about_moved_directories(roots: list[Entry]) -> None:
    views = [View(root) for root in roots]
    listing = merge(views)
    for name in (b"a", b"b", b"c"):
        found = resolve(views, name)
        assert listing.get(name) == (None if found is None else found.is_dir)


def directory(redirect: bytes | None = None, **entries: Entry) -> Entry:
    return Entry(entries={name.encode(): entry for name, entry in entries.items()}, redirect=redirect)


def file() -> Entry:
    return Entry(Mark.OTHER)


def paths(roots: list[Entry], path: bytes) -> list[tuple[int, bytes]]:
    found = resolved(settle(roots), tuple(path.split(b"/")))
    return [(entry.layer, b"/".join(entry.path)) for entry in found]


def test_a_moved_directory_goes_on_where_it_was() -> None:
    roots = [directory(new=directory(b"/a/old")), directory(a=directory(old=directory(x=file())))]
    assert paths(roots, b"new") == [(0, b"new"), (1, b"a/old")]
    assert paths(roots, b"new/x") == [(1, b"a/old/x")]


def test_a_directory_renamed_in_its_place_goes_on_under_its_old_name() -> None:
    roots = [directory(a=directory(new=directory(b"old"))), directory(a=directory(old=directory(x=file())))]
    assert paths(roots, b"a/new/x") == [(1, b"a/old/x")]


def test_moves_in_several_layers_add_up() -> None:
    roots = [directory(c=directory(b"/b")), directory(b=directory(b"/a")), directory(a=directory(x=file()))]
    assert paths(roots, b"c/x") == [(2, b"a/x")]


def test_a_deletion_between_ends_the_way() -> None:
    roots = [
        directory(c=directory(b"/a")),
        directory(a=Entry(Mark.WHITEOUT)),
        directory(a=directory(x=file())),
    ]
    assert paths(roots, b"c") == [(0, b"c")]


def test_a_redirect_that_is_no_path_is_an_error_and_not_an_empty_directory() -> None:
    with pytest.raises(OSError, match="not a path in a layer"):
        paths([directory(a=directory(b"/../etc")), directory()], b"a")

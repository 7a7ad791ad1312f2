"""Resolves a name in the union of several layers. Pure: the tests run it on dictionaries.

One function, :func:`first`, decides whether a name exists. A lookup (:func:`resolve`) begins with it, and a listing
(:func:`merge`) calls it for every name, so the two cannot disagree. The rule is that of the kernel's
Documentation/filesystems/overlayfs.rst ("Merged directories", "whiteouts and opaque directories", "redirect_dir"). The topmost
layer that has the name decides. Directories merge downwards until a whiteout, a non-directory or an opaque directory ends the
search. A directory that was moved has a redirect to its path in the layers below, and the search continues there.

A generated layer may lie below all others: the skeleton, which provides the mount points of a sandbox. No mark of another layer
hides it. Where a whiteout, an opaque directory, a redirect or a non-directory ends the search, the skeleton is still consulted,
under the same name. Only a visible entry that is not a directory covers the skeleton's entry.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from unionfs._stdlib.typing import Generic, NamedTuple, Protocol, Self, TypeVar
from unionfs.formats.xattrs import parse_redirect
from unionfs.types import Mark


class View(Protocol):
    """One directory of one layer."""

    @property
    def skeleton(self) -> bool:
        """Return whether the layer is the skeleton. The skeleton is the last of the views, and has only directories and empty
        files.
        """

    def mark(self, name: bytes) -> Mark | None:
        """Return the mark of *name* in this directory; None if the layer has no such name."""

    def names(self) -> Iterable[bytes]:
        """Return every name for which this layer has a mark, including whiteouts."""

    def opaque(self, name: bytes) -> bool:
        """Return whether the directory *name* hides directories of that name in lower layers. It is only called if a lower
        layer has the name.
        """

    def hides_below(self) -> bool:
        """Return whether this directory, the root of its layer, hides the layers below."""

    def redirect(self, name: bytes) -> bytes | None:
        """Return the redirect of the directory *name*; None if the layers below have it under its own name."""

    def child(self, name: bytes) -> Self:
        """Return the directory *name*."""

    def roots_below(self) -> Sequence[Self]:
        """Return the roots of the layers below this one, top first, without the skeleton."""


V = TypeVar("V", bound=View)


class Resolved(NamedTuple, Generic[V]):
    """An existing name: its kind, and the directories that contribute to it.

    *sources* are the indexes, top first, of the views that contribute to it (one, unless directories merge). *moved* are
    directories, and names in them, that contribute through a redirect. They lie below all of *sources*; the skeleton, if it
    contributes, is the last of them.
    """

    is_dir: bool
    sources: tuple[int, ...]
    moved: tuple[tuple[V, bytes], ...] = ()

    def places(self, views: Sequence[V], name: bytes) -> list[tuple[V, bytes]]:
        """Return the contributing directories, and the names in them, top first."""
        return [*((views[index], name) for index in self.sources), *self.moved]


def first(views: Sequence[V], name: bytes) -> tuple[int, Mark] | None:
    """Return the index of the topmost of *views* that has *name*, and its mark, which is never a whiteout. This view decides
    what the name is. None: the name does not exist in the union.
    """
    for index, view in enumerate(views):
        mark = view.mark(name)
        if mark is Mark.WHITEOUT:
            last = len(views) - 1
            below = views[last].mark(name) if views[last].skeleton else None
            return None if below is None else (last, below)
        if mark is not None:
            return index, mark
    return None


def resolve(views: Sequence[V], name: bytes) -> Resolved[V] | None:
    """Resolve *name* over *views*, which are ordered top first. None: the name does not exist in the union.

    Raises:
        OSError: EIO for a malformed redirect.
    """
    top = first(views, name)
    if top is None:
        return None
    if top[1] is Mark.OTHER:
        return Resolved(is_dir=False, sources=(top[0],))
    layers, skeleton = _split_skeleton(views)
    found: list[int] = []
    below: tuple[tuple[V, bytes], ...] = ()
    for index in range(top[0], len(layers)):
        view = layers[index]
        mark = view.mark(name)
        if mark is None:
            continue
        # Checked this late because it may cost system calls, and most directories exist in one layer only.
        if found and layers[found[-1]].opaque(name):
            break
        if mark in (Mark.WHITEOUT, Mark.OTHER):
            break
        found.append(index)
        redirect = view.redirect(name)
        if redirect is not None:
            # A whiteout beside a directory hides the directory of that name in lower layers, but not the target of its
            # redirect. An opaque mark in the directory itself hides the target, too.
            if not view.opaque(name):
                below = _merging(*locate(view, layers[index + 1 :], redirect))
            break
        if mark is Mark.OPAQUE_DIRECTORY:
            break
    if skeleton is not None and skeleton.mark(name) is Mark.DIRECTORY:
        if below:  # the redirected directories are above the skeleton
            below = (*below, (skeleton, name))
        else:
            found.append(len(layers))
    return Resolved(is_dir=True, sources=tuple(found), moved=below)


def roots(views: Sequence[V]) -> list[V]:
    """Return those of the root directories *views*, top first, that form the root of the union: down to the first that hides
    the layers below it, and the skeleton.
    """
    layers, skeleton = _split_skeleton(views)
    shown: list[V] = []
    for position, view in enumerate(layers):
        shown.append(view)
        if position < len(views) - 1 and view.hides_below():
            break
    return shown if skeleton is None else [*shown, skeleton]


def _split_skeleton(views: Sequence[V]) -> tuple[Sequence[V], V | None]:
    """Split *views* into the ordinary layers and the skeleton, if there is one."""
    if views and views[-1].skeleton:
        return views[:-1], views[-1]
    return views, None


def locate(view: V, rest: Sequence[V], redirect: bytes) -> tuple[Sequence[V], bytes]:
    """Return the directory in which *redirect*, found in *view*, continues.

    *rest* are the views of the same directory below *view*, without the skeleton, because none of its entries can have been
    moved. The result is the views of the directory, top first and all of layers below *view*'s, and the name in it. There are
    no views if the path does not exist.

    Raises:
        OSError: EIO for a malformed redirect.
    """
    try:
        absolute, names = parse_redirect(redirect)
    except ValueError as error:
        raise OSError(errno.EIO, str(error)) from None
    views = view.roots_below() if absolute else rest
    for name in names[:-1]:
        found = resolve(views, name)
        if found is None or not found.is_dir:
            return (), names[-1]
        views = [directory.child(at) for directory, at in found.places(views, name)]
    return views, names[-1]


def _merging(views: Sequence[V], name: bytes) -> tuple[tuple[V, bytes], ...]:
    """Return the directories *name* in *views* that merge with a directory above."""
    found = resolve(views, name)
    return tuple(found.places(views, name)) if found is not None and found.is_dir else ()


def merge(views: Sequence[V]) -> dict[bytes, bool]:
    """Return every name in the union of *views*, and whether it is a directory. Upper names come first, each name once.

    It does not determine which lower directories contribute to a directory, because that may cost system calls for each.
    """
    listing: dict[bytes, bool] = {}
    for view in views:
        for name in view.names():
            if name not in listing:
                top = first(views, name)
                if top is not None:
                    listing[name] = top[1] is not Mark.OTHER
    return listing

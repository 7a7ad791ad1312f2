"""What a name is in the union of several layers. Pure: runs on dictionaries in the tests.

There is one rule for whether a name exists, :func:`first`: a lookup (:func:`resolve`) begins with it, and a listing
(:func:`merge`) asks it for every name, so the two cannot disagree. The rule is that of the kernel's Documentation/filesystems/overlayfs.rst
("Merged directories", "whiteouts and opaque directories", "redirect_dir"): the topmost layer that has the name
decides; directories merge downwards until a whiteout, a non-directory or an opaque directory ends the search. A
directory that was moved says where the layers below have it (its redirect), and the search goes on there.

A generated layer may lie below all others: the skeleton, which provides the mount points of a sandbox. No mark of another
layer hides it. Where a whiteout, an opaque directory, a redirect or a non-directory ends the search, the skeleton is still
consulted, under the same name. Only an entry that shows and is no directory covers what the skeleton has.
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
        """Whether the layer is the skeleton: then it is the last of the views, and provides directories and empty files."""

    def mark(self, name: bytes) -> Mark | None:
        """Say what this layer has under *name*; None where it has nothing."""

    def names(self) -> Iterable[bytes]:
        """List every name that this layer has a mark for, whiteouts included."""

    def opaque(self, name: bytes) -> bool:
        """Tell whether the directory *name* hides those of lower layers. Asked only where a lower layer has
        the name.
        """

    def hides_below(self) -> bool:
        """Tell whether this directory, the root of its layer, hides those of lower layers."""

    def redirect(self, name: bytes) -> bytes | None:
        """Return the redirect of the directory *name*; None where it has none, so that lower layers have it
        under its own name.
        """

    def child(self, name: bytes) -> Self:
        """Return the directory *name*."""

    def roots_below(self) -> Sequence[Self]:
        """List the roots of the layers below this one's, top first, without the skeleton."""


V = TypeVar("V", bound=View)


class Resolved(NamedTuple, Generic[V]):
    """An existing name: its kind, and where it comes from.

    *sources* are the indexes, top first, of the views that contribute to it (one, unless directories merge);
    *moved* are directories and names in them that contribute by a redirect, below all of *sources*, and the skeleton
    below those.
    """

    is_dir: bool
    sources: tuple[int, ...]
    moved: tuple[tuple[V, bytes], ...] = ()

    def places(self, views: Sequence[V], name: bytes) -> list[tuple[V, bytes]]:
        """List the directories, and the names in them, that contribute, top first."""
        return [*((views[index], name) for index in self.sources), *self.moved]


def first(views: Sequence[V], name: bytes) -> tuple[int, Mark] | None:
    """Find the topmost of *views* that has *name*, which decides what it is: its index and its mark, which is no
    whiteout. None: the name does not exist in the union.
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
        OSError: EIO for a redirect that is no path.
    """
    top = first(views, name)
    if top is None:
        return None
    if top[1] is Mark.OTHER:
        return Resolved(is_dir=False, sources=(top[0],))
    layers, skeleton = _apart(views)
    found: list[int] = []
    below: tuple[tuple[V, bytes], ...] = ()
    for index in range(top[0], len(layers)):
        view = layers[index]
        mark = view.mark(name)
        if mark is None:
            continue
        # Asked as late as this because it may cost system calls: most directories exist in one layer only.
        if found and layers[found[-1]].opaque(name):
            break
        if mark in (Mark.WHITEOUT, Mark.OTHER):
            break
        found.append(index)
        redirect = view.redirect(name)
        if redirect is not None:
            # A whiteout beside a directory hides what lower layers have under its name, not what its redirect leads
            # to. A mark in the directory itself hides that, too.
            if not view.opaque(name):
                below = _merging(*locate(view, layers[index + 1 :], redirect))
            break
        if mark is Mark.OPAQUE_DIRECTORY:
            break
    if skeleton is not None and skeleton.mark(name) is Mark.DIRECTORY:
        if below:  # which is above it
            below = (*below, (skeleton, name))
        else:
            found.append(len(layers))
    return Resolved(is_dir=True, sources=tuple(found), moved=below)


def roots(views: Sequence[V]) -> list[V]:
    """List which of the root directories *views*, top first, make the root of the union: those down to the first that
    hides what is below it, and the skeleton.
    """
    layers, skeleton = _apart(views)
    shown: list[V] = []
    for position, view in enumerate(layers):
        shown.append(view)
        if position < len(views) - 1 and view.hides_below():
            break
    return shown if skeleton is None else [*shown, skeleton]


def _apart(views: Sequence[V]) -> tuple[Sequence[V], V | None]:
    """Take the skeleton, if there is one, from the layers above it."""
    if views and views[-1].skeleton:
        return views[:-1], views[-1]
    return views, None


def locate(view: V, rest: Sequence[V], redirect: bytes) -> tuple[Sequence[V], bytes]:
    """Find the directory in which *redirect*, met in *view*, continues; *rest* are the same directory below it, without
    the skeleton: that has nothing which could have been moved.

    Returns the views of that directory, top first and all of layers below *view*'s, and the name in it. There are
    none where nothing is there.

    Raises:
        OSError: EIO for a redirect that is no path.
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
    """List what of *name* in *views* merges with a directory above."""
    found = resolve(views, name)
    return tuple(found.places(views, name)) if found is not None and found.is_dir else ()


def merge(views: Sequence[V]) -> dict[bytes, bool]:
    """List the union of *views*: every name that exists, and whether it is a directory; upper names first, none
    twice. What lower directories contribute to one is not asked: it may cost system calls for each.
    """
    listing: dict[bytes, bool] = {}
    for view in views:
        for name in view.names():
            if name not in listing:
                top = first(views, name)
                if top is not None:
                    listing[name] = top[1] is not Mark.OTHER
    return listing

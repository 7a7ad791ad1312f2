"""What a name is in the union of several layers. Pure: runs on dictionaries in the tests.

There is one rule, :func:`resolve`; a lookup asks it for one name and a listing (:func:`merge`) for every
name, so the two cannot disagree. The rule is that of the kernel's Documentation/filesystems/overlayfs.rst
("Merged directories", "whiteouts and opaque directories"): the topmost layer that has the name decides;
directories merge downwards until a whiteout, a non-directory or an opaque directory ends the search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from unionfs.types import Mark


class View(Protocol):
    """One directory of one layer."""

    def mark(self, name: bytes) -> Mark | None:
        """Say what this layer has under *name*; None where it has nothing."""

    def names(self) -> Iterable[bytes]:
        """List every name that this layer has a mark for, whiteouts included."""

    def opaque(self, name: bytes) -> bool:
        """Tell whether the directory *name* hides those of lower layers. Asked only where a lower layer has
        the name.
        """


class Resolved(NamedTuple):
    """An existing name: its kind and the indexes, top first, of the views that contribute to it (one, unless
    directories merge).
    """

    is_dir: bool
    sources: tuple[int, ...]


def resolve(views: Sequence[View], name: bytes) -> Resolved | None:
    """Resolve *name* over *views*, which are ordered top first. None: the name does not exist in the union."""
    found: list[int] = []
    for index, view in enumerate(views):
        mark = view.mark(name)
        if mark is None:
            continue
        # Asked as late as this because it may cost system calls: most directories exist in one layer only.
        if found and views[found[-1]].opaque(name):
            break
        if mark is Mark.WHITEOUT:
            break
        if mark is Mark.OTHER:
            if found:
                break
            return Resolved(is_dir=False, sources=(index,))
        found.append(index)
        if mark is Mark.OPAQUE_DIRECTORY:
            break
    return Resolved(is_dir=True, sources=tuple(found)) if found else None


def merge(views: Sequence[View]) -> dict[bytes, Resolved]:
    """List the union of *views*: every name that exists, with what :func:`resolve` says of it; upper names
    first, none twice.
    """
    listing: dict[bytes, Resolved] = {}
    for view in views:
        for name in view.names():
            if name not in listing:
                resolved = resolve(views, name)
                if resolved is not None:
                    listing[name] = resolved
    return listing

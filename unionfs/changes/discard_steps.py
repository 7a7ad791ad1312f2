"""The steps of which a plan to discard changes consists. Values only.

:mod:`unionfs.changes.discard_plan` makes them, :mod:`unionfs.changes.discard` executes them.
"""

from __future__ import annotations

from unionfs._stdlib.dataclasses import dataclass, field
from unionfs.changes.selection import Unfinished

NO_HOLES: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Restore:
    """Show the old object *old_path* at *path* (None: nothing), in place of everything that the writable layer has there.

    What is in it is shown, too, but for *holes*, which are old paths.
    """

    path: bytes
    old_path: bytes | None
    holes: frozenset[bytes] = NO_HOLES


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Make *path*, where the layers below do not show through, a directory with the attributes of the old one *old_path*."""

    path: bytes
    old_path: bytes


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """Give *path* the owner, mode and attributes of *old_path*, and unless it is a directory, its times."""

    path: bytes
    old_path: bytes


@dataclass(frozen=True, slots=True)
class Recreate:
    """Put a copy of the old object *old_path*, which is not a directory, at *path*."""

    path: bytes
    old_path: bytes


@dataclass(frozen=True, slots=True)
class RestoreLinks:
    """Replace a changed file at its *names* elsewhere by a copy of the old one, *old_path*, to which the link index leads then.

    *inode* is the inode number on disk of the changed file.
    """

    old_path: bytes
    inode: int
    names: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Let the link index no longer lead from lower names of *old_path* to the copy with the inode number *inode* on disk.

    *names* are the old paths at which the lower file then shows.
    """

    old_path: bytes
    inode: int
    names: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Hide:
    """Remove *path* with everything below it. What the layers below have there stays hidden."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Move:
    """Rename *path* to *to*, the place of the old object *old_path*.

    *reveals*: the object of the layers below that shows at *path* from then on; None: it stays hidden.
    """

    path: bytes
    to: bytes
    old_path: bytes
    reveals: bytes | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """Let *path* and *other* change places. *old_path* and *other_old_path* are the old objects at them."""

    path: bytes
    other: bytes
    old_path: bytes
    other_old_path: bytes


Step = Restore | MakeDirectory | SetAttributes | Recreate | RestoreLinks | Release | Hide | Move | Exchange


@dataclass(slots=True)
class Plan:
    """The steps, in order."""

    steps: list[Step] = field(default_factory=list)
    #: Compare and plan again after the steps.
    again: bool = False
    #: What the chosen paths do not select if the process is killed between two of the steps.
    unfinished: Unfinished = field(default_factory=Unfinished)

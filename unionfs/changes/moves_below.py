"""The moves that a relocation undoes (unionfs/changes/relocation.py): in its file ``WORK/unionfs/moves``, and as a value.

Each group has the moves of one `sandbox apply`. The latest group is the first one. In the file, a group is the old and the new path
of each move and then an empty path. A zero byte ends each path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from unionfs.changes.rows import Moves
from unionfs.errors import UnionError

MOVES_FILE = b"moves"

#: Where objects were, and where they have been moved to. Paths have no leading slash.
Group = Sequence[tuple[bytes, bytes]]


class MovesBelow:
    """The moves that were made in the layers below since the lowest earlier layer was written."""

    def __init__(self, groups: Sequence[Group] = ()) -> None:
        """Begin with *groups*, latest first."""
        self.groups = tuple(groups)
        self._forwards = [Moves() for _ in self.groups]
        self._backwards = [Moves() for _ in self.groups]
        for forwards, backwards, group in zip(self._forwards, self._backwards, self.groups, strict=True):
            for old, new in group:
                forwards.add(old, new)
                backwards.add(new, old)

    def paths_of(self, path: bytes) -> Iterator[bytes]:
        """Yield the paths at which the object at *path* of the layers below has been, from now on backwards."""
        yield path
        for moves in self._backwards:
            before = moves.new_path(path)
            if before != path:
                yield before
            path = before

    def has_left(self, path: bytes) -> bool:
        """Return whether an object at *path* has been moved away, by itself or with a directory above it."""
        return any(moves.new_path(path) != path for moves in self._forwards)


def group_of(paths: Sequence[bytes]) -> Group:
    """Return the moves in *paths*, an old and a new path of each.

    Raises:
        UnionError: there is no new path for the last old one, or a path is no path of a layer.
    """
    if len(paths) % 2 or any({b"", b".", b".."} & set(path.split(b"/")) for path in paths):
        raise UnionError("the list of moves is malformed")
    return list(zip(paths[::2], paths[1::2], strict=True))


def read_moves(home_fd: int) -> MovesBelow:
    """Return the moves in *home_fd*, the directory ``unionfs`` in the work directory of a relocation.

    Raises:
        UnionError: the file is malformed.
        OSError: it cannot be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(MOVES_FILE, flags, dir_fd=home_fd), "rb") as file:
        paths = file.read().split(b"\0")[:-1]
    groups: list[list[bytes]] = [[]]
    for path in paths:
        if path:
            groups[-1].append(path)
        else:
            groups.append([])
    return MovesBelow([group_of(group) for group in groups[:-1]])


def write_moves(home_fd: int, moves: MovesBelow) -> None:
    """Write *moves* to *home_fd*, which has none.

    Raises:
        OSError: the file cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(MOVES_FILE, flags, 0o600, dir_fd=home_fd), "wb") as file:
        file.writelines(b"".join(b"%s\0%s\0" % move for move in group) + b"\0" for group in moves.groups)

"""Records what the layers below had at each path that the writable layer hides or copies.

Whoever writes the changes of a layer back to the directory below must know whether that directory has changed since. The
server therefore appends a record to ``WORK/unionfs/below`` when the writable layer first gets an entry at a path where the
layers below have one: a copy, a whiteout, or another object that replaces it. A path without a record had nothing below. A
``volatile`` mount, whose layer is not written back, makes no records: they cost 3 to 7 microseconds each.

Each record is a line of text and a path, and begins and ends with a zero byte::

    KIND INODE MODE UID GID SIZE MTIME CTIME LENGTH PATH

KIND is ``=`` for the record of a server. The first one of a path counts, because a later one may already contain a change of
somebody else. ``!`` replaces it and ``-`` removes it: a program that wrote changes back adds these. If the writable layer was
frozen and another one lies on it (vfs/freezing.py), each has its own records, and those of the earlier layer come first. The
writable layer makes no record of an object of an earlier layer. MODE has the type and is
octal, times are nanoseconds since the epoch, LENGTH is that of PATH in bytes. PATH leads from the root of the layers below that
were never writable, and has no leading slash. A record that does not have its length was cut off by a full disk or a kill, and is ignored.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress

from unionfs._stdlib.typing import NamedTuple

FACTS_FILE = b"below"
_RECORD = re.compile(rb"([=!-]) (\d+) ([0-7]+) (\d+) (\d+) (\d+) (-?\d+) (-?\d+) (\d+) ([^\0]*)\Z", re.DOTALL)
_WRITE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Fact(NamedTuple):
    """What was at one path: fields of stat(2)."""

    ino: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, info: os.stat_result) -> Fact:
        """Return the facts in *info*."""
        return cls(
            info.st_ino,
            info.st_mode,
            info.st_uid,
            info.st_gid,
            info.st_size,
            info.st_mtime_ns,
            info.st_ctime_ns,
        )

    def compare(self, info: os.stat_result) -> str:
        """Return whether an object with *info* is still the recorded one: "same", "changed", or "touched".

        "touched": only the time of the last status change differs, as after chmod(2) and back, link(2), or a write whose time
        was restored. A directory is compared by identity, owner and mode, because its times and size change with its entries.
        """
        now = Fact.of(info)
        if self[:4] != now[:4]:
            return "changed"
        if stat.S_ISDIR(self.mode):
            return "same"
        if (self.size, self.mtime_ns) != (now.size, now.mtime_ns):
            return "changed"
        return "same" if self.ctime_ns == now.ctime_ns else "touched"


class BelowFacts:
    """The records of one writable layer, or of several that were written one after the other, in memory."""

    def __init__(self) -> None:
        """Start without records."""
        #: Returns the paths at which the object at a path may have been recorded, before it was moved there. The path itself is
        #: the first one.
        self.paths_of: Callable[[bytes], Iterable[bytes]] = lambda path: (path,)
        self._by_path: dict[bytes, Fact] = {}
        self._by_ino: dict[int, Fact] = {}

    def at(self, path: bytes, info: os.stat_result | None) -> Fact | None:
        """Return the record of *path*; None if there is none.

        The names of one file share a record, because they share a copy. *info* is what is at *path* now.
        """
        records = [self._by_path[each] for each in self.paths_of(path) if each in self._by_path]
        same = [record for record in records if info is not None and record.ino == info.st_ino]
        found = next(iter([*same, *records]), None)
        if found is None and info is not None and info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            found = self._by_ino.get(info.st_ino)
        return found

    def paths(self) -> list[bytes]:
        """Return the recorded paths, sorted."""
        return sorted(self._by_path)

    def _read(self, kind: bytes, path: bytes, fact: Fact) -> None:
        if kind == b"-":
            self._by_path.pop(path, None)
        elif kind == b"!" or path not in self._by_path:
            self._by_path[path] = self._by_ino[fact.ino] = fact


def read_facts(*home_fds: int) -> BelowFacts | None:
    """Read the records in *home_fds*, the directories ``unionfs`` in the work directories of writable layers, earliest first.

    Return None if one of them has none, because no records were made for its layer.

    Raises:
        OSError: they cannot be read.
    """
    records: list[bytes] = []
    for home_fd in home_fds:
        try:
            with open(
                os.open(FACTS_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home_fd), "rb"
            ) as file:
                records += file.read().split(b"\0")
        except FileNotFoundError:
            return None
    facts = BelowFacts()
    for record in records:
        match = _RECORD.match(record)
        if match is not None and len(match[10]) == int(match[9]):
            ino, uid, gid, size, mtime, ctime = (int(match[n]) for n in (2, 4, 5, 6, 7, 8))
            facts._read(match[1], match[10], Fact(ino, int(match[3], 8), uid, gid, size, mtime, ctime))
    return facts


def copy_facts(home_fd: int, to: int) -> None:
    """Copy the records in the directory *home_fd* to the directory *to*, which has none.

    Raises:
        OSError: they cannot be read or written.
    """
    with (
        open(os.open(FACTS_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home_fd), "rb") as source,
        open(os.open(FACTS_FILE, _WRITE | os.O_EXCL, 0o600, dir_fd=to), "wb") as target,
    ):
        target.write(source.read())


class BelowFactsLog:
    """Appends records. The mount creates and closes it; it owns a descriptor of the file."""

    def __init__(self, home_fd: int) -> None:
        """Open the file in *home_fd*, the directory ``unionfs`` in the work directory.

        Raises:
            OSError: it cannot be written.
        """
        self._fd = os.open(FACTS_FILE, _WRITE, 0o600, dir_fd=home_fd)
        #: Whether there are no records yet.
        try:
            self.is_new = os.fstat(self._fd).st_size == 0
        except OSError:
            os.close(self._fd)
            raise

    def note(self, path: bytes, info: os.stat_result) -> None:
        """Record that the layers below have an object with *info* at *path*, which begins with a slash."""
        self._append(b"=", path[1:], Fact.of(info))

    def renew(self, path: bytes, info: os.stat_result | None) -> None:
        """Record what is at *path* now, None for nothing, in place of earlier records."""
        self._append(
            b"-" if info is None else b"!", path[1:], Fact(*(0,) * 7) if info is None else Fact.of(info)
        )

    def _append(self, kind: bytes, path: bytes, fact: Fact) -> None:
        ino, mode, uid, gid, size, mtime, ctime = fact
        record = b"\0%s %d %o %d %d %d %d %d %d %s\0" % (
            kind, ino, mode, uid, gid, size, mtime, ctime, len(path), path,
        )  # fmt: skip
        # Without a record, the path counts as changed, which is the safe side. The change itself must not fail for it.
        with suppress(OSError):
            os.write(self._fd, record)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

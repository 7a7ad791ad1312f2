"""The records of the link index: what a writable layer's work directory tells about copied-up objects. Reads only.

:class:`LinkRecords` answers from memory after it has read the directory. :class:`unionfs.upper.link_index.LinkIndex`, the
subclass that a mount uses, also changes the records; its module describes them. :mod:`unionfs.changes` reads the records of a
layer that a server may be using, so this module takes no lock and changes nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator

from unionfs.inode.numbers import Identity
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.objects import NO_XATTR, PathRef, follows
from unionfs.types import Ino
from unionfs.upper.origin_log import Origin, read_origins

ORIGIN_XATTR = "user.unionfs.origin"
STACK_FILE = b"stack"
INDEX = b"index"
OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Prefix of entries whose number is valid for this mount only.
PASSING = b"t"
#: Groups: the text before COUNT, NUMBER, COUNT, and BORN with its dot.
COPY = re.compile(rb"(t?([0-9a-f]{1,16})\.)([0-9]{1,9})((?:\.-?[0-9a-f]{1,16})?)")
LOST = re.compile(rb"(t?([0-9a-f]{1,16})-)([0-9]{1,9})((?:\.-?[0-9a-f]{1,16})?)")


class LinkRecords:
    """The records of one writable layer, in memory. It owns the descriptor of their directory; the creator closes it."""

    def __init__(self, directory: LayerDir) -> None:
        """Start without records. *directory* is that of the entries, opened; it is closed with this object."""
        self._directory = directory
        #: Entries of copies by inode number; inode numbers by the copy's inode number on disk; and the reverse.
        self._copies: dict[Ino, bytes] = {}
        self._numbers: dict[int, Ino] = {}
        self._inodes: dict[Ino, int] = {}
        #: Entries of lost names by inode number.
        self._lost: dict[Ino, bytes] = {}
        #: Origins of copies that had entries and do not record them themselves, by the inode number on disk.
        self._logged: dict[int, Origin] = {}
        #: Inode numbers of objects that have another number in the records (:meth:`LinkIndex.add`), by the latter.
        self._shown: dict[Ino, Ino] = {}
        #: Of the records that count; empty if none do.
        self._generation = b""

    @classmethod
    def read(cls, upper: Layer, home_fd: int, fingerprint: bytes) -> LinkRecords | None:
        """Read the records in *home_fd*, the directory ``unionfs`` in the work directory of *upper*.

        Return None if there are none, or if they are about other lower layers than those of *fingerprint*.

        Raises:
            OSError: they cannot be read.
        """
        try:
            generation, stored = read_stack(home_fd)
            entries_fd = os.open(INDEX, OPEN_DIR, dir_fd=home_fd)
        except FileNotFoundError:
            return None
        directory = LayerDir(upper, None, INDEX)
        directory.adopt(entries_fd)
        records = cls(directory)
        if not generation or stored != fingerprint:
            records.close()
            return None
        records._generation = generation
        try:
            records._logged = read_origins(home_fd)
        except OSError:
            records.close()
            raise
        for name, inode in records._entries():
            if name.startswith(PASSING):
                continue  # its number means nothing to another process
            if (match := COPY.fullmatch(name)) is not None:
                records._know(Ino(int(match[2], 16)), name, inode)
            elif (match := LOST.fullmatch(name)) is not None:
                records._lost[Ino(int(match[2], 16))] = name
        return records

    def _entries(self) -> list[tuple[bytes, int]]:
        """Return the names in the directory, and the inode numbers on disk."""
        with os.scandir(self._directory.proc_path()) as entries:
            return [(os.fsencode(entry.name), entry.inode()) for entry in entries]

    def _know(self, ino: Ino, entry: bytes, inode: int) -> None:
        self._copies[ino] = entry
        self._numbers.pop(self._inodes.get(ino, 0), None)
        self._numbers[inode], self._inodes[ino] = ino, inode

    def close(self) -> None:
        """Close the directory of the index."""
        self._directory.close()

    def copies(self) -> Iterator[tuple[Ino, int, PathRef]]:
        """Yield for each copy its inode number, how many of its lower names are not links of it, and a reference to it."""
        for ino, name in self._copies.items():
            yield ino, count_in(COPY, name), PathRef(self._directory, name)

    def is_entry(self, ref: object) -> bool:
        """Return whether *ref* refers to an entry of the index, not to a name in the layer."""
        return isinstance(ref, PathRef) and ref.directory is self._directory

    def origin(self, ref: PathRef, info: os.stat_result) -> Ino | None:
        """Return the inode number that the object *ref* of the writable layer or a frozen one, with attributes *info*, had before
        its copy-up; None if unknown.
        """
        number = self._numbers.get(info.st_ino)
        if number is None and info.st_ino in self._logged:
            number = self._logged_number(ref, self._logged[info.st_ino])
        if number is not None or not stat.S_ISREG(info.st_mode):
            return number
        try:
            value = os.getxattr(ref.proc_path(), ORIGIN_XATTR, follow_symlinks=follows(ref))
        except OSError as error:
            if error.errno in NO_XATTR:
                return None
            raise
        generation, _, text = value.partition(b":")
        if generation != self._generation:
            return None
        try:
            number = Ino(int(text, 16))
        except ValueError:
            return None
        return self._shown.get(number, number)

    @staticmethod
    def _logged_number(ref: PathRef, origin: Origin) -> Ino | None:
        """Return the number in *origin*; None if *ref* is another object than the one that it is about, or may be."""
        if origin.born is None:
            return None if ref.layer.writable else origin.number
        return origin.number if ref.birth_time_ns() == origin.born else None

    def find(self, ino: Ino) -> PathRef | None:
        """Return a reference to the copy of the object with inode number *ino*; None if the index has none."""
        name = self._copies.get(ino)
        return PathRef(self._directory, name) if name is not None else None

    def identity(self, ino: Ino) -> Identity | None:
        """Return device and inode number on disk of the copy of the object with inode number *ino*; None if the index has none."""
        inode = self._inodes.get(ino)
        return None if inode is None else (self._directory.layer.device, inode)

    def lower_names(self, ino: Ino) -> int:
        """Return how many lower names of the copy *ino* are not yet links of it."""
        name = self._copies.get(ino)
        return count_in(COPY, name) if name is not None else 0

    def has(self, inode: int) -> bool:
        """Return whether the index has the object of the upper layer with the inode number *inode* on disk."""
        return inode in self._numbers

    def is_about(self, ino: Ino, born: Callable[[], int | None]) -> bool:
        """Return whether the facts about *ino* are about the object with the birth time that *born* returns; True if there
        are none.

        Also True if one of the birth times is unknown. *born* is called only if a fact has a birth time.
        """
        for entry, form in ((self._copies.get(ino), COPY), (self._lost.get(ino), LOST)):
            match = form.fullmatch(entry) if entry is not None else None
            if match is not None and match[4]:
                at = born()
                return at is None or match[4] == born_suffix(at)
        return True

    def lost_names(self, ino: Ino) -> int:
        """Return how many names of the lower file *ino*, which has no copy, have been deleted."""
        entry = self._lost.get(ino)
        return count_in(LOST, entry) if entry is not None else 0


def read_stack(home_fd: int) -> tuple[bytes, bytes]:
    """Return the generation of the records, and the names of the lower layers that they are about.

    Raises:
        OSError: ENOENT if there are none.
    """
    with open(os.open(STACK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home_fd), "rb") as file:
        generation, _, stored = file.read().partition(b"\n")
    return generation, stored


def count_in(form: re.Pattern[bytes], entry: bytes) -> int:
    """Return COUNT of *entry*, whose form is COPY or LOST."""
    match = form.fullmatch(entry)
    assert match is not None
    return int(match[3])


def born_suffix(at: int | None) -> bytes:
    """Return the end of the name of an entry about an object with the birth time *at*."""
    return b".%x" % at if at is not None else b""

"""The link index: records hard links and inode numbers of copied-up objects.

It keeps hard links together, and inode numbers constant over copy-up, forgetting and remounts. It is in the work directory
(``WORK/unionfs``) and belongs to the upper layer. It records these facts:

* **origin**: each copied-up regular file has the attribute ``user.unionfs.origin=GENERATION:NUMBER``, its inode number
  before the copy-up.
* **copies**: an additional link ``index/NUMBER.COUNT.BORN`` of the copy. Each copied-up lower file with several names has
  one. So has each copied-up object that is not a regular file, as Linux has no ``user.*`` attributes on those. COUNT is how
  many of its lower names are not yet links of the copy. A lookup of such a name finds the copy by the number. The visible
  link count is that of the copy, minus the index's own link, plus COUNT.
* **lost names**: an empty file ``index/NUMBER-COUNT.BORN``. COUNT names of a lower file without a copy have been deleted.
  The visible link count is that of the lower file minus COUNT.

BORN is the birth time of the lower object, and is omitted if unknown. The owner of a layer may replace files between two
mounts, and the new files may get the inode numbers of the old ones. If a lookup meets an object with another birth time, it
drops the recorded fact.

GENERATION identifies the stack of lower layers under which the facts were recorded. Under another stack, they are dropped.
Entries with a NUMBER that is valid for this mount only begin with ``t``, and are dropped at the next mount.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection
from contextlib import suppress

from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.objects import NO_XATTR, PathRef, follows
from unionfs.types import Ino

ORIGIN_XATTR = "user.unionfs.origin"
_STACK_FILE = b"stack"
#: The temporary name of a link that is about to become an entry; no entry has this name.
_NEW = b"new"
_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Prefix of entries whose number is valid for this mount only.
_PASSING = b"t"
#: Groups: the text before COUNT, NUMBER, COUNT, and BORN with its dot.
_COPY = re.compile(rb"(t?([0-9a-f]{1,16})\.)([0-9]{1,9})((?:\.-?[0-9a-f]{1,16})?)")
_LOST = re.compile(rb"(t?([0-9a-f]{1,16})-)([0-9]{1,9})((?:\.-?[0-9a-f]{1,16})?)")


class LinkIndex:
    """The link index of one writable layer. It owns the descriptor of its directory, and caches all entries.

    The mount creates and closes it.
    """

    def __init__(
        self, upper: Layer, home_fd: int, fingerprint: bytes, unpublished: Collection[int] = ()
    ) -> None:
        """Open the index in *home_fd*, the directory ``unionfs`` in the work directory.

        Args:
            upper: the writable layer, on the same file system.
            home_fd: borrowed; its entries ``index`` and ``stack`` are created if missing.
            fingerprint: identifies the lower layers; facts recorded over others are dropped.
            unpublished: inode numbers of copies that got no name because the server was killed; their entries are dropped.
        """
        try:
            os.mkdir(b"index", 0o700, dir_fd=home_fd)
        except FileExistsError:
            pass
        self._directory = LayerDir(upper, None, b"index")
        self._directory.adopt(os.open(b"index", _OPEN_DIR, dir_fd=home_fd))
        #: Entries of copies by inode number; inode numbers by the copy's inode number on disk; and the reverse.
        self._copies: dict[Ino, bytes] = {}
        self._numbers: dict[int, Ino] = {}
        self._inodes: dict[Ino, int] = {}
        #: Entries of lost names by inode number.
        self._lost: dict[Ino, bytes] = {}
        try:
            self._generation = self._read_stack(home_fd, fingerprint)
            self._load(unpublished)
        except OSError:
            self._directory.close()
            raise

    def _read_stack(self, home_fd: int, fingerprint: bytes) -> bytes:
        try:
            with open(os.open(_STACK_FILE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=home_fd), "rb") as file:
                generation, _, stored = file.read().partition(b"\n")
                if stored == fingerprint and generation:
                    return generation
        except FileNotFoundError:
            pass
        for name in os.listdir(self._directory.proc_path()):
            os.unlink(name, dir_fd=self._directory.fd())
        generation = os.urandom(4).hex().encode()
        temporary = _STACK_FILE + b".new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        try:
            with open(os.open(temporary, flags, 0o600, dir_fd=home_fd), "wb") as file:
                file.write(generation + b"\n" + fingerprint)
            os.rename(temporary, _STACK_FILE, src_dir_fd=home_fd, dst_dir_fd=home_fd)
        except OSError:
            with suppress(OSError):  # on a full disk it would only take up room
                os.unlink(temporary, dir_fd=home_fd)
            raise
        return generation

    def _load(self, unpublished: Collection[int]) -> None:
        with os.scandir(self._directory.proc_path()) as entries:
            found = [(os.fsencode(entry.name), entry.inode()) for entry in entries]
        for name, inode in found:
            if name.startswith(_PASSING):
                os.unlink(name, dir_fd=self._directory.fd())
            elif (
                (match := _COPY.fullmatch(name)) is not None
                and inode not in unpublished
                and (match[3] != b"0" or self._links(name) > 1)  # no other name leads to it
            ):
                self._know(Ino(int(match[2], 16)), name, inode)
            elif (match := _LOST.fullmatch(name)) is not None:
                self._lost[Ino(int(match[2], 16))] = name
            else:
                os.unlink(name, dir_fd=self._directory.fd())
        for number in self._lost.keys() & self._copies.keys():
            # A crash happened after the copy-up and before the removal of the lost-names entry.
            os.unlink(self._lost.pop(number), dir_fd=self._directory.fd())

    def _links(self, entry: bytes) -> int:
        return os.stat(entry, dir_fd=self._directory.fd(), follow_symlinks=False).st_nlink

    def _know(self, ino: Ino, entry: bytes, inode: int) -> None:
        self._copies[ino] = entry
        self._numbers.pop(self._inodes.get(ino, 0), None)
        self._numbers[inode], self._inodes[ino] = ino, inode

    def close(self) -> None:
        """Close the directory of the index."""
        self._directory.close()

    # -- origins -----------------------------------------------------------------------------------

    def origin(self, ref: PathRef, info: os.stat_result) -> Ino | None:
        """Return the inode number that the upper object *ref*, with attributes *info*, had before its copy-up; None if
        unknown.
        """
        number = self._numbers.get(info.st_ino)
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
            return Ino(int(text, 16))
        except ValueError:
            return None

    def set_origin(self, fd: int, ino: Ino) -> None:
        """Record on the open file *fd* that its inode number is *ino*.

        This has no effect if the file system supports no user attributes: then the number changes at the next mount.
        """
        try:
            os.setxattr(fd, ORIGIN_XATTR, b"%s:%x" % (self._generation, ino))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise

    # -- copies ------------------------------------------------------------------------------------

    def find(self, ino: Ino) -> PathRef | None:
        """Return a reference to the copy of the object with inode number *ino*; None if the index has none."""
        name = self._copies.get(ino)
        return PathRef(self._directory, name) if name is not None else None

    def lower_names(self, ino: Ino) -> int:
        """Return how many lower names of the copy *ino* are not yet links of it."""
        name = self._copies.get(ino)
        return _count(_COPY, name) if name is not None else 0

    def holds(self, inode: int) -> bool:
        """Return whether the index has the object of the upper layer with the inode number *inode* on disk."""
        return inode in self._numbers

    def is_about(self, ino: Ino, born: Callable[[], int | None]) -> bool:
        """Return whether the facts about *ino* are about the object with the birth time that *born* returns; True if there
        are none.

        Also True if one of the birth times is unknown. *born* is called only if a fact has a birth time.
        """
        for entry, form in ((self._copies.get(ino), _COPY), (self._lost.get(ino), _LOST)):
            match = form.fullmatch(entry) if entry is not None else None
            if match is not None and match[4]:
                at = born()
                return at is None or match[4] == _born(at)
        return True

    def drop(self, ino: Ino) -> None:
        """Drop the facts about *ino*: the object no longer exists."""
        self.remove(ino)
        self._drop_lost(ino)

    def add(
        self,
        ino: Ino,
        dirfd: int,
        name: bytes,
        lower_names: int,
        *,
        lasting: bool,
        born: int | None = None,
    ) -> PathRef:
        """Link the finished copy *name* of *dirfd* into the index.

        Args:
            ino: its inode number.
            dirfd: the directory that it is in.
            name: its name there.
            lower_names: how many names of the lower object are not links of it.
            lasting: whether *ino* identifies the same object at the next mount.
            born: the birth time of the lower object.
        """
        entry = b"%s%x.%d%s" % (b"" if lasting else _PASSING, ino, max(0, lower_names), _born(born))
        fd = self._directory.fd()
        self.remove(ino)  # left by a copy-up that a crash interrupted before its last step
        inode = os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_ino
        os.link(name, entry, src_dir_fd=dirfd, dst_dir_fd=fd, follow_symlinks=False)
        self._know(ino, entry, inode)
        return PathRef(self._directory, entry)

    def replace(self, ino: Ino, copy: PathRef) -> PathRef | None:
        """Replace the entry of *ino*, which has no lower names, by another link of *copy*, and return a reference to the
        new entry.

        *copy* has its name already. On an error the entry is removed, and the result is None. Then the inode number changes
        at the next mount.
        """
        entry = self._copies[ino]
        fd = self._directory.fd()
        try:
            inode = copy.stat().st_ino
            os.link(copy.name, _NEW, src_dir_fd=copy.directory.fd(), dst_dir_fd=fd, follow_symlinks=False)
            os.rename(_NEW, entry, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            with suppress(OSError):
                os.unlink(_NEW, dir_fd=fd)
            self.remove(ino)
            return None
        self._know(ino, entry, inode)
        return PathRef(self._directory, entry)

    def lose_lower_name(self, ino: Ino) -> PathRef | None:
        """Record that one lower name of the copy *ino* was deleted or became a link of the copy.

        Returns:
            A reference by the entry's new name; None if the index has no entry for *ino*.
        """
        old = self._copies.get(ino)
        if old is None:
            return None
        new = _counting(_COPY, old, -1)
        fd = self._directory.fd()
        try:
            os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            return PathRef(
                self._directory, old
            )  # the lower name is gone already; a count that is too high is harmless
        self._copies[ino] = new
        return PathRef(self._directory, new)

    def remove(self, ino: Ino) -> None:
        """Remove the copy *ino* from the index: its last name was deleted, or the copy-up failed."""
        name = self._copies.get(ino)
        if name is None:
            return
        try:
            os.unlink(name, dir_fd=self._directory.fd())
        except OSError:
            return  # no name leads to it; the next copy-up of the same object tries again
        del self._copies[ino]
        self._numbers.pop(self._inodes.pop(ino), None)

    # -- lost names --------------------------------------------------------------------------------

    def lost_names(self, ino: Ino) -> int:
        """Return how many names of the lower file *ino*, which has no copy, have been deleted."""
        entry = self._lost.get(ino)
        return _count(_LOST, entry) if entry is not None else 0

    def lose_name(self, ino: Ino, *, lasting: bool, born: int | None = None) -> None:
        """Record that one more name of the lower file *ino*, which has no copy and the birth time *born*, was deleted.

        The name is gone already. If the record cannot be made, the visible link count stays too high, which is harmless.
        """
        old = self._lost.get(ino)
        fd = self._directory.fd()
        try:
            if old is not None:
                new = _counting(_LOST, old, 1)
                os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
            else:
                new = b"%s%x-1%s" % (b"" if lasting else _PASSING, ino, _born(born))
                os.close(
                    os.open(new, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
                )
        except OSError:
            return
        self._lost[ino] = new

    def settle_lost_names(self, ino: Ino) -> None:
        """Drop the fact about lost names of *ino*: it has been copied up, and the copy's entry counts them."""
        self._drop_lost(ino)

    def _drop_lost(self, ino: Ino) -> None:
        entry = self._lost.pop(ino, None)
        if entry is not None:
            with suppress(OSError):  # the next mount drops it, because the copy has an entry
                os.unlink(entry, dir_fd=self._directory.fd())


def _count(form: re.Pattern[bytes], entry: bytes) -> int:
    match = form.fullmatch(entry)
    assert match is not None
    return int(match[3])


def _counting(form: re.Pattern[bytes], entry: bytes, change: int) -> bytes:
    """Return the name of *entry* with its count changed by *change*."""
    match = form.fullmatch(entry)
    assert match is not None
    return b"%s%d%s" % (match[1], max(0, int(match[3]) + change), match[4])


def _born(at: int | None) -> bytes:
    return b".%x" % at if at is not None else b""

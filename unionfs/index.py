"""The index of copied-up objects.

It keeps hard links whole and inode numbers constant over copy-up, forgetting and remounts. It lives in the work
directory (``WORK/unionfs``) and belongs to the upper layer. These facts are kept:

* **origin**: each regular file that was copied up carries ``user.unionfs.origin=GENERATION:NUMBER``, the inode
  number that it had before.
* **copies**: the copy of a lower file with several names, and of anything but a regular file (Linux has no
  ``user.*`` attributes on those), has one more link, ``index/NUMBER.COUNT``. COUNT is how many of its lower names
  are not yet links of the copy; a lookup of such a name finds the copy by the number. The visible link count is
  the copy's, less the index's own link, plus COUNT.
* **lost names**: ``index/NUMBER-COUNT``, an empty file, says that COUNT names of a lower file, which was not
  copied up, have been deleted. The visible link count is the file's less COUNT.

GENERATION names the stack of lower layers under which the facts were written. Over another stack they mean
nothing and are dropped. Entries whose NUMBER lasts for this mount only start with ``t`` and are dropped at the
next.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Collection

from unionfs.layer import Layer, LayerDir
from unionfs.refs import NO_XATTR, Named, follows
from unionfs.types import Ino

ORIGIN_XATTR = "user.unionfs.origin"
_STACK_FILE = b"stack"
_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY = re.compile(rb"([0-9a-f]{1,16})\.([0-9]{1,9})")
_LOST = re.compile(rb"([0-9a-f]{1,16})-([0-9]{1,9})")


class LinkIndex:
    """The index of one writable layer."""

    def __init__(
        self, upper: Layer, home_fd: int, fingerprint: bytes, unpublished: Collection[int] = ()
    ) -> None:
        """Open the index below *home_fd*, the directory of ours in the work directory.

        Args:
            upper: the writable layer, on the same file system.
            home_fd: borrowed; its entries ``index`` and ``stack`` are made where missing.
            fingerprint: names the lower layers; facts written over others are dropped.
            unpublished: inode numbers of copies that got no name, as the server was killed before: their entries
                are dropped.
        """
        try:
            os.mkdir(b"index", 0o700, dir_fd=home_fd)
        except FileExistsError:
            pass
        self._directory = LayerDir(upper, None, b"index")
        self._directory.adopt(os.open(b"index", _OPEN_DIR, dir_fd=home_fd))
        #: The entries of copies by number, and the numbers of copies by inode number on disk.
        self._copies: dict[Ino, bytes] = {}
        self._numbers: dict[int, Ino] = {}
        self._lost: dict[Ino, int] = {}
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
        generation = secrets.token_hex(4).encode()
        temporary = _STACK_FILE + b".new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o600, dir_fd=home_fd), "wb") as file:
            file.write(generation + b"\n" + fingerprint)
        os.rename(temporary, _STACK_FILE, src_dir_fd=home_fd, dst_dir_fd=home_fd)
        return generation

    def _load(self, unpublished: Collection[int]) -> None:
        lost: dict[Ino, tuple[int, bytes]] = {}
        with os.scandir(self._directory.proc_path()) as entries:
            found = [(os.fsencode(entry.name), entry.inode()) for entry in entries]
        for name, inode in found:
            if (match := _COPY.fullmatch(name)) is not None and inode not in unpublished:
                number = Ino(int(match[1], 16))
                self._copies[number] = name
                self._numbers[inode] = number
            elif (match := _LOST.fullmatch(name)) is not None:
                lost[Ino(int(match[1], 16))] = (int(match[2]), name)
            else:
                os.unlink(name, dir_fd=self._directory.fd())
        for number, (count, name) in lost.items():
            if number in self._copies:  # a crash came between the copy-up and the end of the other fact
                os.unlink(name, dir_fd=self._directory.fd())
            else:
                self._lost[number] = count

    def close(self) -> None:
        """Close the index's directory."""
        self._directory.close()

    # -- origins -----------------------------------------------------------------------------------

    def origin(self, ref: Named, info: os.stat_result) -> Ino | None:
        """Return the number that the upper object *ref*, with attributes *info*, had before it was copied up."""
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
        """Record on the open file *fd* that its number is *ino*.

        Without effect where the file system keeps no user attributes: the number then changes at the next mount.
        """
        try:
            os.setxattr(fd, ORIGIN_XATTR, b"%s:%x" % (self._generation, ino))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise

    # -- copies ------------------------------------------------------------------------------------

    def find(self, ino: Ino) -> Named | None:
        """Return a reference to the copy of the object that had number *ino*, if it is in the index."""
        name = self._copies.get(ino)
        return Named(self._directory, name) if name is not None else None

    def lower_names(self, ino: Ino) -> int:
        """Return how many lower names lead to the copy *ino* without being links of it."""
        name = self._copies.get(ino)
        return int(name.partition(b".")[2]) if name is not None else 0

    def add(self, ino: Ino, dirfd: int, name: bytes, lower_names: int, *, lasting: bool) -> Named:
        """Link the finished copy *name* of *dirfd* into the index.

        Args:
            ino: its number.
            dirfd: where it is now.
            name: its name there.
            lower_names: how many names of the lower object lead to it without being links of it.
            lasting: whether *ino* means the same object at the next mount.
        """
        entry = b"%s%x.%d" % (b"" if lasting else b"t", ino, max(0, lower_names))
        fd = self._directory.fd()
        self.remove(ino)  # left by a copy-up that a crash ended before its last step
        os.link(name, entry, src_dir_fd=dirfd, dst_dir_fd=fd, follow_symlinks=False)
        self._copies[ino] = entry
        self._numbers[os.stat(entry, dir_fd=fd, follow_symlinks=False).st_ino] = ino
        return Named(self._directory, entry)

    def lose_lower_name(self, ino: Ino) -> Named | None:
        """Record that one lower name of the copy *ino* was deleted or became a link.

        Returns the reference under the index's new name; None if *ino* is not in the index.
        """
        old = self._copies.get(ino)
        if old is None:
            return None
        new = b"%s.%d" % (old.partition(b".")[0], max(0, self.lower_names(ino) - 1))
        fd = self._directory.fd()
        try:
            os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            return Named(
                self._directory, old
            )  # the name is gone already; a count that is too high does no harm
        self._copies[ino] = new
        return Named(self._directory, new)

    def remove(self, ino: Ino) -> None:
        """Take the copy *ino* out of the index: its last name is gone, or the copy-up failed after all."""
        name = self._copies.get(ino)
        if name is None:
            return
        fd = self._directory.fd()
        inode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
        try:
            os.unlink(name, dir_fd=fd)
        except OSError:
            return  # no name leads to it; the next copy-up of the same object tries again
        del self._copies[ino]
        self._numbers.pop(inode, None)

    # -- lost names --------------------------------------------------------------------------------

    def lost_names(self, ino: Ino) -> int:
        """Return how many names of the lower file *ino*, which was not copied up, have been deleted."""
        return self._lost.get(ino, 0)

    def lose_name(self, ino: Ino, *, lasting: bool) -> None:
        """Record that one more name of the lower file *ino*, which was not copied up, has been deleted.

        It is gone by now, so where the record cannot be made the count stays too high; that does no harm.
        """
        count = self._lost.get(ino, 0)
        prefix = b"" if lasting else b"t"
        fd = self._directory.fd()
        new = b"%s%x-%d" % (prefix, ino, count + 1)
        try:
            if count:
                os.rename(b"%s%x-%d" % (prefix, ino, count), new, src_dir_fd=fd, dst_dir_fd=fd)
            else:
                os.close(
                    os.open(new, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
                )
        except OSError:
            return
        self._lost[ino] = count + 1

    def settle_lost_names(self, ino: Ino, *, lasting: bool) -> None:
        """Drop the fact about lost names of *ino*: it is copied up now, and the copy's entry counts them."""
        count = self._lost.pop(ino, 0)
        if count:
            try:
                os.unlink(b"%s%x-%d" % (b"" if lasting else b"t", ino, count), dir_fd=self._directory.fd())
            except OSError:
                pass  # the next mount drops it, for the copy's entry

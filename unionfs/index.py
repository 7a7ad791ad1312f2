"""The index of copied-up files: what keeps hard links whole and inode numbers constant over copy-up, forgetting and remounts.

It lives in the work directory (``WORK/unionfs``) and belongs to the upper layer. Two facts are kept:

* **origin**: each regular file that was copied up carries ``user.unionfs.origin=GENERATION:NUMBER``, the inode number that it had before.
  Only a file system with user attributes can keep it; elsewhere numbers change at the next mount.
* **index**: the copy of a lower file with several names has one more link, ``index/NUMBER.COUNT``. COUNT is how many of its lower names are
  not yet links of the copy; a lookup of such a name finds the copy by the number. The visible link count is the copy's, less the index's
  own link, plus COUNT.

GENERATION names the stack of lower layers under which the facts were written. Over another stack they mean nothing and are dropped.
"""

from __future__ import annotations

import errno
import os
import secrets

from unionfs.layer import NO_XATTR, Layer, LayerDir, Named, follows
from unionfs.types import Ino

ORIGIN_XATTR = "user.unionfs.origin"
_STACK_FILE = b"stack"
_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LinkIndex:
    """The index of one writable layer."""

    def __init__(self, upper: Layer, home_fd: int, fingerprint: bytes) -> None:
        """Open the index below *home_fd*, the directory of ours in the work directory.

        Args:
            upper: the writable layer, on the same file system.
            home_fd: borrowed; its entries ``index`` and ``stack`` are made where missing.
            fingerprint: names the lower layers; facts written over others are dropped.
        """
        try:
            os.mkdir(b"index", 0o700, dir_fd=home_fd)
        except FileExistsError:
            pass
        self._directory = LayerDir(upper, None, b"index")
        self._directory.adopt(os.open(b"index", _OPEN_DIR, dir_fd=home_fd))
        self._names: dict[Ino, bytes] = {}
        self._generation = self._read_stack(home_fd, fingerprint)
        for name in os.listdir(self._directory.proc_path()):
            number, _, count = name.partition(b".")
            try:
                int(count)
                self._names[Ino(int(number, 16))] = name
            except ValueError:
                os.unlink(name, dir_fd=self._directory.fd())

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

    def close(self) -> None:
        """Close the index's directory."""
        self._directory.close()

    # -- origins -------------------------------------------------------------------------------------------------------------------

    def origin(self, ref: Named) -> Ino | None:
        """Return the number that the upper file *ref* had before it was copied up, if it was."""
        try:
            value = os.getxattr(ref.proc_path(), ORIGIN_XATTR, follow_symlinks=follows(ref))
        except OSError as error:
            if error.errno in NO_XATTR:
                return None
            raise
        generation, _, number = value.partition(b":")
        if generation != self._generation:
            return None
        try:
            return Ino(int(number, 16))
        except ValueError:
            return None

    def set_origin(self, fd: int, ino: Ino) -> None:
        """Record on the open file *fd* that its number is *ino*; without effect where the file system keeps no user attributes."""
        try:
            os.setxattr(fd, ORIGIN_XATTR, b"%s:%x" % (self._generation, ino))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise

    # -- hard links ----------------------------------------------------------------------------------------------------------------

    def find(self, ino: Ino) -> Named | None:
        """Return a reference to the copy of the file that had number *ino*, if it is in the index."""
        name = self._names.get(ino)
        return Named(self._directory, name) if name is not None else None

    def lower_names(self, ino: Ino) -> int:
        """Return how many lower names lead to the copy *ino* without being links of it."""
        name = self._names.get(ino)
        return int(name.partition(b".")[2]) if name is not None else 0

    def add(self, ino: Ino, dirfd: int, name: bytes, lower_names: int) -> Named:
        """Link the finished copy *name* of *dirfd* into the index, with *lower_names* names that lead to it."""
        entry = b"%x.%d" % (ino, lower_names)
        try:
            os.unlink(entry, dir_fd=self._directory.fd())  # left by a copy-up that a crash ended before its last step
        except FileNotFoundError:
            pass
        os.link(name, entry, src_dir_fd=dirfd, dst_dir_fd=self._directory.fd(), follow_symlinks=False)
        self._names[ino] = entry
        return Named(self._directory, entry)

    def lose_lower_name(self, ino: Ino) -> Named | None:
        """Record that one lower name of *ino* was deleted or became a link; returns the reference under the index's new name."""
        old = self._names[ino]
        new = b"%x.%d" % (ino, max(0, self.lower_names(ino) - 1))
        fd = self._directory.fd()
        os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
        self._names[ino] = new
        return Named(self._directory, new)

    def remove(self, ino: Ino) -> None:
        """Take the copy *ino* out of the index: its last name is gone."""
        os.unlink(self._names.pop(ino), dir_fd=self._directory.fd())

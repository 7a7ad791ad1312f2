"""A client that uses a union as the kernel does: it counts lookups, forgets inodes, and forgets unlinked objects."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.unit.unionfs.support import Union, with_index
from unionfs.assemble import LayerSource, StackSource, open_stack
from unionfs.formats.whiteout import TRUSTED_MARKS
from unionfs.inode.inode import DirectoryInode, FileInode, Inode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.tree import Tree
    from unionfs.upper.format import WantedFormat
    from unionfs.vfs.filesystem import UnionFs

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
#: The descriptors that stay open between requests: few, so that directories are often opened again.
_FEW = 16


class Client(Union):
    """One union, whose layers may have been written by unionfs."""

    def __init__(self, base: Path, lowers: Sequence[Tree], form: WantedFormat) -> None:
        """Write *lowers* below *base*, and open them with an empty upper layer."""
        self.base = base
        #: The inodes that the kernel would have looked up.
        self._known: dict[int, Inode] = {}
        self._generation = 0
        super().__init__(base, lowers, {}, form=form, policy=TRUSTED_MARKS)

    def _open(self) -> UnionFs:
        self._known = {}
        fs = open_stack(with_index(self._source(writable=True), self.base))
        fs.inode_table.layers[0].fds.capacity = _FEW
        return fs

    def _source(self, *, writable: bool) -> StackSource:
        def opened(path: Path) -> int:
            return os.open(path, _OPEN_DIR)

        return StackSource(
            lowers=tuple(LayerSource(fd=opened(path), policy=self.policy) for path in self.lowers),
            upper_fd=opened(self.upper) if writable else None,
            work_fd=opened(self.work) if writable else None,
            form=self.form,
            volatile=True,
        )

    def inode(self, path: str) -> Inode:
        """Look up *path*, one name after the other, and count the lookups."""
        inode: Inode = self.fs.inode_table.root
        for name in filter(None, os.fsencode(path).split(b"/")):
            assert isinstance(inode, DirectoryInode)
            inode = self.fs.inode_table.lookup(inode, name)
            if inode.lookups == 0:
                inode.lookups = 1
                self._known[inode.ino] = inode
        return inode

    def end_request(self) -> None:
        """Do the work between two requests: close descriptors, and forget objects without names."""
        self.fs.trim()
        for inode in list(self._known.values()):
            gone = not inode.names if isinstance(inode, FileInode) else inode.removed
            if gone:
                self._forget(inode)

    def forget_everything(self) -> None:
        """Forget all objects that are not open, entries before their directories."""
        for inode in reversed(list(self._known.values())):
            self._forget(inode)

    def _forget(self, inode: Inode) -> None:
        if not (isinstance(inode, FileInode) and inode.handles):
            del self._known[inode.ino]
            self.fs.inode_table.forget(inode.ino, inode.lookups)

    def freeze(self) -> None:
        """Turn the upper layer into the topmost lower layer, and open all layers read-only.

        The link index is lost with the work directory.
        """
        self.close()
        shutil.rmtree(self.work)
        self.lowers.insert(0, self.upper)
        self._known = {}
        self.fs = open_stack(with_index(self._source(writable=False), self.base))

    def begin_layer(self) -> None:
        """Open the layers with a new, empty upper layer."""
        self.close()
        self._generation += 1
        self.upper = self.base / f"upper{self._generation}"
        self.upper.mkdir()
        self._copy_root(self.lowers[0], self.upper)
        self.work.mkdir()
        self.fs = self._open()

    @staticmethod
    def _copy_root(old: Path, new: Path) -> None:
        """The root of the union is the root of the upper layer, so it is never copied up."""
        info = old.stat()
        os.chown(new, info.st_uid, info.st_gid)
        for name in os.listxattr(old):
            if not name.startswith(("user.unionfs.whiteouts", "user.unionfs.features")):
                os.setxattr(new, name, os.getxattr(old, name))
        os.chmod(new, info.st_mode)
        os.utime(new, ns=(info.st_atime_ns, info.st_mtime_ns))

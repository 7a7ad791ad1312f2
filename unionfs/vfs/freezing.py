"""Freeze the writable layer of a running mount: it becomes the topmost lower layer, and a new, empty one takes its place.

All parts of the writable layer (``Upper``, ``LinkIndex``, ``Quota`` ...) stay the same objects and continue on the new
directories. :class:`~unionfs.vfs.filesystem.UnionFs` calls the functions, which have no state.
docs/unionfs/internals.md, "Freezing", describes what programs could notice, and why they do not.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.inode.table import InodeTable
from unionfs.layer.directory import Layer
from unionfs.layer.objects import DescriptorRef
from unionfs.upper.workdir import HOME

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.types import Ino
    from unionfs.vfs.filesystem import UnionFs


def link_remaining_names(fs: UnionFs, paths: Iterable[bytes]) -> int:
    """Do what :meth:`unionfs.vfs.filesystem.UnionFs.link_remaining_names` describes."""
    names, linked = fs.names, 0
    for path in paths:
        try:
            parent, name = _parent_of(fs, path)
            inode = fs.inode_table.lookup(parent, name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if isinstance(inode, FileInode) and inode.indexed:
            linked += names.link_remaining(inode, parent, name)
        fs.trim()
    return linked


def leave_index(fs: UnionFs, most: int) -> bool:
    """Do what :meth:`unionfs.vfs.filesystem.UnionFs.leave_index` describes."""
    index = fs.parts().index
    _leave_index(fs, index.complete_copies(most))
    return bool(index.complete_copies(1))


def _leave_index(fs: UnionFs, copies: Sequence[Ino]) -> None:
    """Remove *copies* from the link index. The work directory records what no attribute of theirs does."""
    parts = fs.parts()
    parts.index.log_origins(parts.upper.workdir.home_fd, copies)
    for ino in copies:
        fs.inode_table.leave_index(ino, parts.index.unlink_copy)


def _parent_of(fs: UnionFs, path: bytes) -> tuple[DirectoryInode, bytes]:
    """Return the directory that *path* leads to, and the name in it. No symbolic link is followed."""
    at = fs.inode_table.root
    *directories, name = path.strip(b"/").split(b"/")
    for each in directories:
        found = fs.inode_table.lookup(at, each)
        if not isinstance(found, DirectoryInode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        at = found
    return at, name


def freeze(fs: UnionFs, upper_fd: int, work_fd: int, searched: int | None) -> None:
    """Do what :meth:`unionfs.vfs.filesystem.UnionFs.freeze` describes."""
    with ExitStack() as done:
        done.callback(os.close, work_fd)
        with ExitStack() as undo:
            undo.callback(os.close, upper_fd)
            parts, inode_table = fs.parts(), fs.inode_table
            for settle in fs.before_freeze:
                settle()
            fs.trim()
            fs.make_room()
            if not parts.index.lasts and parts.index.may_miss_names(None):
                # Another process does not recognize the records, and finds none of the names.
                raise OSError(
                    errno.EOPNOTSUPP,
                    "a file with several names was changed, whose other names cannot be searched for: "
                    "a layer is on a file system without birth times",
                )
            if parts.index.may_miss_names(searched):
                raise OSError(errno.EBUSY, "hard links have names that are not links of their copies")
            _refuse_unsuitable(fs, upper_fd, work_fd)
            layer = Layer(upper_fd, inode_table.layers[0].fds, writable=True)
            layer.closed.report = inode_table.layers[0].closed.report
            successor = parts.upper.successor(layer, work_fd)
            undo.callback(successor.close)
            parts.copy_up.root(inode_table.root, layer.root)
            _leave_index(fs, [ino for ino, _, _ in parts.index.copies()])
            nameless = inode_table.nameless_inodes()
            parts.index.move(parts.upper.workdir.home_fd, successor.workdir.home_fd, layer)
            undo.pop_all()
        # From here on nothing fails.
        done.callback(successor.close)
        if parts.copy_up.background is not None:
            parts.copy_up.background.move(successor.workdir)
        parts.upper.become(successor)
        _put_on_top(inode_table, layer, nameless)
        if parts.quota is not None:
            parts.quota.continue_on(layer)


def _put_on_top(inode_table: InodeTable, layer: Layer, nameless: Iterable[Inode]) -> None:
    """Put *layer*, which is empty, on top of the present writable layer, which becomes the topmost lower one.

    *nameless* are the objects that only descriptors reach. They are in no tree, and become objects of *layer* without a copy-up.
    """
    root, frozen = inode_table.root, inode_table.layers[0]
    inode_table.numbers.announce(layer.device)
    layer.below = tuple(part for part in root.parts if not part.skeleton)
    frozen.writable, frozen.frozen, frozen.earlier = False, True, True
    inode_table.layers = [layer, *inode_table.layers]
    root.parts.insert(0, layer.root)
    root.touch()
    for inode in nameless:
        if isinstance(inode, DirectoryInode):
            inode.parts[0].layer = layer
        elif isinstance(inode.ref, DescriptorRef):
            inode.layer = inode.ref.layer = layer


def _refuse_unsuitable(fs: UnionFs, upper_fd: int, work_fd: int) -> None:
    present, given = fs.inode_table.layers[0], os.fstat(upper_fd)
    if given.st_dev != present.device:
        # Files without a name stay where they are, and may get a name in the new layer.
        raise OSError(errno.EXDEV, "the new upperdir is on another file system")
    homes = [os.fstat(fs.parts().upper.workdir.home_fd)]
    try:
        homes.append(os.stat(HOME, dir_fd=work_fd, follow_symlinks=False))
    except FileNotFoundError:
        pass
    if given.st_ino == present.root.stat().st_ino or (len(homes) > 1 and os.path.samestat(*homes)):
        raise OSError(errno.EINVAL, "the new upperdir and workdir are the present ones")
    if os.listdir(b"/proc/self/fd/%d" % upper_fd):
        raise OSError(errno.ENOTEMPTY, "the new upperdir is not empty")

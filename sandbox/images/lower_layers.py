"""Look up objects in the layers below the one that is being unpacked, and copy files from them.

An archive may name files of the layers below: as targets of hard links, and as directories that it does not list itself. The
lower layers are unpacked trees with whiteouts, or indexes of layers that are not unpacked. :func:`sandbox.images.direct_bind.look`
and `ArchiveNames.look` find what each has at a path, without following symbolic links. The caller owns all descriptors of trees.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from sandbox.images.archive_names import ArchiveNames
from sandbox.images.attributes import is_unpacked
from sandbox.images.destination import RefusedError
from sandbox.images.direct_bind import LayerRoot, Seen, look, open_below
from sandbox.images.names import printable
from sandbox.images.tar import Kind, Member
from unionfs._stdlib.typing import NamedTuple

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFDIR: Kind.DIRECTORY,
}
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# copy_file_range(2): other file systems, or one that cannot copy inside the kernel
_NOT_BY_RANGE = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_AT_ONCE = 1 << 30  # bytes of one call; all of them take at most 2 GiB


class Found(NamedTuple):
    """An object of a lower layer: the open directory that contains it, its name there, and its attributes as of a member."""

    parent_fd: int
    leaf: bytes
    member: Member
    #: Device and inode, which are the same for all its names.
    identity: tuple[int, int]


class LowerLayers:
    """The trees below the one that is being unpacked. The unpacker of one archive creates it; nothing has to be closed."""

    def __init__(
        self,
        own: int | None,
        below: Sequence[int | ArchiveNames],
        until_complete: Callable[[], None] = lambda: None,
    ) -> None:
        """Use the tree *own*, whose whiteouts hide lower objects, and the layers *below*, topmost first: trees or indexes.

        Without *own*, the caller does not look up what its layer hides. *until_complete* is called before the first look at the
        layers below, and returns when they are complete: other processes may be unpacking them at the same time.
        """
        self._until_complete = until_complete
        self._own = None if own is None else LayerRoot(fd=own, name="", marks="aufs")
        self._below = [_root(one) for one in below]
        #: Whether there are layers below.
        self.exist = bool(below)
        #: Whether the content of a lower layer has been asked for, so that the unpacked tree depends on it.
        self.used = False

    def _used(self) -> list[LayerRoot | ArchiveNames]:
        """Return the layers below, complete, because the caller looks into them."""
        if not self.used:
            self._until_complete()
            self.used = True  # also if there is no layer below: over one, the tree may be another
        return self._below

    @contextmanager
    def file(self, path: bytes) -> Iterator[Found | None]:
        """Yield the file, symbolic link or FIFO that the union of the lower layers has at *path*; None if there is none.

        *path* is relative to the root, without superfluous slashes. The directory of the result is open within the context.

        Raises:
            RefusedError: *path* is a directory, or a file of a layer that is not unpacked.
            OSError: a lower layer cannot be read.
        """
        wanted = "/" + os.fsdecode(path)
        assert self._own is not None
        tree = self._tree_of(wanted) if look(self._own, wanted).kind == "nothing" else None
        if tree is None:
            yield None
            return
        parent, _, leaf = path.rpartition(b"/")
        parent_fd = open_below(tree.fd, os.fsdecode(parent))
        try:
            yield _found(parent_fd, leaf, path)
        finally:
            os.close(parent_fd)

    def _tree_of(self, path: str) -> LayerRoot | None:
        """Return the topmost lower layer with a file, link or FIFO at *path*, unless a layer above that one hides it."""
        for tree in self._used():
            seen = _look(tree, path)
            if seen.kind == "nothing":
                continue
            if seen.kind == "directory":
                raise RefusedError("a hard link to a directory")
            if seen.kind not in {"link", "other"} or seen.at != path:
                return None
            if isinstance(tree, ArchiveNames):
                raise RefusedError(
                    f"a hard link to {printable(os.fsencode(path))}, a file of a layer below that is not unpacked"
                )
            return tree
        return None

    def directory(self, path: bytes) -> Member | None:
        """Return the attributes of the directory that the union of the lower layers has at *path*; None if there is none.

        *path* is that of a directory of the layer that is being unpacked, relative to the root.

        Raises:
            OSError: a lower layer cannot be read.
        """
        wanted = "/" + os.fsdecode(path)
        if self._below and self._own is not None and look(self._own, wanted).covers:
            return None
        for tree in self._used():
            seen = _look(tree, wanted)
            if seen.kind == "directory":
                if isinstance(tree, ArchiveNames):
                    return _indexed(tree, wanted, path)
                fd = open_below(tree.fd, wanted)
                try:
                    return _member(fd, b".", path, os.fstat(fd))
                finally:
                    os.close(fd)
            if seen.kind != "nothing":
                return None
        return None


def _root(layer: int | ArchiveNames) -> LayerRoot | ArchiveNames:
    return LayerRoot(fd=layer, name="", marks="aufs") if isinstance(layer, int) else layer


def _look(layer: LayerRoot | ArchiveNames, path: str) -> Seen:
    return layer.look(path) if isinstance(layer, ArchiveNames) else look(layer, path)


def _indexed(names: ArchiveNames, wanted: str, path: bytes) -> Member | None:
    found = names.attributes(wanted)
    if found is None:
        return None
    return Member(
        name=path,
        kind=Kind.DIRECTORY,
        mode=found.mode,
        uid=found.uid,
        gid=found.gid,
        mtime_ns=found.mtime_ns,
        size=0,
        xattrs=found.xattrs,
    )


def _found(parent_fd: int, leaf: bytes, path: bytes) -> Found | None:
    info = os.stat(leaf, dir_fd=parent_fd, follow_symlinks=False)
    member = _member(parent_fd, leaf, path, info)
    if member is None:
        return None  # a device or a socket, which no layer contains
    return Found(parent_fd, leaf, member, (info.st_dev, info.st_ino))


def _member(parent_fd: int, leaf: bytes, path: bytes, info: os.stat_result) -> Member | None:
    kind = _KINDS.get(stat.S_IFMT(info.st_mode))
    if kind is None:
        return None
    # llistxattr(2) takes no directory descriptor; *leaf* is one component, and is not followed.
    place = b"/proc/self/fd/%d/%s" % (parent_fd, leaf)
    return Member(
        name=path,
        kind=kind,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime_ns=info.st_mtime_ns,
        size=info.st_size if kind is Kind.FILE else 0,
        link=os.readlink(leaf, dir_fd=parent_fd) if kind is Kind.SYMLINK else b"",
        xattrs=_xattrs(place),
    )


def _xattrs(place: bytes) -> dict[bytes, bytes]:
    try:
        names = [os.fsencode(name) for name in os.listxattr(place, follow_symlinks=False)]
    except OSError as error:
        if error.errno == errno.ENOTSUP:  # the file system has none
            return {}
        raise
    return {name: os.getxattr(place, name, follow_symlinks=False) for name in names if is_unpacked(name)}


def copy_content(found: Found, target_fd: int) -> int:
    """Copy the content of the file *found* to the empty file *target_fd*; return the number of bytes without holes.

    Raises:
        OSError: reading or writing fails.
    """
    source_fd = os.open(found.leaf, _READ, dir_fd=found.parent_fd)
    copied = 0
    try:
        position = 0
        while position < found.member.size:
            try:
                start = os.lseek(source_fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole follows
                    break
                raise
            position = os.lseek(source_fd, start, os.SEEK_HOLE)
            copied += _copy_range(source_fd, target_fd, start, position)
        os.ftruncate(target_fd, found.member.size)
    finally:
        os.close(source_fd)
    return copied


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> int:
    position, in_kernel = start, True
    while position < end:
        count = min(end - position, _AT_ONCE)
        try:
            if in_kernel:
                done = os.copy_file_range(source_fd, target_fd, count, position, position)
            else:
                os.lseek(target_fd, position, os.SEEK_SET)
                done = os.sendfile(target_fd, source_fd, position, count)
        except OSError as error:
            if not in_kernel or error.errno not in _NOT_BY_RANGE:
                raise
            in_kernel = False
            continue
        if done == 0:
            raise OSError(errno.EIO, "a file of a lower layer became shorter while it was copied")
        position += done
    return end - start

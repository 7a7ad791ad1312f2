"""A union over directories of a test, used in this process and without a mount. Its methods send, by path, the
requests of the kernel.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from tests.support.requirements import require
from tests.support.tree import Tree, make_tree
from unionfs.assemble import LayerSource, StackSource, build_indexes, open_stack
from unionfs.errors import UnionError
from unionfs.formats.whiteout import ALL_MARKS, NO_MARKS, MarkPolicy, WhiteoutFormat
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.layer.ownership import IdPolicy
from unionfs.layer_index import build
from unionfs.upper.format import WantedFormat
from unionfs.vfs.attributes import Attributes, Change
from unionfs.vfs.file_ranges import RangeAllocation, RangeCopy
from unionfs.vfs.filesystem import UnionFs, WritableParts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


#: Build and use indexes of lower layers in every test.
INDEXED = os.environ.get("UNIONFS_TEST_INDEX") == "1"
if INDEXED:
    build._TICK_NS = 0  # trees are used right after their creation: do not wait for older timestamps


def with_index(source: StackSource, base: Path, *, indexed: bool = INDEXED) -> StackSource:
    """Return *source*; if *indexed*, with an index of its lower layers that is built now below *base*."""
    if not indexed:
        return source
    (base / "indexes").mkdir(mode=0o700, exist_ok=True)
    source = replace(
        source,
        lowers=tuple(replace(lower, indexed=True) for lower in source.lowers),
        index_fd=os.open(base / "indexes", _OPEN_DIR),
    )
    build_indexes(source, wait=True)
    return source


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The properties of one object in the union; None if it has no such property, or if it was not requested."""

    mode: int
    uid: int
    gid: int
    ino: int | None
    nlink: int | None
    data: bytes | None
    target: bytes | None
    size: int | None
    rdev: int
    mtime_ns: int | None
    xattrs: tuple[tuple[str, bytes], ...]


class StackOptions(TypedDict, total=False):
    """Fields of :class:`~unionfs.assemble.StackSource` that few tests set."""

    ids: IdPolicy
    volatile: bool
    static_nlink: bool
    size: int | None
    inodes: int | None


class Union:
    """One stack on disk and its file system, which can be closed and opened again."""

    def __init__(
        self,
        base: Path,
        lowers: Sequence[Tree],
        upper: Tree | None,
        *,
        whiteouts: WhiteoutFormat | None = None,
        form: WantedFormat | None = None,
        policy: MarkPolicy = ALL_MARKS,
        more: StackOptions | None = None,
        skeleton: Tree | None = None,
        indexed: bool = INDEXED,
    ) -> None:
        """Write *lowers*, ordered top first, and *upper* (None: read-only) below *base*, and open them.

        *whiteouts* stands for a *form* with this format only. *skeleton* is the generated layer below all others. With
        *indexed* the lower layers have an index.
        """
        self.indexed = indexed
        self.skeleton: Path | None = None
        if skeleton is not None:
            self.skeleton = base / "skeleton"
            make_tree(self.skeleton, skeleton)
        paths = [base / f"lower{position}" for position in range(len(lowers))]
        for path, tree in zip(paths, lowers, strict=True):
            make_tree(path, tree)
        if upper is not None:
            make_tree(base / "upper", upper)
            (base / "work").mkdir()
        self._set(
            base,
            paths,
            form or WantedFormat(whiteouts=whiteouts),
            policy,
            writable=upper is not None,
            more=more,
        )

    @classmethod
    def over(cls, base: Path, lowers: Sequence[Path], form: WantedFormat) -> Union:
        """Open an existing stack: *lowers*, and ``upper`` and ``work`` below *base*."""
        union = cls.__new__(cls)
        union.indexed, union.skeleton = INDEXED, None
        union._set(base, lowers, form, ALL_MARKS, writable=True)
        return union

    def _set(
        self,
        base: Path,
        lowers: Sequence[Path],
        form: WantedFormat,
        policy: MarkPolicy,
        *,
        writable: bool,
        more: StackOptions | None = None,
    ) -> None:
        self.lowers = list(lowers)
        self.upper = base / "upper"
        self.work = base / "work"
        self.writable = writable
        self.form = form
        self.policy = policy
        #: Other options of the stack, which the next :meth:`reopen` applies.
        self.more: StackOptions = more or {}
        self.fs = self._open()

    def _open(self) -> UnionFs:
        lowers = tuple(LayerSource(fd=os.open(path, _OPEN_DIR), policy=self.policy) for path in self.lowers)
        if self.skeleton is not None:
            bottom = os.open(self.skeleton, _OPEN_DIR)
            lowers = (*lowers, LayerSource(fd=bottom, policy=NO_MARKS, skeleton=True))
        if not self.writable:
            return open_stack(with_index(StackSource(lowers=lowers), self.work.parent, indexed=self.indexed))
        source = StackSource(
            lowers=lowers,
            upper_fd=os.open(self.upper, _OPEN_DIR),
            work_fd=os.open(self.work, _OPEN_DIR),
            form=self.form,
            **self.more,
        )
        try:
            return open_stack(with_index(source, self.work.parent, indexed=self.indexed))
        except UnionError as error:
            if "does not support overlay whiteouts" in str(error):
                require("whiteouts")
            raise

    def close(self) -> None:
        """Close the file system. The directories stay."""
        self.fs.close()

    def reopen(self) -> None:
        """Close and open the file system, as a remount does."""
        self.fs.close()
        self.fs = self._open()

    @property
    def parts(self) -> WritableParts:
        """The parts of the writable layer."""
        assert self.fs.writable is not None
        return self.fs.writable

    # -- reading -----------------------------------------------------------------------------------

    def inode(self, path: str) -> Inode:
        """Look up *path*, one name after the other."""
        inode: Inode = self.fs.inode_table.root
        for name in filter(None, os.fsencode(path).split(b"/")):
            assert isinstance(inode, DirectoryInode)
            inode = self.fs.inode_table.lookup(inode, name)
        return inode

    def directory(self, path: str) -> DirectoryInode:
        """Look up a directory."""
        inode = self.inode(path)
        assert isinstance(inode, DirectoryInode)
        return inode

    def file(self, path: str) -> FileInode:
        """Look up a non-directory."""
        inode = self.inode(path)
        assert isinstance(inode, FileInode)
        return inode

    def exists(self, path: str) -> bool:
        """Return whether *path* exists."""
        try:
            self.inode(path)
        except FileNotFoundError:
            return False
        return True

    def stat(self, path: str) -> Attributes:
        """Return the attributes of *path*."""
        return self.fs.attributes.of(self.inode(path))

    def names(self, path: str = "") -> list[str]:
        """Return the names in *path*, sorted, without ``.`` and ``..``."""
        number = self.fs.directories.open(self.inode(path).ino)
        try:
            return sorted(
                os.fsdecode(name) for name, _, after in self.fs.directories.entries(number, 0) if after > 2
            )
        finally:
            self.fs.handles.close_directory(number)

    def read(self, path: str) -> bytes:
        """Return the contents of *path*."""
        inode = self.file(path)
        number = self.fs.files.open(inode.ino, os.O_RDONLY)
        try:
            # The kernel does not read beyond the end of the file.
            return self.fs.files.read(number, 0, min(1 << 20, self.fs.attributes.of(inode).size))
        finally:
            self.fs.handles.close_file(number)

    def show(self, *, ino: bool = False, nlink: bool = True) -> dict[str, Shown]:
        """Return all objects of the union, by path, without the times of directories."""
        found: dict[str, Shown] = {}
        pending = [""]
        while pending:
            path = pending.pop()
            found[path] = self._shown(path, ino=ino, nlink=nlink)
            if stat.S_ISDIR(found[path].mode):
                pending += [f"{path}/{name}" for name in self.names(path)]
        return found

    def _shown(self, path: str, *, ino: bool, nlink: bool) -> Shown:
        inode = self.inode(path)
        attributes = self.fs.attributes.of(inode)
        is_dir, is_file = stat.S_ISDIR(attributes.mode), stat.S_ISREG(attributes.mode)
        return Shown(
            mode=attributes.mode,
            uid=attributes.uid,
            gid=attributes.gid,
            ino=attributes.ino if ino else None,
            nlink=attributes.nlink if nlink and not is_dir else None,
            data=self.read(path) if is_file else None,
            target=self.fs.files.readlink(inode.ino) if stat.S_ISLNK(attributes.mode) else None,
            size=attributes.size if is_file else None,
            rdev=attributes.rdev,
            mtime_ns=None if is_dir else attributes.mtime_ns,
            xattrs=tuple(
                (name, self.fs.xattrs.get(inode.ino, name)) for name in self.fs.xattrs.list(inode.ino)
            ),
        )

    # -- changing ----------------------------------------------------------------------------------

    def _split(self, path: str) -> tuple[DirectoryInode, bytes]:
        parent, _, name = path.rpartition("/")
        return self.directory(parent), os.fsencode(name)

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """Open a file, and return the number of the handle."""
        return self.fs.files.open(self.file(path).ino, flags)

    def write(self, path: str, data: bytes, offset: int = 0) -> None:
        """Write to an existing file."""
        number = self.open(path, os.O_WRONLY)
        try:
            assert self.fs.files.write(number, offset, data) == len(data)
        finally:
            self.fs.handles.close_file(number)

    def create(
        self, path: str, data: bytes = b"", mode: int = 0o644, by: tuple[int, int] | None = None
    ) -> None:
        """Create a regular file with *data*, for a caller with the user and group *by*."""
        parent, name = self._split(path)
        number, _ = self.fs.files.create(parent.ino, name, mode, os.O_RDWR, by or owner())
        try:
            if data:
                self.fs.files.write(number, 0, data)
        finally:
            self.fs.handles.close_file(number)

    def allocate(self, path: str, mode: int, offset: int, length: int) -> None:
        """Call fallocate(2) with *mode* for a file."""
        number = self.open(path, os.O_RDWR)
        try:
            change = RangeAllocation(self.fs, self.fs.handles.file(number), mode, offset, length)
            change.run()
            change.finish()
        finally:
            self.fs.handles.close_file(number)

    def copy_range(self, source: str, target: str, offset: int, at: int, length: int) -> int:
        """Call copy_file_range(2) for two files. Return the number of copied bytes."""
        numbers = [self.open(target, os.O_RDWR)]
        try:
            numbers.append(self.open(source))
            writing, reading = (self.fs.handles.file(number) for number in numbers)
            copy = RangeCopy(self.fs, reading, offset, writing, at, length)
            copy.run()
            copy.finish()
            return copy.done
        finally:
            for number in numbers:
                self.fs.handles.close_file(number)

    def link_unnamed(
        self, path: str, data: bytes = b"", mode: int = 0o644, by: tuple[int, int] | None = None
    ) -> None:
        """Create a file without a name, write *data*, and link it to *path*."""
        parent, name = self._split(path)
        number, inode = self.fs.files.create_unnamed(parent, mode, os.O_RDWR, by or owner())
        try:
            self.fs.files.write(number, 0, data)
            self.fs.names.link(inode, parent, name)
        finally:
            self.fs.handles.close_file(number)
            self.fs.inode_table.settle()

    def mkdir(self, path: str, mode: int = 0o755, by: tuple[int, int] | None = None) -> None:
        """Create a directory."""
        parent, name = self._split(path)
        self.fs.names.mkdir(parent, name, mode, by or owner())

    def mknod(self, path: str, mode: int, rdev: int = 0, by: tuple[int, int] | None = None) -> None:
        """Create a special file."""
        parent, name = self._split(path)
        self.fs.names.mknod(parent, name, mode, rdev, by or owner())

    def symlink(self, path: str, target: str, by: tuple[int, int] | None = None) -> None:
        """Create a symbolic link."""
        parent, name = self._split(path)
        self.fs.names.symlink(parent, name, os.fsencode(target), by or owner())

    def link(self, existing: str, path: str) -> None:
        """Create a hard link."""
        parent, name = self._split(path)
        self.fs.names.link(self.file(existing), parent, name)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        parent, name = self._split(path)
        self.fs.names.unlink(parent, name)

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        parent, name = self._split(path)
        self.fs.names.rmdir(parent, name)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """Rename."""
        old_parent, old_name = self._split(old)
        new_parent, new_name = self._split(new)
        self.fs.names.rename(old_parent, old_name, new_parent, new_name, flags)

    def chmod(self, path: str, mode: int) -> None:
        """Change the mode."""
        self.fs.attributes.change(self.inode(path).ino, Change(mode=mode), None)

    def chown(self, path: str, uid: int | None, gid: int | None) -> None:
        """Change the owner."""
        self.fs.attributes.change(self.inode(path).ino, Change(uid=uid, gid=gid), None)

    def utime(self, path: str, mtime_ns: int) -> None:
        """Change the modification time."""
        self.fs.attributes.change(self.inode(path).ino, Change(mtime_ns=mtime_ns), None)

    def truncate(self, path: str, size: int) -> None:
        """Change the size."""
        self.fs.attributes.change(self.inode(path).ino, Change(size=size), None)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        """Set an extended attribute."""
        self.fs.xattrs.set(self.inode(path).ino, name, value)

    # -- on disk -----------------------------------------------------------------------------------

    def leftovers(self) -> list[str]:
        """Return the temporary names in the work directory."""
        return os.listdir(self.work / "unionfs" / "tmp")

    def index(self) -> list[str]:
        """Return the entries of the link index."""
        return sorted(os.listdir(self.work / "unionfs" / "index"))


def owner() -> tuple[int, int]:
    """Return the ids of this account, as those of the caller of a request."""
    return os.geteuid(), os.getegid()

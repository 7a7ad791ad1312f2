"""Changes of names: making, linking, renaming and removing entries of the union. Synchronous; each call is
atomic to the others.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from unionfs import _libc
from unionfs.copyup.copyup import CopyUp
from unionfs.copyup.plan import Contents
from unionfs.formats import acl
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.inode.table import InodeTable
from unionfs.layer.directory import LayerDir
from unionfs.layer.objects import NO_XATTR, DescriptorRef, PathRef, at_path, birth_time_ns
from unionfs.layer.ownership import Ownership
from unionfs.types import Mark
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.permissions import Permissions
from unionfs.upper.quota import Quota
from unionfs.upper.upper import Maker, Upper
from unionfs.vfs.rename_plan import RENAME_EXCHANGE, End, plan_rename

_OPEN_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_SET_ID = stat.S_ISUID | stat.S_ISGID


class Names:
    """The entries of one writable mount."""

    def __init__(
        self,
        inode_table: InodeTable,
        upper: Upper,
        index: LinkIndex,
        copy_up: CopyUp,
        ownership: Ownership,
        permissions: Permissions,
        quota: Quota | None = None,
    ) -> None:
        """Join the parts; *quota* bounds what can be made."""
        self._inode_table = inode_table
        self._upper = upper
        self._index = index
        self._copy_up = copy_up
        self._ownership = ownership
        self._permissions = permissions
        self._quota = quota

    # -- making ------------------------------------------------------------------------------------

    def mknod(
        self, parent: DirectoryInode, name: bytes, mode: int, rdev: int, owner: tuple[int, int]
    ) -> FileInode:
        """Make a file, FIFO, socket or device of type and permissions *mode*. A device 0:0 is a whiteout and
        refused (EPERM).
        """
        if stat.S_ISCHR(mode) and rdev == 0:
            raise OSError(errno.EPERM, "a character device 0:0 is a whiteout", name)

        kind = self._permissions.disk_kind(stat.S_IFMT(mode), *owner)

        def make(dirfd: int, at: bytes) -> None:
            os.mknod(at, kind | stat.S_IMODE(mode) & ~_SET_ID, rdev, dir_fd=dirfd)

        return self._make(parent, name, mode, owner, make, rdev)

    def symlink(
        self, parent: DirectoryInode, name: bytes, target: bytes, owner: tuple[int, int]
    ) -> FileInode:
        """Make a symbolic link to *target*."""
        kind = self._permissions.disk_kind(stat.S_IFLNK, *self._group_of(parent, owner))

        def make(dirfd: int, at: bytes) -> None:
            if stat.S_ISLNK(kind):
                os.symlink(target, at, dir_fd=dirfd)
            else:
                fd = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dirfd)
                try:
                    os.write(fd, target)
                finally:
                    os.close(fd)

        return self._make(parent, name, stat.S_IFLNK | 0o777, owner, make)

    def create(
        self, parent: DirectoryInode, name: bytes, mode: int, flags: int, owner: tuple[int, int]
    ) -> tuple[FileInode, int]:
        """Make a regular file and open it with *flags* (access mode); returns its node and the descriptor."""
        opened = -1

        def make(dirfd: int, at: bytes) -> None:
            nonlocal opened
            making = flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            opened = os.open(at, making, stat.S_IMODE(mode) & ~_SET_ID, dir_fd=dirfd)

        try:
            kind = stat.S_IFREG | stat.S_IMODE(mode)
            return self._make(parent, name, kind, owner, make, look=lambda: os.fstat(opened)), opened
        except OSError:
            if opened >= 0:
                os.close(opened)
            raise

    def _make(
        self,
        parent: DirectoryInode,
        name: bytes,
        mode: int,
        owner: tuple[int, int],
        make: Maker,
        rdev: int = 0,
        look: Callable[[], os.stat_result] | None = None,
    ) -> FileInode:
        """Make an object with *make*; *look* at it, on disk, for less than by its name."""
        directory = self._prepare(parent, name)
        complete, whole = self._maker(parent, directory, mode, owner, make, rdev)
        blocks = self._require_room(directory)
        self._upper.create(directory, name, complete, whole=whole)
        parent.touch()
        ref = PathRef(directory, name)
        info = ref.stat() if look is None or directory.layer.policy.override_stat else look()
        node = self._inode_table.add_new_file(parent, name, ref, info)
        self._count(node, directory, blocks)
        return node

    def mkdir(self, parent: DirectoryInode, name: bytes, mode: int, owner: tuple[int, int]) -> DirectoryInode:
        """Make a directory; over a whiteout it is made opaque, or what was deleted below would show in it."""
        directory = self._prepare(parent, name)

        def make(dirfd: int, at: bytes) -> None:
            os.mkdir(at, stat.S_IMODE(mode) & ~_SET_ID, dir_fd=dirfd)

        complete, whole = self._maker(parent, directory, stat.S_IFDIR | stat.S_IMODE(mode), owner, make)
        opaque = directory.mark(name) is Mark.WHITEOUT
        blocks = self._require_room(directory)
        made = self._upper.create_directory(directory, name, complete, opaque=opaque, whole=whole)
        parent.touch()
        node = self._inode_table.add_new_directory(parent, name, made)
        self._count(node, directory, blocks)
        return node

    def _maker(
        self,
        parent: DirectoryInode,
        directory: LayerDir,
        mode: int,
        owner: tuple[int, int],
        make: Maker,
        rdev: int = 0,
    ) -> tuple[Maker, bool]:
        """Return what makes an object of *mode* (with type) for the caller *owner* in *directory*, the upper one of
        *parent*, with all that belongs to it; and whether *make* alone, which makes it without set-id bits, does there.
        """
        uid, gid, mode, inherits = self.owner_for_new(parent, owner, mode)
        whole = self._permissions.made_whole(mode, uid, gid, inherits=inherits)

        def complete(dirfd: int, at: bytes) -> None:
            make(dirfd, at)
            if whole and dirfd == directory.fd():
                return
            try:
                self._permissions.settle(dirfd, at, uid, gid, mode, rdev, inherits=inherits)
                if dirfd != directory.fd() and not directory.layer.policy.override_stat:
                    _inherit_acl(directory, dirfd, at, mode)
            except OSError:
                (os.rmdir if stat.S_ISDIR(mode) else os.unlink)(at, dir_fd=dirfd)
                raise

        return complete, whole

    def owner_for_new(
        self, parent: DirectoryInode, owner: tuple[int, int], mode: int
    ) -> tuple[int, int, int, bool]:
        """Return user, group and *mode* on disk of an object that the caller *owner* makes in *parent*, and whether
        *parent* determines the group.
        """
        above = self._owner_of(parent)
        return (*self._ownership.for_new(*owner, mode, above), bool(above[2] & stat.S_ISGID))

    def _require_room(self, directory: LayerDir, objects: int = 1) -> int:
        """See that there is room for so many *objects* more, with a name in *directory*; returns its blocks before."""
        if self._quota is None:
            return 0
        self._quota.require(1, objects)
        return directory.stat().st_blocks

    def _count(self, node: Inode | None, directory: LayerDir, blocks: int) -> None:
        """Count the new object *node*, if it is one, and what *directory*, which had *blocks*, has grown by its name."""
        if self._quota is not None:
            if node is not None:
                self._quota.made(node.info or node.ref.stat())
            self._quota.changed(blocks, directory.stat().st_blocks)

    def link(self, node: FileInode, parent: DirectoryInode, name: bytes) -> FileInode:
        """Give *node* the additional name *name* in *parent*."""
        directory = self._prepare(parent, name)
        self._copy_up.file(node, Contents.LATER)
        self._copy_up.settle_contents(node)
        if not self._permissions.holds_any_owner(node.ref, node.kind):
            self._copy_up.remake(node, links=2)
        blocks = self._require_room(directory, 0)
        self._upper.create(directory, name, lambda dirfd, at: _link(node, dirfd, at))
        self._count(None, directory, blocks)
        node.touch()
        parent.touch()
        self._inode_table.attach(node, parent, name)
        return node

    def _prepare(self, parent: DirectoryInode, name: bytes) -> LayerDir:
        """Check that *name* can be made in *parent* and give *parent* a directory in the upper layer."""
        if parent.removed:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        self._upper.refuse_reserved(name)
        if self._inode_table.exists(parent, name):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self._copy_up.directory(parent)
        directory = parent.upper
        assert directory is not None
        return directory

    def _group_of(self, parent: DirectoryInode, owner: tuple[int, int]) -> tuple[int, int]:
        uid, gid, _ = self._ownership.for_new(*owner, 0, self._owner_of(parent))
        return uid, gid

    def _owner_of(self, node: DirectoryInode) -> tuple[int, int, int]:
        info = node.info
        if info is None:
            info = node.info = node.parts[0].stat()
        return self._ownership.for_copy(info, node.parts[0].layer)

    # -- removing ----------------------------------------------------------------------------------

    def unlink(self, parent: DirectoryInode, name: bytes) -> None:
        """Remove the name of a non-directory; the object lives on while it is open or has other names."""
        node = self._inode_table.lookup(parent, name)
        if not isinstance(node, FileInode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        self._copy_up.directory(parent)
        directory = parent.upper
        assert directory is not None
        lower = self._inode_table.below(parent, name) is not None
        in_upper = directory.mark(name) is Mark.OTHER
        with self._kept_reachable(node, parent, name):
            if in_upper:
                self._upper.remove(directory, name, whiteout=lower)
            elif lower and directory.mark(name) is None:
                self._upper.whiteout(directory, name)
        self._inode_table.drop_from_skeleton(parent, name)
        self._inode_table.detach(parent, name)
        parent.touch()
        self._lost_name(node, was_link=in_upper)
        self._inode_table.drop_if_unused(node)

    def rmdir(self, parent: DirectoryInode, name: bytes) -> None:
        """Remove an empty directory."""
        node = self._inode_table.lookup(parent, name)
        if not isinstance(node, DirectoryInode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        if not self._inode_table.is_empty(node):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
        self._copy_up.directory(parent)
        directory = parent.upper
        assert directory is not None
        lower = self._inode_table.below(parent, name) is not None
        with self._kept_reachable(node, parent, name):
            if node.upper is not None:
                self._upper.remove_directory(directory, name, whiteout=lower)
            elif lower and directory.mark(name) is None:
                self._upper.whiteout(directory, name)
        self._inode_table.drop_from_skeleton(parent, name)
        self._inode_table.detach(parent, name)
        node.touch()
        parent.touch()
        self._inode_table.drop_if_unused(node)

    @contextmanager
    def _kept_reachable(self, node: Inode, parent: DirectoryInode, name: bytes) -> Iterator[None]:
        """While *name* goes: see that *node* can be reached without it after, and as before if it stays.

        A directory keeps its descriptor; a file is reached by another of its names, or by descriptor.
        """
        if isinstance(node, DirectoryInode):
            top = node.parts[0]
            if top.foreign:
                yield
                return
            top.pin()
            try:
                yield
            except BaseException:
                top.unpin()
                raise
            return
        before = node.ref
        self._leave_name(node, parent, name)
        try:
            yield
        except BaseException:
            if isinstance(node.ref, DescriptorRef) and node.ref is not before:
                node.ref.close()
            node.ref = before
            raise

    def _leave_name(self, node: FileInode, parent: DirectoryInode, name: bytes) -> None:
        ref = node.ref
        if not isinstance(ref, PathRef) or ref.directory is not parent.upper or ref.name != name:
            return
        for other, other_name in node.names:
            upper = other.upper
            if (
                upper is not None
                and (other, other_name) != (parent, name)
                and upper.mark(other_name) is Mark.OTHER
            ):
                node.ref = PathRef(upper, other_name)
                return
        node.ref = DescriptorRef(os.open(name, _OPEN_PATH, dir_fd=ref.directory.fd()), ref.directory.layer)

    def _lost_name(self, node: FileInode, *, was_link: bool) -> None:
        """After a name of *node* is gone: bring the index up to date. Where that fails the entry stays, or counts a
        name too many.
        """
        with suppress(OSError):
            self._count_lost_name(node, was_link=was_link)
        node.touch()

    def _count_lost_name(self, node: FileInode, *, was_link: bool) -> None:
        if node.indexed:
            if not was_link:
                node.ref = self._index.lose_lower_name(node.ino) or node.ref
            if node.ref.stat().st_nlink == 1 and self._index.lower_names(node.ino) == 0:
                assert isinstance(node.ref, PathRef)
                at = node.ref.directory
                pinned = DescriptorRef(os.open(node.ref.name, _OPEN_PATH, dir_fd=at.fd()), at.layer)
                self._index.remove(node.ino)
                node.ref, node.indexed = pinned, False
        elif not node.layer.writable:
            links = node.ref.stat().st_nlink
            lasting = self._inode_table.numbers.lasts(node.ino)
            if links > self._index.lost_names(node.ino) + 1:
                self._index.lose_name(node.ino, lasting=lasting, born=birth_time_ns(node.ref))
            else:
                self._index.settle_lost_names(node.ino)

    # -- renaming ----------------------------------------------------------------------------------

    def rename(
        self, old: DirectoryInode, old_name: bytes, new: DirectoryInode, new_name: bytes, flags: int
    ) -> None:
        """Rename as renameat2(2) with *flags* 0, RENAME_NOREPLACE or RENAME_EXCHANGE.

        Raises:
            OSError: as :func:`~unionfs.vfs.rename_plan.plan_rename`, or what the file system below says.
        """
        self._upper.refuse_reserved(new_name)
        if new.removed:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), new_name)
        source = self._inode_table.lookup(old, old_name)
        target = self._inode_table.lookup(new, new_name) if self._inode_table.exists(new, new_name) else None
        moved = (source, target if flags & RENAME_EXCHANGE else None)
        # What the skeleton has of a directory cannot move along: EXDEV, and the caller copies it.
        kept = any(isinstance(node, DirectoryInode) and node.skeleton is not None for node in moved)
        plan = plan_rename(
            self._end(old, old_name, source),
            self._end(new, new_name, target, replaced=not flags & RENAME_EXCHANGE),
            flags,
            redirects=self._upper.redirect and not kept,
        )
        if source is target:  # two names of one file: rename(2) does nothing then
            return
        _refuse_loop(source, new)
        if plan.exchange:
            assert target is not None
            _refuse_loop(target, old)
        self._copy_up.directory(old)
        self._copy_up.directory(new)
        old_dir, new_dir = old.upper, new.upper
        assert old_dir is not None
        assert new_dir is not None
        if plan.copy_up:
            self._put_in_upper(source, old, old_name)
        self._keep_below(source, old is new, redirect=plan.redirect)
        if plan.opaque:
            self._make_opaque(old_dir, old_name)
        if plan.exchange:
            assert target is not None
            if plan.copy_up_second:
                self._put_in_upper(target, new, new_name)
            self._keep_below(target, old is new, redirect=plan.redirect_second)
            if plan.opaque_second:
                self._make_opaque(new_dir, new_name)
            self._upper.exchange((old_dir, old_name), (new_dir, new_name))
            self._swap(old, old_name, new, new_name)
        else:
            self._move(source, (old, old_name), target, (new, new_name), whiteout=plan.whiteout)
        self._inode_table.drop_from_skeleton(old, old_name)
        self._inode_table.drop_from_skeleton(new, new_name)
        for node in (old, new, source, target):
            if node is not None:
                node.touch()
        if target is not None and not plan.exchange:
            self._inode_table.drop_if_unused(target)

    def _move(
        self,
        source: Inode,
        start: tuple[DirectoryInode, bytes],
        target: Inode | None,
        end: tuple[DirectoryInode, bytes],
        *,
        whiteout: bool,
    ) -> None:
        """Rename *source*, which is in the upper layer, over *target*."""
        (old, old_name), (new, new_name) = start, end
        old_dir, new_dir = old.upper, new.upper
        assert old_dir is not None
        assert new_dir is not None
        was_link = new_dir.mark(new_name) is Mark.OTHER
        with ExitStack() as keeping:
            if target is not None:
                keeping.enter_context(self._kept_reachable(target, new, new_name))
            self._upper.rename(
                (old_dir, old_name),
                (new_dir, new_name),
                whiteout=whiteout,
                is_dir=isinstance(source, DirectoryInode),
            )
        if target is not None:
            self._inode_table.detach(new, new_name)
        self._inode_table.move(old, old_name, new, new_name)
        if isinstance(source, FileInode) and _is_at(source, old_dir, old_name):
            source.ref = PathRef(new_dir, new_name)
        if isinstance(target, FileInode):
            self._lost_name(target, was_link=was_link)

    def _end(self, parent: DirectoryInode, name: bytes, node: Inode | None, *, replaced: bool = False) -> End:
        lower = self._inode_table.below(parent, name) is not None
        if node is None:
            return End(exists=False, lower_has_name=lower)
        upper = parent.upper
        in_upper = upper is not None and upper.mark(name) not in (None, Mark.WHITEOUT)
        if isinstance(node, DirectoryInode):
            return End(
                exists=True,
                is_dir=True,
                merged_below=not node.parts[-1].layer.writable,
                in_upper=in_upper,
                lower_has_name=lower,
                # Only asked of what is replaced, as it means to read the directory.
                empty=not replaced or self._inode_table.is_empty(node),
            )
        return End(exists=True, in_upper=in_upper, lower_has_name=lower)

    def _put_in_upper(self, node: Inode, parent: DirectoryInode, name: bytes) -> None:
        """See that *name* of *parent* is an entry of the upper layer, for a copied hard link by one more link
        to the copy. Of a directory no contents are copied, and of a large file neither.
        """
        if isinstance(node, DirectoryInode):
            self._copy_up.directory(node)
            return
        self._copy_up.file(node, Contents.LATER)
        directory = parent.upper
        assert directory is not None
        if directory.mark(name) is not Mark.OTHER:
            self._upper.create(directory, name, lambda dirfd, at: _link(node, dirfd, at))
            if node.indexed:
                node.ref = self._index.lose_lower_name(node.ino) or node.ref

    def _keep_below(self, node: Inode, same_parent: bool, *, redirect: bool) -> None:
        """Before *node* of the upper layer moves: see that what the layers below have of it is found from there."""
        if isinstance(node, FileInode):
            self._copy_up.settle_contents(node)
        elif redirect:
            directory = node.upper
            assert directory is not None
            present = directory.redirected()
            if present is not None and (same_parent or present.startswith(b"/")):
                return
            place = node.name if same_parent else self._inode_table.lower_path(node)
            blocks = self._require_room(directory, 0)
            self._upper.set_redirect(directory, place)
            self._count(None, directory, blocks)

    def _make_opaque(self, directory: LayerDir, name: bytes) -> None:
        self._upper.marks.set_opaque(directory.fd(), name)
        directory.child(name).note_opaque()

    def _swap(self, old: DirectoryInode, old_name: bytes, new: DirectoryInode, new_name: bytes) -> None:
        placeholder = b"/exchange"  # no name holds a slash, so none is in the way
        old_dir, new_dir = old.upper, new.upper
        assert old_dir is not None
        assert new_dir is not None
        first, second = old.children[old_name], new.children[new_name]
        self._inode_table.move(old, old_name, new, placeholder)
        self._inode_table.move(new, new_name, old, old_name)
        self._inode_table.move(new, placeholder, new, new_name)
        moved_first = isinstance(first, FileInode) and _is_at(first, old_dir, old_name)
        moved_second = isinstance(second, FileInode) and _is_at(second, new_dir, new_name)
        if moved_first and isinstance(first, FileInode):
            first.ref = PathRef(new_dir, new_name)
        if moved_second and isinstance(second, FileInode):
            second.ref = PathRef(old_dir, old_name)


def _inherit_acl(directory: LayerDir, dirfd: int, name: bytes, mode: int) -> None:
    """Give the object *name*, made with *mode* outside of *directory*, what making it there would have given it."""
    if stat.S_ISLNK(mode):
        return
    try:
        default = os.getxattr(directory.proc_path(), acl.DEFAULT)
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        return
    path = at_path(dirfd, name)
    access, mode = acl.inherit(default, mode)
    os.chmod(path, stat.S_IMODE(mode))
    if access is not None:
        os.setxattr(path, acl.ACCESS, access, follow_symlinks=False)
    if stat.S_ISDIR(mode):
        os.setxattr(path, acl.DEFAULT, default, follow_symlinks=False)


def _refuse_loop(node: Inode, parent: DirectoryInode) -> None:
    """Raise EINVAL if *node* is *parent* or above it: it would become its own descendant."""
    at: DirectoryInode | None = parent
    while at is not None:
        if at is node:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        at = at.parent


def _is_at(node: FileInode, directory: LayerDir, name: bytes) -> bool:
    return isinstance(node.ref, PathRef) and node.ref.directory is directory and node.ref.name == name


def _link(node: FileInode, dirfd: int, name: bytes) -> None:
    ref = node.ref
    if isinstance(ref, DescriptorRef):
        _libc.link_fd(ref.fd, dirfd, name)
    else:
        os.link(ref.name, name, src_dir_fd=ref.directory.fd(), dst_dir_fd=dirfd, follow_symlinks=False)

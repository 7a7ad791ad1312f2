"""Write the members of a tar archive below a directory descriptor, and nowhere else.

The archive is untrusted: this module resolves its paths, never the kernel. Each component of a path is opened from its
parent's descriptor with O_NOFOLLOW. A symbolic link on the way to a member is read here and resolved with the destination as
its root, as containerd, umoci and (in a chroot) containers/storage do. The last component is never followed. A member with
`..` in its name is refused. Absolute names are relative to the destination, as for tar -x.

Unpacking runs in a child process with id 0 of a user namespace. So it cannot create device nodes, or set owners that the
namespace does not map. Whiteouts (`.wh.*`) are unpacked like any other file; the server of the layer interprets them.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.errors import ImageError
from sandbox.images.attributes import ACLS, AttributeRefusedError, set_attribute
from sandbox.images.directories import NO_XATTRS, Directory
from sandbox.images.names import printable
from sandbox.images.report import UnpackReport
from sandbox.images.tar import Archive, Kind, Member
from sandbox.kernel.trees import remove_contents
from unionfs._stdlib.typing import NamedTuple

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Bytes of a path without its final zero (limits.h): no program could name a file with a longer one.
_PATH_MAX = 4095
_MAX_LINKS = 40  # symbolic links in one path (path_resolution(7))
_MAX_LINKED = 255  # components of the targets of these links: a short path must not lead through thousands of directories
_MAX_OPEN = 128  # directories kept open from member to member
_MAX_ID = 0xFFFFFFFE  # 0xFFFFFFFF means "unchanged" to chown(2)
# Seconds are 64-bit numbers; the kernel clamps times that a file system cannot store.
_MAX_TIME_NS = 10**9 << 62
_NAMES = 5  # names of left-out objects in a report

_ATTRIBUTES = 1 << 25
"""Bytes of memory for the extended attributes of directories, which are set at the end.

Equal sets of attributes are stored once: real archives have few different ones.
"""
_ATTRIBUTE_COST = 200  # bytes of memory that Python needs for an attribute besides its name and value

_FAULTS: Mapping[int, str] = {
    errno.ENAMETOOLONG: "a component of its name is longer than the file system allows",
    errno.ELOOP: "its path leads through too many symbolic links",
    errno.EINVAL: "the file system refuses it as invalid",
    errno.EFBIG: "it is larger than the file system allows",
    errno.EOVERFLOW: "it is larger than the file system allows",
    errno.EMLINK: "it is a file of more names, or a directory of more directories, than the file system allows",
}
"""Errnos that the content of the archive causes, and their messages. All other errors are raised as OSError."""


class _Place(NamedTuple):
    """An open directory of the tree. Its path is relative to the root, which is b"", and has no symbolic links, `.` or `..`."""

    path: bytes
    fd: int
    node: Directory


def unpack(archive: Archive, destination_fd: int, *, single_id: bool) -> UnpackReport:
    """Write every member of *archive* below the directory *destination_fd*, which no other process may use.

    If several members have the same name, the last one wins. Directories that the archive does not list get mode 0755 and
    owner 0. With *single_id* no owner is set, because the user namespace has only one id, and no access control list, which
    could name no other id. After an error the destination contains a part of the tree, and the caller has to remove it.

    Raises:
        ImageError: the archive is damaged, or a member cannot be unpacked: the message names the member.
        OSError: a system call fails with ENOSPC, EDQUOT, EROFS, EIO, EMFILE and so on; its filename is the member.
    """
    unpacker = _Unpacker(archive, destination_fd, single_id=single_id)
    try:
        return unpacker.run()
    finally:
        unpacker.close()


class _RefusedError(Exception):
    """A member cannot be unpacked; the text gives the reason."""


class _Unpacker:
    def __init__(self, archive: Archive, root: int, *, single_id: bool) -> None:
        self._archive = archive
        self._root = root
        self._single_id = single_id
        self._open: dict[bytes, _Place] = {}
        self._top = Directory(None)
        self._shared: dict[tuple[tuple[bytes, bytes], ...], Mapping[bytes, bytes]] = {}
        self._attributes_size = 0
        self._absent: set[bytes] = set()  # names of devices that were left out
        self._entries = 0
        self._bytes = 0
        self._devices = 0
        self._device_names: list[str] = []
        self._xattrs = 0
        self._xattr_names: list[str] = []

    def run(self) -> UnpackReport:
        for member in self._archive:
            if len(self._open) > _MAX_OPEN:
                self.close()
            try:
                self._unpack(member)
            except (_RefusedError, AttributeRefusedError, OSError) as error:
                raise self._explain(member.name, error) from error
        self.close()
        self._finish_directories()
        return UnpackReport(
            entries=self._entries,
            data_bytes=self._bytes,
            skipped_devices=self._devices,
            skipped_device_names=tuple(self._device_names),
            skipped_xattrs=self._xattrs,
            skipped_xattr_names=tuple(self._xattr_names),
        )

    def close(self) -> None:
        """Close all open directories."""
        for place in self._open.values():
            os.close(place.fd)
        self._open.clear()

    def _explain(self, name: bytes, error: Exception) -> ImageError | OSError:
        """Return an ImageError for an error that the archive caused, otherwise an OSError; both name the member."""
        if isinstance(error, OSError):
            reason = _FAULTS.get(error.errno or 0)
            if reason is None:
                return OSError(error.errno, error.strerror, printable(name))
        else:
            reason = str(error)
        return ImageError(
            f"{self._archive.name}: {printable(name or b'.')}: {reason}",
            hint="leave this member out of the archive, or pack it again",
        )

    def _unpack(self, member: Member) -> None:
        if member.left_out:
            self._skip_xattrs(member.name, *member.left_out)
        path = _relative(member.name)
        if not path:
            if member.kind is not Kind.DIRECTORY:
                raise _RefusedError("the root of a layer has to be a directory")
            self._list_directory(self._top, member)
            return
        parent, _, leaf = path.rpartition(b"/")
        place = self._directory(parent)
        path = place.path + b"/" + leaf if place.path else leaf
        parent_fd = place.fd
        if self._absent:
            self._absent.discard(path)
        match member.kind:
            case Kind.FILE:
                self._file(member, place, path, leaf)
            case Kind.DIRECTORY:
                self._list_directory(self._make_directory(place, path, leaf), member)
                return
            case Kind.HARD_LINK:
                if not self._hard_link(member, place, path, leaf):
                    return
            case Kind.SYMLINK:
                if not member.link or len(member.link) > _PATH_MAX:
                    raise _RefusedError(f"a symbolic link to {len(member.link)} bytes")
                self._replacing(place, path, leaf, lambda: os.symlink(member.link, leaf, dir_fd=parent_fd))
                self._set_unopened(member, parent_fd, leaf)
            case Kind.FIFO:
                self._replacing(place, path, leaf, lambda: os.mkfifo(leaf, 0o600, dir_fd=parent_fd))
                self._set_unopened(member, parent_fd, leaf)
            case Kind.CHARACTER_DEVICE | Kind.BLOCK_DEVICE:
                self._skip_device(member, place, path, leaf)
                return
        self._entries += 1

    # Making one member

    def _replacing(self, place: _Place, path: bytes, leaf: bytes, make: Callable[[], None]) -> None:
        """Run *make*; if *leaf* already exists, remove it and run *make* again."""
        try:
            make()
        except FileExistsError:
            self._remove(place, path, leaf)
            make()

    def _file(self, member: Member, place: _Place, path: bytes, leaf: bytes) -> None:
        try:
            fd = os.open(leaf, _NEW_FILE, 0o600, dir_fd=place.fd)
        except FileExistsError:
            # Do not overwrite the file: it may have other hard links, whose content must not change.
            self._remove(place, path, leaf)
            fd = os.open(leaf, _NEW_FILE, 0o600, dir_fd=place.fd)
        try:
            for start, piece in self._archive.data():
                position, rest = start, piece
                while rest:
                    written = os.pwrite(fd, rest, position)
                    position += written
                    rest = rest[written:]
                self._bytes += len(piece)
            if member.extents is not None:
                os.ftruncate(fd, member.size)  # for the hole at the end
            self._set_opened(member.name, fd, member)
        finally:
            os.close(fd)

    def _make_directory(self, place: _Place, path: bytes, leaf: bytes) -> Directory:
        known = place.node.child(leaf)
        if known is not None:
            return known
        try:
            os.mkdir(leaf, 0o700, dir_fd=place.fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(leaf, dir_fd=place.fd).st_mode):
                self._remove(place, path, leaf)
                os.mkdir(leaf, 0o700, dir_fd=place.fd)
        return place.node.add(leaf)

    def _list_directory(self, node: Directory, member: Member) -> None:
        node.listed = True
        node.mode, node.uid, node.gid, node.mtime_ns = member.mode, member.uid, member.gid, member.mtime_ns
        node.xattrs = self._kept_xattrs(member.xattrs)
        self._entries += 1

    def _kept_xattrs(self, xattrs: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """Return a shared mapping equal to *xattrs*, so that directories with equal attributes store them once."""
        if not xattrs:
            return NO_XATTRS
        kept = self._shared.setdefault(tuple(sorted(xattrs.items())), xattrs)
        if kept is xattrs:
            self._attributes_size += sum(
                len(name) + len(value) + _ATTRIBUTE_COST for name, value in xattrs.items()
            )
            if self._attributes_size > _ATTRIBUTES:
                raise _RefusedError(
                    f"the extended attributes of directories take more than {_ATTRIBUTES >> 20} MiB altogether"
                )
        return kept

    def _hard_link(self, member: Member, place: _Place, path: bytes, leaf: bytes) -> bool:
        """Make a hard link; return False if it is left out because its target is a device that was left out."""
        source_path = _relative(member.link)
        source_parent, _, source = source_path.rpartition(b"/")

        def link() -> None:
            source_fd = self._directory(source_parent, create=False).fd
            # Do not follow: a hard link to a symbolic link is another name of that symbolic link.
            os.link(source, leaf, src_dir_fd=source_fd, dst_dir_fd=place.fd, follow_symlinks=False)

        try:
            source_parent, source_fd, _ = self._directory(source_parent, create=False)
            source_path = source_parent + b"/" + source if source_parent else source
            if source_path in self._absent:
                self._skip_device(member, place, path, leaf)
                return False
            there = os.lstat(source, dir_fd=source_fd)
            if stat.S_ISDIR(there.st_mode):
                raise _RefusedError("a hard link to a directory")
            try:
                link()
            except FileExistsError:
                here = os.lstat(leaf, dir_fd=place.fd)
                if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
                    self._remove(place, path, leaf)
                    link()
        except (FileNotFoundError, NotADirectoryError):
            raise _RefusedError(
                f"a hard link to {printable(member.link)}, which is no earlier member"
            ) from None
        return True

    def _skip_device(self, member: Member, place: _Place, path: bytes, leaf: bytes) -> None:
        """Leave out a device node: mknod(2) fails in a user namespace, and the sandbox has its own /dev."""
        try:
            self._remove(place, path, leaf)
        except FileNotFoundError:
            pass
        self._absent.add(path)
        if not path.startswith(b"dev/"):
            self._devices += 1
            if len(self._device_names) < _NAMES:
                self._device_names.append(printable(member.name))

    # Attributes

    def _set_opened(self, name: bytes, fd: int, attributes: Member | Directory) -> None:
        """Set owner, extended attributes, mode and times, in this order.

        chown(2) and writing clear set-id bits and file capabilities.
        """
        if not self._single_id:
            self._chown(fd, None, attributes)
        for key, value in attributes.xattrs.items():
            self._set_xattr(name, fd, key, value, follow=True)
        os.fchmod(fd, attributes.mode)
        if attributes.mtime_ns is not None:
            time = _time(attributes.mtime_ns)
            os.utime(fd, ns=(time, time))

    def _set_unopened(self, member: Member, parent_fd: int, leaf: bytes) -> None:
        """Do the same by name for a symbolic link or FIFO, which this process has just created under that name."""
        if not self._single_id:
            self._chown(leaf, parent_fd, member)
        for key, value in member.xattrs.items():
            # lsetxattr(2) takes no directory descriptor. Only the last component of this path comes from the archive.
            self._set_xattr(member.name, b"/proc/self/fd/%d/%s" % (parent_fd, leaf), key, value, follow=False)
        if member.kind is not Kind.SYMLINK:
            os.chmod(leaf, member.mode, dir_fd=parent_fd)
        time = _time(member.mtime_ns)
        os.utime(leaf, ns=(time, time), dir_fd=parent_fd, follow_symlinks=False)

    def _chown(self, target: int | bytes, parent_fd: int | None, attributes: Member | Directory) -> None:
        uid, gid = attributes.uid, attributes.gid
        for what, number in (("user", uid), ("group", gid)):
            if not 0 <= number <= _MAX_ID:
                raise _RefusedError(f"its owner, {what} {number}, is no valid id")
        try:
            if isinstance(target, int):
                os.fchown(target, uid, gid)
            else:
                os.chown(target, uid, gid, dir_fd=parent_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise _RefusedError(
                f"its owner {uid}:{gid} is outside of the ids of the sandbox: a larger range in /etc/subuid and "
                '/etc/subgid is needed, or ids.map = "single"'
            ) from None

    def _set_xattr(self, name: bytes, target: int | bytes, key: bytes, value: bytes, *, follow: bool) -> None:
        # In a user namespace with one id, an access control list can name no other user or group.
        if (self._single_id and key in ACLS) or not set_attribute(target, key, value, follow=follow):
            self._skip_xattrs(name, key)

    def _skip_xattrs(self, name: bytes, *keys: bytes) -> None:
        self._xattrs += len(keys)
        wanted = _NAMES - len(self._xattr_names)
        self._xattr_names += [f"{printable(name)}: {printable(key)}" for key in keys[:wanted]]

    def _finish_directories(self) -> None:
        """Set the attributes of all directories, inner ones first.

        Creating an entry changes the times of its directory, and the mode of a directory may forbid to enter it. Each step
        goes to a child or to the parent: opening each directory from the root would cost the square of the depth.
        """
        node, names, fd = self._top, [b"."], os.dup(self._root)
        try:
            while True:
                if node.children:
                    name, child = node.children.popitem()  # frees the memory of the child's entry
                    fd = _reopen(fd, name)
                    node = child
                    names.append(name)
                    continue
                above = node.parent
                outer = -1 if above is None else os.open(b"..", _DIRECTORY, dir_fd=fd)
                try:
                    if node.listed:
                        self._set_opened(b"/".join(names[1:]) or b".", fd, node)
                    if above is None:
                        return
                    os.dup2(outer, fd, inheritable=False)
                finally:
                    if outer >= 0:
                        os.close(outer)
                node = above
                names.pop()
        except (_RefusedError, AttributeRefusedError, OSError) as error:
            raise self._explain(b"/".join(names[1:]) or b".", error) from error
        finally:
            os.close(fd)

    # Ways through the tree

    def _directory(self, path: bytes, *, create: bool = True) -> _Place:
        """Open the directory *path*, and return it under its canonical path; it stays open until the next member.

        If *create* is set, missing components are created, and components that are neither directory nor symbolic link are
        replaced by directories, as umoci does it.
        """
        found = self._open.get(path)
        if found is not None:
            return found
        # Start from the innermost open directory; *remaining* is a stack with the next component at the end.
        done, remaining = path, []
        while done and done not in self._open:
            done, _, component = done.rpartition(b"/")
            remaining.append(component)
        start = self._open.get(done)
        node = self._top if start is None else start.node
        fd = os.dup(self._root if start is None else start.fd)
        links, linked = 0, 0
        try:
            while remaining:
                component = remaining.pop()
                if component in {b"", b"."}:
                    continue
                if component == b"..":
                    # From the target of a link. No other process moves directories of this tree.
                    if node.parent is not None:
                        fd = _reopen(fd, b"..")
                        done = done.rpartition(b"/")[0]
                        node = node.parent
                    continue
                inner = self._enter(_Place(done, fd, node), component, create=create)
                if isinstance(inner, Directory):
                    fd = _reopen(fd, component)
                    node = inner
                    done = done + b"/" + component if done else component
                    if len(done) > _PATH_MAX:
                        raise _RefusedError(f"its path is longer than {_PATH_MAX} bytes")
                    continue
                steps = inner.split(b"/")
                links, linked = links + 1, linked + len(steps)
                if links > _MAX_LINKS or linked > _MAX_LINKED:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if inner.startswith(b"/"):
                    os.dup2(self._root, fd, inheritable=False)
                    done, node = b"", self._top
                remaining += reversed(steps)
        except BaseException:
            os.close(fd)
            raise
        if done in self._open:
            os.close(fd)
        else:
            self._open[done] = _Place(done, fd, node)
        return self._open[done]

    def _enter(self, place: _Place, component: bytes, *, create: bool) -> Directory | bytes:
        """Return the directory *component* in *place*, created if necessary, or the target if it is a symbolic link."""
        known = place.node.child(component)
        if known is not None:
            return known
        own = place.path + b"/" + component if place.path else component
        try:
            mode = os.lstat(component, dir_fd=place.fd).st_mode
        except FileNotFoundError:
            if not create:
                raise
        else:
            if stat.S_ISDIR(mode):
                return place.node.add(component)
            if stat.S_ISLNK(mode):
                return os.readlink(component, dir_fd=place.fd)
            if not create:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            os.unlink(component, dir_fd=place.fd)
        os.mkdir(component, 0o700, dir_fd=place.fd)
        self._absent.discard(own)
        made = place.node.add(component)
        made.listed = True
        return made

    # Removing what a later member replaces

    def _remove(self, place: _Place, path: bytes, leaf: bytes) -> None:
        """Remove *leaf* in *place*, a file or a directory with its content."""
        try:
            os.unlink(leaf, dir_fd=place.fd)
        except IsADirectoryError:
            fd = os.open(leaf, _DIRECTORY, dir_fd=place.fd)
            try:
                remove_contents(fd)
            finally:
                os.close(fd)
            os.rmdir(leaf, dir_fd=place.fd)
            if place.node.children is not None:
                place.node.children.pop(leaf, None)
            for inner in [one for one in self._open if one == path or one.startswith(path + b"/")]:
                os.close(self._open.pop(inner).fd)


def _relative(name: bytes) -> bytes:
    """Return *name* relative to the root of the archive, without `.` and superfluous slashes."""
    parts = [part for part in name.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise _RefusedError(f"a path with `..` in it ({printable(name)})")
    path = b"/".join(parts)
    if len(path) > _PATH_MAX:
        raise _RefusedError(f"its path is longer than {_PATH_MAX} bytes")
    return path


def _reopen(fd: int, name: bytes) -> int:
    """Make *fd* refer to the directory *name* in the directory that it refers to, and return it."""
    inner = os.open(name, _DIRECTORY, dir_fd=fd)
    try:
        os.dup2(inner, fd, inheritable=False)
    finally:
        os.close(inner)
    return fd


def _time(nanoseconds: int) -> int:
    if not -_MAX_TIME_NS <= nanoseconds <= _MAX_TIME_NS:
        raise _RefusedError(f"its time, {nanoseconds // 1_000_000_000} seconds from 1970, is out of range")
    return nanoseconds

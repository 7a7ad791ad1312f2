"""Write the members of a tar archive below a directory descriptor, and nowhere else.

The archive is untrusted: `destination` resolves its paths, never the kernel, and `metadata` sets the attributes. The last
component of a path is never followed. A member with `..` in its name is refused. Absolute names are relative to the
destination, as for tar -x.

Unpacking runs in a child process with id 0 of a user namespace. So it cannot create device nodes, or set owners that the
namespace does not map. Whiteouts (`whiteouts`) become empty files of the same name; the server of the layer interprets them.

An archive may refer to the layers below: the target of a hard link need not be in the same archive, and a directory that it
does not list is the one that is below. What it needs of them is copied, so that the tree is complete without them.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.errors import ImageError
from sandbox.images.attributes import AttributeRefusedError, SharedAttributes
from sandbox.images.destination import (
    DIRECTORY,
    NEW_FILE,
    PATH_MAX,
    Destination,
    Place,
    RefusedError,
    relative,
    reopen,
)
from sandbox.images.directories import NO_XATTRS, Directory
from sandbox.images.hard_links import HardLinks, TargetLeftOutError
from sandbox.images.lower_layers import LowerLayers
from sandbox.images.metadata import MetadataWriter
from sandbox.images.names import printable
from sandbox.images.report import LeftOut, UnpackReport
from sandbox.images.tar import Archive, Kind, Member
from sandbox.images.whiteouts import OPAQUE, InvalidWhiteoutError, hidden_name, is_whiteout

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandbox.images.archive_names import ArchiveNames

FAULTS: Mapping[int, str] = {
    errno.ENAMETOOLONG: "a component of its name is longer than the file system allows",
    errno.ELOOP: "its path contains too many symbolic links",
    errno.EINVAL: "the file system refuses it as invalid",
    errno.EFBIG: "it is larger than the file system allows",
    errno.EOVERFLOW: "it is larger than the file system allows",
    errno.EMLINK: "it is a file with more hard links, or a directory with more subdirectories, than the file system allows",
}
"""Errnos that the content of the archive causes, and their messages. All other errors are raised as OSError."""


def unpack(
    archive: Archive,
    destination_fd: int,
    *,
    single_id: bool,
    below: Sequence[int | ArchiveNames] = (),
    until_complete: Callable[[], None] = lambda: None,
) -> UnpackReport:
    """Write every member of *archive* below the directory *destination_fd*, which no other process may use.

    *below* are the layers below, topmost first: descriptors of trees that were unpacked under the same ids (O_PATH suffices), or
    indexes. If they are needed, *until_complete* is called first, and returns when no process unpacks them any more. A file
    of them that a hard link names is copied to its own path in this tree, and linked from there. A directory that the archive
    does not list gets the attributes of the one that they have, otherwise mode 0755 and owner 0.

    If several members have the same name, the last one wins. With *single_id* no owner is set, because the user namespace has only one id, and no access control list, which
    could name no other id. After an error the destination contains a part of the tree, and the caller has to remove it.

    Raises:
        ImageError: the archive is damaged, or a member cannot be unpacked: the message names the member.
        OSError: a system call fails with ENOSPC, EDQUOT, EROFS, EIO, EMFILE and so on; its filename is the member.
    """
    lower = LowerLayers(destination_fd, below, until_complete)
    unpacker = _Unpacker(archive, destination_fd, lower, single_id=single_id)
    try:
        return unpacker.run()
    finally:
        unpacker.close()


def refusal(archive: str, name: bytes, reason: str) -> ImageError:
    """Return the error that the member *name* of *archive* cannot be in a tree for *reason*."""
    return ImageError(
        f"{archive}: {printable(name or b'.')}: {reason}", hint="pack the archive again without this member"
    )


class _Unpacker:
    def __init__(self, archive: Archive, root: int, lower: LowerLayers, *, single_id: bool) -> None:
        self._archive = archive
        self._destination = Destination(root, self._inherit)
        self._lower = lower
        self._left_out = LeftOut()
        self._metadata = MetadataWriter(self._left_out, single_id=single_id)
        self._links = HardLinks(self._destination, self._lower, self._metadata)
        # Those of directories are set at the end.
        self._shared = SharedAttributes(" of directories")
        self._entries = 0
        self._bytes = 0

    def run(self) -> UnpackReport:
        for member in self._archive:
            self._destination.limit_open()
            try:
                self._unpack(member)
            except (RefusedError, InvalidWhiteoutError, AttributeRefusedError, OSError) as error:
                raise self._explain(member.name, error) from error
        self.close()
        self._finish_directories()
        return self._left_out.report(
            entries=self._entries,
            data_bytes=self._bytes + self._links.copied,
            used_below=self._lower.used,
        )

    def close(self) -> None:
        """Close all open directories."""
        self._destination.close()

    def _explain(self, name: bytes, error: Exception) -> ImageError | OSError:
        """Return an ImageError for an error that the archive caused, otherwise an OSError; both name the member."""
        if isinstance(error, OSError):
            reason = FAULTS.get(error.errno or 0)
            if reason is None:
                return OSError(error.errno, error.strerror, printable(name))
        else:
            reason = str(error)
        return refusal(self._archive.name, name, reason)

    def _unpack(self, member: Member) -> None:
        if member.left_out:
            self._left_out.add_xattrs(member.name, *member.left_out)
        path = relative(member.name)
        if not path:
            if member.kind is not Kind.DIRECTORY:
                raise RefusedError("the root of a layer must be a directory")
            self._list_directory(self._destination.top, member)
            return
        parent, _, leaf = path.rpartition(b"/")
        place = self._destination.directory(parent)
        path = place.path + b"/" + leaf if place.path else leaf
        parent_fd = place.fd
        if self._destination.absent:
            self._destination.absent.discard(path)
        if is_whiteout(leaf):
            self._whiteout(member, place, path, leaf)
            self._entries += 1
            return
        self._links.replaced(path)
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
                if not member.link or len(member.link) > PATH_MAX:
                    raise RefusedError(f"a symbolic link to {len(member.link)} bytes")
                self._replacing(place, path, leaf, lambda: os.symlink(member.link, leaf, dir_fd=parent_fd))
                self._metadata.set_unopened(member, parent_fd, leaf)
            case Kind.FIFO:
                self._replacing(place, path, leaf, lambda: os.mkfifo(leaf, 0o600, dir_fd=parent_fd))
                self._metadata.set_unopened(member, parent_fd, leaf)
            case Kind.CHARACTER_DEVICE | Kind.BLOCK_DEVICE:
                self._skip_device(member, place, path, leaf)
                return
        self._entries += 1

    def _whiteout(self, member: Member, place: Place, path: bytes, leaf: bytes) -> None:
        # AUFS made hard links of one empty file, and Docker packed them as such.
        if member.size or member.kind not in (Kind.FILE, Kind.HARD_LINK):
            raise RefusedError("a whiteout must be an empty file")
        if leaf != OPAQUE:
            hidden_name(leaf)
        self._links.check_whiteout(place, leaf)
        self._file(member, place, path, leaf)

    # Making one member

    def _replacing(self, place: Place, path: bytes, leaf: bytes, make: Callable[[], None]) -> None:
        """Run *make*; if *leaf* already exists, remove it and run *make* again."""
        try:
            make()
        except FileExistsError:
            self._destination.remove(place, path, leaf)
            make()

    def _file(self, member: Member, place: Place, path: bytes, leaf: bytes) -> None:
        try:
            fd = os.open(leaf, NEW_FILE, 0o600, dir_fd=place.fd)
        except FileExistsError:
            # Do not overwrite the file: it may have other hard links, whose content must not change.
            self._destination.remove(place, path, leaf)
            fd = os.open(leaf, NEW_FILE, 0o600, dir_fd=place.fd)
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
            self._metadata.set_opened(member.name, fd, member)
        finally:
            os.close(fd)

    def _make_directory(self, place: Place, path: bytes, leaf: bytes) -> Directory:
        known = place.node.child(leaf)
        if known is not None:
            return known
        try:
            os.mkdir(leaf, 0o700, dir_fd=place.fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(leaf, dir_fd=place.fd).st_mode):
                self._destination.remove(place, path, leaf)
                os.mkdir(leaf, 0o700, dir_fd=place.fd)
        return place.node.add(leaf)

    def _list_directory(self, node: Directory, member: Member) -> None:
        node.listed = True
        node.mode, node.uid, node.gid, node.mtime_ns = member.mode, member.uid, member.gid, member.mtime_ns
        node.xattrs = self._kept_xattrs(member.xattrs)
        self._entries += 1

    def _kept_xattrs(self, xattrs: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        return self._shared.share(xattrs) if xattrs else NO_XATTRS

    def _hard_link(self, member: Member, place: Place, path: bytes, leaf: bytes) -> bool:
        """Make a hard link; return False if it is left out because its target is a device that was left out."""
        try:
            self._links.make(member, place, path, leaf)
        except TargetLeftOutError:
            self._skip_device(member, place, path, leaf)
            return False
        return True

    def _skip_device(self, member: Member, place: Place, path: bytes, leaf: bytes) -> None:
        """Leave out a device node: mknod(2) fails in a user namespace, and the sandbox has its own /dev."""
        try:
            self._destination.remove(place, path, leaf)
        except FileNotFoundError:
            pass
        self._destination.absent.add(path)
        self._left_out.add_device(path, member.name)

    # Attributes

    def _inherit(self, path: bytes, node: Directory) -> None:
        """Give the directory *node*, which no member lists, the attributes of the one that the layers below have at *path*."""
        above = node.parent
        # A lookup costs the depth of the path, so do not repeat it below a directory that the lower layers lack.
        found = None if above is not None and above.lacks_lower else self._lower.directory(path)
        if found is None:
            node.lacks_lower = True
        else:
            node.mode, node.uid, node.gid, node.mtime_ns = found.mode, found.uid, found.gid, found.mtime_ns
            node.xattrs = self._kept_xattrs(found.xattrs)

    def _finish_directories(self) -> None:
        """Set the attributes of all directories, inner ones first.

        Creating an entry changes the times of its directory, and the mode of a directory may forbid to enter it. Each step
        goes to a child or to the parent: opening each directory from the root would cost the square of the depth.
        """
        node, names, fd = self._destination.top, [b"."], os.dup(self._destination.root)
        try:
            while True:
                if node.children:
                    name, child = node.children.popitem()  # frees the memory of the child's entry
                    fd = reopen(fd, name)
                    node = child
                    names.append(name)
                    continue
                above = node.parent
                outer = -1 if above is None else os.open(b"..", DIRECTORY, dir_fd=fd)
                try:
                    if node.listed:
                        self._metadata.set_opened(b"/".join(names[1:]) or b".", fd, node)
                    if above is None:
                        return
                    os.dup2(outer, fd, inheritable=False)
                finally:
                    if outer >= 0:
                        os.close(outer)
                node = above
                names.pop()
        except (RefusedError, AttributeRefusedError, OSError) as error:
            raise self._explain(b"/".join(names[1:]) or b".", error) from error
        finally:
            os.close(fd)

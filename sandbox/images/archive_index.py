"""Make the index of an archive that is mounted without being unpacked: names, attributes, and where the contents are.

The file system server reads it (unionfs/layer_index/archive_layer.py). The layer that it shows is the one that `unpack` would
write: the same members are left out or refused, with the same messages. What an unpacked tree gets from the disk comes from the
archive, so that two indexes of an archive are equal: inode numbers count the objects, and directories that no member lists have
the time of the member that needs them.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.errors import ImageError
from sandbox.images.archive_tree import ArchivedDirectory, ArchivedObject, ArchiveTree
from sandbox.images.archived_acl import InvalidListError, settled
from sandbox.images.attributes import ACLS, AttributeRefusedError, SharedAttributes
from sandbox.images.destination import PATH_MAX, RefusedError, relative
from sandbox.images.index_writer import write_index
from sandbox.images.metadata import MAX_ID, not_mapped, time_of
from sandbox.images.names import printable
from sandbox.images.report import LeftOut, UnpackReport
from sandbox.images.tar import Archive, Kind, Member
from sandbox.images.unpack import FAULTS, refusal
from sandbox.images.whiteouts import OPAQUE, InvalidWhiteoutError, has_whiteout, hidden_name, is_whiteout

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandbox.images.lower_layers import LowerLayers
    from sandbox.plan import IdPlan
    from unionfs._stdlib.typing import BinaryIO
    from unionfs.layer_index.archive_frames import Frame

UNPACK = 'remove "mount = true", which unpacks it'
"""The remedy for an archive that cannot be mounted."""
_TYPES = {Kind.FILE: stat.S_IFREG, Kind.SYMLINK: stat.S_IFLNK, Kind.FIFO: stat.S_IFIFO}
#: AUFS named its own records so; they hide nothing (whiteouts.py).
_AUFS_RECORD = b".wh..wh."
_TIME_LIMIT = (1 << 63) - 1  # nanoseconds from 1970


class _TargetLeftOutError(Exception):
    """The target of a hard link is a device that was left out."""


def index_archive(
    archive: Archive,
    position: Callable[[], int],
    output: BinaryIO,
    ids: IdPlan,
    size: int | Callable[[], int],
    frames: Callable[[], Sequence[Frame]] = tuple,
    lower: LowerLayers | None = None,
) -> UnpackReport:
    """Read every member of *archive*, and write the index to the empty file *output*.

    Args:
        archive: the members; their contents are not read.
        position: returns the offset in the archive of the contents of the current member, in bytes.
        output: a file that can be read and written at any offset.
        ids: the ids of the sandbox. Other owners are refused, as they cannot be set when unpacking either.
        size: the length of the archive, in bytes; or a function that returns it when all members have been read.
        frames: returns the frames of a compressed archive; it is called when all members have been read.
        lower: the layers below, which give directories that no member lists their attributes; None if the archive is no layer
            of an image.

    Raises:
        ImageError: the archive is damaged, or a member cannot be shown: the message names the member.
        OSError: the archive cannot be read, or *output* not be written.
    """
    indexer = _Indexer(archive, position, ids, lower)
    for member in archive:
        try:
            indexer.add(member)
        except (RefusedError, InvalidWhiteoutError, AttributeRefusedError) as error:
            raise refusal(archive.name, member.name, str(error)) from error
        except OSError as error:
            raise refusal(archive.name, member.name, FAULTS.get(error.errno or 0, str(error))) from error
    try:
        write_index(indexer.tree, output, size if isinstance(size, int) else size(), frames())
    except ValueError as error:
        raise ImageError(f"{archive.name}: cannot be mounted: {error}", hint=UNPACK) from error
    return indexer.report()


def _time_of(member: Member) -> int:
    """Return the modification time, which the index has 64 bits for: years 1677 to 2262."""
    return max(-_TIME_LIMIT, min(time_of(member.mtime_ns), _TIME_LIMIT))


class _Indexer:
    """Adds members to a tree, and counts what is left out."""

    def __init__(
        self, archive: Archive, position: Callable[[], int], ids: IdPlan, lower: LowerLayers | None
    ) -> None:
        self.tree = ArchiveTree(self._inherit if lower is not None else None)
        self._lower = lower
        self._archive = archive
        self._position = position
        self._single = ids.single
        self._uids = [(one.inside, one.inside + one.count) for one in ids.uid_map]
        self._gids = [(one.inside, one.inside + one.count) for one in ids.gid_map]
        self._shared = SharedAttributes()
        self._left_out = LeftOut()
        self._entries = self._bytes = 0

    def report(self) -> UnpackReport:
        """Return what was indexed and what was left out."""
        used_below = self._lower is not None and self._lower.used
        return self._left_out.report(entries=self._entries, data_bytes=self._bytes, used_below=used_below)

    def add(self, member: Member) -> None:
        """Add *member* to the tree, as `unpack` writes it."""
        if member.left_out:
            self._left_out.add_xattrs(member.name, *member.left_out)
        self.tree.now_ns = _time_of(member)
        path = relative(member.name)
        if not path:
            if member.kind is not Kind.DIRECTORY:
                raise RefusedError("the root of a layer must be a directory")
            self._list(self.tree.root, member)
            return
        above, _, leaf = path.rpartition(b"/")
        parent = self.tree.directory(above)
        if parent.absent is not None:
            parent.absent.discard(leaf)
        if is_whiteout(leaf):
            self._whiteout(parent, member, leaf)
            return
        if member.kind is Kind.DIRECTORY:
            found = parent.entries.get(leaf)
            if not isinstance(found, ArchivedDirectory):
                found = ArchivedDirectory(parent, 0)
                self.tree.put(parent, leaf, found)
            self._list(found, member)
        elif member.kind is Kind.HARD_LINK:
            try:
                self._hard_link(parent, member, leaf)
            except _TargetLeftOutError:
                self._skip_device(parent, member, leaf)
        elif member.kind in _TYPES:
            self.tree.put(parent, leaf, self._object(member))
            self._entries += 1
        else:
            self._skip_device(parent, member, leaf)

    def _object(self, member: Member) -> ArchivedObject:
        uid, gid = self._owner(member)
        # A symbolic link has no mode of its own (symlink(7)).
        mode = 0o777 if member.kind is Kind.SYMLINK else member.mode
        made = ArchivedObject(_TYPES[member.kind] | mode, uid, gid, _time_of(member))
        if member.kind is Kind.SYMLINK:
            if not member.link or len(member.link) > PATH_MAX:
                raise RefusedError(f"a symbolic link to {len(member.link)} bytes")
            made.target, made.size = member.link, len(member.link)
        elif member.kind is Kind.FILE:
            made.size, made.extents = member.size, member.extents
            made.position = self._position()
            self._bytes += (
                member.size if member.extents is None else sum(length for _, length in member.extents)
            )
        if member.xattrs:
            made.xattrs = self._kept(member)
        return made

    def _list(self, directory: ArchivedDirectory, member: Member) -> None:
        directory.uid, directory.gid = self._owner(member)
        directory.mode, directory.mtime_ns = stat.S_IFDIR | member.mode, _time_of(member)
        directory.xattrs = self._kept(member) if member.xattrs else {}
        self._entries += 1

    def _whiteout(self, parent: ArchivedDirectory, member: Member, leaf: bytes) -> None:
        if member.size or member.kind not in (Kind.FILE, Kind.HARD_LINK):
            raise RefusedError("a whiteout must be an empty file")
        self._entries += 1
        if leaf == OPAQUE:
            parent.opaque = True
            return
        name = hidden_name(leaf)
        if len(leaf) > 255:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if not leaf.startswith(_AUFS_RECORD):
            parent.whiteouts = parent.whiteouts or set()
            parent.whiteouts.add(name)

    def _hard_link(self, parent: ArchivedDirectory, member: Member, leaf: bytes) -> None:
        target = relative(member.link)
        above, _, name = target.rpartition(b"/")
        try:
            found = self._find(target, above, name)
            if isinstance(found, ArchivedDirectory):
                raise RefusedError("a hard link to a directory")
            here = parent.entries.get(leaf)
            if here is not found:
                if here is not None:
                    self.tree.remove(parent, leaf)
                    found = self._find(target, above, name)  # it may have been in a directory of this name
                assert isinstance(found, ArchivedObject)
                self.tree.put(parent, leaf, found)
                found.links = 2
        except (FileNotFoundError, NotADirectoryError):
            raise RefusedError(
                f"a hard link to {printable(member.link)}, which is not an earlier member"
            ) from None
        self._entries += 1

    def _find(self, target: bytes, above: bytes, name: bytes) -> ArchivedObject | ArchivedDirectory:
        if has_whiteout(target):
            raise FileNotFoundError
        source = self.tree.directory(above, create=False)
        if source.absent is not None and name in source.absent:
            raise _TargetLeftOutError
        found = source.entries.get(name)
        if found is None:
            raise FileNotFoundError
        return found

    def _skip_device(self, parent: ArchivedDirectory, member: Member, leaf: bytes) -> None:
        self.tree.remove(parent, leaf)
        parent.absent = parent.absent or set()
        parent.absent.add(leaf)
        self._left_out.add_device(relative(member.name), member.name)

    # Attributes

    def _inherit(self, path: bytes, made: ArchivedDirectory) -> None:
        """Give the directory *made*, which no member lists, the attributes of the one that the layers below have at *path*."""
        assert self._lower is not None
        above = made.parent
        lacks = above is not None and above.lacks_lower
        found = None if lacks or self.tree.covers(path) else self._lower.directory(path)
        if found is None:
            made.lacks_lower = True
        else:
            made.mode, made.uid, made.gid = stat.S_IFDIR | found.mode, found.uid, found.gid
            made.mtime_ns = _time_of(found)
            made.xattrs = self._shared.share(found.xattrs)

    def _owner(self, member: Member) -> tuple[int, int]:
        if self._single:
            return 0, 0
        uid, gid = member.uid, member.gid
        for what, number, ranges in (("user", uid, self._uids), ("group", gid, self._gids)):
            if not 0 <= number <= MAX_ID:
                raise RefusedError(f"its owner, {what} {number}, is not a valid id")
            if not any(start <= number < end for start, end in ranges):
                raise not_mapped(uid, gid)
        return uid, gid

    def _kept(self, member: Member) -> Mapping[bytes, bytes]:
        """Return the attributes of *member* that a file system would have, as a mapping that equal ones share."""
        mode = None if member.kind is Kind.SYMLINK else member.mode
        found = {}
        for name, value in member.xattrs.items():
            kept: bytes | None = value
            if name in ACLS:
                kept = None if self._single else self._list_of(member, name, value, mode)
                if self._single:
                    self._left_out.add_xattrs(member.name, name)
            elif name.startswith(b"user.") and member.kind not in (Kind.FILE, Kind.DIRECTORY):
                kept = None  # xattr(7): only files and directories have them
                self._left_out.add_xattrs(member.name, name)
            if kept is not None:
                found[name] = kept
        return self._shared.share(found)

    @staticmethod
    def _list_of(member: Member, name: bytes, value: bytes, mode: int | None) -> bytes | None:
        if not value:
            return None  # setxattr(2) then removes the list
        try:
            if mode is None:
                raise InvalidListError
            if name == ACLS[0]:
                return settled(value, mode)
            if member.kind is not Kind.DIRECTORY:
                raise InvalidListError
            return settled(value, None)
        except InvalidListError:
            raise RefusedError(f"its attribute {printable(name)} cannot be set: invalid argument") from None

"""Make the hard links of an archive, also those to files of the layers below.

A file of a lower layer is first copied to its own path in the tree that is being unpacked, so that the union shows both names
as one file. `unpack` calls this, in a child process with id 0 of a user namespace.
"""

from __future__ import annotations

import os
import stat

from sandbox.images.destination import NEW_FILE, RefusedError, relative
from sandbox.images.lower_layers import copy_content
from sandbox.images.names import printable
from sandbox.images.tar import Kind
from sandbox.images.whiteouts import OPAQUE, has_whiteout, hidden_name

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.destination import Destination, Place
    from sandbox.images.directories import Directory
    from sandbox.images.lower_layers import Found, LowerLayers
    from sandbox.images.metadata import MetadataWriter
    from sandbox.images.tar import Member


class TargetLeftOutError(Exception):
    """The target of a hard link is a device that was left out."""


class HardLinks:
    """Makes hard links, and records what was copied for them. The unpacker of one archive creates it; nothing has to be closed."""

    def __init__(self, destination: Destination, lower: LowerLayers, metadata: MetadataWriter) -> None:
        self._destination = destination
        self._lower = lower
        self._metadata = metadata
        # The first path of each copy, by device and inode of the original: a file is copied once, however many of its names
        # an archive uses.
        self._copies: dict[tuple[int, int], bytes] = {}
        self._names: set[bytes] = set()  # all paths of copies that no member has replaced
        self._above: set[Directory] = set()  # all directories above the copies
        #: Bytes that were copied, without holes.
        self.copied = 0

    def make(self, member: Member, place: Place, path: bytes, leaf: bytes) -> None:
        """Make *leaf* in *place*, whose path is *path*, another name of the target of *member*.

        A symbolic link is not followed: a hard link to it is another name of it.

        Raises:
            TargetLeftOutError: nothing was made, as the target was not made either.
            RefusedError: the target is a directory, or neither an earlier member nor a file of a layer below.
        """
        target = relative(member.link)
        parent, _, name = target.rpartition(b"/")

        def link() -> None:
            source_fd = self._destination.directory(parent, create=False).fd
            os.link(name, leaf, src_dir_fd=source_fd, dst_dir_fd=place.fd, follow_symlinks=False)

        try:
            there = self._find(target, parent, name)
            if stat.S_ISDIR(there.st_mode):
                raise RefusedError("a hard link to a directory")
            try:
                link()
            except FileExistsError:
                here = os.lstat(leaf, dir_fd=place.fd)
                if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
                    self._destination.remove(place, path, leaf)
                    link()
        except (FileNotFoundError, NotADirectoryError):
            raise RefusedError(
                f"a hard link to {printable(member.link)}, which is not an earlier member"
                + (" and in no layer below" if self._lower.exist else "")
            ) from None

    def _find(self, target: bytes, parent: bytes, name: bytes) -> os.stat_result:
        """Return the attributes of *target*, which is copied from a lower layer first if necessary."""
        if has_whiteout(target):
            raise FileNotFoundError
        try:
            source = self._destination.directory(parent, create=False)
            if (source.path + b"/" + name if source.path else name) in self._destination.absent:
                raise TargetLeftOutError
            return os.lstat(name, dir_fd=source.fd)
        except (FileNotFoundError, NotADirectoryError):
            with self._lower.file(target) as found:
                if found is None:
                    raise
                return self._copy(found, target, self._destination.directory(parent), name)

    def _copy(self, found: Found, path: bytes, place: Place, leaf: bytes) -> os.stat_result:
        earlier = self._copies.get(found.identity)
        if earlier is not None:
            self._link_to_copy(earlier, place, leaf)
        else:
            self._create(found, place, leaf)
            self._copies[found.identity] = path
        self._names.add(path)
        above: Directory | None = place.node
        while above is not None and above not in self._above:
            self._above.add(above)
            above = above.parent
        return os.lstat(leaf, dir_fd=place.fd)

    def _create(self, found: Found, place: Place, leaf: bytes) -> None:
        member = found.member
        if member.kind is Kind.FILE:
            fd = os.open(leaf, NEW_FILE, 0o600, dir_fd=place.fd)
            try:
                self.copied += copy_content(found, fd)
                self._metadata.set_opened(member.name, fd, member)
            finally:
                os.close(fd)
            return
        if member.kind is Kind.SYMLINK:
            os.symlink(member.link, leaf, dir_fd=place.fd)
        else:
            os.mkfifo(leaf, 0o600, dir_fd=place.fd)
        self._metadata.set_unopened(member, place.fd, leaf)

    def _link_to_copy(self, earlier: bytes, place: Place, leaf: bytes) -> None:
        parent, _, name = earlier.rpartition(b"/")
        try:
            if earlier not in self._names:
                raise FileNotFoundError
            source = self._destination.directory(parent, create=False)
            os.link(name, leaf, src_dir_fd=source.fd, dst_dir_fd=place.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            # Copying it again would let a small archive copy a large file without end.
            raise RefusedError(
                f"a hard link to a lower file whose copy {printable(earlier)} was replaced"
            ) from None

    def replaced(self, path: bytes) -> None:
        """Note that the archive has a member of its own at *path*."""
        if self._names:
            self._names.discard(path)

    def check_whiteout(self, place: Place, leaf: bytes) -> None:
        """Check that the whiteout *leaf* in *place* hides no file that was copied: a copy belongs to this layer, so it would stay.

        Raises:
            RefusedError: it does.
        """
        if not self._names:
            return
        if leaf == OPAQUE:
            hidden, hides_copy = place.path, place.node in self._above
        else:
            name = hidden_name(leaf)
            hidden = place.path + b"/" + name if place.path else name
            hides_copy = hidden in self._names or place.node.child(name) in self._above
        if hides_copy:
            raise RefusedError(
                f"it deletes {printable(hidden) or '/'} of the layers below, but an earlier hard link refers to a file there"
            )

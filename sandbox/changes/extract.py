"""Write the archive of `unionfs changes --archive trees` or `members` into a host directory, for `sandbox export`.

Each object is written by :class:`sandbox.changes.host_tree.HostTree`: atomically, and never through a symbolic link. A directory
gets its attributes at the end, because its mode may forbid to write into it and each entry changes its times.
"""

from __future__ import annotations

import os
import stat

from sandbox.changes.host_attributes import Attributes, Owners
from sandbox.changes.host_tree import HostTree
from sandbox.changes.members import LeftOut, Members
from sandbox.errors import SandboxError
from sandbox.images.compression import Readable
from sandbox.images.destination import RefusedError, relative
from sandbox.images.names import printable
from sandbox.images.tar import Kind, Member
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_IMPLICIT_MODE = 0o755
_HINT = "this archive did not come from a sandbox: do not use it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """What was written."""

    entries: int
    left_out: tuple[LeftOut, ...]


def extract(
    stream: Readable,
    tree: HostTree,
    *,
    strip: bytes = b"",
    owners: Owners = lambda uid, gid: (uid, gid),
    before: Callable[[bytes], None] = lambda _path: None,
) -> Extracted:
    """Write every member of the archive *stream*, which need not be seekable, to *tree*.

    *strip* is removed from the beginning of each path: with ``usr``, ``usr/local/x`` is written to ``local/x``. *owners* returns
    the ids of the host for those of a member. *before* is called with each path before anything is written there, and raises to
    keep what is there. Missing directories are created. After an error each file is either the old or the new one.

    Raises:
        SandboxError: the archive is damaged; a path in it is absolute, has ``..`` or leads through a symbolic link; or something
            cannot be written. The message names the path.
    """
    extraction = _Extraction(Members(stream, tree, owners), tree, relative(strip), before)
    extraction.run()
    return Extracted(entries=extraction.entries, left_out=tuple(extraction.members.left_out))


class _Extraction:
    def __init__(
        self, members: Members, tree: HostTree, strip: bytes, before: Callable[[bytes], None]
    ) -> None:
        self.members = members
        self.entries = 0
        self._tree = tree
        self._strip = strip
        self._before = before
        #: The attributes of each directory, set at the end.
        self._directories: dict[bytes, tuple[Member, Attributes]] = {}
        #: The paths of all other objects, which hard links may name.
        self._written: set[bytes] = set()
        #: Directories that exist.
        self._present: set[bytes] = {b""}

    def run(self) -> None:
        while (member := self.members.next()) is not None:
            self._put(member)
            self.entries += 1
        # Inner ones first: the mode of a directory may forbid to enter it.
        for path in sorted(self._directories, key=_depth, reverse=True):
            member, attributes = self._directories[path]
            self.members.note(path, member, self._tree.set_directory_attributes(path, attributes))
        self._tree.synchronize()

    def _put(self, member: Member) -> None:
        path = self._path(member.name)
        self._make_parents(path)
        if member.kind is Kind.DIRECTORY:
            if path not in self._present:
                self._before(path)
                self._tree.make_directory(path)
                self._present.add(path)
            self._directories[path] = member, self.members.attributes(member)
            return
        if not path or path in self._present:
            raise self.members.refused(path, "a directory and another object with the same name")
        first = None
        if member.kind is Kind.HARD_LINK:
            first = self._path(member.link)
            if first not in self._written or first == path:
                raise self.members.refused(
                    path, f"a hard link to {printable(member.link)}, which is no earlier member"
                )
        self._before(path)
        self.members.put(member, path, first)
        self._written.add(path)

    def _make_parents(self, path: bytes) -> None:
        """Create the missing directories above *path*."""
        missing = []
        at = path.rpartition(b"/")[0]
        while at not in self._present:
            missing.append(at)
            at = at.rpartition(b"/")[0]
        for at in reversed(missing):
            if at in self._written:
                raise self.members.refused(path, "a path below an object that is no directory")
            info = self._tree.lstat(at)
            if info is None:
                self._before(at)
                self._tree.make_directory(at)
                self._set_implicit(at)
            elif not stat.S_ISDIR(info.st_mode):
                what = "a symbolic link" if stat.S_ISLNK(info.st_mode) else "something that is no directory"
                raise SandboxError(
                    f"{self._tree.shown(path)}: {what} is on the way, at {self._tree.shown(at)}",
                    hint="remove it, or write to another directory",
                )
            self._present.add(at)

    def _set_implicit(self, path: bytes) -> None:
        info = self._tree.lstat(path)
        if info is not None:
            self._tree.set_directory_attributes(
                path,
                Attributes(uid=info.st_uid, gid=info.st_gid, mode=_IMPLICIT_MODE, mtime_ns=info.st_mtime_ns),
            )

    def _path(self, name: bytes) -> bytes:
        """Return where the member *name* is written, relative to the tree."""
        try:
            if name.startswith(b"/") and name.strip(b"/"):
                raise RefusedError("an absolute path")
            path = relative(name)
        except RefusedError as error:
            raise SandboxError(f"{printable(name)}: {error}", hint=_HINT) from None
        if not self._strip:
            return path
        if path == self._strip:
            return b""
        if not path.startswith(self._strip + b"/"):
            raise SandboxError(
                f"{printable(name)}: a path that is not below {os.fsdecode(self._strip)}", hint=_HINT
            )
        return path[len(self._strip) + 1 :]


def _depth(path: bytes) -> int:
    return path.count(b"/") + 1 if path else 0

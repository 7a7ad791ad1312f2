"""Read the members of the archive that `unionfs changes --archive` writes, and put each into a host directory.

sandbox/changes/extract.py and sandbox/changes/apply.py use this. The archive comes from a child process without rights, which has
read the file system of an untrusted program: `sandbox.images.tar` reads it, and no path or value of it is believed.
"""

from __future__ import annotations

import os
import stat

from sandbox.changes.host_attributes import Attributes, Owners, reason_of
from sandbox.changes.host_tree import HostTree
from sandbox.errors import ImageError, SandboxError
from sandbox.images.compression import Readable
from sandbox.images.destination import PATH_MAX
from sandbox.images.names import printable
from sandbox.images.tar import Kind, Member, open_archive
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import TypeVar

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.changes.directory_calls import Check

T = TypeVar("T")

_NAME = "the contents from the sandbox"
_AGAIN = "run the command again; if it fails again, report it"
_ZEROS = 1 << 16


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An extended attribute that was not set. `text` is for a list of notices."""

    path: bytes
    attribute: bytes

    def text(self) -> str:
        """Return the path and the attribute, printable."""
        return f"/{printable(self.path)}: {printable(self.attribute)}"


class Members:
    """The members of one archive, in order, and what of them could not be set. It is used once; the caller closes *stream*."""

    def __init__(self, stream: Readable, tree: HostTree, owners: Owners) -> None:
        """Read *stream* and write to *tree*, with the ids that *owners* returns."""
        self._archive = _converted(lambda: open_archive(stream, _NAME))
        self._members = iter(self._archive)
        self._tree = tree
        self._owners = owners
        self.left_out: list[LeftOut] = []

    def next(self) -> Member | None:
        """Return the next member; None at the end of the archive."""
        return _converted(lambda: next(self._members, None))

    def attributes(self, member: Member) -> Attributes:
        """Return what *member* is to have on the host."""
        return Attributes.of(member, self._owners)

    def put(self, member: Member, path: bytes, first: bytes | None, check: Check | None = None) -> None:
        """Put *member*, which is no directory, at *path*; *first* is the path of the object of which a hard link is a name."""
        tree, attributes = self._tree, self.attributes(member)
        left_out: tuple[bytes, ...] = ()
        match member.kind:
            case Kind.FILE:
                left_out = tree.replace_file(path, lambda fd: self._write(fd, member), attributes, check)
            case Kind.HARD_LINK:
                assert first is not None
                tree.hard_link(path, first, check)
            case Kind.SYMLINK:
                if not member.link or len(member.link) > PATH_MAX:
                    raise self.refused(path, f"a symbolic link to {len(member.link)} bytes")
                left_out = tree.make_symlink(path, member.link, attributes, check)
            case Kind.FIFO:
                left_out = tree.make_fifo(path, attributes, check)
            case Kind.CHARACTER_DEVICE | Kind.BLOCK_DEVICE:
                kind = stat.S_IFCHR if member.kind is Kind.CHARACTER_DEVICE else stat.S_IFBLK
                left_out = tree.make_device(path, kind, self.device(member, path), attributes, check)
            case Kind.DIRECTORY:
                raise self.refused(path, "a directory in place of another object")
        self.note(path, member, left_out)

    def device(self, member: Member, path: bytes) -> int:
        """Return the number of the device *member*."""
        if member.device is None:
            raise self.refused(path, "a device without valid numbers")
        return os.makedev(*member.device)

    def note(self, path: bytes, member: Member, left_out: tuple[bytes, ...]) -> None:
        """Add to what was left out."""
        self.left_out += [LeftOut(path, name) for name in (*member.left_out, *left_out)]

    def refused(self, path: bytes, reason: str) -> SandboxError:
        """Return the error for a member at *path*."""
        return SandboxError(f"{self._tree.shown(path)}: {reason}", hint="exclude this path")

    def _write(self, fd: int, member: Member) -> None:
        for start, piece in self._data():
            position, rest = start, piece
            while rest:
                written = os.pwrite(fd, rest, position)
                position += written
                rest = rest[written:]
        if member.extents is not None:
            os.ftruncate(fd, member.size)  # for the hole at the end

    def equals(self, fd: int, member: Member) -> bool:
        """Return whether the file *fd* has the contents of *member*, which are consumed."""
        if os.fstat(fd).st_size != member.size:
            return False
        end = 0
        for start, piece in self._data():
            if not _is_zero(fd, end, start) or os.pread(fd, len(piece), start) != piece:
                return False
            end = start + len(piece)
        return _is_zero(fd, end, member.size)

    def _data(self) -> Iterator[tuple[int, memoryview]]:
        pieces = self._archive.data()
        while (piece := _converted(lambda: next(pieces, None))) is not None:
            yield piece


def _converted(call: Callable[[], T]) -> T:
    """Return the result of *call*, which reads the archive; a damaged archive is an error of the child process."""
    try:
        return call()
    except ImageError as error:
        raise SandboxError(error.message, hint=_AGAIN) from None
    except OSError as error:
        raise SandboxError(f"{_NAME}: {reason_of(error)}", hint=_AGAIN) from error


def _is_zero(fd: int, start: int, end: int) -> bool:
    while start < end:
        data = os.pread(fd, min(_ZEROS, end - start), start)
        if not data or data.count(0) != len(data):
            return False
        start += len(data)
    return True

"""Open the files of a layout or an archive by their names: of a directory, or of a tar, which may be compressed.

All files are untrusted. Names are looked up beneath the directory without following symbolic links; in a tar, symbolic links
between its members are followed by name, because the archives of skopeo have them.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tempfile

from sandbox.errors import ImageError, StateError
from sandbox.images.layer_stream import EXPANSION, FREE_EXPANSION
from sandbox.images.oci.json_documents import DAMAGED
from sandbox.images.tar import Kind, open_archive
from sandbox.kernel.files import NotRegularError, follow, open_regular
from unionfs._stdlib.typing import NamedTuple, Protocol

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.tar import TarStream

_DIRECTORY = os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_MEMBERS = 1 << 16
"""The most members of an archive of images; each layer is one."""
_NAMES = 1 << 23
"""The most bytes of the names of all members, and of the targets of links."""
_PATH = "write the path of a layout or an archive that you can read"
_LINKS = 8
"""The most symbolic links from one member to the next."""


class Extent(NamedTuple):
    """A part of an open file: the content of one file of a layout or an archive."""

    fd: int
    offset: int
    size: int


class ImageFiles(Protocol):
    """The files of a layout or an archive, by their names with slashes."""

    def find(self, path: str) -> Extent | None:
        """Return the content of the file *path*, whose descriptor stays open until :meth:`close`; None if there is none."""

    def close(self) -> None:
        """Close all descriptors."""


def open_files(path: str, name: str, scratch: str) -> ImageFiles:
    """Open the layout or archive at *path*, an absolute path. *name* is for messages.

    A compressed archive is decompressed into an unnamed file in the directory *scratch*.

    Raises:
        ImageError: it cannot be read, or is neither a directory nor an archive.
    """
    try:
        found = follow(path, os.geteuid())
        if found.closed:
            raise ImageError(
                f"{name}: {found.redirected_by} belongs to another user and leads to {found.closed}, which that user may not read",
                hint="copy the image to a directory of yours",
            )
        if os.path.isdir(found.real):
            return _Directory(
                os.open(found.real, os.O_RDONLY | _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC), name
            )
        fd = open_regular(found.real, links=False)
    except NotRegularError:
        raise ImageError(f"{name}: neither a directory nor an archive", hint=_PATH) from None
    except OSError as error:
        raise ImageError(f"{name}: {(error.strerror or str(error)).lower()}", hint=_PATH) from None
    try:
        return _Archive(fd, name, scratch)
    except BaseException:
        os.close(fd)
        raise


def read_small(files: ImageFiles, path: str, limit: int, name: str) -> bytes | None:
    """Return the content of the file *path*; None if there is none.

    Raises:
        ImageError: it has more than *limit* bytes, or cannot be read.
    """
    extent = files.find(path)
    if extent is None:
        return None
    if extent.size > limit:
        raise ImageError(f"{name}: {path} has {extent.size} bytes, more than {limit}", hint=DAMAGED)
    content = os.pread(extent.fd, extent.size, extent.offset)
    if len(content) != extent.size:
        raise ImageError(f"{name}: {path} was truncated while it was read")
    return content


class _Directory:
    """A directory. Owns its descriptor, and those of the files that were found."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._found: dict[str, int] = {}

    def find(self, path: str) -> Extent | None:
        fd = self._found.get(path)
        if fd is None:
            try:
                fd = self._open(path)
            except FileNotFoundError:
                return None
            except OSError as error:
                # ENOTDIR: a component is a file, or a symbolic link (O_NOFOLLOW with O_DIRECTORY).
                raise ImageError(
                    f"{self._name}: {path}: {(error.strerror or str(error)).lower()}", hint=DAMAGED
                ) from None
            self._found[path] = fd
        return Extent(fd, 0, os.fstat(fd).st_size)

    def _open(self, path: str) -> int:
        """Open a regular file without following links; anything else is not opened for reading, as that may have side effects."""
        *above, leaf = path.split("/")
        if ".." in (*above, leaf):
            raise ImageError(f"{self._name}: {path} leads out of it", hint=DAMAGED)
        at = os.dup(self._fd)
        try:
            for component, flags in (*((one, _DIRECTORY) for one in above), (leaf, 0)):
                below = os.open(component, _PLACE | flags, dir_fd=at)
                os.close(at)
                at = below
            mode = os.fstat(at).st_mode
            if not stat.S_ISREG(mode):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
                raise ImageError(f"{self._name}: {path} is {kind}", hint=DAMAGED)
            return os.open(f"/proc/self/fd/{at}", _FILE)
        finally:
            os.close(at)

    def close(self) -> None:
        for fd in (self._fd, *self._found.values()):
            os.close(fd)


class _Archive:
    """A tar with the files of an image. Owns the descriptor of the plain tar."""

    def __init__(self, fd: int, name: str, scratch: str) -> None:
        """Read the list of members of *fd*, which is owned from the successful end of the call on."""
        self._name = name
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        with open(fd, "rb", closefd=False) as file, open_archive(file, name) as archive:
            compressed = archive.compressed
            if not compressed:
                self._index(archive)
        self._fd = fd
        if compressed:
            os.lseek(fd, 0, os.SEEK_SET)
            plain = self._decompressed(fd, scratch)
            try:
                with open(plain, "rb", closefd=False) as file, open_archive(file, name) as archive:
                    self._index(archive)
            except BaseException:
                os.close(plain)
                raise
            os.close(fd)
            self._fd = plain

    def _index(self, archive: TarStream) -> None:
        names = 0
        for number, member in enumerate(archive):
            if number >= _MEMBERS:
                raise ImageError(f"{self._name}: more than {_MEMBERS} members", hint=DAMAGED)
            names += len(member.name) + len(member.link)
            if names > _NAMES:
                raise ImageError(
                    f"{self._name}: the names of its members have more than {_NAMES} bytes", hint=DAMAGED
                )
            path = posixpath.normpath(os.fsdecode(member.name)).lstrip("/")
            if member.kind is Kind.FILE and member.extents is None:
                # A later member of the same name replaces an earlier one, as for tar -x.
                self._members[path] = (archive.position, member.size)
                self._links.pop(path, None)
            elif member.kind in (Kind.SYMLINK, Kind.HARD_LINK):
                above = posixpath.dirname(path) if member.kind is Kind.SYMLINK else ""
                self._links[path] = posixpath.normpath(posixpath.join(above, os.fsdecode(member.link)))
                self._members.pop(path, None)

    def _decompressed(self, fd: int, scratch: str) -> int:
        from sandbox.images.compression import open_plain

        limit = FREE_EXPANSION + EXPANSION * os.fstat(fd).st_size
        try:
            with tempfile.TemporaryFile(dir=scratch, buffering=0) as target:
                written = 0
                with open(fd, "rb", closefd=False) as file:
                    for piece in open_plain(file, self._name).pieces:
                        written += len(piece)
                        if written > limit:
                            raise ImageError(
                                f"{self._name}: expands to more than {limit} bytes, as a decompression bomb does",
                                hint="if that is meant, decompress the archive, and import the result",
                            )
                        rest = memoryview(piece)
                        while rest:
                            rest = rest[target.write(rest) :]
                target.seek(0)
                return os.dup(target.fileno())
        except OSError as error:
            raise StateError(
                f"{self._name} cannot be decompressed into {scratch}: {(error.strerror or str(error)).lower()}",
                hint="free some space, or set SANDBOX_CACHE_DIR to another directory",
            ) from None

    def find(self, path: str) -> Extent | None:
        for _ in range(_LINKS):
            found = self._members.get(path)
            if found is not None:
                return Extent(self._fd, *found)
            if path not in self._links:
                return None
            path = self._links[path]
        raise ImageError(f"{self._name}: {path}: too many symbolic links", hint=DAMAGED)

    def close(self) -> None:
        os.close(self._fd)

"""Keep the layers of which only a part was fetched: their tables of contents, and the chunks that sandboxes have read.

    IMAGES/lazy/ALGORITHM-HEX/table         the table, exactly as the blob has it
    IMAGES/lazy/ALGORITHM-HEX/place.json    where the blob has it, and its digest
    IMAGES/lazy/ALGORITHM-HEX/data          the chunks that were fetched; all else is a hole

A layer is identified by the digest of its table, not by that of its blob, which nobody compares: a registry could give another table
for the blob of a known layer. A directory gets its name when its table is complete. The data has no list of the chunks that are
there: a chunk is there if what the data has at its place has its digest. So a process may be killed at any instant, and several
may fetch the same chunk.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

from sandbox.errors import ImageError, StateError
from sandbox.images.chunked.toc import LARGEST_TABLE, TablePlace
from sandbox.images.oci.digest import Digest
from sandbox.images.places import lazy_in, lazy_place
from sandbox.kernel.trees import synchronize_directory
from sandbox.state.trusted_files import read_json, replace_json

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_TABLE, _PLACE, _DATA = "table", "place.json", "data"
_NEW = ".new-"
_UNIT = 512  # of st_blocks (stat(2))
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class PartialLayers:
    """The layers of one image directory that were fetched in part, by the digests of their tables. Owns nothing."""

    def __init__(self, images: str) -> None:
        """Use the image directory *images*."""
        self.images = images
        self._base = lazy_in(images)

    def path(self, digest: Digest | str) -> str:
        """Return the directory of the layer *digest*, which need not exist."""
        return lazy_place(self.images, str(digest))

    def has(self, digest: Digest) -> bool:
        """Return whether the table is there."""
        return os.path.isdir(self.path(digest))

    def add(self, digest: Digest, table: bytes, place: TablePlace) -> None:
        """Store the table *digest*, whose content, *table*, the blob has at *place*.

        Raises:
            StateError: it cannot be written.
        """
        new = os.path.join(self._base, f"{_NEW}{os.urandom(8).hex()}")
        try:
            os.makedirs(new, mode=0o700)
            with open(os.path.join(new, _TABLE), "xb") as file:
                file.write(table)
                file.flush()
                os.fsync(file.fileno())
            replace_json(os.path.join(new, _PLACE), place._asdict(), lasting=True)
            with suppress(FileExistsError):
                self._publish(new, self.path(digest))
        except OSError as error:
            raise StateError(
                f"the table of contents {digest} cannot be written: {(error.strerror or str(error)).lower()}",
                hint="free some space, or set SANDBOX_CACHE_DIR to another directory",
            ) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _publish(self, new: str, path: str) -> None:
        if os.path.isdir(path):
            return  # another process has fetched it meanwhile
        os.rename(new, path)
        synchronize_directory(self._base)

    def table(self, digest: Digest) -> bytes:
        """Return the content of the table *digest*, which was not compared with it.

        Raises:
            ImageError: the store does not have it.
        """
        try:
            with open(os.open(os.path.join(self.path(digest), _TABLE), _READ), "rb") as file:
                return file.read(LARGEST_TABLE + 1)
        except OSError as error:
            raise _missing(digest, error) from None

    def place(self, digest: Digest) -> TablePlace:
        """Return where the blob has the table *digest*.

        Raises:
            ImageError: the store does not have it, or it is damaged.
        """
        try:
            value = read_json(os.path.join(self.path(digest), _PLACE))
            return TablePlace(
                str(value["form"]), str(value["digest"]), int(value["offset"]), int(value["length"])
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _missing(digest, error) from None

    def data(self, digest: Digest | str) -> str:
        """Return the path of the data of the layer *digest*."""
        return os.path.join(self.path(digest), _DATA)

    def open_data(self, digest: Digest, size: int) -> int:
        """Return a descriptor of the data of the layer *digest*, for reading and writing; it has *size* bytes.

        Raises:
            ImageError: it cannot be opened.
        """
        path = self.data(digest)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(fd).st_size != size:
                    os.ftruncate(fd, size)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise ImageError(
                f"the data of the layer with the table {digest} cannot be opened: {(error.strerror or str(error)).lower()}",
                hint="pull the image again",
            ) from None
        return fd

    def size(self, digest: Digest | str) -> int:
        """Return the bytes that the layer takes in the store; 0 if there is nothing of it."""
        total = 0
        with suppress(OSError), os.scandir(self.path(digest)) as entries:
            for entry in entries:
                total += entry.stat(follow_symlinks=False).st_blocks * _UNIT
        return total

    def digests(self) -> Iterator[Digest]:
        """Yield the tables of all layers."""
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._base)):
                with suppress(ValueError):
                    yield Digest.parse(name.replace("-", ":", 1))

    def remove(self, digest: Digest) -> int:
        """Remove what there is of the layer; return the bytes that it took. A sandbox that has the data open reads on."""
        size = self.size(digest)
        with suppress(FileNotFoundError):
            removed = os.path.join(self._base, f"{_NEW}{os.urandom(8).hex()}")
            os.rename(self.path(digest), removed)
            shutil.rmtree(removed)
        return size

    def remove_interrupted(self) -> None:
        """Remove what killed processes have left. The caller makes sure that no process adds a layer."""
        with suppress(FileNotFoundError):
            for name in os.listdir(self._base):
                if name.startswith(_NEW):
                    shutil.rmtree(os.path.join(self._base, name), ignore_errors=True)


def _missing(digest: Digest, error: Exception) -> ImageError:
    return ImageError(
        f"the image store has no table of contents {digest}: {error}", hint="pull the image again"
    )

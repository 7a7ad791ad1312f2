"""Keep blobs in the image directory by their digests: manifests, configurations and layers, exactly as their sources have them.

    IMAGES/blobs/ALGORITHM/HEX      a complete blob, mode 0600
    IMAGES/partial/ALGORITHM-HEX    a blob that is being received, locked meanwhile; what a killed process left is resumed

A blob is synced and renamed into place after its digest was verified. So every blob with a name is complete, also after a power
failure.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress

from sandbox.errors import ImageError, StateError
from sandbox.images.oci.digest import Digest, new_hash
from sandbox.images.places import partial_in
from sandbox.kernel.trees import synchronize_directory
from sandbox.state.locks import claim, has_name, take

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_POLL = 0.02
"""Seconds between two attempts to get the lock of a blob that another process receives."""
_PIECE = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class BlobStore:
    """The blobs of one image directory. Owns nothing; several processes may use it at once."""

    def __init__(self, images: str) -> None:
        """Use the image directory *images*."""
        self.base = os.path.join(images, "blobs")
        self.partial = partial_in(images)

    def path(self, digest: Digest) -> str:
        """Return the path of the blob *digest*, which need not exist."""
        return os.path.join(self.base, digest.algorithm, digest.hex)

    def has(self, digest: Digest) -> bool:
        """Return whether the blob is complete."""
        try:
            return stat.S_ISREG(os.lstat(self.path(digest)).st_mode)
        except FileNotFoundError:
            return False

    def is_whole(self, digest: Digest) -> bool:
        """Return whether the blob is complete and its content has its digest. All of it is read.

        Raises:
            ImageError: it cannot be read.
        """
        if not self.has(digest):
            return False
        found = new_hash(digest.algorithm)
        try:
            with open(self.open(digest), "rb", buffering=0) as file:
                while piece := file.read(_PIECE):
                    found.update(piece)
        except OSError as error:
            raise ImageError(f"the blob {digest}: {(error.strerror or str(error)).lower()}") from None
        return bool(found.hexdigest() == digest.hex)

    def size(self, digest: Digest) -> int:
        """Return the size of the blob in bytes; 0 if there is none."""
        try:
            return os.lstat(self.path(digest)).st_size
        except FileNotFoundError:
            return 0

    def open(self, digest: Digest) -> int:
        """Return a descriptor of the blob for reading.

        Raises:
            ImageError: the store does not have it.
        """
        try:
            return os.open(self.path(digest), _READ)
        except OSError as error:
            raise ImageError(
                f"the image store has no blob {digest}: {(error.strerror or str(error)).lower()}",
                hint="fetch or import the image again",
            ) from None

    def read(self, digest: Digest, limit: int) -> bytes:
        """Return the content of the blob.

        Raises:
            ImageError: the store does not have it, or it has more than *limit* bytes.
        """
        with open(self.open(digest), "rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ImageError(f"the blob {digest} has more than {limit} bytes")
        return content

    @contextmanager
    def receiving(
        self,
        digest: Digest,
        check: Callable[[], None] = lambda: None,
        *,
        resumable: bool = True,
        repair: bool = False,
    ) -> Iterator[int | None]:
        """Yield a descriptor of the partial blob, or None if the blob is complete already, and with *repair* also undamaged.

        Only one process receives a blob. Others wait, and find it complete, or take over if that process was killed. *check* is
        called meanwhile; its exception ends the wait. The caller writes the rest and verifies the whole. When the context ends
        without an error, the blob is published. After an error, the partial blob stays for the next call, if *resumable*.

        Raises:
            StateError: the blob cannot be written, as on a full disk.
        """
        is_there = self.is_whole if repair else self.has
        if is_there(digest):
            yield None
            return
        path = os.path.join(self.partial, f"{digest.algorithm}-{digest.hex}")
        try:
            os.makedirs(self.partial, mode=0o700, exist_ok=True)
            fd = _lock(path, check)
        except OSError as error:
            raise _not_written(digest, error) from None
        done = False
        try:
            if is_there(digest):
                os.unlink(path)
                yield None
                return
            yield fd
            try:
                self._publish(fd, path, digest)
            except OSError as error:
                raise _not_written(digest, error) from None
            done = True
        finally:
            if not done and (not resumable or os.fstat(fd).st_size == 0) and has_name(fd, path):
                with suppress(OSError):
                    os.unlink(path)
            os.close(fd)

    @contextmanager
    def writing(self) -> Iterator[NewBlob]:
        """Yield a blob that is being written, whose digest is known at its end. Without :meth:`NewBlob.publish` it is removed.

        Raises:
            StateError: it cannot be written.
        """
        os.makedirs(self.partial, mode=0o700, exist_ok=True)
        path = os.path.join(self.partial, f"new-{os.urandom(8).hex()}")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            raise _not_written(None, error) from None
        try:
            yield NewBlob(self, fd, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)
            os.close(fd)

    def add(self, content: bytes) -> Digest:
        """Store *content* and return its digest. A damaged blob with this digest is replaced.

        Raises:
            StateError: it cannot be written.
        """
        digest = Digest.of(content)
        with self.receiving(digest, resumable=False, repair=True) as fd:
            if fd is not None:
                try:
                    os.ftruncate(fd, 0)
                    with open(fd, "wb", closefd=False) as file:
                        file.write(content)
                except OSError as error:
                    raise _not_written(digest, error) from None
        return digest

    def remove(self, digest: Digest) -> int:
        """Remove the blob; return the bytes that it had."""
        path = self.path(digest)
        try:
            size = os.lstat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return size

    def digests(self) -> Iterator[Digest]:
        """Yield the digests of all complete blobs."""
        for algorithm in ("sha256", "sha512"):
            with suppress(FileNotFoundError):
                for name in sorted(os.listdir(os.path.join(self.base, algorithm))):
                    with suppress(ValueError):
                        yield Digest.parse(f"{algorithm}:{name}")

    def remove_partial(self) -> list[str]:
        """Remove the partial blobs that no process receives; return their paths."""
        gone = []
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.partial)):
                path = os.path.join(self.partial, name)
                state, fd = claim(path)
                if fd >= 0:
                    if state == "free" and has_name(fd, path):
                        os.unlink(path)
                        gone.append(path)
                    os.close(fd)
        return gone

    def _publish(self, fd: int, path: str, digest: Digest) -> None:
        place = self.path(digest)
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        os.fsync(fd)
        os.rename(path, place)
        synchronize_directory(os.path.dirname(place))


class NewBlob:
    """A blob that is being written. :meth:`BlobStore.writing` creates and closes it."""

    def __init__(self, store: BlobStore, fd: int, path: str) -> None:
        """Write to the file *fd* at *path*, which the caller owns."""
        self._store = store
        self._fd = fd
        self._path = path

    def write(self, data: bytes, /) -> None:
        """Append *data*.

        Raises:
            StateError: it cannot be written.
        """
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise _not_written(None, error) from None

    def publish(self, digest: Digest) -> None:
        """Give the blob its name: *digest* is that of all that was written.

        Raises:
            StateError: it cannot be written.
        """
        try:
            self._store._publish(self._fd, self._path, digest)
        except OSError as error:
            raise _not_written(digest, error) from None


def _lock(path: str, check: Callable[[], None]) -> int:
    """Return a descriptor of the file *path*, which is locked and has its name still; call *check* while waiting."""
    while True:
        # Threads receive blobs. A thread that waits in flock(2) could not be ended.
        while (fd := take(path, wait=False)) is None:
            check()
            time.sleep(_POLL)
        if has_name(fd, path):
            return fd
        os.close(fd)


def _not_written(digest: Digest | None, error: OSError) -> StateError:
    reason = (error.strerror or str(error)).lower()
    return StateError(
        f"{'a blob' if digest is None else f'the blob {digest}'} cannot be written to the image directory: {reason}",
        hint="free some space, or set SANDBOX_CACHE_DIR to another directory",
    )

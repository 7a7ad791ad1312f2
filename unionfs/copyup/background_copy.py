"""Copy the contents of large files in a thread, before the copy-up that needs them.

If a copy-up would have to copy much, it raises :class:`CopyPending` before it changes anything. The server parks the
request, and a thread copies the contents to a temporary file in the work directory. Then the server handles the request
again, and the copy-up uses that file. The copy stays valid in between: the contents of a lower layer never change, whatever
other requests do to its names.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from threading import Lock

from unionfs._stdlib.dataclasses import dataclass
from unionfs.copyup.copy_data import Copier
from unionfs.layer.objects import DescriptorRef, PathRef

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer.contents import Fetch
    from unionfs.types import Ino
    from unionfs.upper.quota import Quota
    from unionfs.upper.workdir import WorkDirectory

#: Smaller copies (in bytes) take less time than handing them to a thread.
LARGE = 1 << 20
_BLOCK = 512  # the unit of st_blocks (stat(2))


class FetchPendingError(Exception):
    """A request needs contents that have to be fetched from another machine first. Nothing has been changed yet."""

    def __init__(self, fetch: Fetch) -> None:
        """Refer to *fetch*."""
        super().__init__()
        self.fetch = fetch


class CopyPending(Exception):
    """The contents of the inode *ino* have to be copied first, by the work that :meth:`BackgroundCopies.begin` returns."""

    def __init__(self, ino: Ino) -> None:
        """Report that the contents of *ino* are missing."""
        super().__init__(ino)
        self.ino = ino


@dataclass(slots=True)
class _Copy:
    source: PathRef | DescriptorRef
    size: int
    name: bytes = b""
    fd: int = -1
    copied: int = 0
    #: Bytes of the quota of the writable layer that are reserved for the copy.
    reserved: int = 0
    #: Whether the copy was begun, and whether it has ended.
    begun: bool = False
    done: bool = False
    error: OSError | None = None
    #: No copy-up will use the copy; the thread closes its descriptor.
    given_up: bool = False


class BackgroundCopies:
    """The background copies of one mount: requested, running and ready ones. It owns their descriptors and temporary files.

    Worker threads only run the functions that :meth:`begin` returns. All other methods belong to the server's thread.
    """

    def __init__(self, workdir: WorkDirectory, *, durable: bool, quota: Quota | None = None) -> None:
        """Copy to *workdir*.

        *durable*: sync each copy. *quota*: the limit of the layer, which includes these copies.
        """
        self._workdir = workdir
        self._durable = durable
        self._quota = quota
        self._copier = Copier()
        self._known: dict[Ino, _Copy] = {}
        #: Protects the decision whether the thread or the server closes a descriptor.
        self._ending = Lock()

    def require(self, ino: Ino, source: PathRef | DescriptorRef, size: int) -> None:
        """Return if the *size* bytes of *source*, the contents of *ino*, are few or have been copied already.

        Raises:
            CopyPending: they are many and have not been copied yet.
            FetchPendingError: some of them have to be fetched first.
            OSError: the copy failed.
        """
        archived = source.archived()
        fetch = None if archived is None else archived.pending(0, size)
        if fetch is not None:
            raise FetchPendingError(fetch)
        if size < LARGE:
            return
        known = self._known.get(ino)
        if known is None or not known.done:
            if known is None:
                self._known[ino] = _Copy(source, size)
            raise CopyPending(ino)
        if known.error is not None:
            raise known.error

    def reserved(self, ino: Ino) -> int:
        """Return how many bytes of the quota are reserved for the copy of *ino*."""
        known = self._known.get(ino)
        return 0 if known is None else known.reserved

    def _reserve(self, known: _Copy, size: int) -> None:
        if self._quota is not None:
            self._quota.reserved += size - known.reserved
            known.reserved = size

    def begin(self, ino: Ino) -> Callable[[], None] | None:
        """Return a function that makes the copy requested by :meth:`require`, for a thread to call; None if it was begun already.

        Raises:
            OSError: the copy cannot begin.
        """
        known = self._known[ino]
        if known.begun:
            return None
        at, contents = -1, known.source.archived()
        try:
            if contents is None:
                at = known.source.open(os.O_RDONLY)
            known.name = self._workdir.new_name()
            known.fd = self._workdir.begin_copy(known.name)
            allocated = os.fstat(at).st_blocks * _BLOCK if contents is None else contents.stored
        except OSError:
            if at >= 0:
                os.close(at)
            if known.fd >= 0:
                os.close(known.fd)
                self._workdir.discard_copy(known.name)
            del self._known[ino]
            raise
        known.begun = True
        self._reserve(known, min(known.size, allocated))

        def work() -> None:
            try:
                if contents is None:
                    known.copied = self._copier.copy(at, known.fd, known.size)
                else:
                    known.copied = contents.copy(known.fd)
                if self._durable:
                    os.fdatasync(known.fd)
            except OSError as error:
                known.error = error
            except MemoryError:
                known.error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            except BaseException:
                known.error = OSError(errno.EIO, os.strerror(errno.EIO))
                raise
            finally:
                if at >= 0:
                    os.close(at)
                with self._ending:
                    known.done = True
                    if known.given_up:
                        os.close(known.fd)

        return work

    def take(self, ino: Ino, name: bytes) -> tuple[int, int] | None:
        """Rename the finished copy of *ino* to the temporary name *name*, and return its descriptor and the number of
        copied bytes.

        None if there is no finished copy.
        """
        known = self._known.get(ino)
        if known is None or not known.done or known.error is not None:
            return None
        self._workdir.rename_temporary(known.name, name)
        self._reserve(known, 0)
        del self._known[ino]
        return known.fd, known.copied

    def drop(self, ino: Ino) -> None:
        """Discard the copy of *ino* that no copy-up has taken, unless it is still running."""
        known = self._known.get(ino)
        if known is not None and (known.done or not known.begun):
            del self._known[ino]
            self._reserve(known, 0)
            if known.begun:
                os.close(known.fd)
                self._workdir.discard_copy(known.name)

    def move(self, workdir: WorkDirectory) -> None:
        """Move the temporary files to the work directory *workdir* of the next writable layer. Threads continue to fill them.

        A file that cannot be moved is discarded; the requests that wait for it then begin another copy.
        """
        for ino, known in list(self._known.items()):
            if not known.begun:
                continue
            name = self._workdir.new_name()
            try:
                os.rename(known.name, name, src_dir_fd=self._workdir.tmp_fd, dst_dir_fd=workdir.tmp_fd)
            except OSError:
                self._give_up(known)
                self._reserve(known, 0)
                del self._known[ino]
            else:
                known.name = name

    def _give_up(self, known: _Copy) -> None:
        self._workdir.discard_copy(known.name)
        with self._ending:
            known.given_up = True
            if known.done:
                os.close(known.fd)

    def close(self) -> None:
        """Discard all copies. The names are removed at once, the descriptors of running copies when they end."""
        for known in self._known.values():
            if known.begun:
                self._give_up(known)
        self._known.clear()

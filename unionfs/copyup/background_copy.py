"""Contents of large files that are copied ahead of the copy-up that needs them, by somebody else than the server.

Where a copy-up would have to copy much, it does not begin but says :class:`CopyPending`. Whoever made the request has it
answered later: the contents go to a temporary file of the work directory meanwhile, and the same request, asked again,
finds them there. Nothing of the union has changed in between but what other requests changed: the contents of a lower
layer are the same before and after, whatever becomes of the names.
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
    from unionfs.types import Ino
    from unionfs.upper.quota import Quota
    from unionfs.upper.upper import Upper

#: Bytes: copying less takes less than having somebody else do it.
LARGE = 1 << 20
_BLOCK = 512  # the unit of st_blocks (stat(2))


class CopyPending(Exception):
    """The contents of the node *ino* have to be copied first: by :meth:`BackgroundCopies.fetch`."""

    def __init__(self, ino: Ino) -> None:
        """Say so of *ino*."""
        super().__init__(ino)
        self.ino = ino


@dataclass(slots=True)
class _Fetched:
    source: PathRef | DescriptorRef
    size: int
    name: bytes = b""
    fd: int = -1
    copied: int = 0
    #: Bytes of the bound of the writable layer that are kept for it.
    reserved: int = 0
    #: Being copied, or done.
    begun: bool = False
    done: bool = False
    error: OSError | None = None
    #: Nobody is going to take it.
    given_up: bool = False


class BackgroundCopies:
    """The copies of one mount that are under way or ready."""

    def __init__(self, upper: Upper, *, durable: bool, quota: Quota | None = None) -> None:
        """Put them into the work directory of *upper*; *durable*: synced; *quota* bounds them with what is in the layer."""
        self._upper = upper
        self._durable = durable
        self._quota = quota
        self._copier = Copier()
        self._known: dict[Ino, _Fetched] = {}
        #: Held while it is decided who closes a descriptor.
        self._ending = Lock()

    def require(self, ino: Ino, source: PathRef | DescriptorRef, size: int) -> None:
        """See that *size* bytes of *source*, the contents of *ino*, need not be copied now.

        Raises:
            CopyPending: they are too many and have not been copied.
            OSError: copying them failed.
        """
        if size < LARGE:
            return
        known = self._known.get(ino)
        if known is None or not known.done:
            if known is None:
                self._known[ino] = _Fetched(source, size)
            raise CopyPending(ino)
        if known.error is not None:
            raise known.error

    def reserved(self, ino: Ino) -> int:
        """Return how many bytes are counted already for the copy of *ino*."""
        known = self._known.get(ino)
        return 0 if known is None else known.reserved

    def _reserve(self, known: _Fetched, size: int) -> None:
        if self._quota is not None:
            self._quota.reserved += size - known.reserved
            known.reserved = size

    def begin(self, ino: Ino) -> Callable[[], None] | None:
        """Return the work of copying what :meth:`require` asked for, to be done by a thread; None if it is being done.

        Raises:
            OSError: it cannot begin.
        """
        known = self._known[ino]
        if known.begun:
            return None
        at = -1
        try:
            at = known.source.open(os.O_RDONLY)
            known.name = self._upper.new_name()
            known.fd = self._upper.begin_copy(known.name)
            allocated = os.fstat(at).st_blocks * _BLOCK
        except OSError:
            if at >= 0:
                os.close(at)
            if known.fd >= 0:
                os.close(known.fd)
                self._upper.discard_copy(known.name)
            del self._known[ino]
            raise
        known.begun = True
        self._reserve(known, min(known.size, allocated))

        def work() -> None:
            try:
                known.copied = self._copier.copy(at, known.fd, known.size)
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
                os.close(at)
                with self._ending:
                    known.done = True
                    if known.given_up:
                        os.close(known.fd)

        return work

    def take(self, ino: Ino, name: bytes) -> tuple[int, int] | None:
        """Give what is ready for *ino* the temporary name *name*; returns its descriptor and how many bytes were copied."""
        known = self._known.get(ino)
        if known is None or not known.done or known.error is not None:
            return None
        self._upper.rename_temporary(known.name, name)
        self._reserve(known, 0)
        del self._known[ino]
        return known.fd, known.copied

    def drop(self, ino: Ino) -> None:
        """Throw away what is ready for *ino*: nobody has needed it."""
        known = self._known.get(ino)
        if known is not None and (known.done or not known.begun):
            del self._known[ino]
            self._reserve(known, 0)
            if known.begun:
                os.close(known.fd)
                self._upper.discard_copy(known.name)

    def close(self) -> None:
        """Throw away everything: what is being copied goes when that is done, its name at once."""
        for known in self._known.values():
            if not known.begun:
                continue
            self._upper.discard_copy(known.name)
            with self._ending:
                known.given_up = True
                if known.done:
                    os.close(known.fd)
        self._known.clear()

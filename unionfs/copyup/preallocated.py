"""Preallocate an empty file in the work directory for the next copy-up.

After changes of two files of a lower layer, a third change usually follows. Making a file takes longer than any other
system call of a copy-up. So the server makes it after it has answered the previous copy-up, while the client continues.
"""

from __future__ import annotations

import os
from contextlib import suppress

from unionfs.upper.workdir import COPY_PREFIX, WorkDirectory

#: If at most this many requests lie between two copies, another copy is expected. A client looks each file up, requests its
#: attributes and changes it.
_NEAR = 8


class PreallocatedFile:
    """A preallocated file: its temporary name, a descriptor to read and write it, and its attributes."""

    __slots__ = ("fd", "made", "name")

    def __init__(self, name: bytes, fd: int, made: os.stat_result) -> None:
        """Take over *fd*."""
        self.name = name
        self.fd = fd
        self.made = made

    def take(self) -> int:
        """Return the descriptor, which then belongs to the caller."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor, unless the caller has taken it."""
        if self.fd >= 0:
            os.close(self.take())


class PreallocatedFiles:
    """At most one preallocated file in the work directory. CopyUp creates and closes it."""

    def __init__(self, workdir: WorkDirectory) -> None:
        """Start without a preallocated file; they are made in *workdir*."""
        self._workdir = workdir
        self._ready: PreallocatedFile | None = None
        #: Requests since the last copy.
        self._since = _NEAR + 1

    def take(self) -> PreallocatedFile | None:
        """Return the preallocated file, if there is one. The file and its name then belong to the caller."""
        ready, self._ready = self._ready, None
        return ready

    def passed(self) -> None:
        """Count an answered request."""
        self._since += 1

    def copied(self, mode: int) -> None:
        """Record the copy of a file. If the previous copy was recent, make a file with permission bits *mode* for the next one.

        Errors are ignored: then the next copy-up makes its own file.
        """
        near, self._since = self._since <= _NEAR, 0
        if not near or self._ready is not None:
            return
        with suppress(OSError):
            name = self._workdir.new_name(COPY_PREFIX)
            fd = self._workdir.begin_copy(name, mode)
            try:
                self._ready = PreallocatedFile(name, fd, os.fstat(fd))
            except OSError:
                os.close(fd)
                self._workdir.discard_copy(name)

    def close(self) -> None:
        """Remove the preallocated file, if there is one."""
        ready = self.take()
        if ready is not None:
            ready.close()
            self._workdir.discard_copy(ready.name)

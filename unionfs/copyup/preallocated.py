"""An empty file of the work directory that is there before the copy that needs it.

Whoever changes two files of a lower layer usually changes the next, and making a file is the longest of the calls of a
copy-up: it is made when the copy before has been answered for, while whoever asked goes on.
"""

from __future__ import annotations

import os
from contextlib import suppress

from unionfs.upper.upper import COPY_PREFIX, Upper

#: Copies that come within so many requests of each other are thought to have another one follow: each is looked up, asked
#: about and changed.
_NEAR = 8


class PreallocatedFile:
    """The file: its temporary name, a descriptor to read and write it, and its attributes."""

    __slots__ = ("fd", "made", "name")

    def __init__(self, name: bytes, fd: int, made: os.stat_result) -> None:
        """Take over *fd*."""
        self.name = name
        self.fd = fd
        self.made = made

    def take(self) -> int:
        """Return the descriptor, which is the caller's from now on."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor, unless it has been taken."""
        if self.fd >= 0:
            os.close(self.take())


class PreallocatedFiles:
    """At most one such file of *upper*."""

    def __init__(self, upper: Upper) -> None:
        """Make none yet."""
        self._upper = upper
        self._ready: PreallocatedFile | None = None
        #: Requests since the last copy.
        self._since = _NEAR + 1

    def take(self) -> PreallocatedFile | None:
        """Return the file, if there is one, which is the caller's from now on; so is its name."""
        ready, self._ready = self._ready, None
        return ready

    def passed(self) -> None:
        """Learn that a request has been answered."""
        self._since += 1

    def copied(self, mode: int) -> None:
        """Learn that a file has been copied, and have one ready for the next, of the permission bits *mode*, if the one
        before was copied just now. Where that fails there is none, and nobody misses it.
        """
        near, self._since = self._since <= _NEAR, 0
        if not near or self._ready is not None:
            return
        with suppress(OSError):
            name = self._upper.new_name(COPY_PREFIX)
            fd = self._upper.begin_copy(name, mode)
            try:
                self._ready = PreallocatedFile(name, fd, os.fstat(fd))
            except OSError:
                os.close(fd)
                self._upper.discard_copy(name)

    def close(self) -> None:
        """Remove it, if there is one."""
        ready = self.take()
        if ready is not None:
            ready.close()
            self._upper.discard_copy(ready.name)

"""Letting the kernel forget what it has known for longest, so that the table of nodes stays bounded.

A lookup lives as long as the kernel's cache has the name, and that shrinks only when the machine is short of memory:
a walk over a million files would make a million nodes. Above a limit the oldest are named to the kernel, which drops
those that nobody uses (FUSE_NOTIFY_PRUNE, Linux 6.18) and says so by FORGET as ever.

Older kernels only know how to drop a name whether it is used or not (FUSE_NOTIFY_INVAL_ENTRY): below it volumes would
be unmounted, and a process that works there would have lost its directory (d_invalidate, fs/dcache.c). With them the
kernel alone decides what is remembered.

And having it forget attributes that turn out to be wrong (FUSE_NOTIFY_INVAL_INODE).
"""

from __future__ import annotations

import errno
import os
import struct
from collections import deque
from collections.abc import Sequence
from threading import Lock, Thread

from unionfs.inode.table import InodeTable
from unionfs.types import Ino

#: Nodes to keep: of 0.8 KiB each, so 80 MB.
LIMIT = 100_000
_NOTIFY_PRUNE = 9  # FUSE_NOTIFY_PRUNE, include/uapi/linux/fuse.h
#: struct fuse_out_header; a notification has its code in the place of an error, and belongs to no request.
_HEADER = struct.Struct("=IiQ")
#: struct fuse_notify_prune_out: count, padding, spare.
_PRUNE = struct.Struct("=IIQ")
_PER_MESSAGE = 512
_NOTIFY_INVAL_INODE = 2  # FUSE_NOTIFY_INVAL_INODE
#: struct fuse_notify_inval_inode_out: number, offset, length; with an offset below 0 the attributes alone, and no pages.
_INVAL = struct.Struct("=Qqq")
#: Seconds; it takes a microsecond for each node.
_LONG = 1.0


class KernelNotifier:
    """Keeps the number of inodes near a limit, and the kernel's copies of its attributes right."""

    def __init__(self, inode_table: InodeTable, connection: int | None) -> None:
        """Watch *inode_table*; :meth:`check` is to be called when it has grown.

        Args:
            inode_table: the inodes that are served.
            connection: the /dev/fuse of the mount, which stays the caller's; None where requests come from elsewhere, and nothing
                is sent.
        """
        self._inode_table = inode_table
        self._connection = connection
        inode_table.on_touched = self.have_asked_again
        self._limit = LIMIT
        self._batch = max(1, LIMIT // 8)
        #: Above so many nodes the next batch is due. Where all are in use, it would be for nothing at each one more.
        self._due = LIMIT
        self._supported = True
        #: What the thread has yet to say to the kernel. It may be slower than the table grows, and nothing may come after the
        #: last growth: what is too much is named when it appears, not when the thread has time.
        self._unsaid: deque[Sequence[Ino]] = deque()
        self._speaking = False
        self._lock = Lock()

    def check(self) -> None:
        """Ask the kernel to forget the oldest nodes if there are too many.

        From a thread: dropping a file may wait for pages that this server has yet to deliver.
        """
        size = len(self._inode_table)
        if size <= self._due:
            # What was in use then may not be any more.
            self._due = max(self._limit, min(self._due, size + self._batch))
            return
        if not self._supported:
            return
        self._due = size + self._batch
        with self._lock:
            count = size - self._limit + self._batch - sum(map(len, self._unsaid))
            numbers = self._inode_table.oldest(max(0, count))
            for start in range(0, len(numbers), _PER_MESSAGE):
                self._unsaid.append(numbers[start : start + _PER_MESSAGE])
            if self._speaking or not self._unsaid:
                return
            self._speaking = True
        self._speak()

    def _speak(self) -> None:
        connection = self._duplicate()
        if connection is not None:
            try:
                Thread(target=self._prune, args=(connection,), name="forgetting", daemon=True).start()
            except RuntimeError:  # no more threads are allowed; requests are answered all the same
                os.close(connection)
            else:
                return
        with self._lock:
            self._unsaid.clear()
            self._speaking = False

    def _duplicate(self) -> int | None:
        """Return a descriptor of the connection for a thread, which may outlive the caller's; None where there is none."""
        if self._connection is None:
            return None
        try:
            return os.dup(self._connection)
        except OSError:  # as many descriptors as there can be
            return None

    def have_asked_again(self, numbers: Sequence[Ino]) -> None:
        """Have the kernel ask for the attributes of *numbers* again before it uses them, and return when it knows.

        That is before the request at hand is answered, as whoever opens a file then reads as much as it is said to hold. The
        kernel does not touch pages for it (fuse_reverse_inval_inode, fs/fuse/inode.c), but may have dropped a file meanwhile but
        for this, and wait for pages that this server has yet to deliver: so from a thread, for which nobody waits long.
        """
        connection = self._duplicate()
        if connection is None:
            return
        telling = Thread(target=_invalidate, args=(connection, numbers), name="invalidating", daemon=True)
        try:
            telling.start()
        except RuntimeError:  # no more threads are allowed; requests are answered all the same
            os.close(connection)
            return
        telling.join(_LONG)

    def _prune(self, connection: int) -> None:
        try:
            while True:
                with self._lock:
                    if not self._unsaid:
                        self._speaking = False
                        return
                    numbers = self._unsaid.popleft()
                os.write(connection, _message(numbers))
        except OSError as error:
            # Anything but the kernel's not knowing it is the end of the mount.
            self._supported = self._supported and error.errno not in (errno.EINVAL, errno.ENOSYS)
            with self._lock:
                self._unsaid.clear()
                self._speaking = False
        finally:
            os.close(connection)


def _message(numbers: Sequence[Ino]) -> bytes:
    body = _PRUNE.pack(len(numbers), 0, 0) + struct.pack(f"={len(numbers)}Q", *numbers)
    return _notification(_NOTIFY_PRUNE, body)


def _notification(code: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), code, 0) + body


def _invalidate(connection: int, numbers: Sequence[Ino]) -> None:
    try:
        for number in numbers:
            try:
                os.write(connection, _notification(_NOTIFY_INVAL_INODE, _INVAL.pack(number, -1, 0)))
            except FileNotFoundError:
                continue  # the kernel does not know it, or no more
    except OSError:
        pass  # the end of the mount
    finally:
        os.close(connection)

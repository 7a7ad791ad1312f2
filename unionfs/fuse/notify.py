"""Notify the kernel of inodes to forget and of attributes to invalidate.

Forgetting bounds the size of the inode table. The kernel keeps a lookup for as long as its dentry cache keeps the name. The
cache shrinks only when the machine is short of memory. So a walk over a million files would make a million inodes. Above a
limit, the server sends the oldest inode numbers to the kernel (FUSE_NOTIFY_PRUNE, Linux 6.18). The kernel drops those that
are not in use, and sends FORGET for them as usual.

Older kernels can only drop a name whether or not it is in use (FUSE_NOTIFY_INVAL_ENTRY). That would unmount volumes below
the name, and take the working directory from processes (d_invalidate, fs/dcache.c). With these kernels the server sends
nothing, and the kernel alone decides which inodes it remembers.

FUSE_NOTIFY_INVAL_INODE makes the kernel drop attributes that turned out to be wrong.
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

#: Most inodes in the table. An inode takes 0.8 KiB, so this is 80 MB.
LIMIT = 100_000
_NOTIFY_PRUNE = 9  # FUSE_NOTIFY_PRUNE, include/uapi/linux/fuse.h
#: struct fuse_out_header. A notification has its code in the error field, and unique 0.
_HEADER = struct.Struct("=IiQ")
#: struct fuse_notify_prune_out: count, padding, spare.
_PRUNE = struct.Struct("=IIQ")
_PER_MESSAGE = 512
_NOTIFY_INVAL_INODE = 2  # FUSE_NOTIFY_INVAL_INODE
#: struct fuse_notify_inval_inode_out: number, offset, length. An offset below 0 invalidates the attributes, but no pages.
_INVAL = struct.Struct("=Qqq")
#: Seconds to wait for the kernel. It needs about a microsecond per inode.
_LONG = 1.0


class KernelNotifier:
    """Keeps the number of inodes near a limit, and invalidates attributes in the kernel's cache.

    The request handlers of a mount create it. It does not own the descriptor of the connection.
    """

    def __init__(self, inode_table: InodeTable, connection: int | None) -> None:
        """Watch *inode_table*. The caller calls :meth:`check` after the table has grown.

        Args:
            inode_table: the inodes of the mount.
            connection: the /dev/fuse of the mount, which the caller keeps open; None if requests come from elsewhere. Then
                nothing is sent.
        """
        self._inode_table = inode_table
        self._connection = connection
        inode_table.on_attributes_invalid = self.invalidate_attributes
        self._limit = LIMIT
        self._batch = max(1, LIMIT // 8)
        #: Size of the table at which the next batch is sent. If the kernel uses all inodes, this avoids a batch for each new one.
        self._due = LIMIT
        self._supported = True
        #: Batches that the thread has yet to send. The thread may be slower than the table grows. The numbers are chosen
        #: when the table grows, because :meth:`check` may not be called again after the last growth.
        self._unsent: deque[Sequence[Ino]] = deque()
        self._sending = False
        self._lock = Lock()

    def check(self) -> None:
        """Send the oldest inode numbers to the kernel if the table is too large.

        A thread writes the notification: when the kernel drops a file, it may wait for pages that this server has yet to deliver.
        """
        size = len(self._inode_table)
        if size <= self._due:
            # Inodes that were in use at the last batch may be unused by now.
            self._due = max(self._limit, min(self._due, size + self._batch))
            return
        if not self._supported:
            return
        self._due = size + self._batch
        with self._lock:
            count = size - self._limit + self._batch - sum(map(len, self._unsent))
            numbers = self._inode_table.oldest(max(0, count))
            for start in range(0, len(numbers), _PER_MESSAGE):
                self._unsent.append(numbers[start : start + _PER_MESSAGE])
            if self._sending or not self._unsent:
                return
            self._sending = True
        self._start_sending()

    def _start_sending(self) -> None:
        connection = self._duplicate()
        if connection is not None:
            try:
                Thread(target=self._prune, args=(connection,), name="prune-inodes", daemon=True).start()
            except RuntimeError:  # the limit of threads is reached; requests are answered all the same
                os.close(connection)
            else:
                return
        with self._lock:
            self._unsent.clear()
            self._sending = False

    def _duplicate(self) -> int | None:
        """Return a duplicate of the connection's descriptor for a thread, which may outlive the caller's; None if there is
        none.
        """
        if self._connection is None:
            return None
        try:
            return os.dup(self._connection)
        except OSError:  # the limit of descriptors is reached
            return None

    def invalidate_attributes(self, numbers: Sequence[Ino]) -> None:
        """Invalidate the attributes of *numbers* in the kernel's cache, and return when the kernel has done so.

        It has to be done before the current request is answered: after open(2), a client reads up to the cached size.

        The kernel touches no pages for this (fuse_reverse_inval_inode, fs/fuse/inode.c). But its reference to the inode may
        become the last one. Dropping the inode may then wait for pages that this server has yet to deliver. Therefore a
        thread writes the notification, and this method waits at most a second for it.
        """
        connection = self._duplicate()
        if connection is None:
            return
        thread = Thread(
            target=_invalidate, args=(connection, numbers), name="invalidate-attributes", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the limit of threads is reached; requests are answered all the same
            os.close(connection)
            return
        thread.join(_LONG)

    def _prune(self, connection: int) -> None:
        try:
            while True:
                with self._lock:
                    if not self._unsent:
                        self._sending = False
                        return
                    numbers = self._unsent.popleft()
                os.write(connection, _message(numbers))
        except OSError as error:
            # EINVAL or ENOSYS: the kernel does not support the notification. Any other error means that the mount has ended.
            self._supported = self._supported and error.errno not in (errno.EINVAL, errno.ENOSYS)
            with self._lock:
                self._unsent.clear()
                self._sending = False
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
                continue  # the kernel does not know this inode, or has forgotten it
    except OSError:
        pass  # the mount has ended
    finally:
        os.close(connection)

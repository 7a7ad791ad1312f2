"""End requests that make no progress, and all requests at once when a transfer is cancelled.

The timeout of a socket bounds each system call. A server that sends a byte now and then, in the header or in the TLS
handshake, would never exceed it. Therefore a thread examines the deadlines of all requests and shuts down the sockets of those
that have passed theirs: shutdown(2) ends a recv(2) or send(2) of another thread at once.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_INTERVAL = 0.2
"""Seconds between examinations of the deadlines."""

_current = threading.local()


class Watch:
    """One request in progress: its deadline and its sockets. :class:`Watchdog` makes and closes it."""

    def __init__(self, limit: float, least: int) -> None:
        #: Seconds until the deadline, from the beginning or the last progress.
        self.limit = limit
        self._least = least
        self._bytes = 0
        self._unsent = 0
        self._deadline = time.monotonic() + limit
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        #: Whether the deadline passed before the request was complete.
        self.expired = False
        self.cancelled = False

    def advance(self, count: int) -> None:
        """Record that *count* bytes were transferred; enough of them move the deadline."""
        self._bytes += count
        if self._bytes >= self._least:
            self._bytes = 0
            self._deadline = time.monotonic() + self.limit

    def attach(self, sock: socket.socket) -> None:
        """Use *sock*, which may be a TLS socket, for the request. The watch has its own descriptor of it."""
        import os

        with self._lock:
            self._sockets.append(socket.socket(fileno=os.dup(sock.fileno())))
            if self.expired or self.cancelled:
                self._shut_down()

    def examine(self, now: float) -> None:
        """End the request if its deadline has passed at *now*, a time of time.monotonic().

        What the kernel has sent from its buffers since the last call is progress, too. On a slow line, the last MiB of an
        upload leave the buffers long after they were written.
        """
        with self._lock:
            before, self._unsent = self._unsent, sum(map(_unsent_bytes, self._sockets))
            self.advance(max(before - self._unsent, 0))
            if now >= self._deadline and not self.cancelled:
                self.expired = True
                self._shut_down()

    def cancel(self) -> None:
        """End the request."""
        with self._lock:
            self.cancelled = True
            self._shut_down()

    def close(self) -> None:
        """Close the watch's own descriptors."""
        with self._lock:
            for sock in self._sockets:
                sock.close()
            self._sockets.clear()

    def _shut_down(self) -> None:
        for sock in self._sockets:
            with suppress(OSError):  # ENOTCONN: the other end has closed it
                sock.shutdown(socket.SHUT_RDWR)


def _unsent_bytes(sock: socket.socket) -> int:
    """Return how many bytes the kernel has yet to send, or to have acknowledged (tcp(7), SIOCOUTQ, which is TIOCOUTQ)."""
    import fcntl
    import struct
    import termios

    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


class Watchdog:
    """Watches the requests of one client, in a thread that exists from the first request to :meth:`close`."""

    def __init__(self, limit: float, least: int) -> None:
        """Give each request *limit* seconds, and as many again whenever it has transferred *least* bytes."""
        self._limit = limit
        self._least = least
        self._watches: set[Watch] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled.is_set()

    def open_watch(self, extra: float = 0.0) -> Watch:
        """Return the watch of a new request, which has *extra* seconds more than the others. The caller closes it by :meth:`release`."""
        watch = Watch(self._limit + extra, self._least)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="registry-watchdog", daemon=True)
                self._thread.start()
            self._watches.add(watch)
        if self.cancelled:
            watch.cancel()
        return watch

    def release(self, watch: Watch) -> None:
        """Stop watching *watch*, whose request is complete or has failed."""
        with self._lock:
            self._watches.discard(watch)
        watch.close()

    def cancel(self) -> None:
        """End all requests and pauses, and each that would begin later."""
        self._cancelled.set()
        for watch in self._present():
            watch.cancel()

    def pause(self, seconds: float) -> None:
        """Wait *seconds*, or until :meth:`cancel`."""
        self._cancelled.wait(seconds)

    def close(self) -> None:
        """End the thread. No request may be in progress."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(min(_INTERVAL, self._limit / 4)):
            now = time.monotonic()
            for watch in self._present():
                watch.examine(now)

    def _present(self) -> list[Watch]:
        with self._lock:
            return list(self._watches)


@contextmanager
def sockets_belong_to(watch: Watch) -> Iterator[None]:
    """Attach to *watch* each socket that this thread uses meanwhile (see :func:`attach_to_current`)."""
    _current.watch = watch
    try:
        yield
    finally:
        _current.watch = None


def attach_to_current(sock: socket.socket) -> None:
    """Attach *sock* to the watch of the request that this thread makes."""
    watch = getattr(_current, "watch", None)
    if watch is not None:
        watch.attach(sock)

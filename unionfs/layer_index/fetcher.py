"""The connection to the launcher's process that fetches missing contents. The server itself has no network.

A request takes as long as a registry does, so no thread waits for one: a function is called when the answer has come. If none
comes for LIMIT seconds although requests wait, or the process has ended, all of them have failed.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from threading import Lock, Thread

from unionfs._stdlib.logging import LazyLogger
from unionfs.layer_index.archive_chunks import FETCH, FETCHED

log = LazyLogger(__name__)

LIMIT = 60.0
"""Seconds. The process gives up each request sooner; this bounds the wait if it is stopped."""
_LOOK = 1000  # milliseconds between two looks at the time while requests wait

Done = Callable[[int], None]


class Fetcher:
    """The requests of one server. It owns the socket and, from the first request on, a thread that receives the answers."""

    def __init__(self, channel: socket.socket) -> None:
        """Use *channel*, a SOCK_SEQPACKET socket, which :meth:`close` closes."""
        self._channel = channel
        self._lock = Lock()
        self._waiting: dict[int, Done] = {}
        #: When the last answer came, or the first of the requests that wait was made.
        self._since = 0.0
        #: Requests that the process has not had room for yet.
        self._unsent: deque[bytes] = deque()
        self._last = 0
        self._thread: Thread | None = None
        self._ended = False

    def request(self, layer: int, first: int, count: int, done: Done) -> None:
        """Request *count* chunks of the layer with the number *layer*, from *first* on.

        *done* is called once, by any thread, with 0 when they are in the data, or with the errno of the failure. It must not
        raise, nor call this object.
        """
        with self._lock:
            if not self._ended and self._start():
                self._last = (self._last + 1) & 0xFFFFFFFF
                if not self._waiting:
                    self._since = time.monotonic()
                self._waiting[self._last] = done
                self._unsent.append(FETCH.pack(self._last, layer, first, count))
                self._send()
                return
        done(errno.EIO)

    def close(self) -> None:
        """Close the socket, which ends the thread. Requests that wait fail."""
        with self._lock:
            self._ended = True
        try:
            self._channel.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end is closed
        if self._thread is not None:
            self._thread.join()
        self._channel.close()

    def _start(self) -> bool:
        """Start the thread, if it does not run yet. Not earlier: a process that forks has no other threads."""
        if self._thread is None:
            thread = Thread(target=self._receive, name="fetched", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):  # the limit of threads or memory is reached
                return False
            self._thread = thread
        return True

    def _send(self) -> None:
        """Send what there is room for. The server never waits for that."""
        try:
            while self._unsent:
                self._channel.send(self._unsent[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                self._unsent.popleft()
        except OSError:
            pass  # EAGAIN: the next answer makes room; else the process has ended, which the thread finds

    def _receive(self) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        try:
            while True:
                if not poll.poll(_LOOK):
                    self._expire()
                    continue
                packet = self._channel.recv(FETCHED.size)
                if len(packet) != FETCHED.size:
                    return
                number, failure = FETCHED.unpack(packet)
                with self._lock:
                    found = self._waiting.pop(number, None)
                    self._since = time.monotonic()
                    self._send()
                if found is not None:
                    found(failure)
        except OSError:
            pass  # the process has ended
        except Exception:
            log.exception("the thread that receives fetched contents failed")
        finally:
            with self._lock:
                self._ended = True
                waiting, self._waiting = self._waiting, {}
            for done in waiting.values():
                done(errno.EIO)

    def _expire(self) -> None:
        with self._lock:
            if time.monotonic() - self._since < LIMIT:
                return
            waiting, self._waiting = self._waiting, {}
            self._unsent.clear()
        for done in waiting.values():
            done(errno.EIO)

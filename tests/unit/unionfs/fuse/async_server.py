"""A union that is used through FUSE requests, with blocking reads, and with system calls that fail for lack of memory."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.fsapi.direct import DirectClient
from unionfs.fuse import protocol
from unionfs.fuse.protocol import Opcode

if TYPE_CHECKING:
    from tests.unit.unionfs.support import Union


PATIENCE = 60.0
#: Large with the limit of the fixture. A change of metadata does not copy the contents.
LARGE = bytes(range(256)) * 128


@dataclass
class Server:
    """A union that is used through requests, and whose worker threads can be blocked."""

    union: Union
    client: DirectClient
    said: dict[int, bytes | int] = field(default_factory=dict)
    news: threading.Event = field(default_factory=threading.Event)
    #: Threads wait for it before they read, copy or sync.
    gate: threading.Event = field(default_factory=threading.Event)

    def ino(self, path: str) -> int:
        """Look up *path* as the kernel does, and count the lookup."""
        inode = self.union.inode(path)
        inode.lookups += 1
        return inode.ino

    def wait(self) -> None:
        assert self.news.wait(PATIENCE)
        self.news.clear()

    def resume(self) -> list[bytes | memoryview | int | None]:
        """Handle parked requests again, as the loop does."""
        waiting = self.client.requests.async_io
        assert waiting is not None
        replies = []
        for request in waiting.resume():
            _, opcode, _, ino, *_ = protocol.IN_HEADER.unpack_from(request)
            self.client.requests._view[: len(request)] = request
            replies.append(self.client.requests.answer(opcode, ino, len(request)))
            self.client.requests.answered()
        return replies

    def write(self, path: str, data: bytes, offset: int = 0) -> object:
        body = protocol.WRITE_IN.pack(0, offset, len(data), 0, 0, os.O_WRONLY, 0) + data
        return self.client.send(Opcode.WRITE, self.ino(path), body)

    def read(self, path: str, size: int = 1 << 17) -> Any:
        return self.client.send(Opcode.READ, self.ino(path), protocol.READ_IN.pack(0, 0, size, 0, 0, 0, 0))


def not_in_memory(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """Let RWF_NOWAIT reads find nothing in memory, and blocking reads wait for the gate."""
    read, pread = os.preadv, os.pread

    def preadv(fd: int, buffers: tuple[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return read(fd, buffers, offset, flags)

    def slow(fd: int, size: int, offset: int) -> bytes:
        if threading.current_thread() is not threading.main_thread():
            assert server.gate.wait(PATIENCE)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "pread", slow)


def no_memory(*_: object) -> bytes:
    raise MemoryError

"""The loop of the direct server on one end of a socket, with a test for a kernel at the other."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fsapi.direct import header
from tests.unit.unionfs.support import Union
from unionfs.errors import UnionError
from unionfs.fuse import direct, protocol
from unionfs.fuse.protocol import Opcode

ENDING = frozenset((signal.SIGTERM,))
INIT = protocol.INIT_IN.pack(7, 45, 131072, 0x7FFFFFFF) + bytes(48)


#: The server's end by the number of the kernel's.
_PEERS: dict[int, socket.socket] = {}


@pytest.fixture
def kernel() -> Iterator[socket.socket]:
    """Give the kernel's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    _PEERS[ours.fileno()] = theirs
    with ours, theirs:
        yield ours


def serve(
    tmp_path: Path,
    kernel: socket.socket,
    play: Callable[[], None],
    *,
    lifeline: int | None = None,
    first: bytes = b"",
) -> tuple[int, list[str]]:
    """Serve while *play* plays the kernel in a thread of its own, to the end."""
    union = Union(tmp_path, [{"f": b"content"}], {})
    said: list[str] = []
    player = threading.Thread(target=play)
    player.start()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    try:
        fd = os.dup(_PEERS[kernel.fileno()].fileno())
        status = direct.serve(
            union.fs,
            fd,
            ending=ENDING,
            on_ready=lambda: said.append("ready"),
            lifeline=lifeline,
            first=first,
        )
    finally:
        player.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before
    return status, said


def ask(kernel: socket.socket, opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
    kernel.send(header(opcode, node, len(body), None) + body)
    reply = kernel.recv(1 << 21)
    length, error, unique = protocol.OUT_HEADER.unpack_from(reply)
    assert (length, unique) == (len(reply), 7)
    return error, reply[protocol.OUT_HEADER.size :]


def end_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_requests_are_answered_until_a_signal_ends_it(tmp_path: Path, kernel: socket.socket) -> None:
    def play() -> None:
        assert ask(kernel, Opcode.INIT, 0, INIT)[0] == 0
        error, found = ask(kernel, Opcode.LOOKUP, 1, b"f\0")
        assert (error, len(found)) == (0, 128)
        assert ask(kernel, Opcode.GETATTR, 1 << 50, bytes(16)) == (-errno.ESTALE, b"")
        end_by_signal()

    assert serve(tmp_path, kernel, play) == (0, ["ready"])


def test_a_first_request_that_somebody_else_has_read_is_answered(
    tmp_path: Path, kernel: socket.socket
) -> None:
    def play() -> None:
        _, error, unique = protocol.OUT_HEADER.unpack_from(kernel.recv(1 << 21))
        assert (error, unique) == (0, 7)
        assert ask(kernel, Opcode.GETATTR, 1, bytes(16))[0] == 0
        end_by_signal()

    first = header(Opcode.INIT, 0, len(INIT), None) + INIT
    assert serve(tmp_path, kernel, play, first=first) == (0, ["ready"])


def test_the_end_of_the_lifeline_ends_it(tmp_path: Path, kernel: socket.socket) -> None:
    ours, theirs = socket.socketpair()

    def play() -> None:
        ask(kernel, Opcode.INIT, 0, INIT)
        theirs.close()

    with ours:
        assert serve(tmp_path, kernel, play, lifeline=ours.fileno()) == (0, ["ready"])


def test_a_kernel_that_is_too_old_is_an_error_with_a_reason(tmp_path: Path, kernel: socket.socket) -> None:
    def play() -> None:
        assert ask(kernel, Opcode.INIT, 0, protocol.INIT_IN.pack(7, 8, 0, 0))[0] == -errno.EPROTO

    with pytest.raises(UnionError, match="no version of FUSE in common"):
        serve(tmp_path, kernel, play)


def test_a_reply_that_nobody_takes_is_taken_back_and_the_next_one_served(
    tmp_path: Path, kernel: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev, lost = os.writev, []

    def refusing(fd: int, parts: tuple[bytes, bytes]) -> int:
        if len(parts[1]) == 128 and not lost:
            lost.append(struct.unpack_from("=Q", parts[1])[0])
            writev(fd, (parts[0], b"lost"))
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return writev(fd, parts)

    monkeypatch.setattr(os, "writev", refusing)

    def play() -> None:
        ask(kernel, Opcode.INIT, 0, INIT)
        kernel.send(header(Opcode.LOOKUP, 1, 2, None) + b"f\0")
        assert kernel.recv(200).endswith(b"lost")
        assert ask(kernel, Opcode.GETATTR, lost[0], bytes(16))[0] == -errno.ESTALE
        assert ask(kernel, Opcode.LOOKUP, 1, b"f\0")[0] == 0
        end_by_signal()

    assert serve(tmp_path, kernel, play) == (0, ["ready"])

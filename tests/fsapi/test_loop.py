"""The loop of the direct server on one end of a socket. The test acts as the kernel at the other end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fsapi.direct import header
from tests.unit.unionfs.support import Union
from unionfs.errors import UnionError
from unionfs.fuse import protocol
from unionfs.fuse.direct import loop
from unionfs.fuse.lifeline import Lifeline
from unionfs.fuse.protocol import Opcode

ENDING = frozenset((signal.SIGTERM,))
#: The caller: a server without privileges cannot create files of other users.
OWNER = SimpleNamespace(uid=os.getuid(), gid=os.getgid(), pid=1)
INIT = protocol.INIT_IN.pack(7, 45, 131072, 0x7FFFFFFF) + bytes(48)


#: The server's end of each socket, by the number of the kernel's end.
_PEERS: dict[int, socket.socket] = {}


@pytest.fixture
def kernel() -> Iterator[socket.socket]:
    """Return the kernel's end of a socket."""
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
    lifeline: Lifeline | None = None,
    size: int | None = None,
) -> tuple[int, list[str]]:
    """Serve while *play* acts as the kernel in another thread. *size* limits the writable layer."""
    union = Union(tmp_path, [{"f": b"content"}], {}, more={"size": size})
    said: list[str] = []

    def playing() -> None:
        try:
            play()
        except BaseException:
            end_by_signal()  # otherwise the server would wait for more requests
            raise

    player = threading.Thread(target=playing)
    player.start()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    try:
        fd = os.dup(_PEERS[kernel.fileno()].fileno())
        status = loop.serve(
            union.fs,
            fd,
            ending=ENDING,
            on_ready=lambda: said.append("ready"),
            lifeline=lifeline,
        )
    finally:
        player.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before
    return status, said


class CountingLifeline:
    """Sends back what it receives."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.handled = 0

    def fileno(self) -> int:
        return self._channel.fileno()

    def handle(self) -> bool:
        received = self._channel.recv(1)
        if not received:
            return False
        self.handled += 1
        self._channel.send(received)
        return True


def ask(kernel: socket.socket, opcode: int, ino: int, body: bytes) -> tuple[int, bytes]:
    kernel.send(header(opcode, ino, len(body), OWNER) + body)
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


def test_the_end_of_the_lifeline_ends_it(tmp_path: Path, kernel: socket.socket) -> None:
    ours, theirs = socket.socketpair()

    def play() -> None:
        ask(kernel, Opcode.INIT, 0, INIT)
        theirs.close()

    with ours:
        lifeline = CountingLifeline(ours)
        assert serve(tmp_path, kernel, play, lifeline=lifeline) == (0, ["ready"])
    assert lifeline.handled == 0


def test_requests_of_the_lifeline_are_handled_between_those_of_a_busy_kernel(
    tmp_path: Path, kernel: socket.socket
) -> None:
    ours, theirs = socket.socketpair()

    def play() -> None:
        ask(kernel, Opcode.INIT, 0, INIT)
        theirs.send(b"1")
        for _ in range(1000):
            assert ask(kernel, Opcode.GETATTR, 1, bytes(16))[0] == 0
        theirs.send(b"2")
        assert (theirs.recv(1), theirs.recv(1)) == (b"1", b"2")
        theirs.close()

    with ours:
        lifeline = CountingLifeline(ours)
        assert serve(tmp_path, kernel, play, lifeline=lifeline) == (0, ["ready"])
    assert lifeline.handled == 2


def test_a_kernel_that_is_too_old_is_an_error_with_a_reason(tmp_path: Path, kernel: socket.socket) -> None:
    def play() -> None:
        assert ask(kernel, Opcode.INIT, 0, protocol.INIT_IN.pack(7, 8, 0, 0))[0] == -errno.EPROTO

    with pytest.raises(UnionError, match="FUSE version that the direct server does not support"):
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


ENDED = pytest.mark.parametrize("number", [errno.ENODEV, errno.ECONNABORTED])


@ENDED
def test_the_end_of_the_connection_while_a_request_is_read_ends_it_without_a_word(
    tmp_path: Path, kernel: socket.socket, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    readv, ended, errors = os.readv, threading.Event(), [errno.ENODEV, number]

    def aborted(fd: int, parts: list[object]) -> int:
        done = 0 if len(errors) == 1 else readv(fd, parts)  # type: ignore[arg-type]
        if ended.is_set():
            raise OSError(errors.pop(), "the connection has ended")
        return done

    monkeypatch.setattr(os, "readv", aborted)

    def play() -> None:
        ask(kernel, Opcode.INIT, 0, INIT)
        ended.set()
        kernel.send(header(Opcode.GETATTR, 1, 16, None) + bytes(16))

    assert serve(tmp_path, kernel, play) == (0, ["ready"])


@ENDED
@pytest.mark.parametrize("late", [False, True])
def test_a_reply_that_the_end_of_the_connection_overtakes_is_dropped_without_a_word(
    tmp_path: Path, kernel: socket.socket, monkeypatch: pytest.MonkeyPatch, number: int, late: bool
) -> None:
    opened, dropped = threading.Event(), threading.Event()

    def aborting(write: Callable[..., int]) -> Callable[..., int]:
        def ended(fd: int, data: object) -> int:
            to_kernel = isinstance(data, tuple) or len(data) == protocol.OUT_HEADER.size  # type: ignore[arg-type]
            if opened.is_set() and to_kernel:
                dropped.set()
                raise OSError(number, os.strerror(number))
            return write(fd, data)

        return ended

    monkeypatch.setattr(os, "writev", aborting(os.writev))
    monkeypatch.setattr(os, "write", aborting(os.write))

    def play() -> None:
        ask(kernel, Opcode.INIT, 0, INIT)
        asked = protocol.CREATE_IN.pack(os.O_RDWR, 0o100600, 0, 0) + b"new\0"
        _, made = ask(kernel, Opcode.CREATE, 1, asked)
        handle, _, _ = protocol.OPEN_OUT.unpack_from(made, protocol.ENTRY_OUT.size)
        opened.set()
        body = protocol.FSYNC_IN.pack(handle, 0, 0) if late else bytes(16)  # a thread replies to FSYNC
        opcode = Opcode.FSYNC if late else Opcode.GETATTR
        kernel.send(header(opcode, 1, len(body), None) + body)
        assert dropped.wait(10)
        time.sleep(0.1)  # time in which a thread would log an error
        end_by_signal()

    assert serve(tmp_path, kernel, play) == (0, ["ready"])


def made_and_written(kernel: socket.socket, name: bytes, size: int) -> tuple[int, int]:
    """Create a file and write to it. Return its inode number and the error."""
    asked = protocol.CREATE_IN.pack(os.O_RDWR, 0o100600, 0, 0) + name + b"\0"
    error, made = ask(kernel, Opcode.CREATE, 1, asked)
    assert error == 0
    (number,), (handle, _, _) = (
        struct.unpack_from("=Q", made),
        protocol.OPEN_OUT.unpack_from(made, protocol.ENTRY_OUT.size),
    )
    error, _ = ask(kernel, Opcode.WRITE, number, written(handle, size))
    ask(kernel, Opcode.RELEASE, number, protocol.RELEASE_IN.pack(handle, 0, 0, 0))
    return number, error


def written(handle: int, size: int) -> bytes:
    return protocol.WRITE_IN.pack(handle, 0, size, 0, 0, os.O_RDWR, 0) + bytes(size)


@pytest.mark.parametrize("forgotten", [True, False])
def test_what_there_is_no_room_for_is_tried_again_after_what_has_come_meanwhile(
    tmp_path: Path, kernel: socket.socket, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    go_on = threading.Event()
    writev = os.writev

    def holding(fd: int, parts: tuple[bytes, bytes]) -> int:
        done = writev(fd, parts)
        if len(parts[1]) == 104:  # struct fuse_attr_out; more requests arrive while the server is blocked
            assert go_on.wait(10)
        return done

    monkeypatch.setattr(os, "writev", holding)

    def play() -> None:
        ask(kernel, Opcode.INIT, 0, INIT)
        old, error = made_and_written(kernel, b"old", 200_000)
        assert error == 0
        assert ask(kernel, Opcode.UNLINK, 1, b"old\0")[0] == 0
        assert -errno.ENOSPC in [made_and_written(kernel, b"f%d" % number, 4096)[1] for number in range(30)]
        asked = protocol.CREATE_IN.pack(os.O_RDWR, 0o100600, 0, 0) + b"new\0"
        _, made = ask(kernel, Opcode.CREATE, 1, asked)
        (new,) = struct.unpack_from("=Q", made)
        handle, _, _ = protocol.OPEN_OUT.unpack_from(made, protocol.ENTRY_OUT.size)
        # While the server is blocked, the kernel queues a WRITE, and only then the FORGET.
        assert ask(kernel, Opcode.GETATTR, 1, bytes(16))[0] == 0
        body = written(handle, 10_000)  # the socket holds some 200,000 bytes
        kernel.send(header(Opcode.WRITE, new, len(body), None) + body)
        if forgotten:
            kernel.send(header(Opcode.FORGET, old, 8, None) + protocol.FORGET_IN.pack(1))
        go_on.set()
        _, error, _ = protocol.OUT_HEADER.unpack_from(kernel.recv(1 << 21))
        assert error == (0 if forgotten else -errno.ENOSPC)
        end_by_signal()

    assert serve(tmp_path, kernel, play, size=250_000) == (0, ["ready"])


def test_what_there_is_no_room_for_is_refused_at_last_however_much_else_comes(
    tmp_path: Path, kernel: socket.socket
) -> None:
    def play() -> None:
        ask(kernel, Opcode.INIT, 0, INIT)
        for number in range(40):
            assert made_and_written(kernel, b"f%d" % number, 200_000)[1] in (0, -errno.ENOSPC)
        assert made_and_written(kernel, b"last", 200_000)[1] == -errno.ENOSPC
        end_by_signal()

    assert serve(tmp_path, kernel, play, size=300_000) == (0, ["ready"])

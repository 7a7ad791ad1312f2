"""The file system's server seen from the launcher: started early, handed its descriptors late, ended with the
sandbox.

The launcher knows the command ``python -m unionfs --serve-fd N`` and its request (unionfs/launch/protocol.py), and
nothing else of unionfs.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from sandbox.errors import SetupError
from unionfs._stdlib.dataclasses import dataclass

_VERSION = 3
_STEP = "the file system's server"
_BATCH = 64
_LAST_GIVEN = 3  # input and output, standard error, the socket
#: Seconds for the server to end by itself once its mount is gone.
_GRACE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedLayer:
    """One layer as the server is to read it."""

    fd: int
    #: Which whiteouts are honoured: "none", "aufs" or "all".
    marks: str
    #: Show owners that the sandbox's ids do not hold as 0.
    squash: bool
    cross: tuple[str, ...] = ()
    #: Nobody changes it: the server may keep an index of it.
    indexed: bool = False
    #: The skeleton: made anew for each start, below all other layers, whose marks do not hide the mount points in it.
    skeleton: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedStack:
    """What the server serves; the descriptors stay the caller's."""

    #: Top first.
    layers: Sequence[ServedLayer]
    upper_fd: int | None
    work_fd: int | None
    hidden: Sequence[tuple[int, int]]
    volatile: bool
    #: "auto", "direct" or "pyfuse3".
    server: str
    open_requests: bool
    #: Where the server keeps indexes of layers.
    index_fd: int | None = None
    #: Bytes and objects that the writable layer may hold; None for as many as fit.
    size: int | None = None
    inodes: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """What a server says of itself once its mount can be used."""

    #: "direct" or "pyfuse3".
    server: str
    #: Why "auto" has become "pyfuse3"; else empty.
    reason: str
    #: When it had done what; see `timeline`.
    times: Mapping[str, int]

    @classmethod
    def parse(cls, said: str) -> Ready | None:
        """Return what *said* has after "ready "; None if it is none of that."""
        try:
            import json

            message = json.loads(said.removeprefix("ready "))
            times = {str(name): int(at) for name, at in message["times"].items()}
            return cls(str(message["server"]), str(message["reason"]), times)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def _open_null() -> int:
    try:
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        nameless = OSError(error.errno, error.strerror)  # the operation names the file
        raise SetupError.from_os_error(_STEP, "open /dev/null", nameless) from None


def _keep_to_ourselves() -> None:
    """Mark what the launcher was given beside those descriptors as closed by exec: it is for no process of a sandbox.

    No action of posix_spawn does it: glibc refuses to close one above RLIMIT_NOFILE, which may have been lowered since.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > _LAST_GIVEN:
                os.set_inheritable(fd, False)
        except OSError:
            continue  # the listing's own


def sealed_memfd(content: bytes) -> int:
    """Return a memfd that holds *content* for good."""
    fd = os.memfd_create("request", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Server:
    """One server process."""

    def __init__(self) -> None:
        """Nothing is started yet, and may never be, where the root is bound."""
        self._socket: socket.socket
        #: 0: it was not started.
        self.pid = 0
        self._status: int | None = None
        #: Whether :meth:`kill` ended it.
        self.killed = False

    def start(self) -> None:
        """Start the process, once; it imports what it needs while the launcher goes on.

        Raises:
            SetupError: it cannot be started here.
        """
        if self.pid:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        null = -1
        try:
            null = _open_null()
            # Landlock, which holds the server to the layers, does not ask about what is open.
            _keep_to_ourselves()
            self.pid = os.posix_spawn(
                sys.executable,
                # -P: a directory that we happen to be in must not lend its modules.
                [sys.executable, "-P", "-m", "unionfs", "--serve-fd", str(_LAST_GIVEN)],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), _LAST_GIVEN),
                ],
                # Ctrl-C is for the program: the server must outlive it.
                setsid=True,
            )
        except SetupError:
            ours.close()
            raise
        except OSError as error:
            ours.close()
            raise SetupError.from_os_error(_STEP, "fork", OSError(error.errno, error.strerror)) from None
        finally:
            theirs.close()
            if null >= 0:
                os.close(null)
        self._socket = ours

    def fileno(self) -> int:
        """Return the descriptor to poll on."""
        return self._socket.fileno()

    def serve(self, fuse_fd: int, user_namespace_fd: int, stack: ServedStack, program: bytes | None) -> None:
        """Send everything that serving takes, with the *program* of the filter of system calls for it, if there is one.

        Raises:
            OSError: the server is gone; EMFILE, there is no descriptor left; ETOOMANYREFS, this user has more descriptors in flight
                than a process may open (unix(7)).
        """
        # Here, as the process is to be started before they are imported.
        import binascii
        import json

        descriptors: list[int] = []

        def index(fd: int | None) -> int | None:
            if fd is None:
                return None
            descriptors.append(fd)
            return len(descriptors) - 1

        message = {
            "fuse": index(fuse_fd),
            "user_namespace": index(user_namespace_fd),
            "layers": [
                {
                    "fd": index(layer.fd),
                    "marks": layer.marks,
                    "squash": layer.squash,
                    "cross": layer.cross,
                    "skeleton": layer.skeleton,
                    "indexed": layer.indexed,
                }
                for layer in stack.layers
            ],
            "upper": index(stack.upper_fd),
            "work": index(stack.work_fd),
            "index": index(stack.index_fd),
            "hidden": list(stack.hidden),
            "volatile": stack.volatile,
            "server": stack.server,
            "open_requests": stack.open_requests,
            "size": stack.size,
            "inodes": stack.inodes,
            "filter": None if program is None else binascii.b2a_base64(program, newline=False).decode(),
        }
        header = {"version": _VERSION, "descriptors": len(descriptors)}
        request_fd = sealed_memfd(json.dumps(message).encode())
        try:
            socket.send_fds(self._socket, [json.dumps(header).encode()], [request_fd], socket.MSG_NOSIGNAL)
        finally:
            os.close(request_fd)
        for start in range(0, len(descriptors), _BATCH):
            socket.send_fds(self._socket, [b"fds"], descriptors[start : start + _BATCH], socket.MSG_NOSIGNAL)

    def receive(self) -> str:
        """Return what the server says: "ready {...}" (see :class:`Ready`), "full: size" or "full: inodes", "closed: PATH", "error: TEXT", or "" when it is gone."""
        for _ in range(2):
            try:
                return self._socket.recv(65536).decode(errors="replace")
            except ConnectionResetError:
                continue  # it did not read all that it was sent; what it said before is still there
        return ""

    def kill(self) -> None:
        """End it at once: whoever waits for an answer from it gets an error."""
        if self.pid and self._status is None:
            self.killed = True
            os.kill(self.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """End a server that serves nothing yet, at once."""
        self.kill()
        self.stop()

    def stop(self) -> int:
        """End the server, kindly first, and return its exit status (negative for a signal); 0 where there was none."""
        if not self.pid:
            return 0
        self._socket.close()
        if self._status is None and not self._ended_within(_GRACE):
            self.kill()
            # One that waits for a device or another server is not ended even by that: it goes when it has its answer.
            if not self._ended_within(_GRACE):
                self._status = -signal.SIGKILL
        assert self._status is not None
        return self._status

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        try:
            process = os.pidfd_open(self.pid)
        except OSError:
            pass  # there is no descriptor left: then it is looked for again and again
        else:
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.poll(seconds * 1000)
            os.close(process)
        pause = 0.001
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

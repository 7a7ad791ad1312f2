"""Start, instruct and end the file system server. It starts early, receives its descriptors late, and ends with the sandbox.

The launcher knows the command ``python -m unionfs --serve-fd N`` and the format of its request
(unionfs/launch/protocol.py), and nothing else of unionfs.
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
_LAST_GIVEN = 3  # the server's descriptors: 0 and 1 are /dev/null, 2 is standard error, 3 is the socket
#: Seconds for the server to end by itself after its mount is gone.
_GRACE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedLayer:
    """A layer in the request to the server."""

    fd: int
    #: The whiteouts that count in it: "none", "aufs" or "all".
    marks: str
    #: Show owners that are not mapped in the sandbox as 0.
    squash: bool
    cross: tuple[str, ...] = ()
    #: The layer never changes, so the server may keep an index of it.
    indexed: bool = False
    #: This is the skeleton: created for each start, below all other layers, whose whiteouts do not hide its mount points.
    skeleton: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedStack:
    """The layers that the server serves, and how. The caller owns the descriptors."""

    #: Top first.
    layers: Sequence[ServedLayer]
    upper_fd: int | None
    work_fd: int | None
    hidden: Sequence[tuple[int, int]]
    volatile: bool
    #: "auto", "direct" or "pyfuse3".
    server: str
    open_requests: bool
    #: The directory in which the server stores indexes of layers.
    index_fd: int | None = None
    #: The most bytes and objects of the writable layer; None for no limit.
    size: int | None = None
    inodes: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The server's message that its mount can be used."""

    #: "direct" or "pyfuse3".
    server: str
    #: Why "auto" chose "pyfuse3"; otherwise empty.
    reason: str
    #: The time of each step; see `timeline`.
    times: Mapping[str, int]

    @classmethod
    def parse(cls, said: str) -> Ready | None:
        """Return the content of a "ready " message, None if *said* is not a valid one."""
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
        nameless = OSError(error.errno, error.strerror)  # the operation contains the file name
        raise SetupError.from_os_error(_STEP, "open /dev/null", nameless) from None


def _keep_to_ourselves() -> None:
    """Set close-on-exec on descriptors that the launcher inherited beside 0 to 3: no process of a sandbox may have them.

    An action of posix_spawn cannot do it: glibc refuses to close a descriptor above RLIMIT_NOFILE, which may have been lowered.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > _LAST_GIVEN:
                os.set_inheritable(fd, False)
        except OSError:
            continue  # the descriptor of the listing itself


def sealed_memfd(content: bytes) -> int:
    """Return a memfd with *content*, sealed against changes."""
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
    """The server process of one sandbox. Owns its socket; the supervisor ends it by :meth:`stop` or :meth:`abandon`."""

    def __init__(self) -> None:
        """Start nothing yet: a direct bind of the root needs no server."""
        self._socket: socket.socket
        #: 0 if it was not started.
        self.pid = 0
        self._status: int | None = None
        #: Whether :meth:`kill` ended it.
        self.killed = False

    def start(self) -> None:
        """Start the process unless it was started before. It does its imports while the launcher goes on.

        Raises:
            SetupError: it cannot be started here.
        """
        if self.pid:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        null = -1
        try:
            null = _open_null()
            # Landlock restricts the server to the layers, but does not apply to descriptors that are open already.
            _keep_to_ourselves()
            self.pid = os.posix_spawn(
                sys.executable,
                # -P: the current directory must not be searched for modules.
                [sys.executable, "-P", "-m", "unionfs", "--serve-fd", str(_LAST_GIVEN)],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), _LAST_GIVEN),
                ],
                # SIGINT by ctrl-C is for the program; the server must outlive it.
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
        """Return the descriptor of the socket, for poll(2)."""
        return self._socket.fileno()

    def serve(self, fuse_fd: int, user_namespace_fd: int, stack: ServedStack, program: bytes | None) -> None:
        """Send the request: the descriptors, the layers, and *program*, the seccomp filter for the server, if there is one.

        Raises:
            OSError: the server is gone; EMFILE: no descriptor is free; ETOOMANYREFS: this user has more descriptors in flight
                than a process may open (unix(7)).
        """
        # Imported here so that the process starts before these imports.
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
        """Return the next message of the server, "" if it is gone.

        Messages are "ready {...}" (see :class:`Ready`), "full: size", "full: inodes", "closed: PATH" and "error: TEXT".
        """
        for _ in range(2):
            try:
                return self._socket.recv(65536).decode(errors="replace")
            except ConnectionResetError:
                continue  # the server left data of ours unread; its own messages can still be received
        return ""

    def kill(self) -> None:
        """Kill the server; requests that wait for its answer fail with an error."""
        if self.pid and self._status is None:
            self.killed = True
            os.kill(self.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Kill a server that serves nothing yet."""
        self.kill()
        self.stop()

    def stop(self) -> int:
        """End the server and return its exit status, negative for a signal; 0 if it was not started.

        Close its socket, and kill it if it still runs after the grace period.
        """
        if not self.pid:
            return 0
        self._socket.close()
        if self._status is None and not self._ended_within(_GRACE):
            self.kill()
            # A server in an uninterruptible wait, for a device or another server, ends only after that wait.
            if not self._ended_within(_GRACE):
                self._status = -signal.SIGKILL
        assert self._status is not None
        return self._status

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        try:
            process = os.pidfd_open(self.pid)
        except OSError:
            pass  # no descriptor is free: poll with waitpid(2) instead
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

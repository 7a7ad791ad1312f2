"""Start, instruct and end the file system server. It starts early, receives its descriptors late, and ends with the sandbox.

The launcher knows the command ``python -m unionfs --serve-fd N`` and the format of its request
(unionfs/launch/protocol.py, which it imports), and nothing else of unionfs.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from sandbox.errors import SetupError
from unionfs.launch.protocol import ServedStack, send_request

_STEP = "the file system's server"
_LAST_INHERITED = 3  # the server's descriptors: 0 and 1 are /dev/null, 2 is standard error, 3 is the socket
#: Seconds for the server to end by itself after its mount is gone.
_GRACE = 5.0


def _open_null() -> int:
    try:
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        nameless = OSError(error.errno, error.strerror)  # the operation contains the file name
        raise SetupError.from_os_error(_STEP, "open /dev/null", nameless) from None


def _set_close_on_exec() -> None:
    """Set close-on-exec on descriptors that the launcher inherited beside 0 to 3: no process of a sandbox may have them.

    An action of posix_spawn cannot do it: glibc refuses to close a descriptor above RLIMIT_NOFILE, which may have been lowered.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > _LAST_INHERITED:
                os.set_inheritable(fd, False)
        except OSError:
            continue  # the descriptor of the listing itself


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
            _set_close_on_exec()
            self.pid = os.posix_spawn(
                sys.executable,
                # -P: the current directory must not be searched for modules.
                [sys.executable, "-P", "-m", "unionfs", "--serve-fd", str(_LAST_INHERITED)],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), _LAST_INHERITED),
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
        """Send the request. Arguments and errors are those of :func:`send_request`."""
        send_request(self._socket, fuse_fd, user_namespace_fd, stack, program)

    def ask(self, request: Mapping[str, object], fds: Sequence[int]) -> None:
        """Send *request* with *fds* to the serving server, which answers with a message that begins with DONE.

        Raises:
            OSError: it cannot be sent now.
        """
        import json

        socket.send_fds(
            self._socket, [json.dumps(request).encode()], fds, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
        )

    def receive(self) -> str:
        """Return the next message of the server, "" if it is gone.

        Messages are "ready {...}" (see :class:`Ready`), "full: size", "full: inodes", "closed: PATH", "error: TEXT", and "done {...}" for each :meth:`ask`.
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

"""Run a program that connects a network namespace with the network of the host without root: pasta(1) or slirp4netns(1)."""

from __future__ import annotations

import fcntl
import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress

from sandbox.errors import EXIT_FAILURE, SetupError
from sandbox.kernel import filesystems, mounts, namespaces, process
from unionfs._stdlib.dataclasses import dataclass

STEP = "network.mode"
OUTPUT_FD, OTHER_FD, NETWORK_FD = 1, 3, 4
"""The descriptors to which a program can write that it is ready, and that of the network namespace that it is to connect.

pasta(1) has only the first, as it closes all others.
"""

_FIRST_FREE_FD = 10

_READY_SECONDS = 20.0
_OUTPUT_LIMIT = 1 << 14
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True, slots=True)
class Entered:
    """The namespaces of a program that is root in a user namespace, as descriptors. They remain the caller's."""

    #: The user namespace, in which the program becomes root, with a mount namespace of its own where /run is empty.
    user_fd: int
    #: A network namespace of it, which the program gets as `NETWORK_FD` and does not enter.
    network_fd: int


class ConnectingProgram:
    """A running program. The private network creates it, and ends it by :meth:`stop`."""

    def __init__(
        self, path: str, arguments: Sequence[str], *, ready_fd: int, entered: Entered | None = None
    ) -> None:
        """Start the program at *path*, which begins to connect the network namespace.

        *arguments* begin with its name. They make it stay in the foreground, so that it ends with its parent, and write to the
        descriptor *ready_fd* once it is ready. With *entered*, the program is root there.

        Raises:
            SetupError: no process can be made.
            OSError: no descriptor is free.
        """
        self.name = arguments[0]
        self.pid = 0
        #: Readable once the process has ended (pidfd_open(2)).
        self.pidfd = -1
        #: What the process prints. It must be read, or the process waits when the pipe is full.
        self.output_fd = -1
        self._ready_fd, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            self.output_fd, output = os.pipe2(os.O_CLOEXEC)
            try:
                self.pid = _start(path, arguments, (theirs, ready_fd), output, entered)
                self.pidfd = os.pidfd_open(self.pid)
            finally:
                os.close(output)
            os.set_blocking(self.output_fd, False)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(theirs)

    def wait_until_ready(self) -> None:
        """Wait until the network namespace is connected.

        Raises:
            SetupError: it could not connect it; the message contains what it printed.
        """
        if not _is_ready(self._ready_fd, self.pidfd):
            raise SetupError(STEP, self._failure(), hint="run again with --debug for its command line")
        os.close(self._ready_fd)
        self._ready_fd = -1

    def _failure(self) -> str:
        printed = " ".join(self.read_output().split())
        return f"{self.name} cannot connect the network: {printed or 'it prints no reason'}"

    def read_output(self) -> str:
        """Return what the process has printed since the last call."""
        try:
            return os.read(self.output_fd, _OUTPUT_LIMIT).decode("utf-8", "replace")
        except BlockingIOError:
            return ""

    def kill(self) -> None:
        """Kill the process, and close its descriptors. Its sockets and its network device disappear, which takes the kernel 25 ms."""
        if self.pid:
            process.kill_quietly(self.pid)
        for fd in (self.pidfd, self.output_fd, self._ready_fd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.output_fd = self._ready_fd = -1

    def reap(self) -> None:
        """Wait until the killed process and what it had are gone."""
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0

    def leave(self) -> None:
        """Do not wait for the killed process, which takes 25 ms. It is reaped before the next one is started, or by init(1)."""
        if self.pid:
            _LEFT.append(self.pid)
            self.pid = 0
            _reap_left()

    def stop(self) -> None:
        """Kill the process, and wait until it is gone."""
        self.kill()
        self.reap()


_LEFT: list[int] = []
"""Killed processes that were not waited for."""


def _reap_left() -> None:
    for pid in list(_LEFT):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # it was reaped with all children of this process
            ended = True
        if ended:
            _LEFT.remove(pid)


def _start(
    program: str, arguments: Sequence[str], ready: tuple[int, int], output: int, entered: Entered | None
) -> int:
    """Fork and execute *program*, which prints to *output*, with the first descriptor of *ready* as the second; returns its pid."""
    parent = os.getpid()
    _reap_left()
    try:
        pid = os.fork()
    except OSError as error:
        raise SetupError.from_os_error(STEP, "fork", error) from None
    if pid:
        return pid
    try:
        # Copied first, because the number of one descriptor may be the place of another.
        places = [(output, 1), (output, 2), ready]
        if entered is not None:
            entered = Entered(_copy(entered.user_fd), entered.network_fd)
            places.append((entered.network_fd, NETWORK_FD))
        copies = [(_copy(fd), place) for fd, place in places]
        process.empty_standard_input()
        for fd, place in copies:
            os.dup2(fd, place)
        if entered is not None:
            program = os.path.realpath(program)  # it may be linked from /run
            _become_root(entered.user_fd)
            _hide_sockets()
        # posix_spawn(3) cannot set the signal. A change of the user id clears it, but not the exec, which gives no privileges.
        process.set_parent_death_signal(parent=parent)
        os.setsid()  # signals of the terminal are for the program
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(program, list(arguments), _ENVIRONMENT)
    except OSError as error:
        os.write(2, f"{program}: {error.strerror}\n".encode())
    finally:
        os._exit(EXIT_FAILURE)


def _copy(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)


def _become_root(user_namespace: int) -> None:
    """Enter *user_namespace*, which maps id 0, and become root there."""
    namespaces.join("user", user_namespace)
    with suppress(PermissionError):  # where setgroups(2) is denied, the groups are those of this user
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _hide_sockets() -> None:
    """Cover /run, where services of the host listen on unix sockets: slirp4netns keeps /etc and /run, and nothing else."""
    namespaces.unshare(["mount"])
    mounts.make_private()
    place = os.open("/run", os.O_PATH | os.O_DIRECTORY)
    filesystems.mount_tmpfs(place, size=4096, inodes=1, mode=0o555)
    os.close(place)


def _is_ready(ready: int, pidfd: int) -> bool:
    """Wait until the process has written to *ready*; returns False if it ends or takes too long."""
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    events = dict(poll.poll(_READY_SECONDS * 1000))
    return bool(events.get(ready, 0) & select.POLLIN)

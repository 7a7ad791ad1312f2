"""Install a seccomp filter, and answer the system calls that it reports to its listener; seccomp(2), seccomp_unotify(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from collections.abc import Callable

from sandbox.kernel import _libc
from unionfs._stdlib.dataclasses import dataclass

NOTIFY = 0x7FC00000  # SECCOMP_RET_USER_NOTIF

# _IOWR('!', 0, struct seccomp_notif), _IOWR('!', 1, struct seccomp_notif_resp), _IOW('!', 2, __u64). The numbers are valid
# for the architectures whose _IOC_SIZEBITS is 14.
_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_IS_WAITING = 0x40082102
_MACHINES = frozenset({"x86_64", "aarch64", "riscv64", "loongarch64", "s390x", "i686", "armv7l"})
_NOTIFICATION = struct.Struct("=QII iIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_PAUSE = 1  # milliseconds between two checks for the listener


@dataclass(frozen=True, slots=True)
class Call:
    """A reported call that waits for its answer. *process* is the id of the calling thread in the reader's pid namespace."""

    id: int
    process: int
    number: int
    architecture: int
    arguments: tuple[int, ...]


def library_version() -> str | None:
    """Return the version of libseccomp, or None if it is not installed. This loads the library, which is quick."""
    version = _libc.libseccomp_version()
    return None if version is None else ".".join(map(str, version))


def install(program: bytes) -> None:
    """Filter the system calls of this process for good. Call it last before exec: the filter applies to all later calls.

    Raises:
        OSError: EACCES without no_new_privs or CAP_SYS_ADMIN in this user namespace; EINVAL if *program* is invalid.
    """
    _libc.set_seccomp_filter(program)


def install_traced(program: bytes, hand_over: Callable[[int], None]) -> None:
    """Install a filter as :func:`install` does, and have a sibling process call *hand_over* with the listener descriptor.

    This process cannot call *hand_over*. The filter might report a system call of *hand_over*, and the call would wait for an
    answer that no reader of the listener can give yet. The sibling shares the descriptor table of this process, but does not
    have the filter.

    Raises:
        OSError: also ENOSYS if clone3(2) is unavailable.
    """
    ourselves = os.pidfd_open(os.getpid())
    expected = os.dup(ourselves)  # the lowest free descriptor, which the kernel will use for the listener
    os.close(expected)
    if _libc.fork_sharing_descriptors() == 0:
        _wait_and_hand_over(ourselves, expected, hand_over)
    _libc.set_seccomp_listener(program)


def _wait_and_hand_over(process_fd: int, expected: int, hand_over: Callable[[int], None]) -> None:
    """Wait for the listener in the forked child, call *hand_over*, and exit. Never returns."""
    status = 1
    try:
        poll = select.poll()
        poll.register(process_fd, select.POLLIN)
        ended = False
        # Check once more after the process has ended: a program that it started may still run.
        while status and not ended:
            ended = bool(poll.poll(_PAUSE))
            if _is_open(expected):
                hand_over(expected)
                status = 0
    finally:
        os._exit(status)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def can_listen(machine: str) -> bool:
    """Return whether the ioctls of :func:`receive` and :func:`answer` have the same numbers on *machine* as in this module."""
    return machine in _MACHINES


def receive(listener: int) -> Call | None:
    """Return a call that waits for an answer, or None if its process has ended meanwhile."""
    buffer = bytearray(_NOTIFICATION.size)  # the kernel requires zeros
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    identity, process, _, number, architecture, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Call(identity, process, number, architecture, tuple(arguments))


def open_process(listener: int, call: Call, number: int) -> int | None:
    """Return a pidfd of the process *number*, to which *call*'s thread belongs, or None if the thread has ended meanwhile.

    The function opens the pidfd first, then checks that the call still waits. As long as it waits, the kernel cannot reuse
    the ids of its thread and process.
    """
    try:
        pidfd = os.pidfd_open(number)
    except OSError:  # ESRCH: the process has ended; EINVAL: the id now belongs to a thread
        return None
    try:
        fcntl.ioctl(listener, _IS_WAITING, struct.pack("=Q", call.id))
    except OSError as error:
        os.close(pidfd)
        if error.errno != errno.ENOENT:
            raise
        return None
    return pidfd


def answer(listener: int, call: Call, number: int | None) -> None:
    """Make *call* fail with errno *number*, or let it continue if None. Do nothing if its process has ended meanwhile."""
    flags = _CONTINUE if number is None else 0
    try:
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(call.id, 0, -(number or 0), flags))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise

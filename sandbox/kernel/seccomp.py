"""Putting a filter of system calls on a process, and answering the calls that it has told; see seccomp(2), seccomp_unotify(2)."""

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

# _IOWR('!', 0, struct seccomp_notif), _IOWR('!', 1, struct seccomp_notif_resp), _IOW('!', 2, __u64): so encoded by all that
# have _SIZE bits of 14.
_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_IS_WAITING = 0x40082102
_MACHINES = frozenset({"x86_64", "aarch64", "riscv64", "loongarch64", "s390x", "i686", "armv7l"})
_NOTIFICATION = struct.Struct("=QII iIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_PAUSE = 1  # milliseconds between two looks for the listener


@dataclass(frozen=True, slots=True)
class Call:
    """A call that waits for its answer. The process, by the number of the thread that called, is in those of who asked."""

    id: int
    process: int
    number: int
    architecture: int
    arguments: tuple[int, ...]


def library_version() -> str | None:
    """Return the version of libseccomp here, None where there is none; this loads it, which is quick."""
    version = _libc.libseccomp_version()
    return None if version is None else ".".join(map(str, version))


def install(program: bytes) -> None:
    """Filter the system calls of this process, for good. The last step before exec: what comes after meets it.

    Raises:
        OSError: EACCES without no_new_privs or CAP_SYS_ADMIN in this user namespace; EINVAL for what is no program.
    """
    _libc.set_seccomp_filter(program)


def install_traced(program: bytes, hand_over: Callable[[int], None]) -> None:
    """As :func:`install`, and have *hand_over* called with the descriptor that told calls are read from.

    It cannot be called here: what it does may itself be told, and would wait for an answer that nobody can give yet. So a
    sibling does it that has the table of descriptors of this process, but not the filter.

    Raises:
        OSError: also ENOSYS where clone3(2) is not to be had.
    """
    ourselves = os.pidfd_open(os.getpid())
    expected = os.dup(ourselves)  # the lowest that is free, which is what the kernel takes next
    os.close(expected)
    if _libc.fork_sharing_descriptors() == 0:
        _wait_and_hand_over(ourselves, expected, hand_over)
    _libc.set_seccomp_listener(program)


def _wait_and_hand_over(process_fd: int, expected: int, hand_over: Callable[[int], None]) -> None:
    """Never returns: this is a forked child."""
    status = 1
    try:
        poll = select.poll()
        poll.register(process_fd, select.POLLIN)
        ended = False
        # One more look after the end: what the program has started may have outlived it already.
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
    """Tell whether the requests of :func:`receive` and :func:`answer` are encoded on *machine* as they are here."""
    return machine in _MACHINES


def receive(listener: int) -> Call | None:
    """Return a call that waits for an answer; None if its process has ended meanwhile."""
    buffer = bytearray(_NOTIFICATION.size)  # zeros, as the kernel wants them
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    identity, process, _, number, architecture, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Call(identity, process, number, architecture, tuple(arguments))


def open_process(listener: int, call: Call, number: int) -> int | None:
    """Return a pidfd of the process *number*, which is that of *call*'s thread; None if the thread has ended meanwhile.

    Looked after only once the process is open: while the thread waits, its numbers are nobody else's.
    """
    try:
        pidfd = os.pidfd_open(number)
    except OSError:  # ESRCH: it has ended; EINVAL: the number has become a thread's
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
    """Let *call* fail with errno *number*, or, for None, go on. No word about a process that has ended meanwhile."""
    flags = _CONTINUE if number is None else 0
    try:
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(call.id, 0, -(number or 0), flags))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise

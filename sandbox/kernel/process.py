"""What one process can be told about itself: prctl(2) settings, its keyring, its descriptors, signals by pidfd."""

from __future__ import annotations

import errno
import os
import signal

from sandbox.kernel import _libc


def become_subreaper() -> None:
    """Make this process the parent of its orphaned descendants (PR_SET_CHILD_SUBREAPER); children do not inherit it."""
    _libc.prctl(_libc.PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(number: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Have the kernel send *number* when the parent *thread* ends (PR_SET_PDEATHSIG).

    A change of ids or capabilities and an exec of a set-id file clear the setting, fork does not pass it on: call it after
    the last of these. A parent that died before the call sends nothing any more, hence *parent*: the pid that this process
    expects as its parent's. It says nothing when the parent is in an outer pid namespace (its pid is 0 then, as is that
    of whoever inherits the child); there a pipe whose writing end only the parent holds must tell.

    Raises:
        OSError: ESRCH when the parent is no longer *parent*.
    """
    _libc.prctl(_libc.PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        raise OSError(errno.ESRCH, f"the parent process {parent} is gone")


def set_no_new_privileges() -> None:
    """Let no exec of this process or its descendants gain privileges, set-id bits and file capabilities included.

    It cannot be undone (PR_SET_NO_NEW_PRIVS).
    """
    _libc.prctl(_libc.PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(value: bool) -> None:
    """Allow or forbid core dumps of, and ptrace and most of /proc/PID to processes without privilege over, this process.

    The kernel forbids again at a change of ids, and allows again at an exec (PR_SET_DUMPABLE).
    """
    _libc.prctl(_libc.PR_SET_DUMPABLE, int(value))


def leave_session_keyring() -> bool:
    """Give this process an empty session keyring in place of the user's; False where the kernel has no keys at all.

    keyrings(7): a session keyring is not a thing of any namespace; without this, the sandbox would read the host
    session's keys.

    Raises:
        OSError: EDQUOT when the user has too many keys (/proc/key-users).
    """
    try:
        _libc.join_new_session_keyring()
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
    return True


def close_descriptors_from(first: int) -> None:
    """Close every descriptor from *first* on."""
    try:
        _libc.close_range(first, 0xFFFFFFFF)
    except OSError as error:
        if error.errno not in (
            errno.ENOSYS,
            errno.EPERM,
        ):  # Linux before 5.9; a seccomp filter that knows no such call
            raise
        for name in os.listdir("/proc/self/fd"):
            if int(name) >= first:
                try:
                    os.close(int(name))
                except OSError as gone:
                    if gone.errno != errno.EBADF:  # the listing's own descriptor
                        raise


def send_signal(pidfd: int, number: int) -> None:
    """Send signal *number* to the process behind *pidfd*, which cannot have been recycled as a pid can.

    Raises:
        OSError: ESRCH (ProcessLookupError) when it has ended and been reaped.
    """
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(pidfd, number)
    else:  # a Python built against older kernel headers
        _libc.pidfd_send_signal(pidfd, number)


def close_descriptors_but(keep: set[int]) -> None:
    """Close every descriptor that is not in *keep*."""
    last = max(keep, default=-1)
    for fd in range(last):
        if fd not in keep:
            try:
                os.close(fd)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
    close_descriptors_from(last + 1)


def set_title(title: str) -> None:
    """Show *title* as this process's name and command line, in place of the command line that started it.

    The kernel reads the command line from the process's own memory, at the place that proc_pid_stat(5) tells
    (fields 48 and 49); the interpreter has copied it long before.
    """
    _libc.set_thread_name(title.encode())
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # counted from field 3, which follows the name
    if 0 < start < end:
        _libc.overwrite(start, end - start, title.encode())

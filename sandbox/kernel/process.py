"""Change attributes of processes: prctl(2) settings, keyring, descriptors, title; signal and kill processes by pidfd."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Collection

from sandbox.kernel import _libc, constants
from unionfs._stdlib.dataclasses import dataclass


def become_subreaper() -> None:
    """Make this process the parent of its orphaned descendants (PR_SET_CHILD_SUBREAPER); children do not inherit it."""
    _libc.prctl(constants.PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(number: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Have the kernel send *number* when the parent *thread* ends (PR_SET_PDEATHSIG).

    A change of ids or capabilities and an exec of a set-id file clear the setting, and fork does not inherit it: call this after
    the last of these. A parent that died before the call sends no signal. Therefore *parent* is the pid that this process
    expects as its parent's. The check is meaningless if the parent is in an outer pid namespace: the pid of any such parent
    is 0. In that case detect the end of the parent with a pipe whose writing end only the parent keeps open.

    Raises:
        OSError: ESRCH if the parent is no longer *parent*.
    """
    _libc.prctl(constants.PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        raise OSError(errno.ESRCH, f"the parent process {parent} has ended")


def set_no_new_privileges() -> None:
    """Prevent this process and its descendants from gaining privileges by exec, through set-id bits or file capabilities.

    This cannot be undone (PR_SET_NO_NEW_PRIVS).
    """
    _libc.prctl(constants.PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(value: bool) -> None:
    """Allow or forbid core dumps of this process, and unprivileged access to it by ptrace and most of /proc/PID.

    The kernel resets this to "forbidden" at a change of ids and to "allowed" at an exec (PR_SET_DUMPABLE).
    """
    _libc.prctl(constants.PR_SET_DUMPABLE, int(value))


def leave_session_keyring() -> bool:
    """Give this process an empty session keyring in place of the user's; return False if the kernel has no keyrings.

    Session keyrings do not belong to a namespace (keyrings(7)). Without this call, the sandbox could read the keys of the host
    session.

    Raises:
        OSError: EDQUOT if the user has too many keys (/proc/key-users).
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
        ):  # Linux before 5.9; a seccomp filter without this call
            raise
        for name in os.listdir("/proc/self/fd"):
            if int(name) >= first:
                try:
                    os.close(int(name))
                except OSError as gone:
                    if gone.errno != errno.EBADF:  # the descriptor of the listing itself
                        raise


def send_signal(pidfd: int, number: int) -> None:
    """Send signal *number* to the process that *pidfd* refers to. Unlike a pid, a pidfd is never reused for another process.

    Raises:
        OSError: ESRCH (ProcessLookupError) if the process has ended and been reaped.
    """
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(pidfd, number)
    else:  # a Python built against older kernel headers
        _libc.pidfd_send_signal(pidfd, number)


def kill_quietly(pid: int) -> None:
    """Send SIGKILL to *pid*, if there is such a process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def ends_within(pid: int, seconds: float) -> bool:
    """Wait for the child *pid* to end; it is not reaped, and no descriptor is needed, of which there may be none left."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def empty_standard_input() -> None:
    """Replace the standard input of this process and its children by /dev/null.

    Raises:
        OSError: /dev/null cannot be opened.
    """
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(fd, 0)
    os.close(fd)


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


def start_time(pid: int) -> int | None:
    """Return when the process *pid* was started, in clock ticks since boot, None if it is gone. A reused pid has another time."""
    stat = _stat(pid, None)
    return None if stat is None else stat.start


def is_alive(pid: int, start: int) -> bool:
    """Return whether the process *pid* that was started at *start* (see :func:`start_time`) still runs; a zombie does not."""
    stat = _stat(pid, None)
    return stat is not None and stat.start == start and stat.state not in "ZX"


def parent_of(pid: int) -> int | None:
    """Return the pid of the parent of the process *pid*, None if that is gone."""
    stat = _stat(pid, None)
    return None if stat is None else stat.parent


def is_stopped(pid: int) -> bool:
    """Return whether the process *pid* was stopped by a signal (SIGSTOP, SIGTSTP)."""
    stat = _stat(pid, None)
    return stat is not None and stat.state in "Tt"


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    state: str
    parent: int
    start: int


def _stat(pid: int, proc_fd: int | None) -> _Stat | None:
    """Read /proc/PID/stat (proc_pid_stat(5)) of *pid* in the /proc *proc_fd*; None if the process is gone."""
    text = _read(f"{pid}/stat", proc_fd)
    if text is None:
        return None
    fields = text.rpartition(")")[2].split()  # from field 3 on
    return _Stat(pid=pid, state=fields[0], parent=int(fields[1]), start=int(fields[19]))


def _read(name: str, proc_fd: int | None) -> str | None:
    try:
        fd = os.open(
            name if proc_fd is not None else f"/proc/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd
        )
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        with open(fd, encoding="utf-8", errors="replace") as file:
            return file.read()
    except ProcessLookupError:
        return None


def _processes(proc_fd: int | None) -> list[_Stat]:
    names = os.listdir("/proc" if proc_fd is None else proc_fd)
    found = (_stat(int(name), proc_fd) for name in names if name.isdigit())
    return [stat for stat in found if stat is not None]


def count_others(proc_fd: int) -> int:
    """Return how many processes other than this one run in the pid namespace of the /proc *proc_fd*; zombies do not count."""
    return sum(stat.pid != os.getpid() and stat.state not in "ZX" for stat in _processes(proc_fd))


def family_of(pid: int) -> list[int]:
    """Return *pid* and its descendants that run, parents first."""
    children: dict[int, list[int]] = {}
    for stat in _processes(None):
        if stat.state not in "ZX":
            children.setdefault(stat.parent, []).append(stat.pid)
    found = [pid]
    for parent in found:
        found += children.get(parent, ())
    return found


def _descendants(spare: Collection[int], proc_fd: int | None) -> list[_Stat]:
    """Return the descendants of this process that run, and its own zombie children, except those in *spare*."""
    children: dict[int, list[_Stat]] = {}
    for stat in _processes(proc_fd):
        children.setdefault(stat.parent, []).append(stat)
    found, pending = [], [os.getpid()]
    while pending:
        parent = pending.pop()
        for stat in children.get(parent, ()):
            if stat.pid not in spare and (stat.state not in "ZX" or parent == os.getpid()):
                found.append(stat)
                pending.append(stat.pid)
    return found


def end_descendants(*, spare: Collection[int] = (), proc_fd: int | None = None, timeout: float = 10) -> None:
    """Kill every descendant of this process except those in *spare*, and reap its children.

    This process must be a subreaper. Then everything that it started, however often it forks, remains its descendant. The
    function stops all descendants first. A stopped process cannot fork and still counts against every limit on processes, so
    that even a fork bomb ends. *proc_fd* is a /proc of our pid namespace, for callers that may have none mounted at /proc.

    Raises:
        TimeoutError: processes outlive SIGKILL: none has ended for *timeout* seconds.
    """
    _end(lambda: _descendants(spare, proc_fd), proc_fd, timeout)


def end_rooted(
    source: str, *, namespace: int | None = None, spare: Collection[int] = (), timeout: float = 10
) -> None:
    """Kill every process whose root is a mount with the source *source*, a name that only one mount has, except *spare*.

    Processes in the mount namespace *namespace* (a descriptor) are killed too. A process that has changed its root may no longer
    see the mount.

    Raises:
        TimeoutError: some processes outlive SIGKILL.
    """
    identity = None if namespace is None else _identity(os.fstat(namespace))

    def members() -> list[_Stat]:
        return [
            stat
            for stat in _processes(None)
            if stat.pid not in spare
            and stat.state not in "ZX"
            and (
                _root_source(stat.pid) == source
                or (identity is not None and _mount_namespace(stat.pid) == identity)
            )
        ]

    _end(members, None, timeout)


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _mount_namespace(pid: int) -> tuple[int, int] | None:
    """Return the identity of the mount namespace of *pid*, or None if the process has ended or may not be traced by us."""
    try:
        return _identity(os.stat(f"/proc/{pid}/ns/mnt"))
    except OSError:
        return None


def _root_source(pid: int) -> str | None:
    try:
        lines = (_read(f"{pid}/mountinfo", None) or "").splitlines()
    except OSError:  # EINVAL: the process has ended
        return None
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split()[4] == "/":
            return after.split()[1]
    return None


def _end(members: Callable[[], list[_Stat]], proc_fd: int | None, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    stopped: set[tuple[int, int]] = set()
    while new := [
        stat for stat in members() if (stat.pid, stat.start) not in stopped and stat.state not in "ZX"
    ]:
        for stat in new:
            _signal(stat, signal.SIGSTOP, proc_fd)
            stopped.add((stat.pid, stat.start))
        if time.monotonic() > deadline:
            break
    pause, fewest = 0.0005, sys.maxsize
    while left := members():
        for stat in left:
            if stat.state in "ZX" or stat.parent == os.getpid():
                try:
                    os.waitpid(stat.pid, os.WNOHANG)
                except ChildProcessError:
                    pass
            _signal(stat, signal.SIGKILL, proc_fd)
        # Restart the time limit at each progress: thousands of processes take long to end.
        if len(left) < fewest:
            fewest, deadline = len(left), time.monotonic() + timeout
        if time.monotonic() > deadline:
            shown = ", ".join(str(stat.pid) for stat in left[:5])
            raise TimeoutError(errno.ETIMEDOUT, f"processes did not end after SIGKILL: {shown}")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _signal(stat: _Stat, number: int, proc_fd: int | None) -> None:
    """Send signal *number* to the process of *stat*, but not to a process that has reused its pid since."""
    try:
        pidfd = os.pidfd_open(stat.pid)
    except OSError:  # ESRCH: the process has ended
        return
    try:
        now = _stat(stat.pid, proc_fd)
        if now is not None and now.start == stat.start:
            send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, or we may not kill it; then the caller's time limit expires
    finally:
        os.close(pidfd)


def set_title(title: str) -> None:
    """Set the name and command line of this process to *title*.

    The kernel reads the command line from the memory of the process, at the addresses in fields 48 and 49 of
    proc_pid_stat(5). The interpreter copied its arguments from there at its start.
    """
    _libc.set_thread_name(title.encode())
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # counted from field 3, which follows the name
    if 0 < start < end:
        _libc.overwrite(start, end - start, title.encode())

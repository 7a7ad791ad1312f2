"""Values, file access, and killing and removing of cgroups, for both cgroup versions; cgroups(7).

In each hierarchy, a sandbox has a directory ``sandbox-NAME`` with two leaves. ``payload`` contains init and the program and
has the limits of the spec. ``server`` contains the file system server, to which the program's limits must not apply.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable, Iterator

from sandbox.kernel.process import send_signal
from unionfs._stdlib.dataclasses import dataclass, fields
from unionfs._stdlib.typing import Literal, Protocol

Leaf = Literal["payload", "server"]
LEAVES: tuple[Leaf, ...] = ("payload", "server")
PREFIX = "sandbox-"

CPU_PERIOD = 100_000
"""The kernel's default period in microseconds for the distribution of cpu time."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # seconds between two checks of processes that are ending


@dataclass(frozen=True, slots=True, kw_only=True)
class IoRates:
    """Limits per second of bytes and requests, read and written, on one block device: "MAJOR:MINOR" of a whole disk."""

    device: str
    read: int | None = None
    write: int | None = None
    read_operations: int | None = None
    write_operations: int | None = None

    @property
    def limits_writing(self) -> bool:
        """Whether writing is limited in any way."""
        return self.write is not None or self.write_operations is not None

    def __str__(self) -> str:
        """Return a text for messages."""
        names = ("read", "write", "read_operations", "write_operations")
        rates = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) is not None]
        return " ".join([self.device, *rates])


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLimits:
    """Limits of one leaf; None, or an empty tuple, means no limit.

    *memory*: bytes of memory, including page cache and tmpfs.
    *memory_high*: bytes above which the kernel slows processes down and reclaims their memory.
    *swap*: bytes of swap in addition to memory (not their sum).
    *cpus*: cpu time per time, above 0.
    *cpu_weight*: 1 to 10000; the default is 100.
    *cpuset*: processors in the list format of cpuset(7).
    *pids*: number of processes and threads.

    The *cpu_weight*, *cpuset* and *io* of the payload apply to the whole sandbox, because the server reads on behalf of the
    program.
    """

    memory: int | None = None
    memory_high: int | None = None
    swap: int | None = None
    cpus: float | None = None
    cpu_weight: int | None = None
    cpuset: str | None = None
    pids: int | None = None
    io: tuple[IoRates, ...] = ()

    def given(self) -> list[str]:
        """Return the names of the limits that are set."""
        return [field.name for field in fields(self) if getattr(self, field.name) not in (None, ())]


#: The limits and their controllers in version 2, in the order of the specification. All other tables derive from this one,
#: or a test compares them with it.
CONTROLLER_OF = {
    "memory": "memory",
    "memory_high": "memory",
    "swap": "memory",
    "cpus": "cpu",
    "cpu_weight": "cpu",
    "cpuset": "cpuset",
    "pids": "pids",
    "io": "io",
}
NO_LIMITS = CgroupLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What was used up to now; None if the kernel does not report it or the controller is missing.

    *memory_peak*: bytes.
    *cpu_nanoseconds*: user and system time together.
    *throttled_nanoseconds*: time for which processes had to wait because of the limit on cpu time.
    *memory_high_events*: how often a process was slowed down because of memory_high.
    *oom_kills*: processes killed because memory ran out.
    *pids_max_events*: forks that failed because of the limit.
    *pids_peak*: highest number of processes and threads at a time.
    *io_read*, *io_written*: bytes transferred by block devices.
    """

    memory_peak: int | None = None
    cpu_nanoseconds: int | None = None
    user_nanoseconds: int | None = None
    system_nanoseconds: int | None = None
    throttled_nanoseconds: int | None = None
    memory_high_events: int | None = None
    oom_kills: int | None = None
    pids_peak: int | None = None
    pids_max_events: int | None = None
    io_read: int | None = None
    io_written: int | None = None


class Cgroup(Protocol):
    """The cgroups of one sandbox. :meth:`Hierarchy.create` makes it; :meth:`remove` ends it."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the directories, for :func:`remove_stale`."""
        ...

    def add(self, pid: int, leaf: Leaf = "payload") -> None:
        """Move process *pid* into a leaf; its present children are not moved."""
        ...

    def kill(self, leaf: Leaf | None = None, *, timeout: float = 10) -> None:
        """Kill every process of a leaf or, if None, of both, and wait for their end (TimeoutError: some have not ended)."""
        ...

    def counters(self, leaf: Leaf | None = None) -> Counters:
        """Read the counters of a leaf or, if None, of the whole sandbox."""
        ...

    def file_of(self, limit: str) -> str:
        """Return the path of the file with the value of *limit*."""
        ...

    def remove(self, *, timeout: float = 5) -> None:
        """Remove all that was created. Repeating this is no error. OSError EBUSY: there are still processes in the cgroups."""
        ...


class Hierarchy(Protocol):
    """A place where this process may make cgroups. :func:`detect` returns it, without having made any."""

    @property
    def version(self) -> int:
        """Return 1, 2, or 0 if this process can make no cgroups."""
        ...

    @property
    def controllers(self) -> frozenset[str]:
        """Return the usable controllers, by the names of this version."""
        ...

    @property
    def delegable(self) -> bool:
        """Return whether a service manager could give us a cgroup with more controllers: only version 2 can be delegated."""
        ...

    def unenforceable(self, limits: CgroupLimits) -> dict[str, str]:
        """Return the given limits that cannot be enforced here, each with the reason. No side effect."""
        ...

    def paths_of(self, name: str) -> tuple[str, ...]:
        """Return the directories of the cgroups of sandbox *name*. The caller records them before the first is made."""
        ...

    def file_of(self, name: str, limit: str) -> str:
        """Return the path of the file with the value of *limit* for sandbox *name*; the controller must be usable."""
        ...

    def create(self, name: str, limits: CgroupLimits, server: CgroupLimits = NO_LIMITS) -> Cgroup:
        """Make the cgroups of sandbox *name* with the limits of both leaves; remove them again on failure."""
        ...


class CgroupFiles:
    """Access to cgroup file systems; tests replace it by a simulated kernel."""

    def read(self, path: str) -> str:
        """Return the content of a file."""
        with open(path, encoding="ascii") as file:
            return file.read()

    def write(self, path: str, value: str) -> None:
        """Write *value* with one write(2), which the kernel takes as one command; the file must exist."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode("ascii"))
        except OSError as error:
            raise OSError(error.errno, f"writing {value!r}: {error.strerror}", path) from None
        finally:
            os.close(fd)

    def mkdir(self, path: str) -> None:
        """Make a cgroup."""
        os.mkdir(path, 0o755)

    def rmdir(self, path: str) -> None:
        """Remove a cgroup. The kernel removes its files."""
        os.rmdir(path)

    def exists(self, path: str) -> bool:
        """Return whether the file or directory *path* exists."""
        return os.path.exists(path)

    def writable(self, path: str) -> bool:
        """Return whether the kernel lets us write *path*: it considers the owner, capabilities and a read-only mount."""
        return os.access(path, os.W_OK, effective_ids=True)

    def children(self, path: str) -> list[str]:
        """Return the names of the cgroups below *path*."""
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    def parent_of(self, pid: int) -> int:
        """Return the pid of the parent of process *pid*, or 0 if it is gone or unknown."""
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                return int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return 0


def read_optional(files: CgroupFiles, path: str) -> str | None:
    """Return the content of *path*, or None if this kernel or controller does not have the file."""
    try:
        return files.read(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV):
            return None
        raise


def read_number(files: CgroupFiles, path: str) -> int | None:
    """Return the number in *path*, or None if there is none."""
    text = read_optional(files, path)
    return int(text) if text is not None and text.strip().isdigit() else None


def read_field(files: CgroupFiles, path: str, key: str) -> int | None:
    """Return the number after *key* in a file with lines ``KEY NUMBER``, or None if there is none."""
    for line in (read_optional(files, path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return None


def add_up(values: Iterable[int | None]) -> int | None:
    """Return the sum of the known values, or None if all are unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def processes(files: CgroupFiles, directory: str) -> list[int]:
    """Return the pids in the cgroup *directory*, without those in its children; none if it is gone.

    A process outside our pid namespace is listed as 0.
    """
    text = read_optional(files, f"{directory}/cgroup.procs")
    return [int(line) for line in (text or "").split()]


def directory_of(name: str) -> str:
    """Return the name of the directory of a sandbox.

    Raises:
        ValueError: *name* cannot be part of a file name.
    """
    if not name or "/" in name or "\n" in name or "\0" in name:
        raise ValueError(f"{name!r} cannot name a cgroup")
    return PREFIX + name


def processors(text: str) -> frozenset[int]:
    """Return the processor numbers in a list in the format of cpuset(7)."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def missing_processors(wanted: str, available: str) -> str | None:
    """Return why some of the *wanted* processors cannot be used, or None if all can.

    The kernel would accept a list that contains other processors too. With version 2 it falls back to all processors if none of
    the list is available.
    """
    missing = sorted(processors(wanted) - processors(available))
    if not missing:
        return None
    shown = ", ".join(map(str, missing[:5])) + (" and more" if len(missing) > 5 else "")
    return f"processor {shown} is not available here, only {available.strip() or 'none'}"


def cpu_quota(cpus: float) -> int:
    """Return the microseconds of cpu time per :data:`CPU_PERIOD` for *cpus*; the kernel's minimum is 1000."""
    return max(1000, round(cpus * CPU_PERIOD))


def pauses(timeout: float) -> Iterator[None]:
    """Yield at least once, then at growing intervals until *timeout* seconds have passed."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    yield
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
        yield


def kill_processes(files: CgroupFiles, directories: Iterable[str], timeout: float) -> None:
    """Send SIGKILL to all processes in *directories* except this one until none is left.

    Raises:
        TimeoutError: some were still running after *timeout* seconds.
    """
    directories = list(directories)
    left: set[int] = set()
    for _ in pauses(timeout):
        left = {pid for directory in directories for pid in processes(files, directory)} - {0, os.getpid()}
        if not left:
            return
        for directory in directories:
            _kill_listed(files, directory)
    shown = ", ".join(map(str, sorted(left)[:5]))
    raise TimeoutError(errno.ETIMEDOUT, f"processes did not end after SIGKILL: {shown}", directories[0])


def _kill_listed(files: CgroupFiles, directory: str) -> None:
    """Kill the processes in *directory* by pidfds, and only those listed again after the pidfds were opened: pids are reused."""
    pidfds: dict[int, int] = {}
    try:
        for pid in processes(files, directory):
            if pid in (0, os.getpid()):
                continue
            try:
                pidfds[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
        for pid in pidfds.keys() & set(processes(files, directory)):
            try:
                send_signal(pidfds[pid], signal.SIGKILL)
            except ProcessLookupError:
                continue
    finally:
        for pidfd in pidfds.values():
            os.close(pidfd)


def remove_tree(files: CgroupFiles, top: str, timeout: float) -> None:
    """Remove the cgroup *top* and all below it, and wait for ending processes. A missing cgroup is no error.

    Raises:
        OSError: EBUSY if processes are still in it after *timeout* seconds.
    """
    last: OSError | None = None
    for _ in pauses(timeout):
        try:
            _remove_once(files, top)
        except OSError as error:
            # ENOTEMPTY: another process has made a child meanwhile.
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            last = error
        else:
            return
    assert last is not None
    raise OSError(errno.EBUSY, "the cgroup still contains processes", last.filename) from None


def _remove_once(files: CgroupFiles, path: str) -> None:
    try:
        for name in files.children(path):
            _remove_once(files, f"{path}/{name}")
        files.rmdir(path)
    except FileNotFoundError:
        return


def all_directories(files: CgroupFiles, top: str) -> list[str]:
    """Return *top* and every cgroup below it; nothing if it is gone."""
    try:
        names = files.children(top)
    except FileNotFoundError:
        return []
    return [top, *(path for name in names for path in all_directories(files, f"{top}/{name}"))]

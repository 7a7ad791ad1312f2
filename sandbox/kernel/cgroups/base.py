"""What both versions of cgroups have in common: the values, the file access, killing and removing; cgroups(7).

A sandbox is one directory ``sandbox-NAME`` per hierarchy with two leaves: ``payload`` (init and the program, with the limits
of the spec) and ``server`` (the file system's server, which must not fall to the program's limits).
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
"""Microseconds over which a share of cpu time is measured out, the kernel's default."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # seconds between looks at processes that are ending


@dataclass(frozen=True, slots=True, kw_only=True)
class IoRates:
    """What may be read and written a second on one block device, "MAJOR:MINOR" of a whole disk: bytes and requests."""

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
        """Return it for people."""
        names = ("read", "write", "read_operations", "write_operations")
        rates = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) is not None]
        return " ".join([self.device, *rates])


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLimits:
    """Limits of one leaf; None, or nothing, is no limit.

    *memory* is bytes of memory with page cache and tmpfs, above *memory_high* processes are slowed down and give memory
    back, *swap* is bytes of swap on top of that (not their sum). *cpus* is cpu time per time, above 0; *cpu_weight* 1 to
    10000, of 100 by default; *pids* counts processes and threads. Of the payload's limits *cpu_weight*, *cpuset*, in the
    format of cpuset(7), and *io* hold for the whole sandbox: what the program reads from its root, the server reads for it.
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
        """Return the names of the limits that there are."""
        return [field.name for field in fields(self) if getattr(self, field.name) not in (None, ())]


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
    """What was used up to now; None where the kernel or a missing controller does not tell.

    *memory_peak* is bytes, *cpu_nanoseconds* user and system time together, *throttled_nanoseconds* time for which processes
    were held back for their share of cpu time, *memory_high_events* how often one was for memory_high, *oom_kills* processes
    killed for lack of memory, *pids_max_events* forks that failed for the limit, *pids_peak* the most processes and threads
    at once, *io_read* and *io_written* bytes that block devices moved.
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
    """The cgroups of one sandbox."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The directories, for :func:`remove_stale`."""
        ...

    def add(self, pid: int, leaf: Leaf = "payload") -> None:
        """Move process *pid* into a leaf; children that it has already stay where they are."""
        ...

    def kill(self, leaf: Leaf | None = None, *, timeout: float = 10) -> None:
        """Kill every process of a leaf or, with None, of both, and wait until they are gone (TimeoutError: some are not)."""
        ...

    def counters(self, leaf: Leaf | None = None) -> Counters:
        """Read the counters of a leaf or, with None, of the whole sandbox."""
        ...

    def file_of(self, limit: str) -> str:
        """Return the path of the file that holds *limit*."""
        ...

    def remove(self, *, timeout: float = 5) -> None:
        """Remove everything that was created; done already is no error. OSError EBUSY: processes are still there."""
        ...


class Hierarchy(Protocol):
    """A place where we may make cgroups, as :func:`detect` found it; making nothing yet."""

    @property
    def version(self) -> int:
        """1, 2, or 0 for a machine where we can make none."""
        ...

    @property
    def controllers(self) -> frozenset[str]:
        """Those that can be used, by the names of this version."""
        ...

    @property
    def delegable(self) -> bool:
        """Whether a service manager could give us a cgroup that holds more: only those of version 2 are given away."""
        ...

    def unenforceable(self, limits: CgroupLimits) -> dict[str, str]:
        """Return the given limits that cannot be held here, each with the reason. No side effect."""
        ...

    def paths_of(self, name: str) -> tuple[str, ...]:
        """Return the directories that the cgroups of sandbox *name* will have, to note before the first of them is made."""
        ...

    def file_of(self, name: str, limit: str) -> str:
        """Return the path of the file that would hold *limit* for sandbox *name*; of usable controllers only."""
        ...

    def create(self, name: str, limits: CgroupLimits, server: CgroupLimits = NO_LIMITS) -> Cgroup:
        """Make the cgroups of sandbox *name* with the limits of both leaves; nothing is left behind on failure."""
        ...


class CgroupFiles:
    """Access to cgroup file systems; tests put a simulated kernel in its place."""

    def read(self, path: str) -> str:
        """Return the content of a file."""
        with open(path, encoding="ascii") as file:
            return file.read()

    def write(self, path: str, value: str) -> None:
        """Write *value* in one go, the kernel's unit of a command; the file must exist."""
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
        """Remove a cgroup (its files are the kernel's and go with it)."""
        os.rmdir(path)

    def exists(self, path: str) -> bool:
        """Tell whether the file or directory *path* exists."""
        return os.path.exists(path)

    def writable(self, path: str) -> bool:
        """Ask the kernel whether we may write *path*: it considers owner, capabilities and a read-only mount."""
        return os.access(path, os.W_OK, effective_ids=True)

    def children(self, path: str) -> list[str]:
        """Return the names of the cgroups below *path*."""
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    def parent_of(self, pid: int) -> int:
        """Return the parent's pid of process *pid*, 0 when it is gone or unknown."""
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                return int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return 0


def read_optional(files: CgroupFiles, path: str) -> str | None:
    """Return the content of *path*, None where this kernel or controller does not have it."""
    try:
        return files.read(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV):
            return None
        raise


def read_number(files: CgroupFiles, path: str) -> int | None:
    """Return the number in *path*, None where there is none."""
    text = read_optional(files, path)
    return int(text) if text is not None and text.strip().isdigit() else None


def read_field(files: CgroupFiles, path: str, key: str) -> int | None:
    """Return the number beside *key* in a file of lines ``KEY NUMBER``, None where there is none."""
    for line in (read_optional(files, path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return None


def add_up(values: Iterable[int | None]) -> int | None:
    """Return the sum of what is known, None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def processes(files: CgroupFiles, directory: str) -> list[int]:
    """Return the pids in the cgroup *directory*, without those of its children; none when it is gone.

    A process outside of our pid namespace is listed as 0.
    """
    text = read_optional(files, f"{directory}/cgroup.procs")
    return [int(line) for line in (text or "").split()]


def directory_of(name: str) -> str:
    """Return the name of a sandbox's directory.

    Raises:
        ValueError: *name* cannot be part of a file name.
    """
    if not name or "/" in name or "\n" in name or "\0" in name:
        raise ValueError(f"{name!r} cannot name a cgroup")
    return PREFIX + name


def processors(text: str) -> frozenset[int]:
    """Return the numbers of a list of processors; cpuset(7)."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def missing_processors(wanted: str, available: str) -> str | None:
    """Return why not all *wanted* processors can be used, None where they can.

    The kernel would take a list with others and, of version 2, fall back to all where none of it is there.
    """
    missing = sorted(processors(wanted) - processors(available))
    if not missing:
        return None
    shown = ", ".join(map(str, missing[:5])) + (" and more" if len(missing) > 5 else "")
    return f"processor {shown} cannot be used here, only {available.strip() or 'none'}"


def cpu_quota(cpus: float) -> int:
    """Return the microseconds of cpu time per :data:`CPU_PERIOD` for *cpus*; the kernel takes no less than 1000."""
    return max(1000, round(cpus * CPU_PERIOD))


def pauses(timeout: float) -> Iterator[None]:
    """Yield at growing intervals until *timeout* seconds have passed, at least once."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    yield
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
        yield


def kill_processes(files: CgroupFiles, directories: Iterable[str], timeout: float) -> None:
    """Send SIGKILL to all processes in *directories* until none is left; our own is spared.

    Raises:
        TimeoutError: some were still there after *timeout* seconds.
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
    raise TimeoutError(errno.ETIMEDOUT, f"processes outlive SIGKILL: {shown}", directories[0])


def _kill_listed(files: CgroupFiles, directory: str) -> None:
    """Kill what is listed in *directory*; by pidfds, and only what is listed after they were opened: pids are reused."""
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
    """Remove the cgroup *top* and all below it, waiting for processes that are ending; gone already is no error.

    Raises:
        OSError: EBUSY when processes are still in there after *timeout* seconds.
    """
    last: OSError | None = None
    for _ in pauses(timeout):
        try:
            _remove_once(files, top)
        except OSError as error:
            # ENOTEMPTY: a child was made meanwhile.
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            last = error
        else:
            return
    assert last is not None
    raise OSError(errno.EBUSY, "the cgroup still has processes", last.filename) from None


def _remove_once(files: CgroupFiles, path: str) -> None:
    try:
        for name in files.children(path):
            _remove_once(files, f"{path}/{name}")
        files.rmdir(path)
    except FileNotFoundError:
        return


def all_directories(files: CgroupFiles, top: str) -> list[str]:
    """Return *top* and every cgroup below it; none when it is gone."""
    try:
        names = files.children(top)
    except FileNotFoundError:
        return []
    return [top, *(path for name in names for path in all_directories(files, f"{top}/{name}"))]

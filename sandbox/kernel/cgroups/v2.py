"""Use the delegated part of the cgroups version 2 hierarchy; Documentation/admin-guide/cgroup-v2.rst of Linux.

Two of its rules determine this module. Delegation: we may make cgroups only below a directory whose files we may write, and
move processes only if we may also write cgroup.procs of the common ancestor. No internal processes: a cgroup can enable
controllers for its children only while it contains no process itself. So if the supervisor is alone in the cgroup that was
delegated to it, it first moves into the leaf ``supervisor``, and returns at the end.
"""

from __future__ import annotations

import contextlib
import errno
import os

from sandbox.kernel.cgroups import base
from sandbox.kernel.cgroups.base import NO_LIMITS, CgroupFiles, CgroupLimits, Counters, Leaf
from unionfs._stdlib.dataclasses import dataclass, field

CONTROLLERS = ("memory", "cpu", "pids", "cpuset", "io")
SUPERVISOR = "supervisor"
#: The file of each limit, below the directory of a sandbox.
FILES = {
    "memory": "payload/memory.max",
    "memory_high": "payload/memory.high",
    "swap": "payload/memory.swap.max",
    "cpus": "payload/cpu.max",
    "cpu_weight": "cpu.weight",
    "pids": "payload/pids.max",
    "cpuset": "cpuset.cpus",
    "io": "io.max",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class V2Hierarchy:
    """The cgroup *directory*, below which the cgroups of sandboxes are made.

    *available* controllers can be enabled for children; *enabled* ones already are.
    *vacate*: the directory contains this process, which must leave it first.
    *of_machine*: it is the root of the whole hierarchy, which a service manager manages if there is one.
    *processors* can be used in it (cpuset.cpus.effective).
    """

    directory: str
    available: frozenset[str]
    enabled: frozenset[str]
    vacate: bool = False
    of_machine: bool = False
    has_swap: bool = True
    processors: str = ""
    files: CgroupFiles = field(default_factory=CgroupFiles, repr=False, compare=False)

    @property
    def version(self) -> int:
        """Return 2."""
        return 2

    @property
    def controllers(self) -> frozenset[str]:
        """Return the usable controllers."""
        return self.available

    @property
    def delegable(self) -> bool:
        """Return True."""
        return True

    def unenforceable(self, limits: CgroupLimits) -> dict[str, str]:
        """See :class:`base.Hierarchy`."""
        return unenforceable(
            limits, self.available, self.directory, has_swap=self.has_swap, usable=self.processors
        )

    def file_of(self, name: str, limit: str) -> str:
        """See :class:`base.Hierarchy`."""
        return f"{self.directory}/{base.directory_of(name)}/{FILES[limit]}"

    def paths_of(self, name: str) -> tuple[str, ...]:
        """See :class:`base.Hierarchy`."""
        return (f"{self.directory}/{base.directory_of(name)}",)

    def create(self, name: str, limits: CgroupLimits, server: CgroupLimits = NO_LIMITS) -> V2Cgroup:
        """See :class:`base.Hierarchy`.

        Raises:
            OSError: EEXIST if *name* is in use; EBUSY if another program's process has moved into our cgroup; EINVAL for a
                value that the kernel rejects; EAGAIN if cgroup.max.descendants is reached.
        """
        (top,) = self.paths_of(name)
        needed = {base.CONTROLLER_OF[limit] for limit in (*limits.given(), *server.given())}
        group = V2Cgroup(directory=top, vacated=self.directory if self.vacate else None, files=self.files)
        try:
            if self.vacate:
                self._vacate()
            # The others are enabled for their counters. A cpuset makes every change of cgroup slower.
            wanted_here = self.available - ({"cpuset"} - needed)
            handed_on = self._enable(self.directory, wanted_here, needed, self.enabled)
            self.files.mkdir(top)
            try:
                for file, value in settings_of_both(limits):
                    self.files.write(f"{top}/{file}", value)
                self._enable(top, handed_on, needed, frozenset())
                for leaf, wanted in zip(base.LEAVES, (limits, server), strict=True):
                    self.files.mkdir(f"{top}/{leaf}")
                    for file, value in settings(wanted):
                        self.files.write(f"{top}/{leaf}/{file}", value)
            except OSError:
                base.remove_tree(self.files, top, timeout=1)
                raise
        except OSError:
            group.return_supervisor()
            raise
        return group

    def _vacate(self) -> None:
        """Move every process of our cgroup into the leaf ``supervisor``. They are this process and its descendants."""
        leaf = f"{self.directory}/{SUPERVISOR}"
        with contextlib.suppress(FileExistsError):
            self.files.mkdir(leaf)
        for pid in base.processes(self.files, self.directory):
            if not is_ours(self.files, pid):
                raise OSError(
                    errno.EBUSY, f"process {pid} entered the cgroup of this process", self.directory
                )
            with contextlib.suppress(ProcessLookupError):
                self.files.write(f"{leaf}/cgroup.procs", str(pid))

    def _enable(
        self, directory: str, controllers: frozenset[str], needed: set[str], enabled: frozenset[str]
    ) -> frozenset[str]:
        """Enable *controllers* for the children of *directory*; return the enabled ones. Only *needed* ones must succeed."""
        result = set(controllers & enabled)
        for controller in sorted(controllers - enabled):
            try:
                self.files.write(f"{directory}/cgroup.subtree_control", f"+{controller}")
                result.add(controller)
            except OSError:
                if controller in needed:
                    raise
        return frozenset(result)


def unenforceable(
    limits: CgroupLimits, available: frozenset[str], directory: str, *, has_swap: bool, usable: str
) -> dict[str, str]:
    """Return which of *limits* a cgroup with the controllers *available* cannot enforce, each with the reason. Pure."""
    result = {}
    for limit in limits.given():
        controller = base.CONTROLLER_OF[limit]
        if controller not in available:
            result[limit] = f"the {controller} controller is not delegated to {directory}"
        elif limit == "swap" and not has_swap:
            result[limit] = "this kernel does not account swap (CONFIG_SWAP, swapaccount=1)"
        elif limit == "cpuset" and limits.cpuset is not None:
            reason = base.missing_processors(limits.cpuset, usable)
            if reason is not None:
                result[limit] = reason
        elif limit == "io" and "memory" not in available and any(one.limits_writing for one in limits.io):
            # The kernel needs the memory controller to know which cgroup has written a page.
            result[limit] = (
                f"limiting writes needs the memory controller, which is not delegated to {directory}"
            )
    return result


def settings(limits: CgroupLimits) -> list[tuple[str, str]]:
    """Return the values to write in a leaf for *limits*, as (file, value). Pure."""
    result = []
    if limits.memory is not None:
        result.append(("memory.max", str(limits.memory)))
    if limits.memory_high is not None:
        result.append(("memory.high", str(limits.memory_high)))
    if limits.swap is not None:
        result.append(("memory.swap.max", str(limits.swap)))
    if limits.cpus is not None:
        result.append(("cpu.max", f"{base.cpu_quota(limits.cpus)} {base.CPU_PERIOD}"))
    if limits.pids is not None:
        result.append(("pids.max", str(limits.pids)))
    return result


def settings_of_both(limits: CgroupLimits) -> list[tuple[str, str]]:
    """Return the values to write above the leaves for the *limits* of the payload, as (file, value). Pure."""
    result = [] if limits.cpuset is None else [("cpuset.cpus", limits.cpuset)]
    if limits.cpu_weight is not None:
        # Weights are compared among siblings: in a leaf it would only count against the other leaf.
        result.append(("cpu.weight", str(limits.cpu_weight)))
    keys = (
        ("rbps", "read"),
        ("wbps", "write"),
        ("riops", "read_operations"),
        ("wiops", "write_operations"),
    )
    for rates in limits.io:
        given = [f"{key}={getattr(rates, name)}" for key, name in keys if getattr(rates, name) is not None]
        result.append(("io.max", " ".join([rates.device, *given])))
    return result


def is_ours(files: CgroupFiles, pid: int) -> bool:
    """Return whether *pid* is this process or a descendant of it."""
    own = os.getpid()
    while pid > 1:
        if pid == own:
            return True
        pid = files.parent_of(pid)
    return pid == own


def examine(own: str, top: str, *, is_root: bool, files: CgroupFiles) -> V2Hierarchy | str:
    """Return where we can make cgroups if our cgroup is *own* in the hierarchy mounted on *top*, or why we cannot.

    The candidates, in order: the parent of our cgroup, if ours is the leaf ``supervisor`` that an outer supervisor made; our own
    cgroup; for real root (*is_root*) the root of the hierarchy, as container engines without systemd do.
    """
    parent, _, name = own.rpartition("/")
    if name == SUPERVISOR and len(parent) >= len(top):
        outer = _outer(parent, files)
        if outer is not None:
            return outer
    found = _below(own, files)
    if isinstance(found, V2Hierarchy):
        return found
    # Unlike the root of a cgroup namespace, the real root has no cgroup.events, and may contain processes.
    if is_root and own != top and not files.exists(f"{top}/cgroup.events"):
        at_top = _below(top, files)
        if isinstance(at_top, V2Hierarchy):
            return at_top
    return found


def _below(directory: str, files: CgroupFiles) -> V2Hierarchy | str:
    available = frozenset(_words(files, f"{directory}/cgroup.controllers")) & set(CONTROLLERS)
    if not _delegated(directory, files):
        return f"the cgroup {directory} is not delegated to this account"
    if not available:
        return f"no controller is delegated to the cgroup {directory}"
    present = base.processes(files, directory)
    real_root = not files.exists(f"{directory}/cgroup.events")
    if present and not real_root:
        others = [pid for pid in present if not is_ours(files, pid)]
        if others:
            count = f"{len(others)} other process" + ("es" if len(others) > 1 else "")
            return f"{count} in the cgroup {directory}, which therefore cannot have limits"
    return _hierarchy(directory, available, files, vacate=bool(present) and not real_root)


def _outer(directory: str, files: CgroupFiles) -> V2Hierarchy | None:
    available = frozenset(_words(files, f"{directory}/cgroup.subtree_control")) & set(CONTROLLERS)
    if not available or not _delegated(directory, files):
        return None
    return _hierarchy(directory, available, files, vacate=False)


def _hierarchy(directory: str, available: frozenset[str], files: CgroupFiles, *, vacate: bool) -> V2Hierarchy:
    return V2Hierarchy(
        directory=directory,
        available=available,
        enabled=frozenset(_words(files, f"{directory}/cgroup.subtree_control")) & available,
        vacate=vacate,
        of_machine=not files.exists(f"{directory}/cgroup.events"),
        has_swap=accounts_swap(files, directory),
        processors=(base.read_optional(files, f"{directory}/cpuset.cpus.effective") or "").strip(),
        files=files,
    )


def accounts_swap(files: CgroupFiles, directory: str) -> bool:
    """Return whether cgroups below *directory* can limit swap."""
    # The real root has no memory limits, so its files do not show which limits its children would have.
    return not files.exists(f"{directory}/memory.max") or files.exists(f"{directory}/memory.swap.max")


def _delegated(directory: str, files: CgroupFiles) -> bool:
    names = ("", "/cgroup.procs", "/cgroup.subtree_control")
    return all(files.writable(directory + name) for name in names)


def _words(files: CgroupFiles, path: str) -> list[str]:
    return (base.read_optional(files, path) or "").split()


@dataclass(frozen=True, slots=True, kw_only=True)
class V2Cgroup:
    """The cgroup of one sandbox; *vacated* is the cgroup that the supervisor left for it."""

    directory: str
    vacated: str | None = None
    files: CgroupFiles = field(default_factory=CgroupFiles, repr=False, compare=False)

    @property
    def paths(self) -> tuple[str, ...]:
        """See :class:`base.Cgroup`."""
        return (self.directory,)

    def add(self, pid: int, leaf: Leaf = "payload") -> None:
        """See :class:`base.Cgroup`.

        Raises:
            OSError: ESRCH: no such process; EACCES: its cgroup is outside the part that is delegated to us.
        """
        self.files.write(f"{self.directory}/{leaf}/cgroup.procs", str(pid))

    def kill(self, leaf: Leaf | None = None, *, timeout: float = 10) -> None:
        """See :class:`base.Cgroup`. Uses cgroup.kill (Linux 5.14), which no fork escapes, or else kills one by one."""
        for name in base.LEAVES if leaf is None else (leaf,):
            top = f"{self.directory}/{name}"
            if self.files.exists(f"{top}/cgroup.kill"):
                self.files.write(f"{top}/cgroup.kill", "1")
            elif self.files.exists(f"{top}/pids.max"):
                self.files.write(f"{top}/pids.max", "0")
            base.kill_processes(self.files, base.all_directories(self.files, top), timeout)

    def counters(self, leaf: Leaf | None = None) -> Counters:
        """See :class:`base.Cgroup`. memory_peak needs Linux 5.19, pids_peak 6.1."""
        where = self.directory if leaf is None else f"{self.directory}/{leaf}"
        # Two counters exist only where the limit is: throttled time, and before Linux 6.11 the failed forks.
        limited = f"{self.directory}/{leaf or 'payload'}"
        files = self.files

        def time(key: str, directory: str = where) -> int | None:
            microseconds = base.read_field(files, f"{directory}/cpu.stat", key)
            return None if microseconds is None else microseconds * 1000

        read, written = _io_bytes(base.read_optional(files, f"{where}/io.stat"))
        return Counters(
            memory_peak=base.read_number(files, f"{where}/memory.peak"),
            cpu_nanoseconds=time("usage_usec"),
            user_nanoseconds=time("user_usec"),
            system_nanoseconds=time("system_usec"),
            throttled_nanoseconds=time("throttled_usec", limited),
            memory_high_events=base.read_field(files, f"{where}/memory.events", "high"),
            oom_kills=base.read_field(files, f"{where}/memory.events", "oom_kill"),
            pids_peak=base.read_number(files, f"{where}/pids.peak"),
            pids_max_events=base.read_field(files, f"{limited}/pids.events", "max"),
            io_read=read,
            io_written=written,
        )

    def file_of(self, limit: str) -> str:
        """See :class:`base.Cgroup`."""
        return f"{self.directory}/{FILES[limit]}"

    def remove(self, *, timeout: float = 5) -> None:
        """See :class:`base.Cgroup`."""
        base.remove_tree(self.files, self.directory, timeout)
        self.return_supervisor()

    def return_supervisor(self) -> None:
        """Undo the move of the supervisor, unless another sandbox beside this one still needs it."""
        if self.vacated is None:
            return
        leaf = f"{self.vacated}/{SUPERVISOR}"
        try:
            for controller in _words(self.files, f"{self.vacated}/cgroup.subtree_control"):
                self.files.write(f"{self.vacated}/cgroup.subtree_control", f"-{controller}")
            for pid in base.processes(self.files, leaf):
                with contextlib.suppress(ProcessLookupError):
                    self.files.write(f"{self.vacated}/cgroup.procs", str(pid))
            self.files.rmdir(leaf)
        except OSError as error:
            # EBUSY: a sibling uses the controllers. ENOENT: not made, or undone. EOPNOTSUPP: still enabled for children.
            if error.errno not in (errno.EBUSY, errno.ENOENT, errno.EOPNOTSUPP, errno.ENOTEMPTY):
                raise


def _io_bytes(text: str | None) -> tuple[int | None, int | None]:
    """Return the bytes read and written in an io.stat, which has lines of a device and KEY=NUMBER pairs."""
    if text is None:
        return None, None
    words = [word.partition("=") for line in text.splitlines() for word in line.split()[1:]]
    read, written = (
        sum(int(value) for key, _, value in words if key == wanted) for wanted in ("rbytes", "wbytes")
    )
    return read, written

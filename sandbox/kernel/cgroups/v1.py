"""Use cgroups version 1, with one hierarchy per controller or group; Documentation/admin-guide/cgroup-v1 of Linux."""

from __future__ import annotations

from sandbox.kernel.cgroups import base
from sandbox.kernel.cgroups.base import NO_LIMITS, CgroupFiles, CgroupLimits, Counters, Leaf
from unionfs._stdlib.dataclasses import dataclass, field

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "cpuset", "blkio")
"""The controllers in use: cpuacct for counters of cpu time, the others for limits."""

#: The controller and the file of each limit, below the controller's directory of a sandbox.
FILES = {
    "memory": ("memory", "payload/memory.limit_in_bytes"),
    "swap": ("memory", "payload/memory.memsw.limit_in_bytes"),
    "cpus": ("cpu", "payload/cpu.cfs_quota_us"),
    "cpu_weight": ("cpu", "cpu.shares"),
    "pids": ("pids", "payload/pids.max"),
    "cpuset": ("cpuset", "cpuset.cpus"),
    "io": ("blkio", "payload/blkio.throttle.read_bps_device"),
}
_READ_FILES = (
    ("read", "blkio.throttle.read_bps_device"),
    ("read_operations", "blkio.throttle.read_iops_device"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Hierarchy:
    """The controllers that we can use, each with the directory of our own cgroup, below which the cgroups of sandboxes are made.

    Controllers that are mounted together share a directory. *refused* contains the other controllers, each with the reason.
    *processors* are those that can be used here (cpuset.effective_cpus).
    """

    directories: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...] = ()
    processors: str = ""
    files: CgroupFiles = field(default_factory=CgroupFiles, repr=False, compare=False)

    @property
    def version(self) -> int:
        """Return 1."""
        return 1

    @property
    def controllers(self) -> frozenset[str]:
        """Return the usable controllers."""
        return frozenset(name for name, _ in self.directories)

    @property
    def delegable(self) -> bool:
        """Return False: version 1 has no delegation by a service manager."""
        return False

    def unenforceable(self, limits: CgroupLimits) -> dict[str, str]:
        """See :class:`base.Hierarchy`."""
        result = {}
        for limit in limits.given():
            reason = self._obstacle(limit, limits)
            if reason is not None:
                result[limit] = reason
        return result

    def paths_of(self, name: str) -> tuple[str, ...]:
        """See :class:`base.Hierarchy`."""
        leaf = base.directory_of(name)
        return tuple(dict.fromkeys(f"{directory}/{leaf}" for _, directory in self.directories))

    def _obstacle(self, limit: str, limits: CgroupLimits) -> str | None:
        if limit == "memory_high":
            return "cgroups version 1 do not support it: their soft limit takes effect only if the machine is short of memory"
        directories, controller = dict(self.directories), FILES[limit][0]
        if controller not in directories:
            return dict(self.refused).get(
                controller, f"the {controller} controller of cgroups is not mounted"
            )
        if limit == "swap":
            if limits.memory is None:
                return "cgroups version 1 limit swap only together with memory"
            if not self.files.exists(f"{directories['memory']}/memory.memsw.limit_in_bytes"):
                return "this kernel does not account swap (boot it with swapaccount=1)"
        if limit == "cpus" and not self.files.exists(f"{directories['cpu']}/cpu.cfs_quota_us"):
            return "this kernel has no cpu bandwidth control (CONFIG_CFS_BANDWIDTH)"
        if limit == "cpuset" and limits.cpuset is not None:
            return base.missing_processors(limits.cpuset, self.processors)
        if limit == "io":
            if any(rates.limits_writing for rates in limits.io):
                return "cgroups version 1 cannot attribute writes through the page cache: they enforce only rates of reading"
            if not self._has_whole_sandbox("blkio"):
                return "the blkio controller is mounted together with others"
            if not self.files.exists(f"{directories['blkio']}/blkio.throttle.read_bps_device"):
                return "this kernel has no throttling of block devices (CONFIG_BLK_DEV_THROTTLING)"
        return None

    def _has_whole_sandbox(self, controller: str) -> bool:
        """Return whether *controller* is mounted alone. Then the server may be in the payload's leaf of its hierarchy."""
        directories = dict(self.directories)
        return [*directories.values()].count(directories[controller]) == 1

    def file_of(self, name: str, limit: str) -> str:
        """See :class:`base.Hierarchy`."""
        controller, file = FILES[limit]
        return f"{dict(self.directories)[controller]}/{base.directory_of(name)}/{file}"

    def create(self, name: str, limits: CgroupLimits, server: CgroupLimits = NO_LIMITS) -> V1Cgroup:
        """See :class:`base.Hierarchy`.

        Raises:
            OSError: EEXIST if *name* is in use; EINVAL for a value that the kernel rejects.
        """
        used = dict(self.directories)
        if limits.cpuset is None:
            # A cpuset without processors and memory nodes accepts no process, so it is made only if the spec has one.
            used = {key: path for key, path in used.items() if path != used.get("cpuset")}
        if "blkio" in used and not self._has_whole_sandbox("blkio"):
            del used["blkio"]
        group = V1Cgroup(
            directories=tuple(
                (controller, f"{directory}/{base.directory_of(name)}")
                for controller, directory in used.items()
            ),
            files=self.files,
        )
        made: list[str] = []
        try:
            for top in group.paths:
                self.files.mkdir(top)
                made.append(top)
                self._account_children(top)
                for leaf in group.leaves_of(top):
                    self.files.mkdir(f"{top}/{leaf}")
            if limits.cpuset is not None:
                self._choose_processors(group, limits.cpuset)
            if limits.cpu_weight is not None:
                # Weights are compared among siblings: in a leaf it would only count against the other leaf.
                self.files.write(f"{group.directory('cpu')}/cpu.shares", str(shares(limits.cpu_weight)))
            for leaf, wanted in zip(base.LEAVES, (limits, server), strict=True):
                for controller, file, value in settings(wanted):
                    self.files.write(f"{group.directory(controller)}/{leaf}/{file}", value)
        except (OSError, KeyError):
            for top in made:
                base.remove_tree(self.files, top, timeout=1)
            raise
        return group

    def _choose_processors(self, group: V1Cgroup, processors: str) -> None:
        # A new cpuset accepts no process before it has processors and memory nodes.
        memory = self.files.read(f"{dict(self.directories)['cpuset']}/cpuset.effective_mems").strip()
        top = group.directory("cpuset")
        for directory in (top, *(f"{top}/{leaf}" for leaf in base.LEAVES)):
            self.files.write(f"{directory}/cpuset.cpus", processors)
            self.files.write(f"{directory}/cpuset.mems", memory)

    def _account_children(self, top: str) -> None:
        # Before Linux 5.11 a memory cgroup counts its children only if this is set before the first child is made.
        if base.read_number(self.files, f"{top}/memory.use_hierarchy") == 0:
            self.files.write(f"{top}/memory.use_hierarchy", "1")


def settings(limits: CgroupLimits) -> list[tuple[str, str, str]]:
    """Return the values to write in a leaf for *limits*, as (controller, file, value), in the order that the kernel requires.

    Pure. The settings of both leaves, cpuset and weight, are not included.
    """
    result = []
    if limits.memory is not None:
        # Second, because memsw is the sum of memory and swap and must never be less than memory.
        result.append(("memory", "memory.limit_in_bytes", str(limits.memory)))
        if limits.swap is not None:
            result.append(("memory", "memory.memsw.limit_in_bytes", str(limits.memory + limits.swap)))
    if limits.cpus is not None:
        result.append(("cpu", "cpu.cfs_period_us", str(base.CPU_PERIOD)))
        result.append(("cpu", "cpu.cfs_quota_us", str(base.cpu_quota(limits.cpus))))
    if limits.pids is not None:
        result.append(("pids", "pids.max", str(limits.pids)))
    for rates in limits.io:
        for name, file in _READ_FILES:
            value = getattr(rates, name)
            if value is not None:
                result.append(("blkio", file, f"{rates.device} {value}"))
    return result


def shares(weight: int) -> int:
    """Convert a version 2 *weight* to cpu.shares as the kernel does: 100 is 1024, the minimum is 2."""
    return max(2, (weight * 1024 + 50) // 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Cgroup:
    """The directories of one sandbox, one per controller.

    The server is in the payload's leaf of the blkio hierarchy, because blkio throttles are not hierarchical.
    """

    directories: tuple[tuple[str, str], ...]
    files: CgroupFiles = field(default_factory=CgroupFiles, repr=False, compare=False)

    @property
    def paths(self) -> tuple[str, ...]:
        """See :class:`base.Cgroup`."""
        return tuple(dict.fromkeys(directory for _, directory in self.directories))

    def directory(self, controller: str) -> str:
        """Return this sandbox's directory of *controller* (KeyError if the controller is not used)."""
        return dict(self.directories)[controller]

    def leaves_of(self, top: str) -> tuple[Leaf, ...]:
        """Return the leaves of the directory *top*."""
        return ("payload",) if top == dict(self.directories).get("blkio") else base.LEAVES

    def file_of(self, limit: str) -> str:
        """See :class:`base.Cgroup`."""
        controller, file = FILES[limit]
        return f"{self.directory(controller)}/{file}"

    def add(self, pid: int, leaf: Leaf = "payload") -> None:
        """See :class:`base.Cgroup`.

        Raises:
            OSError: ESRCH: no such process; EACCES: we may not move it.
        """
        for top in self.paths:
            at = leaf if leaf in self.leaves_of(top) else "payload"
            self.files.write(f"{top}/{at}/cgroup.procs", str(pid))

    def kill(self, leaf: Leaf | None = None, *, timeout: float = 10) -> None:
        """See :class:`base.Cgroup`. With the pids controller, forks are forbidden first, which stops a fork bomb."""
        wanted = base.LEAVES if leaf is None else (leaf,)
        tops = dict(self.directories)
        if "pids" in tops:
            for name in wanted:
                limit = f"{tops['pids']}/{name}/pids.max"
                if self.files.exists(limit):
                    self.files.write(limit, "0")
        everything = [
            path
            for top in self.paths
            if leaf is None or self.leaves_of(top) == base.LEAVES
            for name in wanted
            for path in base.all_directories(self.files, f"{top}/{name}")
        ]
        base.kill_processes(self.files, everything, timeout)

    def counters(self, leaf: Leaf | None = None) -> Counters:
        """See :class:`base.Cgroup`. Memory and time of the parent include those of its leaves; events are counted per leaf."""
        tops = dict(self.directories)
        below = "" if leaf is None else f"/{leaf}"
        leaves = base.LEAVES if leaf is None else (leaf,)

        def number(controller: str, file: str) -> int | None:
            if controller not in tops:
                return None
            return base.read_number(self.files, f"{tops[controller]}{below}/{file}")

        def events(controller: str, file: str, key: str) -> int | None:
            if controller not in tops:
                return None
            return base.add_up(
                base.read_field(self.files, f"{tops[controller]}/{name}/{file}", key) for name in leaves
            )

        read, written = self._io_bytes() if leaf is None else (None, None)
        return Counters(
            memory_peak=number("memory", "memory.max_usage_in_bytes"),
            cpu_nanoseconds=number("cpuacct", "cpuacct.usage"),
            user_nanoseconds=number("cpuacct", "cpuacct.usage_user"),
            system_nanoseconds=number("cpuacct", "cpuacct.usage_sys"),
            throttled_nanoseconds=events("cpu", "cpu.stat", "throttled_time"),
            oom_kills=events("memory", "memory.oom_control", "oom_kill"),
            pids_peak=number("pids", "pids.peak"),
            pids_max_events=events("pids", "pids.events", "max"),
            io_read=read,
            io_written=written,
        )

    def _io_bytes(self) -> tuple[int | None, int | None]:
        """Return the bytes that both leaves read and wrote. The file has lines of a device, a word and a number."""
        top = dict(self.directories).get("blkio")
        text = top and base.read_optional(self.files, f"{top}/payload/blkio.throttle.io_service_bytes")
        if not text:
            return None, None
        lines = [line.split() for line in text.splitlines()]
        read, written = (
            sum(int(line[2]) for line in lines if line[1:2] == [word]) for word in ("Read", "Write")
        )
        return read, written

    def remove(self, *, timeout: float = 5) -> None:
        """See :class:`base.Cgroup`."""
        for top in self.paths:
            base.remove_tree(self.files, top, timeout)

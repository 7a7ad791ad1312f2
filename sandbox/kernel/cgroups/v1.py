"""cgroups version 1: one hierarchy per controller or group of controllers; Documentation/admin-guide/cgroup-v1 of Linux."""

from __future__ import annotations

from dataclasses import dataclass, field

from sandbox.kernel.cgroups import base
from sandbox.kernel.cgroups.base import NO_LIMITS, CgroupFiles, CgroupLimits, Counters, Leaf

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")
"""The ones used here: limits from three, cpu time from cpuacct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Hierarchy:
    """The controllers that we can use, each with the directory of our own cgroup there, under which sandboxes are made.

    Controllers that are mounted together share a directory. *refused* holds the others, each with the reason.
    """

    directories: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...] = ()
    files: CgroupFiles = field(default_factory=CgroupFiles, repr=False, compare=False)

    @property
    def version(self) -> int:
        """1."""
        return 1

    @property
    def controllers(self) -> frozenset[str]:
        """The usable ones."""
        return frozenset(name for name, _ in self.directories)

    @property
    def delegable(self) -> bool:
        """False: who may make cgroups of version 1 may make them already."""
        return False

    def unenforceable(self, limits: CgroupLimits) -> dict[str, str]:
        """See :class:`base.Hierarchy`."""
        directories, refused = dict(self.directories), dict(self.refused)
        result = {}
        for limit in limits.given():
            controller = base.CONTROLLER_OF[limit]
            if controller not in directories:
                result[limit] = refused.get(
                    controller, f"the {controller} controller of cgroups is not mounted"
                )
            elif limit == "swap" and limits.memory is None:
                result[limit] = "cgroups version 1 limit swap only together with memory"
            elif limit == "swap" and not self.files.exists(
                f"{directories['memory']}/memory.memsw.limit_in_bytes"
            ):
                result[limit] = "this kernel does not account swap (boot it with swapaccount=1)"
            elif limit == "cpus" and not self.files.exists(f"{directories['cpu']}/cpu.cfs_quota_us"):
                result[limit] = "this kernel has no cpu bandwidth control (CONFIG_CFS_BANDWIDTH)"
        return result

    def paths_of(self, name: str) -> tuple[str, ...]:
        """See :class:`base.Hierarchy`."""
        leaf = base.directory_of(name)
        return tuple(dict.fromkeys(f"{directory}/{leaf}" for _, directory in self.directories))

    def create(self, name: str, limits: CgroupLimits, server: CgroupLimits = NO_LIMITS) -> V1Cgroup:
        """See :class:`base.Hierarchy`.

        Raises:
            OSError: EEXIST when *name* is in use; EINVAL for a value that the kernel refuses.
        """
        group = V1Cgroup(
            directories=tuple(
                (controller, f"{directory}/{base.directory_of(name)}")
                for controller, directory in self.directories
            ),
            files=self.files,
        )
        made: list[str] = []
        try:
            for top in group.paths:
                self.files.mkdir(top)
                made.append(top)
                self._account_children(top)
                for leaf in base.LEAVES:
                    self.files.mkdir(f"{top}/{leaf}")
            for leaf, wanted in zip(base.LEAVES, (limits, server), strict=True):
                for controller, file, value in settings(wanted):
                    self.files.write(f"{group.directory(controller)}/{leaf}/{file}", value)
        except (OSError, KeyError):
            for top in made:
                base.remove_tree(self.files, top, timeout=1)
            raise
        return group

    def _account_children(self, top: str) -> None:
        # Before Linux 5.11 a memory cgroup did not count its children unless told so before the first was made.
        if base.read_number(self.files, f"{top}/memory.use_hierarchy") == 0:
            self.files.write(f"{top}/memory.use_hierarchy", "1")


def settings(limits: CgroupLimits) -> list[tuple[str, str, str]]:
    """Return what to write for *limits*, as (controller, file, value), in the order in which the kernel takes it. Pure."""
    result = []
    if limits.memory is not None:
        # memsw is the sum of memory and swap and must never be the smaller one, hence second.
        result.append(("memory", "memory.limit_in_bytes", str(limits.memory)))
        if limits.swap is not None:
            result.append(("memory", "memory.memsw.limit_in_bytes", str(limits.memory + limits.swap)))
    if limits.cpus is not None:
        result.append(("cpu", "cpu.cfs_period_us", str(base.CPU_PERIOD)))
        result.append(("cpu", "cpu.cfs_quota_us", str(base.cpu_quota(limits.cpus))))
    if limits.cpu_weight is not None:
        result.append(("cpu", "cpu.shares", str(shares(limits.cpu_weight))))
    if limits.pids is not None:
        result.append(("pids", "pids.max", str(limits.pids)))
    return result


def shares(weight: int) -> int:
    """Return the cpu.shares of a version 2 *weight*, as the kernel itself converts: 100 is 1024; 2 is the least."""
    return max(2, (weight * 1024 + 50) // 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Cgroup:
    """The directories of one sandbox, one per controller."""

    directories: tuple[tuple[str, str], ...]
    files: CgroupFiles = field(default_factory=CgroupFiles, repr=False, compare=False)

    @property
    def paths(self) -> tuple[str, ...]:
        """See :class:`base.Cgroup`."""
        return tuple(dict.fromkeys(directory for _, directory in self.directories))

    def directory(self, controller: str) -> str:
        """Return this sandbox's directory of *controller* (KeyError where it is not used)."""
        return dict(self.directories)[controller]

    def add(self, pid: int, leaf: Leaf = "payload") -> None:
        """See :class:`base.Cgroup`.

        Raises:
            OSError: ESRCH: no such process; EACCES: not ours.
        """
        for top in self.paths:
            self.files.write(f"{top}/{leaf}/cgroup.procs", str(pid))

    def kill(self, leaf: Leaf | None = None, *, timeout: float = 10) -> None:
        """See :class:`base.Cgroup`. With the pids controller a fork bomb is stopped first: no fork succeeds any more."""
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
            for name in wanted
            for path in base.all_directories(self.files, f"{top}/{name}")
        ]
        base.kill_processes(self.files, everything, timeout)

    def counters(self, leaf: Leaf | None = None) -> Counters:
        """See :class:`base.Cgroup`. Memory and time of the parent hold those of its leaves, events are each leaf's own."""
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
            paths = [f"{tops[controller]}/{name}/{file}" for name in leaves]
            values = [base.read_field(self.files, path, key) for path in paths]
            known = [value for value in values if value is not None]
            return sum(known) if known else None

        return Counters(
            memory_peak=number("memory", "memory.max_usage_in_bytes"),
            cpu_nanoseconds=number("cpuacct", "cpuacct.usage"),
            oom_kills=events("memory", "memory.oom_control", "oom_kill"),
            pids_max_events=events("pids", "pids.events", "max"),
        )

    def remove(self, *, timeout: float = 5) -> None:
        """See :class:`base.Cgroup`."""
        for top in self.paths:
            base.remove_tree(self.files, top, timeout)

"""A simulated cgroup file system: real directories below tmp_path, with the behaviour of the kernel in Python."""

from __future__ import annotations

import errno
import os

from sandbox.kernel.cgroups import CgroupFiles

V1_FILES = {
    "memory": {
        "memory.limit_in_bytes": "9223372036854771712",
        "memory.memsw.limit_in_bytes": "9223372036854771712",
        "memory.max_usage_in_bytes": "0",
        "memory.use_hierarchy": "1",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0",
    },
    "cpu": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1", "cpu.shares": "1024"},
    "cpuacct": {"cpuacct.usage": "0"},
    "pids": {"pids.max": "max", "pids.events": "max 0"},
    "cpuset": {
        "cpuset.cpus": "",
        "cpuset.mems": "",
        "cpuset.effective_cpus": "0-3",
        "cpuset.effective_mems": "0",
    },
    "blkio": {
        "blkio.throttle.read_bps_device": "",
        "blkio.throttle.read_iops_device": "",
        "blkio.throttle.io_service_bytes": "",
    },
}
V2_FILES = {
    "memory": {
        "memory.max": "max",
        "memory.high": "max",
        "memory.swap.max": "max",
        "memory.peak": "0",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0",
    },
    "cpu": {"cpu.max": "max 100000", "cpu.weight": "100"},
    "pids": {"pids.max": "max", "pids.events": "max 0"},
    "cpuset": {"cpuset.cpus": "", "cpuset.cpus.effective": "0-3"},
    "io": {"io.max": "", "io.stat": ""},
}


class SimulatedCgroups(CgroupFiles):
    """The behaviour of the kernel when cgroups are created, removed and written to. Every change is recorded in *log*."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.log: list[tuple[str, ...]] = []
        self.denied: set[str] = set()
        self.failures: dict[tuple[str, str], int] = {}
        self.parents: dict[int, int] = {}

    def path(self, name: str) -> str:
        return f"{self.root}{name}"

    def content(self, name: str) -> str:
        return self.read(self.path(name)).strip()

    def make_v1(self, mount: str, controllers: list[str], own: str, procs: list[int]) -> None:
        os.makedirs(self.path(mount + own), exist_ok=True)
        for directory in {mount, mount + own}:
            self._fill(self.path(directory), {"cgroup.procs": ""})
            for controller in controllers:
                self._fill(self.path(directory), V1_FILES[controller])
        self._set(self.path(f"{mount}{own}/cgroup.procs"), "\n".join(map(str, procs)))

    def make_v2(
        self,
        name: str,
        *,
        controllers: str = "cpu memory pids",
        enabled: str = "",
        procs: tuple[int, ...] = (),
    ) -> None:
        """Create one cgroup directly; "/" is the real root, which lacks cgroup.events and the controllers' files."""
        directory = self.path(name)
        os.makedirs(directory, exist_ok=True)
        self._fill(directory, {"cgroup.controllers": controllers, "cgroup.subtree_control": enabled})
        self._fill(directory, {"cgroup.procs": "\n".join(map(str, procs)), "cpu.stat": "usage_usec 0"})
        if not name.endswith("/root"):
            self._fill(directory, {"cgroup.events": "populated 0", "cgroup.kill": ""})
            for controller in controllers.split():
                self._fill(directory, V2_FILES[controller])

    def make_file(self, path: str, value: str) -> None:
        """Add a file to a cgroup, as a controller or a later kernel would."""
        self._set(path, value)

    def _fill(self, directory: str, files: dict[str, str]) -> None:
        for name, value in files.items():
            self._set(f"{directory}/{name}", value)

    def _set(self, path: str, value: str) -> None:
        with open(path, "w") as file:
            file.write(value)

    def _fail_if_asked(self, call: str, path: str) -> None:
        for (wanted, end), number in self.failures.items():
            if wanted == call and path.endswith(end):
                raise OSError(number, os.strerror(number), path)

    # -- called by the tested code -----------------------------------------------------------------------------------------

    def mkdir(self, path: str) -> None:
        self._fail_if_asked("mkdir", path)
        os.mkdir(path)
        self.log.append(("mkdir", path.removeprefix(self.root)))
        parent = os.path.dirname(path)
        if os.path.exists(f"{parent}/cgroup.subtree_control"):
            with open(f"{parent}/cgroup.subtree_control") as file:
                controllers = file.read()
            self.make_v2(path.removeprefix(self.root), controllers=controllers)
        else:
            self._fill(path, {"cgroup.procs": ""})
            for files in V1_FILES.values():
                if any(os.path.exists(f"{parent}/{name}") for name in files):
                    self._fill(path, files)

    def rmdir(self, path: str) -> None:
        self._fail_if_asked("rmdir", path)
        if self.read(f"{path}/cgroup.procs").strip() or self.children(path):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        for name in os.listdir(path):
            os.unlink(f"{path}/{name}")
        os.rmdir(path)
        self.log.append(("rmdir", path.removeprefix(self.root)))

    def write(self, path: str, value: str) -> None:
        self._fail_if_asked("write", path)
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.log.append(("write", path.removeprefix(self.root), value))
        directory, name = os.path.split(path)
        if name == "cgroup.procs":
            self._move(value, directory)
        elif name == "cgroup.subtree_control":
            self._control(directory, value)
        elif name == "cgroup.kill":
            self._set(f"{directory}/cgroup.procs", "")
        else:
            self._set(path, value)

    def _hierarchy(self, directory: str) -> str:
        return "/".join(directory.removeprefix(self.root).split("/")[:2])

    def _move(self, pid: str, directory: str) -> None:
        if os.path.exists(f"{directory}/cgroup.subtree_control") and self.read(
            f"{directory}/cgroup.subtree_control"
        ):
            raise OSError(errno.EBUSY, "internal process", directory)
        for where, _, names in os.walk(self.path(self._hierarchy(directory))):
            if "cgroup.procs" in names:
                left = [line for line in self.read(f"{where}/cgroup.procs").split() if line != pid]
                self._set(f"{where}/cgroup.procs", "\n".join(left))
        self._set(f"{directory}/cgroup.procs", (self.read(f"{directory}/cgroup.procs") + f"\n{pid}").strip())

    def _control(self, directory: str, command: str) -> None:
        sign, controller = command[0], command[1:]
        if controller not in self.read(f"{directory}/cgroup.controllers").split():
            raise FileNotFoundError(errno.ENOENT, "no such controller here", directory)
        enabled = set(self.read(f"{directory}/cgroup.subtree_control").split())
        if sign == "+":
            if self.read(f"{directory}/cgroup.procs").strip() and os.path.exists(
                f"{directory}/cgroup.events"
            ):
                raise OSError(errno.EBUSY, "internal process", directory)
            enabled.add(controller)
        else:
            for child in self.children(directory):
                if controller in self.read(f"{directory}/{child}/cgroup.subtree_control").split():
                    raise OSError(errno.EBUSY, "used by a child", directory)
            enabled.discard(controller)
        self._set(f"{directory}/cgroup.subtree_control", " ".join(sorted(enabled)))
        for child in self.children(directory):
            self._set(f"{directory}/{child}/cgroup.controllers", " ".join(sorted(enabled)))

    def writable(self, path: str) -> bool:
        return not any(path == self.path(name) for name in self.denied)

    def parent_of(self, pid: int) -> int:
        return self.parents.get(pid, 0)

"""[limits]: limits of the resources that the sandbox may use."""

from __future__ import annotations

from sandbox.spec.codecs import (
    Duration,
    HostPath,
    Integer,
    ListOf,
    Number,
    OrUnlimited,
    Size,
    Text,
    Unlimited,
    WholeSeconds,
)
from sandbox.spec.decode import Record
from sandbox.spec.settings import setting
from sandbox.spec.units import MIB
from sandbox.spec.values.resources import CpuSetCodec
from unionfs._stdlib.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class IoLimit:
    """limits.io: the bandwidth of reads and writes on one block device; see io.max of cgroups."""

    path: str = setting(
        HostPath(), doc="The block device, or a file on its file system.", example="/", required=True
    )
    read: int | None = setting(Size(1), doc="Read bandwidth.", example="10M", unit="bytes a second")
    write: int | None = setting(Size(1), doc="Write bandwidth.", example="10M", unit="bytes a second")
    read_operations: int | None = setting(
        Integer(1), doc="Read requests.", example=1000, unit="operations a second"
    )
    write_operations: int | None = setting(
        Integer(1), doc="Write requests.", example=1000, unit="operations a second"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """[limits]: limits of resources. A limit that cannot be enforced is an error, unless optional names it."""

    memory: int | None = setting(
        # With less, the dynamic loader of even a small program fails.
        Size(4 * MIB),
        doc="Memory of all processes together, at least 4M.",
        example="512M",
        unit="bytes",
    )
    memory_high: int | None = setting(
        Size(4 * MIB),
        doc="Memory above which processes are throttled and their memory is reclaimed; needs cgroups version 2.",
        example="400M",
        unit="bytes",
    )
    swap: int | None = setting(
        Size(), doc="Swap in addition to memory; 0 for none.", example="256M", unit="bytes"
    )
    cpus: float | None = setting(
        # The kernel accepts no quota below 1 ms (min_cfs_quota_period); the period is 100 ms.
        Number(0.01, 100_000),
        doc="Processor time, in processors.",
        example=1.5,
        unit="processors",
    )
    cpu_weight: int | None = setting(
        Integer(1, 10_000),
        doc="Share of processor time when processors are busy; every cgroup has 100 by default.",
        example=50,
    )
    cpuset: str | None = setting(
        CpuSetCodec(), doc="Processors that may be used; see cpuset(7).", example="0-3"
    )
    pids: int | None = setting(
        Integer(1), doc="Processes and threads that exist at one time.", example=256, unit="processes"
    )
    io: tuple[IoLimit, ...] = setting(
        ListOf(Record(IoLimit, key="path")),
        doc="Bandwidth of block devices for the whole sandbox; limits of writes need cgroups version 2.",
        example=[{"path": "/", "read": "10M"}],
        default=(),
    )
    open_files: int | Unlimited | None = setting(
        OrUnlimited(Integer(1)), doc="RLIMIT_NOFILE: open files of one process.", example=1024, unit="files"
    )
    processes: int | Unlimited | None = setting(
        OrUnlimited(Integer(1)), doc="RLIMIT_NPROC: processes of the user.", example=256, unit="processes"
    )
    file_size: int | Unlimited | None = setting(
        OrUnlimited(Size()), doc="RLIMIT_FSIZE: size of a file that is written.", example="1G", unit="bytes"
    )
    core: int | Unlimited | None = setting(
        OrUnlimited(Size()), doc="RLIMIT_CORE: size of a core dump; 0 for none.", example=0, unit="bytes"
    )
    stack: int | Unlimited | None = setting(
        OrUnlimited(Size(1)), doc="RLIMIT_STACK: stack of the main thread.", example="8M", unit="bytes"
    )
    cpu_time: int | Unlimited | None = setting(
        OrUnlimited(WholeSeconds(1)),
        doc="RLIMIT_CPU: processor time of one process. Then it gets SIGXCPU, and SIGKILL one second later.",
        example="10m",
        unit="seconds",
    )
    wall_time: float | None = setting(
        Duration(0.001),
        doc="How long the sandbox may run before it is stopped.",
        example="1h",
        unit="seconds",
    )
    oom_score_adj: int | None = setting(
        Integer(0, 1000),
        doc="Preference of the kernel for killing these processes when memory runs out; see proc(5).",
        example=500,
    )
    optional: tuple[str, ...] = setting(
        ListOf(Text(), distinct=True),
        doc="Limits that are not required: if one cannot be enforced, the sandbox starts with a warning.",
        example=["cpus", "pids"],
        default=(),
    )

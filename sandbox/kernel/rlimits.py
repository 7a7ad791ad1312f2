"""Check and set per-process resource limits by the names of the spec; getrlimit(2)."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

UNLIMITED = resource.RLIM_INFINITY

RESOURCES = {
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "file_size": resource.RLIMIT_FSIZE,
    "core": resource.RLIMIT_CORE,
    "stack": resource.RLIMIT_STACK,
    "cpu_time": resource.RLIMIT_CPU,
}
"""Units: open_files and processes are counts; file_size, core and stack are bytes; cpu_time is seconds.

``processes`` counts the processes of one user id within one user namespace (since Linux 5.14), not those of one sandbox.
"""

_LARGEST = 2**63 - 1

Value = int | str
"""A limit: a number of 0 or more in the unit of its resource, or "unlimited"."""


def encode(name: str, value: Value) -> int:
    """Return *value* in the form that setrlimit(2) takes, "unlimited" as RLIM_INFINITY.

    Raises:
        ValueError: *name* is no known limit; *value* is negative, too large for the kernel, or an unknown word.
    """
    if name not in RESOURCES:
        raise ValueError(f"unknown limit {name!r}: one of {', '.join(RESOURCES)}")
    if value == "unlimited":
        return UNLIMITED
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise ValueError(f'{name}: expected a number from 0 to 2^63-1 or "unlimited", found {value!r}')
    return value


def check(
    limits: Mapping[str, Value],
    hard_limits: Mapping[str, int],
    *,
    may_raise: bool = False,
    max_open_files: int | None = None,
) -> None:
    """Raise an error unless a process whose hard limits are *hard_limits* may set *limits*. Pure: makes no system call.

    Only a process with CAP_SYS_RESOURCE in the *initial* user namespace may raise a hard limit (*may_raise*). So neither a
    sandbox with its own user namespace nor a supervisor without that capability can raise one. *max_open_files* is
    /proc/sys/fs/nr_open: even a privileged process cannot set open_files above it.

    Raises:
        ValueError: a limit is above its hard limit, or :func:`encode` refuses it.
    """
    for name, value in limits.items():
        wanted, hard = encode(name, value), hard_limits[name]
        if not may_raise and hard != UNLIMITED and (wanted == UNLIMITED or wanted > hard):
            raise ValueError(f"{name}: {value} is above this process's hard limit of {hard}")
        if (
            name == "open_files"
            and max_open_files is not None
            and (wanted == UNLIMITED or wanted > max_open_files)
        ):
            raise ValueError(
                f"{name}: {value} is above the kernel's maximum of {max_open_files} (fs.nr_open)"
            )


def current_hard_limits() -> dict[str, int]:
    """Return the hard limits of this process, by the names of :data:`RESOURCES`; RLIM_INFINITY is -1."""
    return {name: resource.getrlimit(number)[1] for name, number in RESOURCES.items()}


def apply(
    limits: Mapping[str, Value],
    *,
    set_limit: Callable[[int, tuple[int, int]], None] = resource.setrlimit,
    get_limit: Callable[[int], tuple[int, int]] = resource.getrlimit,
) -> None:
    """Check every value of *limits*, then set them on this process: soft and hard limit alike, except for cpu_time.

    For cpu_time the kernel checks the hard limit first. If both limits are equal, it kills the process with SIGKILL, which does
    not show the cause. So the hard limit is set one second above the soft limit, if the current hard limit permits that, and
    SIGXCPU arrives first.

    Raises:
        ValueError: :func:`encode` or the kernel rejects a value (above the hard limit).
        OSError: EPERM for the same reason.
    """
    encoded = {name: encode(name, value) for name, value in limits.items()}
    for name, value in encoded.items():
        number, hard = RESOURCES[name], value
        if name == "cpu_time" and value != UNLIMITED:
            most = get_limit(number)[1]
            hard = value + 1 if most == UNLIMITED else max(value, min(value + 1, most))
        try:
            set_limit(number, (value, min(hard, _LARGEST)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def counted_cpu_time(pid: int) -> float | None:
    """Return the cpu time in seconds that the kernel compares with RLIMIT_CPU for process *pid*, which may be a zombie.

    None if the kernel does not report it. The value differs from that of wait4(2), which includes waited-for children.
    """
    try:
        # The clock id of clock_getcpuclockid(3), but with CPUCLOCK_PROF (0), which RLIMIT_CPU uses, instead of CPUCLOCK_SCHED.
        return time.clock_gettime(~pid << 3)
    except OSError:
        return None


@contextmanager
def most_open_files() -> Iterator[None]:
    """Raise the soft limit of open files of this process to the hard limit while the context lasts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Limit the heap and the private writable mappings of this process to *size* bytes (RLIMIT_DATA) within the context.

    Beyond the limit Python raises MemoryError. Only the soft limit is lowered. It is restored at the end, so that the caller can
    report the error.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    present = (limit for limit in (soft, hard) if limit != UNLIMITED)
    resource.setrlimit(resource.RLIMIT_DATA, (min((size, *present)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

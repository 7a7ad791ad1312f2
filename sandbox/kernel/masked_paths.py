"""Hide paths below the sandbox's root and make paths read-only: maskedPaths and readonlyPaths of the OCI specification.

The lists of paths are values for the plan. The executor of the plan calls the functions before it changes the root.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator

from sandbox.kernel.filesystems import detached_filesystem
from sandbox.kernel.mount_flags import SEALED
from sandbox.kernel.mounts import attach, bind, pin_ancestors
from sandbox.kernel.open_paths import is_directory, open_in_root

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/system/cpu/cpu*/thermal_throttle",
    "/sys/devices/virtual/powercap",
    "/sys/devices/virtual/tpm",
    "/sys/firmware",
    "/sys/fs/selinux",
)
"""Parts of /proc and /sys that show the host and belong to no namespace: all that runc, podman and docker mask.

Counters of power, interrupts and temperature are among them: the computations of other processes can be derived from them.
"""

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""The paths that runc makes read-only.

Most of /proc/sys is the host's. The values that belong to a namespace are set before the program starts, by keys of the spec.
"""


def mask(root_fd: int, paths: Iterable[str], null_fd: int, *, own: Collection[int] = ()) -> None:
    """Hide each of *paths* below *root_fd*: a directory under an empty read-only tmpfs, anything else under *null_fd*.

    *null_fd* is an O_PATH descriptor of /dev/null. A path that does not exist is skipped, because the lists contain paths that
    only some kernels have. A ``*`` stands for the rest of a name. *own* is that of :func:`pin_ancestors`.
    """
    empty_fd = -1
    try:
        for path in (match for pattern in paths for match in _matches(root_fd, pattern)):
            fd = _open_pinned(root_fd, path, own)
            if fd is None:
                continue
            try:
                if not is_directory(fd):
                    bind(null_fd, fd, recursive=False, read_only=True, nosuid=True, noexec=True)
                elif empty_fd >= 0:
                    bind(empty_fd, fd, recursive=False)
                else:
                    # One tmpfs for all directories: there may be hundreds of processors.
                    options = {"mode": "0555", "size": "4096", "nr_inodes": "2"}
                    empty_fd = detached_filesystem("tmpfs", options=options, flags=SEALED)
                    attach(empty_fd, fd)
            finally:
                os.close(fd)
    finally:
        if empty_fd >= 0:
            os.close(empty_fd)


def make_read_only(root_fd: int, paths: Iterable[str], *, own: Collection[int] = ()) -> None:
    """Make each of *paths* below *root_fd*, and all mounts below it, read-only, by a bind of it on itself.

    A path that does not exist is skipped, and a ``*`` stands for the rest of a name, as in :func:`mask`.
    """
    for path in (match for pattern in paths for match in _matches(root_fd, pattern)):
        fd = _open_pinned(root_fd, path, own)
        if fd is None:
            continue
        try:
            bind(fd, fd, read_only=True)
        finally:
            os.close(fd)


def _matches(root_fd: int, pattern: str) -> Iterator[str]:
    """Yield the existing paths that match *pattern*; a pattern without ``*`` itself, whether it exists or not."""
    parent, star, rest = pattern.partition("*")
    if not star:
        yield pattern
        return
    parent, _, prefix = parent.rpartition("/")
    fd = _open_existing(root_fd, parent or "/")
    if fd is None:
        return
    try:
        names = sorted(os.listdir(f"/proc/self/fd/{fd}"))
    except NotADirectoryError:
        return
    finally:
        os.close(fd)
    for name in names:
        if name.startswith(prefix):
            yield from _matches(root_fd, f"{parent}/{name}{rest}")


def _open_existing(root_fd: int, path: str) -> int | None:
    try:
        return open_in_root(root_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _open_pinned(root_fd: int, path: str, own: Collection[int]) -> int | None:
    """Open *path*, to mount on it, with its ancestors pinned; return None if it does not exist."""
    fd = _open_existing(root_fd, path)
    if fd is None:
        return None
    try:
        pinned = pin_ancestors(root_fd, fd, own=own)
    except BaseException:
        os.close(fd)
        raise
    if not pinned:
        return fd
    os.close(fd)
    return _open_existing(root_fd, path)

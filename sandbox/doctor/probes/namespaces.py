"""Probe a start without layers: namespaces, id maps and mounts, with the order and calls of sandbox.runtime.process.stage1 and init.

There are three processes. The *mapper* is the child with the time limit and writes the maps, as the supervisor does. The
*first* process makes the namespaces, as stage 1 does. The *inner* one is process 1 of the new pid namespace. Their mounts
disappear with the mount namespace, and each process ends when its parent does.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Sequence
from typing import NoReturn

from sandbox.doctor.child import Report, attempt, reason_of, run_limited
from sandbox.doctor.facts import Failure, NamespaceFacts, Obstacle, Probe
from sandbox.host import facts as host
from sandbox.host.facts import HostFacts
from sandbox.kernel import devices, filesystems, idmaps, masked_paths, mounts, namespaces, network, process
from sandbox.kernel.idmaps import IdMap, lookup

USERNS_STEPS = ("unshare user", "unshare mount", "make private", "mount tmpfs")
"""The steps that fail if user namespaces are restricted. Some restrictions take effect only after a namespace was made."""

UNSHARED = ("mount", "net", "ipc", "uts", "pid")
"""One after the other, so that a refused kind does not prevent the others."""

_STAGING = ("/tmp", "/run", "/mnt", "/var", "/usr")  # as in sandbox.runtime.rootfs.executor
_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_TTY_GID = 5


def probe_namespaces(facts: HostFacts, files: str | None) -> NamespaceFacts:
    """Probe with a single id and, if *facts* report that it is available, with a whole map.

    *files* is a directory on the file system of the state that belongs to id 0 of the whole map. The probe makes files there
    under the sandbox's ids. None skips that.
    """
    single = _try_map((idmaps.single_map(facts.uid), idmaps.single_map(facts.gid)), None, None)
    maps = facts.whole_maps()
    whole = None if maps is None else _try_map(maps, facts.map_helpers, files)
    failed = single.failure(*USERNS_STEPS, "id map") or (whole and whole.failure(*USERNS_STEPS))
    return NamespaceFacts(single=single, whole=whole, obstacle=_obstacle(failed[1]) if failed else None)


def _obstacle(failure: Failure) -> Obstacle:
    reason, remedy = host.userns_obstacle(failure.errno)
    return Obstacle(reason=reason, remedy=remedy)


def _try_map(
    maps: tuple[Sequence[IdMap], Sequence[IdMap]],
    helpers: tuple[str, str] | None,
    files: str | None,
) -> Probe:
    tty_gid = _TTY_GID if lookup(maps[1], _TTY_GID) is not None else None
    return run_limited(lambda report: _mapper(report, maps, helpers, files, tty_gid)).probe()


def _mapper(
    report: Report,
    maps: tuple[Sequence[IdMap], Sequence[IdMap]],
    helpers: tuple[str, str] | None,
    files: str | None,
    tty_gid: int | None,
) -> None:
    ready, made = os.pipe()
    go, mapped = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(ready)
        os.close(mapped)
        _guarded(report, lambda: _first(report, made, go, files, tty_gid))
    os.close(made)
    os.close(go)
    newuidmap, newgidmap = helpers or (None, None)
    if os.read(ready, 1) and attempt(
        report,
        "id map",
        lambda: idmaps.write_maps(first, *maps, newuidmap=newuidmap, newgidmap=newgidmap),
        named=False,  # the helper's text has its name already, and its command line has a pid
    ):
        os.write(mapped, b"x")
    os.close(mapped)
    os.waitpid(first, 0)


def _guarded(report: Report, action: Callable[[], None]) -> NoReturn:
    try:
        action()
    except OSError as error:
        report("", reason_of(error))
    except BaseException as error:  # noqa: BLE001 - a forked child must not run on in its parent's code
        report("", repr(error))
    finally:
        os._exit(0)


def _first(report: Report, made: int, go: int, files: str | None, tty_gid: int | None) -> None:
    files_fd = -1 if files is None else os.open(files, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not attempt(report, "unshare user", lambda: namespaces.unshare(["user"])):
        return
    os.write(made, b"x")
    if not os.read(go, 1):
        return
    refused = [kind for kind in UNSHARED if not attempt(report, f"unshare {kind}", _unsharing(kind))]
    # Before the ids change, as in a start: afterwards /proc/self belongs to another user.
    if attempt(report, "unshare time", _unsharing("time")):
        attempt(report, "clock offsets", lambda: namespaces.write_clock_offsets([("boottime", 1)]))
    if "mount" in refused:
        return
    fuse_fd = -1

    def open_fuse() -> None:
        nonlocal fuse_fd
        fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)

    attempt(report, "open /dev/fuse", open_fuse)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    process.set_parent_death_signal()
    if files_fd >= 0:
        _make_files(report, files_fd)
        os.close(files_fd)
    # Without a pid namespace of its own, the probe could neither mount /proc nor try the following steps under real conditions.
    if "pid" in refused:
        return
    inner = os.fork()
    if inner == 0:
        _guarded(report, lambda: _inner(report, fuse_fd, tty_gid, frozenset(refused)))
    if fuse_fd >= 0:
        os.close(fuse_fd)
    os.waitpid(inner, 0)


def _unsharing(kind: str) -> Callable[[], None]:
    return lambda: namespaces.unshare([kind])


def _make_files(report: Report, directory: int) -> None:
    """Make a file that belongs to another id of the sandbox, as in the writable layer of a sandbox with many ids."""

    def own() -> None:
        os.close(os.open("owned", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory))
        try:
            os.chown("owned", 1, 1, dir_fd=directory)
        finally:
            os.unlink("owned", dir_fd=directory)

    attempt(report, "chown", own)


def _inner(report: Report, fuse_fd: int, tty_gid: int | None, refused: frozenset[str]) -> None:
    process.set_parent_death_signal()
    attempt(report, "unshare cgroup", lambda: namespaces.unshare(["cgroup"]))
    os.umask(0)
    if not attempt(report, "make private", mounts.make_private):
        return
    nodes: dict[str, int] = {}
    attempt(report, "open devices", lambda: nodes.update(devices.open_nodes()))
    staging = ""

    def stage() -> None:
        nonlocal staging
        staging = next(filter(os.path.isdir, _STAGING), "/")
        _mount_tmpfs(staging)
        for name in ("fuse", "root"):
            os.mkdir(f"{staging}/{name}")
        _mount_tmpfs(f"{staging}/root")

    if not attempt(report, "mount tmpfs", stage, named=False):
        return
    if fuse_fd >= 0:
        attempt(report, "mount fuse", lambda: _mount_fuse(fuse_fd, f"{staging}/fuse"), named=False)
        os.close(fuse_fd)
    root = os.open(f"{staging}/root", _OPEN_DIR)
    _fill_root(report, root, nodes, tty_gid, refused)
    if attempt(report, "pivot_root", lambda: mounts.pivot(root)):
        attempt(report, "open a terminal", _open_terminal)
    if "uts" not in refused:
        attempt(report, "sethostname", lambda: socket.sethostname("sandbox-doctor"))
    if "net" not in refused:
        attempt(report, "loopback", network.loopback_up)


def _fill_root(
    report: Report, root: int, nodes: dict[str, int], tty_gid: int | None, refused: frozenset[str]
) -> None:
    with _Directory(root, "proc") as target:
        attempt(report, "mount proc", lambda: filesystems.mount_proc(target), named=False)
    with _Directory(root, "sys") as target:
        if "net" not in refused:
            attempt(report, "mount sysfs", lambda: filesystems.mount_sysfs(target), named=False)
    if not nodes:
        return
    with _Directory(root, "dev") as target:
        queues = "ipc" not in refused
        build = functools.partial(devices.build, target, nodes, tty_gid=tty_gid, mqueue=queues)
        attempt(report, "build dev", build, named=False)
    attempt(report, "read-only paths", lambda: masked_paths.make_read_only(root, masked_paths.READONLY_PATHS))
    attempt(report, "masked paths", lambda: masked_paths.mask(root, masked_paths.MASKED_PATHS, nodes["null"]))


def _mount_tmpfs(path: str) -> None:
    place = os.open(path, _OPEN_DIR)
    try:
        filesystems.mount_tmpfs(place, size=65536, mode=0o700)
    finally:
        os.close(place)


def _mount_fuse(fuse_fd: int, path: str) -> None:
    target = os.open(path, _OPEN_DIR)
    try:
        os.close(filesystems.mount_fuse(fuse_fd, target))
    finally:
        os.close(target)


def _open_terminal() -> None:
    for fd in os.openpty():  # from /dev/ptmx of the new root
        os.close(fd)


class _Directory:
    """A new directory of the probe's root that stays open while a file system is mounted on it."""

    def __init__(self, root_fd: int, name: str) -> None:
        self._root_fd, self._name = root_fd, name

    def __enter__(self) -> int:
        os.mkdir(self._name, 0o755, dir_fd=self._root_fd)
        self._fd = os.open(self._name, _OPEN_DIR, dir_fd=self._root_fd)
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

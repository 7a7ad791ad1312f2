"""Probe the file systems of the state and run directories in temporary directories, and look for leftovers.

The state itself is not changed. If a directory does not exist yet, the probe uses the place where it would be made.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from sandbox.doctor.child import Outcome, Report, attempt, cleaned_up_by, run_limited
from sandbox.doctor.facts import Leftovers, Obstacle, StateFacts
from sandbox.errors import StateError
from sandbox.host.facts import HostFacts
from sandbox.kernel.idmaps import lookup
from sandbox.kernel.mountinfo import MountEntry, parse_mountinfo
from sandbox.kernel.trees import exchange, remove_contents, rename_leaving_whiteout
from sandbox.state import location, run_directory, runs, trusted_files
from unionfs._stdlib.dataclasses import replace

PREFIX = ".sandbox-doctor-"
"""The name of the temporary directory, before random digits."""

_ATTRIBUTE, _MARK = "user.sandbox.doctor", "user.overlay.opaque"


@contextmanager
def probe_state(facts: HostFacts, environ: Mapping[str, str], mountinfo: str) -> Iterator[_Tried]:
    """Probe this user's state directory. Yield the facts and, until the end, a directory for probes under other ids."""
    try:
        path = location.default_path(environ, facts.uid)
    except StateError as error:
        yield _Tried(Obstacle(reason=error.message, remedy=error.hint or ""), None)
        return
    name = f"{PREFIX}{secrets.token_hex(8)}"
    with cleaned_up_by(lambda: _remove_place(path, name)):
        outcome = run_limited(lambda report: _try(report, path, name, facts, trusted_files.distrust))
        found = _state_facts(path, outcome, mountinfo)
        files = outcome.results.get("files") if found.probe.did("make") else None
        yield _Tried(found, files)


def probe_run_directory(facts: HostFacts, environ: Mapping[str, str], mountinfo: str) -> StateFacts:
    """Probe this user's run directory. A symbolic link in its place is not followed: `up` does not follow it either."""
    path = run_directory.default_path(environ, facts.uid)
    name = f"{PREFIX}{secrets.token_hex(8)}"
    link = os.path.islink(path)
    tried = os.path.dirname(path) if link else path
    distrust = run_directory.distrust_run_directory
    with cleaned_up_by(lambda: _remove_place(tried, name)):
        outcome = run_limited(lambda report: _try(report, tried, name, facts, distrust))
        found = _state_facts(path, outcome, mountinfo)
        return replace(found, path=path, untrusted="is a symbolic link") if link else found


def _remove_place(path: str, name: str) -> None:
    """Remove the directory *name* that :func:`_try` made at *path*.

    In a child too, because a file system that does not respond must not block this process. The child computes the path: after
    an interrupt the result of the first child is missing.
    """
    run_limited(lambda _: _remove(os.path.join(_nearest_directory(os.path.realpath(path)), name)))


class _Tried:
    """The facts, and a directory for test files that belongs to id 0 of a sandbox."""

    def __init__(self, facts: StateFacts | Obstacle, files: str | None) -> None:
        self.facts, self.files = facts, files


def _try(
    report: Report, path: str, name: str, facts: HostFacts, distrust: Callable[[os.stat_result], str | None]
) -> None:
    path = os.path.realpath(path)
    report("path", path)
    base = _nearest_directory(path)
    report("exists", base == path)
    below = os.path.join(base, os.path.relpath(path, base).split("/")[0])
    if base != path and os.path.lexists(below):  # a file is in the place of the directory
        report("make", [errno.ENOTDIR, f"{below}: {os.strerror(errno.ENOTDIR)}"])
        return
    if base == path:
        report("untrusted", distrust(os.stat(path)))
    space = os.statvfs(base)
    # A file system without limits, such as ramfs, reports zero for both.
    free = space.f_bavail * space.f_frsize if space.f_blocks else None
    report("space", [free, space.f_favail if space.f_files else None])
    report("base", base)
    place = os.path.join(base, name)
    try:
        os.mkdir(place, 0o700)
    except OSError as error:
        report("make", [error.errno, f"{base}: {error.strerror}"])
        return
    report("make", None)
    files = os.path.join(place, "files")
    os.mkdir(files, 0o700)
    maps = facts.whole_maps()
    if facts.uid == 0 and maps is not None:
        os.chown(files, lookup(maps[0], 0) or 0, lookup(maps[1], 0) or 0)
    report("files", files)
    for step, action in _steps(place).items():
        attempt(report, step, action, named=False)


def _nearest_directory(path: str) -> str:
    """Return *path*, or its nearest existing parent directory."""
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _steps(place: str) -> dict[str, Callable[[], object]]:
    """Return the steps in the directory *place*, in order."""
    one, other, moved = (os.path.join(place, name) for name in ("one", "other", "moved"))

    def lock() -> None:
        fd = os.open(one, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)

    def write() -> None:
        fd = os.open(one, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, bytes(4096))
            os.fsync(fd)  # a full disk may only be reported now
        finally:
            os.close(fd)

    def mark() -> None:
        for path in (moved, place):
            os.setxattr(path, _MARK, b"y")

    def whiteout() -> None:
        """Try what unionfs tries: make a whiteout, exchange it atomically, and leave one behind at a rename."""
        device, directory = os.path.join(place, "device"), os.path.join(place, "directory")
        os.mknod(device, stat.S_IFCHR, os.makedev(0, 0))
        os.mkdir(directory)
        exchange(device, directory)
        rename_leaving_whiteout(device, os.path.join(place, "renamed"))

    return {
        "lock": lock,
        "write": write,
        "link": lambda: os.link(one, other),
        "rename": lambda: os.rename(one, moved),
        "attribute": lambda: os.setxattr(place, _ATTRIBUTE, b"1"),
        "mark": mark,
        "whiteout": whiteout,
    }


def _remove(place: str) -> None:
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    remove_contents(fd)
    os.rmdir(place)


_NO_STEPS = frozenset(("path", "exists", "untrusted", "space", "base", "files"))


def _state_facts(path: str, outcome: Outcome, mountinfo: str) -> StateFacts:
    results = outcome.results
    steps = {key: value for key, value in results.items() if key not in _NO_STEPS}
    path = results.get("path", path)
    mount = mount_of(results.get("base", path), mountinfo)
    free_bytes, free_inodes = results.get("space", (None, None))
    return StateFacts(
        path=path,
        exists=results.get("exists", False),
        untrusted=results.get("untrusted"),
        probe=Outcome(results=steps, problem=outcome.problem).probe(),
        fstype="unknown" if mount is None else mount.fstype,
        mount_options=() if mount is None else mount.options,
        free_bytes=free_bytes,
        free_inodes=free_inodes,
    )


def mount_of(path: str, mountinfo: str) -> MountEntry | None:
    """Return the mount of *path*, which has no symbolic links. Of several mounts on one place the last covers the others."""
    found = None
    for entry in parse_mountinfo(mountinfo):
        top = entry.mount_point.rstrip("/")
        if path != entry.mount_point and not path.startswith(top + "/"):
            continue
        if found is None or len(entry.mount_point) >= len(found.mount_point):
            found = entry
    return found


def look_for_leftovers(path: str | None, run_path: str | None, mountinfo: str) -> Leftovers:
    """Look for leftovers of dead sandboxes in the state directory *path* and on this machine, without changing anything.

    *run_path* is the run directory, or None if it is unusable. The function waits for its lock, under which runs are made and
    removed.
    """
    outcome = run_limited(lambda report: _look(report, path, run_path, mountinfo))
    results = outcome.results
    return Leftovers(
        running=tuple(results.get("running", ())),
        dead=tuple(results.get("ended", ())),
        elsewhere=tuple(results.get("elsewhere", ())),
        unknown=tuple(results.get("unknown", ())),
        cgroups=tuple(results.get("cgroups", ())),
        mounts=tuple(results.get("mounts", ())),
        problem=outcome.problem,
    )


def _look(report: Report, path: str | None, run_path: str | None, mountinfo: str) -> None:
    report("mounts", [entry.mount_point for entry in parse_mountinfo(mountinfo) if _is_dead(entry)])
    if path is None:
        return
    guard = -1
    try:
        lock = os.path.join(path if run_path is None else run_path, "lock")
        guard = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(guard, fcntl.LOCK_EX)
    except FileNotFoundError:
        pass  # no sandbox was started on this machine
    try:
        found = runs.list_runs(path)
    finally:
        if guard >= 0:
            os.close(guard)
    for state in ("running", "ended", "elsewhere", "unknown"):
        names = [
            run.id if state in ("running", "ended") else run.shown() for run in found if run.state == state
        ]
        report(state, names)
    recorded = [
        cgroup
        for run in found
        if run.state == "ended" and run.record is not None
        for cgroup in run.record.cgroups
    ]
    report("cgroups", [cgroup for cgroup in recorded if os.path.isdir(cgroup)])


def _is_dead(entry: MountEntry) -> bool:
    if entry.fstype.split(".")[0] != "fuse":
        return False
    try:
        os.stat(entry.mount_point)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False

"""Examine the host paths that a spec names, once, before the plan is made. The results are values; nothing here raises."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Mapping

from sandbox.host.image_formats import MARKER_LIMIT, MARKERS, ImageFormat, format_of
from sandbox.kernel.mountinfo import MountEntry, parse_mountinfo, within
from sandbox.kernel.walk import Link, Place, walk
from unionfs._stdlib.dataclasses import dataclass, field, replace
from unionfs._stdlib.typing import Literal

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.kernel.search_permission import ClosedDirectory

MAX_CONTENT = 1 << 20
"""Limit in bytes of a file that is read: more than execve(2) accepts as an environment."""

MAX_DEVICES = 64
"""Limit of device nodes that are listed per directory."""

Kind = Literal["directory", "file", "missing", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device node: its path below the examined path ("", or starting with a slash); "c" or "b"; its numbers."""

    path: str
    kind: str
    major: int
    minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystemLocation:
    """A place in a file system, regardless of the mount: "MAJOR:MINOR", and the path from the root of the file system.

    *below* is the relative path at which the examined object shows it; "" for the object itself.
    """

    device: str
    path: str
    below: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStep:
    """A symbolic link on the way to an object, or the object at the end of the path (*target* is None)."""

    place: Place
    location: FileSystemLocation | None = None
    #: What readlink(2) returns.
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFact:
    """One host path: its real path, its type, and the identity of the object there."""

    path: str
    #: The path without symbolic links.
    real: str
    kind: Kind
    identity: tuple[int, int] | None = None
    #: S_IFMT of its st_mode: a "file" may be a FIFO, a socket or a device.
    type: int = 0
    #: The reason to refuse it, if requested: another user controls the path, and leads it to a file closed to that user.
    distrusted_because: str = ""
    #: Permission bits, for a directory that becomes the root.
    mode: int = 0o755
    #: The id of its owner.
    owner: int | None = None
    #: The reason why it cannot be used, for "missing" and "refused".
    reason: str = ""
    #: The device nodes there, if requested.
    devices: tuple[DeviceNode, ...] = ()
    #: Whether later mounts on the host below it propagate to copies of this mount namespace, if requested.
    shared: bool = False
    #: The content of the file, if requested; it may be secret.
    content: bytes | None = field(default=None, repr=False)
    #: "MAJOR:MINOR" of the disk that holds it, if requested; None if there is none, with the reason in *no_device*.
    device: str | None = None
    no_device: str = ""
    #: The symbolic links on the way to it, in order, and last the object itself if it was reached.
    steps: tuple[PathStep, ...] = ()
    #: The places in file systems that are visible there, if requested: its own, and that of each mount below it.
    visible_locations: tuple[FileSystemLocation, ...] = ()
    #: Of a file: its size in bytes and its modification time in nanoseconds.
    version: tuple[int, int] | None = None
    #: The remedy if it cannot be used, where the general advice for such a path does not apply.
    remedy: str = ""
    #: The container image in the directory, if requested; None if there is none.
    image: ImageFormat | None = None
    #: A directory on the way that processes of a sandbox cannot search, if requested.
    closed: ClosedDirectory | None = None


def inspect(path: str, *, read: bool = False) -> PathFact:
    """Examine *path* on the host, following symbolic links; with *read*, also read it if it is a regular file."""
    links: list[Link] = []
    try:
        fd, place = walk(path, links)
    except (OSError, ValueError) as error:
        steps = tuple(PathStep(place=link.place, target=link.target) for link in links)
        kind: Kind = "missing"
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, PermissionError):
            kind, reason = "refused", _denied()
        real = os.path.realpath(path) if "\0" not in path else path
        return PathFact(path=path, real=real, kind=kind, reason=reason, remedy=_remedy(error), steps=steps)
    steps = tuple(PathStep(place=link.place, target=link.target) for link in links)
    try:
        real = os.path.realpath(path) if place is None else place.path
        info = os.fstat(fd)
        is_directory = stat.S_ISDIR(info.st_mode)
        fact = PathFact(
            path=path,
            real=real,
            kind="directory" if is_directory else "file",
            type=stat.S_IFMT(info.st_mode),
            identity=(info.st_dev, info.st_ino),
            mode=stat.S_IMODE(info.st_mode),
            owner=info.st_uid,
            steps=steps if place is None else (*steps, PathStep(place=place)),
            version=None if is_directory else (info.st_size, info.st_mtime_ns),
        )
        wanted = os.R_OK | os.X_OK if is_directory else os.R_OK
        if not os.access(f"/proc/self/fd/{fd}", wanted, effective_ids=True):
            return PathFact(path=path, real=real, kind="refused", reason=_denied(), steps=fact.steps)
        return _read(fact, fd) if read else fact
    finally:
        os.close(fd)


def _denied() -> str:
    return f"permission denied to user {os.geteuid()} of this machine"


def _remedy(error: Exception) -> str:
    """Return the remedy for a path that could not be resolved; "" if the general advice applies."""
    replaced = isinstance(error, OSError) and error.errno == errno.ESTALE
    return "another process has just replaced it: start the sandbox again" if replaced else ""


def inspect_all(
    paths: Iterable[str],
    *,
    read: Collection[str] = (),
    devices: Collection[str] = (),
    mounts: Collection[str] = (),
    disks: Collection[str] = (),
    archives: Collection[str] = (),
    roots: Collection[str] = (),
    bound: Collection[str] = (),
    shown: Collection[str] = (),
) -> Mapping[str, PathFact]:
    """Examine each of *paths* once, and collect the additional facts that the other arguments request.

    Args:
        paths: the paths to examine.
        read: files whose content is read.
        devices: paths whose device nodes are listed.
        mounts: paths for which mount propagation is determined.
        disks: paths whose disk is determined; they need not be among *paths*.
        archives: files that are refused if another user controls the path; see :func:`sandbox.kernel.files.follow`.
        roots: directories that are searched for a container image.
        bound: paths that are checked for directories closed to a process without capabilities.
        shown: paths whose visible file systems are determined. If any is given, all paths get their places in file systems.
    """
    facts = {path: inspect(path, read=path in read) for path in dict.fromkeys([*paths, *disks])}
    if shown:
        facts = _place(facts, shown)
    facts |= {path: _list_devices(facts[path]) for path in devices}
    facts |= {path: replace(facts[path], shared=_is_shared(facts[path].real)) for path in mounts}
    facts |= {path: _find_disk(facts[path]) for path in disks}
    facts |= {path: _follow(facts[path]) for path in archives}
    facts |= {path: _find_image(facts[path]) for path in roots}
    if bound:
        facts |= _find_closed([facts[path] for path in bound])
    return facts


def _follow(fact: PathFact) -> PathFact:
    """Return *fact* with the path and identity of its file, or with the reason why the path is not safe to follow."""
    if fact.kind != "file":
        return fact
    from sandbox.kernel.files import follow

    try:
        found = follow(fact.path, os.geteuid())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return replace(fact, kind="missing", reason=reason, remedy=_remedy(error))
    if found.closed:
        reason = f"{found.redirected_by} belongs to another user and leads to {found.closed}, which that user may not read"
        return replace(fact, distrusted_because=reason)
    return replace(fact, real=found.real, identity=found.identity)


def _find_closed(facts: Iterable[PathFact]) -> Mapping[str, PathFact]:
    """Return *facts* with the directory on their path that this account may search only by its capabilities.

    Paths are bind-mounted in the sandbox's user namespace, where these capabilities do not apply.
    """
    from sandbox.kernel.search_permission import closed_directories

    found = closed_directories(fact.real for fact in facts)
    return {fact.path: replace(fact, closed=found[fact.real]) for fact in facts if fact.real in found}


def _find_image(fact: PathFact) -> PathFact:
    """Return *fact* with the container image in the directory. Links in it are not followed: they may lead anywhere."""
    if fact.kind != "directory":
        return fact
    try:
        directory = os.open(fact.real, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return fact  # it was removed meanwhile; opening it later reports that
    try:
        for marker in MARKERS:
            image = format_of(marker, _head(directory, marker))
            if image is not None:
                return replace(fact, image=image)
    finally:
        os.close(directory)
    return fact


def _head(directory: int, name: str) -> bytes:
    """Return the start of the regular file *name* in *directory*; b"" if there is none, or it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return b""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with open(os.open(name, flags, dir_fd=directory), "rb") as file:
            return file.read(MARKER_LIMIT) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return b""


def _find_disk(fact: PathFact) -> PathFact:
    from sandbox.kernel import disks

    try:
        return replace(fact, device=disks.disk_of(fact.real))
    except OSError as error:
        return replace(fact, no_device=(error.strerror or str(error)).lower())
    except ValueError as error:
        return replace(fact, no_device=str(error))


def _place(facts: Mapping[str, PathFact], shown: Collection[str]) -> dict[str, PathFact]:
    """Return *facts* with the place of every link and object in its file system, and with the places visible below *shown*."""
    mounts = _own_mounts()
    by_id = {entry.mount_id: entry for entry in mounts}

    def location_of(place: Place) -> FileSystemLocation | None:
        entry = by_id.get(place.mount)
        return (
            None if entry is None else FileSystemLocation(device=entry.device, path=within(entry, place.path))
        )

    def locations_in(fact: PathFact) -> tuple[FileSystemLocation, ...]:
        itself = fact.steps[-1].location if fact.steps and fact.steps[-1].target is None else None
        top = fact.real.rstrip("/") + "/"
        below = [
            FileSystemLocation(device=entry.device, path=entry.root, below=entry.mount_point[len(top) :])
            for entry in mounts
            if entry.mount_point.startswith(top) and entry.mount_point != top
        ]
        return tuple(below) if itself is None else (itself, *below)

    placed = {
        path: replace(
            fact, steps=tuple(replace(step, location=location_of(step.place)) for step in fact.steps)
        )
        for path, fact in facts.items()
    }
    return placed | {
        path: replace(placed[path], visible_locations=locations_in(placed[path]))
        for path in shown
        if path in placed
    }


def _own_mounts() -> list[MountEntry]:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return parse_mountinfo(file.read())
    except OSError:
        return []


def _read(fact: PathFact, fd: int) -> PathFact:
    """Return *fact* with the content of the regular file *fd* (O_PATH), or with the reason why it has none."""
    if fact.kind != "file":
        return fact
    try:
        # Opening a device may have side effects.
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return replace(fact, reason="is not a regular file")
        # Reopen the examined object, even if its path leads to another one by now.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with open(os.open(f"/proc/self/fd/{fd}", flags), "rb") as file:
            content = file.read(MAX_CONTENT + 1)
    except OSError as error:
        return replace(fact, reason=(error.strerror or str(error)).lower())
    if len(content) > MAX_CONTENT:
        return replace(fact, reason="is larger than 1 MiB")
    return replace(fact, content=content)


def _list_devices(fact: PathFact) -> PathFact:
    """Return *fact* with the device nodes at its path, or with the reason why there are none. Opens none of them."""
    if fact.kind == "missing":
        return fact
    try:
        info = os.stat(fact.real)
        # Access by this account is not checked: the program may have other ids.
        fact = replace(fact, kind="directory" if stat.S_ISDIR(info.st_mode) else "file", reason="")
        if os.statvfs(fact.real).f_flag & os.ST_NODEV:
            return replace(
                fact, reason="is on a file system that is mounted nodev, where no device can be opened"
            )
        if fact.kind == "directory":
            return replace(fact, devices=tuple(_devices_below(fact.real)))
        node = _device("", info)
    except OSError as error:
        return replace(fact, kind="refused", reason=(error.strerror or str(error)).lower())
    return replace(fact, devices=(node,)) if node else replace(fact, reason="is not a device")


def _devices_below(top: str) -> list[DeviceNode]:
    found: list[DeviceNode] = []
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            try:
                node = _device(path[len(top.rstrip("/")) :], os.lstat(path))
            except OSError:
                continue  # removed meanwhile
            if node is not None:
                found.append(node)
            if len(found) >= MAX_DEVICES:
                return found
    return found


def _device(path: str, info: os.stat_result) -> DeviceNode | None:
    kind = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else ""
    if not kind:
        return None
    return DeviceNode(path=path, kind=kind, major=os.major(info.st_rdev), minor=os.minor(info.st_rdev))


def _is_shared(real: str) -> bool:
    """Return whether mounts below *real* propagate to mount namespaces that are copies of this one."""
    around = [
        entry
        for entry in _own_mounts()
        if real == entry.mount_point or real.startswith(entry.mount_point.rstrip("/") + "/")
    ]
    # The mount with the longest mount point contains the path; of several at one mount point, the last is visible.
    return bool(around) and max(reversed(around), key=lambda entry: len(entry.mount_point)).propagates

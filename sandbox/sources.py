"""What the host paths of a spec are, looked at once, before the plan: facts as values. Nothing here raises."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Mapping

from sandbox.kernel.mountinfo import parse_mountinfo
from sandbox.records import dataclass, field, replace
from sandbox.typed import Literal

MAX_CONTENT = 1 << 20
"""Bytes of a file that is read: more than execve(2) would take as an environment."""

MAX_DEVICES = 64
"""Device nodes of one directory that are looked at."""

Kind = Literal["directory", "file", "missing", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device node: its path, "" or with a leading slash below the path that was looked at; "c" or "b"; its numbers."""

    path: str
    kind: str
    major: int
    minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFact:
    """One host path: where it really is, what is there, and which object that is."""

    path: str
    #: The path without symbolic links.
    real: str
    kind: Kind
    identity: tuple[int, int] | None = None
    #: What a "file" is that is no regular file: "a FIFO", "a socket" or "a device".
    special: str = ""
    #: Why another user must not have it used here, where that was asked for: their path leads to what they may not read.
    astray: str = ""
    #: Permission bits, for a directory that becomes the root.
    mode: int = 0o755
    #: The user who owns it.
    owner: int | None = None
    #: Why it cannot be used, for "missing" and "refused".
    reason: str = ""
    #: The device nodes there, where these were asked for.
    devices: tuple[DeviceNode, ...] = ()
    #: What mounts made there on the host do elsewhere, where that was asked for: whether they travel.
    shared: bool = False
    #: What is in the file, where that was asked for; it may be secret.
    content: bytes | None = field(default=None, repr=False)
    #: "MAJOR:MINOR" of the disk that holds it, where that was asked for; None for none, for the reason *no_device*.
    device: str | None = None
    no_device: str = ""


def inspect(path: str) -> PathFact:
    """Look at *path* on the host, through symbolic links."""
    real = os.path.realpath(path)
    try:
        info = os.stat(path)
        is_directory = stat.S_ISDIR(info.st_mode)
        if not os.access(path, os.R_OK | os.X_OK if is_directory else os.R_OK, effective_ids=True):
            return PathFact(path=path, real=real, kind="refused", reason="permission denied")
    except PermissionError:
        return PathFact(path=path, real=real, kind="refused", reason="permission denied")
    except (OSError, ValueError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        return PathFact(path=path, real=real, kind="missing", reason=reason)
    return PathFact(
        path=path,
        real=real,
        kind="directory" if is_directory else "file",
        special=special_kind(info.st_mode),
        identity=(info.st_dev, info.st_ino),
        mode=stat.S_IMODE(info.st_mode),
        owner=info.st_uid,
    )


def special_kind(mode: int) -> str:
    """Return what a file of *mode* (st_mode) is if it is neither a regular file nor a directory, else ""."""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def inspect_all(
    paths: Iterable[str],
    *,
    read: Collection[str] = (),
    devices: Collection[str] = (),
    mounts: Collection[str] = (),
    disks: Collection[str] = (),
    archives: Collection[str] = (),
) -> Mapping[str, PathFact]:
    """Look at each of *paths* once; into those that are to be *read*, too.

    Of those among *devices* the device nodes are listed; of those among *mounts* it is found whether mounts travel from there; of
    *disks*, which need not be among *paths*, the disk below; of *archives*, whether another user leads astray there.
    """
    facts = {path: inspect(path) for path in dict.fromkeys([*paths, *disks])}
    facts |= {path: _read(facts[path]) for path in read}
    facts |= {path: _list_devices(facts[path]) for path in devices}
    facts |= {path: replace(facts[path], shared=_is_shared(facts[path].real)) for path in mounts}
    facts |= {path: _find_disk(facts[path]) for path in disks}
    facts |= {path: _follow(facts[path]) for path in archives}
    return facts


def _follow(fact: PathFact) -> PathFact:
    """Return *fact* with the path and identity of what was found on a way that does not lead astray, or with the reason."""
    if fact.kind != "file":
        return fact
    from sandbox.kernel.files import follow

    try:
        found = follow(fact.path, os.geteuid())
    except OSError as error:
        return replace(fact, kind="missing", reason=(error.strerror or str(error)).lower())
    if found.closed:
        reason = f"{found.led_by} belongs to another user and leads to {found.closed}, which that user may not read"
        return replace(fact, astray=reason)
    return replace(fact, real=found.real, identity=found.identity)


def _find_disk(fact: PathFact) -> PathFact:
    from sandbox.kernel import disks

    try:
        return replace(fact, device=disks.disk_of(fact.path))
    except OSError as error:
        return replace(fact, no_device=(error.strerror or str(error)).lower())
    except ValueError as error:
        return replace(fact, no_device=str(error))


def _read(fact: PathFact) -> PathFact:
    """Return *fact* with the content of a regular file, or with the reason why there is none."""
    if fact.kind != "file":
        return fact
    from sandbox.kernel.files import open_regular  # only where there is something to read

    try:
        with open(open_regular(fact.path), "rb") as file:
            content = file.read(MAX_CONTENT + 1)
    except OSError as error:
        return replace(fact, reason=(error.strerror or str(error)).lower())
    if len(content) > MAX_CONTENT:
        return replace(fact, reason="is larger than 1 MiB")
    return replace(fact, content=content)


def _list_devices(fact: PathFact) -> PathFact:
    """Return *fact* with the device nodes at its path, or with the reason why there is none. Opens none of them."""
    if fact.kind == "missing":
        return fact
    try:
        info = os.stat(fact.real)
        # Whether this account may open it does not count: the program may have other ids.
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
                continue  # gone meanwhile
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
    """Tell whether what is mounted below *real* reaches mount namespaces that are copies of this one."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            entries = parse_mountinfo(file.read())
    except OSError:
        return False
    around = [
        entry
        for entry in entries
        if real == entry.mount_point or real.startswith(entry.mount_point.rstrip("/") + "/")
    ]
    # The longest mount point, and of several mounts there the last, is what the path leads to.
    return bool(around) and max(reversed(around), key=lambda entry: len(entry.mount_point)).travels

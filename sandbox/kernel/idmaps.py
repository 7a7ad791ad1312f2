"""Compute the id maps of a user namespace from subordinate ranges (pure functions), and write them; user_namespaces(7)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence

from unionfs._stdlib.dataclasses import dataclass

ROOT_RANGE_START = 0x6FFF0000
"""First host id of the sandboxes of real root: 1878982656. It is above every subordinate range that useradd assigns
(login.defs: up to 600100000). It is the last slot of the ids that systemd reserves for containers (524288 to 1879048191). It
is below 2^31, so that no tool reads it as negative."""

MAP_SIZE = 65536
"""Number of ids in a full map: 0 to 65535. This covers every id of a distribution, and nobody (65534)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """One line of a map: *count* ids starting at *inside* map to ids starting at *outside* in the parent user namespace."""

    inside: int
    outside: int
    count: int

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubidRange:
    """One range of subordinate ids of a user: *count* ids starting at *start*; subuid(5)."""

    start: int
    count: int


def parse_subid(text: str, uid: int, user_name: str | None) -> list[SubidRange]:
    """Return the ranges that *text* (/etc/subuid or /etc/subgid) assigns to the user, by name or number, in order.

    Malformed lines and empty ranges are skipped, as newuidmap(1) does: one bad line must not lock out every user. Both files
    name the *user*, never a group.
    """
    owners = {str(uid)} if user_name is None else {str(uid), user_name}
    ranges = []
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) != 3 or fields[0] not in owners:
            continue
        start, count = fields[1], fields[2]
        if start.isascii() and start.isdigit() and count.isascii() and count.isdigit() and int(count) > 0:
            ranges.append(SubidRange(start=int(start), count=int(count)))
    return ranges


def single_map(own_id: int, inside: int = 0) -> tuple[IdMap, ...]:
    """Map one id: *own_id* appears as *inside*. Only this map needs neither privileges nor a helper program."""
    return (IdMap(inside=inside, outside=own_id, count=1),)


def auto_map(own_id: int, ranges: Sequence[SubidRange], size: int = MAP_SIZE) -> tuple[IdMap, ...]:
    """Map 0 to *own_id* and 1 on to the subordinate *ranges* in their order, up to *size* ids in all.

    A range that contains *own_id* is split there: the kernel refuses a map with the same outside id twice (EINVAL).
    """
    result = [IdMap(inside=0, outside=own_id, count=1)]
    following = 1
    taken = [(own_id, own_id + 1)]
    for entry in ranges:
        for start, end in _without(entry.start, entry.start + entry.count, taken):
            count = min(end - start, size - following)
            if count <= 0:
                return tuple(result)
            result.append(IdMap(inside=following, outside=start, count=count))
            taken.append((start, start + count))
            following += count
    return tuple(result)


def keep_id_map(own_id: int, ranges: Sequence[SubidRange], size: int = MAP_SIZE) -> tuple[IdMap, ...]:
    """Map *own_id* to itself, and the other ids below *size* to the subordinate *ranges* in their order.

    This is podman's --userns=keep-id: the user who starts the sandbox has the same id inside, and 0 is a subordinate id. For own
    id 0 the result is that of :func:`auto_map`.
    """
    result = [IdMap(inside=own_id, outside=own_id, count=1)]
    taken = [(own_id, own_id + 1)]
    following = 0
    for entry in ranges:
        for first, end in _without(entry.start, entry.start + entry.count, taken):
            taken.append((first, end))
            start = first
            while start < end:
                following += following == own_id
                count = min(end - start, (min(own_id, size) if following < own_id else size) - following)
                if count <= 0:
                    return tuple(sorted(result, key=lambda item: item.inside))
                result.append(IdMap(inside=following, outside=start, count=count))
                start, following = start + count, following + count
    return tuple(sorted(result, key=lambda item: item.inside))


def not_subordinate(id_map: Iterable[IdMap], own_id: int, ranges: Sequence[SubidRange]) -> list[int]:
    """Return the indices of the entries of *id_map* that newuidmap(1) would refuse for the user *own_id*.

    It accepts the user's own id, with a count of 1, and ranges that lie within one line of the user's in /etc/subuid.
    """
    return [
        number
        for number, entry in enumerate(id_map)
        if not (entry.count == 1 and entry.outside == own_id)
        and not any(
            given.start <= entry.outside and entry.outside + entry.count <= given.start + given.count
            for given in ranges
        )
    ]


def root_map(start: int = ROOT_RANGE_START, size: int = MAP_SIZE) -> tuple[IdMap, ...]:
    """Map 0 to *size* - 1 to a range of ids that no user has. For real root, whose own id is not in the map."""
    return (IdMap(inside=0, outside=start, count=size),)


def _without(start: int, end: int, taken: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of [start, end) that are in none of *taken*."""
    free = [(start, end)]
    for low, high in taken:
        parts = []
        for first, last in free:
            parts += [(first, min(last, low)), (max(first, high), last)]
        free = [(first, last) for first, last in parts if first < last]
    return free


def parse_map(text: str) -> tuple[IdMap, ...]:
    """Parse *text*, the content of /proc/PID/uid_map or gid_map."""
    lines = (line.split() for line in text.splitlines())
    return tuple(
        IdMap(inside=int(line[0]), outside=int(line[1]), count=int(line[2])) for line in lines if line
    )


def covers(own_map: Iterable[IdMap], wanted: Iterable[IdMap]) -> bool:
    """Return whether every outside id of *wanted* exists in a user namespace whose own map is *own_map*.

    The kernel refuses a map with ids that the parent namespace does not have (EPERM), for example in a container with few ids.
    """
    have = [(entry.inside, entry.inside + entry.count) for entry in own_map]
    return not any(_without(entry.outside, entry.outside + entry.count, have) for entry in wanted)


def lookup(id_map: Iterable[IdMap], inside: int) -> int | None:
    """Return the outside id of *inside*, or None if it is not in the map."""
    for entry in id_map:
        if entry.inside <= inside < entry.inside + entry.count:
            return entry.outside + inside - entry.inside
    return None


def through(outer: Sequence[IdMap], wanted: Iterable[IdMap]) -> tuple[IdMap, ...] | None:
    """Translate *wanted* into the ids of a user namespace with the map *outer*. The outside ids of both are of one namespace.

    Returns None if one of the ids is not in *outer*.
    """
    result = []
    for entry in wanted:
        done = 0
        while done < entry.count:
            outside = entry.outside + done
            around = next(
                (item for item in outer if item.outside <= outside < item.outside + item.count), None
            )
            if around is None:
                return None
            count = min(entry.count - done, around.outside + around.count - outside)
            inside = around.inside + outside - around.outside
            result.append(IdMap(inside=entry.inside + done, outside=inside, count=count))
            done += count
    return tuple(result)


def is_single(id_map: Sequence[IdMap]) -> bool:
    """Return whether the map has a single id. An unprivileged user may write such a map."""
    return len(id_map) == 1 and id_map[0].count == 1


def write_maps(
    pid: int,
    uid_map: Sequence[IdMap],
    gid_map: Sequence[IdMap],
    *,
    newuidmap: str | None = None,
    newgidmap: str | None = None,
    proc_root: str = "/proc",
) -> None:
    """Write both maps of the user namespace that process *pid* has just made. Call this once, from the parent namespace.

    If *newuidmap* and *newgidmap* are given, these programs write the maps. They accept the subordinate ranges of the calling
    user. Otherwise this process writes them: root may write any map, an unprivileged user only a map of its own single id. In
    that case setgroups(2) is denied in the namespace for good, because a process could otherwise drop a group that denies it
    access.

    Raises:
        OSError: EPERM, EINVAL: the kernel or the helper refused; the text has the map and the helper's standard error.
        ProcessLookupError, FileNotFoundError: the process does not exist or has ended.
        ValueError: a map is empty.
    """
    if not uid_map or not gid_map:
        raise ValueError("an id map must have at least one entry")
    directory = f"{proc_root}/{pid}"
    if newuidmap and newgidmap:
        _run_helper(newuidmap, pid, uid_map)
        _run_helper(newgidmap, pid, gid_map)
        return
    if is_single(gid_map) and os.geteuid() != 0:
        _write(f"{directory}/setgroups", "deny")
    _write(f"{directory}/uid_map", "\n".join(map(str, uid_map)))
    _write(f"{directory}/gid_map", "\n".join(map(str, gid_map)))


def _write(path: str, text: str) -> None:
    # One write(2) for the whole map: the kernel refuses a second one.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    except OSError as error:
        shown = text.replace("\n", ", ")
        raise OSError(error.errno, f"writing {shown!r}: {error.strerror}", path) from None
    finally:
        os.close(fd)


def _run_helper(program: str, pid: int, id_map: Sequence[IdMap]) -> None:
    """Run newuidmap(1) or newgidmap(1) with posix_spawn(3): importing subprocess would take longer than the call."""
    numbers = [str(number) for entry in id_map for number in (entry.inside, entry.outside, entry.count)]
    arguments = [program, str(pid), *numbers]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        actions = [  # descriptor 0 last: the pipe may be on 0 if the standard descriptors are closed
            (os.POSIX_SPAWN_DUP2, writer, 1),
            (os.POSIX_SPAWN_DUP2, writer, 2),
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        ]
        child = os.posix_spawn(
            program, arguments, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, file_actions=actions
        )
        os.close(writer)
        writer = -1
        output = b""
        while block := os.read(reader, 4096):
            output += block
        _, status = os.waitpid(child, 0)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if status != 0:
        text = (
            " ".join(output.decode(errors="replace").split())
            or f"ended with status {os.waitstatus_to_exitcode(status)}"
        )
        raise OSError(errno.EPERM, text, " ".join(arguments))

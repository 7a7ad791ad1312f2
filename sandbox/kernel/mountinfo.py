"""Parse and query /proc/PID/mountinfo; proc_pid_mountinfo(5). Pure: the functions take text and return values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from unionfs._stdlib.dataclasses import dataclass

_ESCAPES = (
    ("\\040", " "),
    ("\\011", "\t"),
    ("\\012", "\n"),
    ("\\134", "\\"),
)  # the backslash last: it starts the other escapes


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEntry:
    """One line of the table. *options* are those of the mount, *super_options* those of its file system."""

    mount_id: int
    parent_id: int
    root: str
    mount_point: str
    options: tuple[str, ...]
    fstype: str
    super_options: tuple[str, ...]
    #: Whether mounts below it propagate to copies of this mount namespace: it is a shared mount, or a slave of one.
    propagates: bool = False
    source: str = ""
    #: "MAJOR:MINOR" of the file system, equal for all its mounts.
    device: str = ""


def parse_mountinfo(text: str) -> list[MountEntry]:
    """Return the entries of *text* with octal escapes decoded. Malformed lines are skipped."""
    entries = []
    for line in text.splitlines():
        fields = line.split(" ")
        # Between the sixth field and the separator there can be any number of optional fields.
        if "-" not in fields[6:] or not (fields[0].isdigit() and fields[1].isdigit()):
            continue
        rest = fields[fields.index("-", 6) + 1 :]
        if len(rest) < 3:
            continue
        entries.append(
            MountEntry(
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                root=_unescape(fields[3]),
                mount_point=_unescape(fields[4]),
                options=tuple(fields[5].split(",")),
                fstype=rest[0],
                super_options=tuple(rest[2].split(",")),
                propagates=any(field.startswith(("shared:", "master:")) for field in fields[6:]),
                source=_unescape(rest[1]),
                device=fields[2],
            )
        )
    return entries


def _unescape(field: str) -> str:
    for code, character in _ESCAPES:
        field = field.replace(code, character)
    return field


def within(entry: MountEntry, path: str) -> str:
    """Return the path, from the root of the file system, of *path*, which is on the mount *entry*."""
    return (entry.root.rstrip("/") + path[len(entry.mount_point.rstrip("/")) :]) or "/"


def subtree(entries: Iterable[MountEntry], top: int) -> list[MountEntry]:
    """Return the entry of mount *top*, followed by the entries of all mounts below it.

    Raises:
        KeyError: there is no mount *top*.
    """
    by_id = {entry.mount_id: entry for entry in entries}
    below = _by_parent(by_id.values())
    found = [by_id[top]]
    for entry in found:  # grows during the loop
        found += below.get(entry.mount_id, [])
    return found


def _by_parent(entries: Iterable[MountEntry]) -> dict[int, list[MountEntry]]:
    found: dict[int, list[MountEntry]] = {}
    for entry in entries:
        if entry.parent_id != entry.mount_id:  # equal for the first mount of a machine
            found.setdefault(entry.parent_id, []).append(entry)
    return found


def reachable(tree: Sequence[MountEntry]) -> list[MountEntry]:
    """Return the mounts of *tree*, a result of :func:`subtree`, that are reachable by a path from its top. The top is first.

    A mount is unreachable if another mount covers its root, if a sibling covers a directory above its mount point, or if its
    directory was removed. The path alone cannot decide this: a mount on /a/b keeps its path when a later mount covers /a, and
    then has the same path as a mount made on /a/b after that.
    """
    found = [tree[0]]
    covered = set()
    below = _by_parent(tree[1:])
    for parent in found:  # grows during the loop
        children = below.get(parent.mount_id, [])
        on_root = [child for child in children if child.mount_point == parent.mount_point]
        if on_root and parent is not tree[0]:
            covered.add(parent.mount_id)
        points = {child.mount_point for child in children}
        found += on_root or [child for child in children if not _hidden(child, points)]
    return [entry for entry in found if entry.mount_id not in covered]


def _hidden(entry: MountEntry, siblings: Collection[str]) -> bool:
    """Return whether *entry* is below one of the mount points *siblings*, or its directory was removed."""
    if entry.mount_point.endswith("//deleted"):
        return True
    above = entry.mount_point
    while above != "/":
        above = above.rpartition("/")[0] or "/"
        if above in siblings:
            return True
    return False


def visible(entries: Sequence[MountEntry]) -> list[MountEntry]:
    """Return the mounts of *entries*, the whole table of a process, that are reachable by a path from its root."""
    ids = {entry.mount_id for entry in entries if entry.parent_id != entry.mount_id}
    for entry in entries:
        if entry.mount_point == "/" and entry.parent_id not in ids:
            return reachable(subtree(entries, entry.mount_id))
    return []


@dataclass(frozen=True, slots=True)
class Location:
    """A directory by its file system ("MAJOR:MINOR") and its path in it: the same for each mount of it."""

    device: str
    path: str


def mount_of(mounts: Iterable[MountEntry], path: str) -> MountEntry | None:
    """Return the mount, of the :func:`visible` *mounts*, of the absolute *path*, which has no symbolic links."""
    around = [entry for entry in mounts if is_inside(path, entry.mount_point)]
    return max(around, key=lambda entry: len(entry.mount_point), default=None)


def location(mounts: Iterable[MountEntry], path: str) -> Location | None:
    """Return the location of the absolute *path*, which has no symbolic links; *mounts* are the :func:`visible` ones."""
    entry = mount_of(mounts, path)
    return None if entry is None else Location(entry.device, join(entry.root, path, entry.mount_point))


def paths_to(mounts: Sequence[MountEntry], top: str, wanted: Location) -> Iterator[str]:
    """Yield each path, *top* or below it, at which the :func:`visible` *mounts* show *wanted* or a part of it.

    If a mount shows only a part of *wanted*, the path is that of its mount point (or *top*). Paths that another mount covers are
    left out.
    """
    around = mount_of(mounts, top)
    for entry in mounts:
        if entry.device != wanted.device:
            continue
        at = top if entry is around else entry.mount_point
        if not is_inside(at, top):
            continue
        shown = join(entry.root, at, entry.mount_point)
        if is_inside(shown, wanted.path):
            yield at
        elif is_inside(wanted.path, shown):
            path = join(at, wanted.path, shown)
            if mount_of(mounts, path) is entry:
                yield path


def is_inside(path: str, directory: str) -> bool:
    """Return whether *path* is *directory* or below it; both are absolute and have no symbolic links."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def join(base: str, path: str, above: str) -> str:
    """Replace the leading directory *above* of *path* by *base*."""
    below = path[len(above.rstrip("/")) :].lstrip("/")
    return f"{base.rstrip('/')}/{below}" if below else base

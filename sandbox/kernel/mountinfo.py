"""Reading /proc/PID/mountinfo; proc_pid_mountinfo(5). Pure: text in, values out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from unionfs._stdlib.dataclasses import dataclass

_ESCAPES = (
    ("\\040", " "),
    ("\\011", "\t"),
    ("\\012", "\n"),
    ("\\134", "\\"),
)  # the backslash last: it starts the others


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEntry:
    """What one line says. *options* are those of the mount, *super_options* those of the file system behind it."""

    mount_id: int
    parent_id: int
    root: str
    mount_point: str
    options: tuple[str, ...]
    fstype: str
    super_options: tuple[str, ...]
    #: Whether what is mounted on it shows in copies of this mount namespace: it is shared, or receives mounts itself.
    travels: bool = False
    source: str = ""
    #: "MAJOR:MINOR" of the file system, the same for every mount of it.
    device: str = ""


def parse_mountinfo(text: str) -> list[MountEntry]:
    """Return the entries of *text*, octal escapes decoded; a line of another form is left out."""
    entries = []
    for line in text.splitlines():
        fields = line.split(" ")
        # Any number of optional fields stands between the sixth and the separator.
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
                travels=any(field.startswith(("shared:", "master:")) for field in fields[6:]),
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
    """Return where *path*, which lies on the mount *entry*, is in the file system itself: a path from its own root."""
    return (entry.root.rstrip("/") + path[len(entry.mount_point.rstrip("/")) :]) or "/"


def subtree(entries: Iterable[MountEntry], top: int) -> list[MountEntry]:
    """Return the entry of mount *top* followed by those of all mounts below it.

    Raises:
        KeyError: there is no mount *top*.
    """
    by_id = {entry.mount_id: entry for entry in entries}
    below = _by_parent(by_id.values())
    found = [by_id[top]]
    for entry in found:  # grows as mounts below are found
        found += below.get(entry.mount_id, [])
    return found


def _by_parent(entries: Iterable[MountEntry]) -> dict[int, list[MountEntry]]:
    found: dict[int, list[MountEntry]] = {}
    for entry in entries:
        if entry.parent_id != entry.mount_id:  # as that of the first mount of a machine may be
            found.setdefault(entry.parent_id, []).append(entry)
    return found


def reachable(tree: Sequence[MountEntry]) -> list[MountEntry]:
    """Return the mounts of *tree*, which :func:`subtree` made, to which a path leads from its top; the top comes first.

    A mount is out of reach where another one lies over its root, where another child of its parent lies over a directory above its
    mount point, or where its directory was removed. Paths alone do not tell: what is mounted on /a before /a is mounted over has the same path as
    what is mounted there after.
    """
    found = [tree[0]]
    covered = set()
    below = _by_parent(tree[1:])
    for parent in found:  # grows as children are found
        children = below.get(parent.mount_id, [])
        on_root = [child for child in children if child.mount_point == parent.mount_point]
        if on_root and parent is not tree[0]:
            covered.add(parent.mount_id)
        points = {child.mount_point for child in children}
        found += on_root or [child for child in children if not _hidden(child, points)]
    return [entry for entry in found if entry.mount_id not in covered]


def _hidden(entry: MountEntry, siblings: Collection[str]) -> bool:
    """Tell whether *entry* lies below one of the mount points *siblings*, or its own directory was removed."""
    if entry.mount_point.endswith("//deleted"):
        return True
    above = entry.mount_point
    while above != "/":
        above = above.rpartition("/")[0] or "/"
        if above in siblings:
            return True
    return False


def visible(entries: Sequence[MountEntry]) -> list[MountEntry]:
    """Return the mounts of *entries*, the whole table of a process, to which a path leads from its root."""
    ids = {entry.mount_id for entry in entries if entry.parent_id != entry.mount_id}
    for entry in entries:
        if entry.mount_point == "/" and entry.parent_id not in ids:
            return reachable(subtree(entries, entry.mount_id))
    return []


@dataclass(frozen=True, slots=True)
class Location:
    """A directory by its file system ("MAJOR:MINOR") and its path in there: the same for each mount that shows it."""

    device: str
    path: str


def mount_of(mounts: Iterable[MountEntry], path: str) -> MountEntry | None:
    """Return the one of the :func:`visible` *mounts* that the absolute *path*, without symbolic links, leads into."""
    around = [entry for entry in mounts if is_inside(path, entry.mount_point)]
    return max(around, key=lambda entry: len(entry.mount_point), default=None)


def location(mounts: Iterable[MountEntry], path: str) -> Location | None:
    """Return where the absolute *path*, without symbolic links, is in its file system; *mounts* are the :func:`visible` ones."""
    entry = mount_of(mounts, path)
    return None if entry is None else Location(entry.device, join(entry.root, path, entry.mount_point))


def paths_to(mounts: Sequence[MountEntry], top: str, wanted: Location) -> Iterator[str]:
    """Yield each path, *top* or below it, at which the :func:`visible` *mounts* show *wanted* or a part of it.

    Of a part, that is where the mount shows it which has no more of *wanted* than that. A path at which another mount lies is none.
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
    """Tell whether *path* is *directory* or lies below it; both absolute, without symbolic links."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def join(base: str, path: str, above: str) -> str:
    """Return the path below *base* that *path* is below *above*."""
    below = path[len(above.rstrip("/")) :].lstrip("/")
    return f"{base.rstrip('/')}/{below}" if below else base

"""Reading /proc/PID/mountinfo; proc_pid_mountinfo(5). Pure: text in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandbox.records import dataclass

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
    #: "MAJOR:MINOR" of the file system.
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
    found = [by_id[top]]
    seen = {top}
    # Lines are not ordered by parent once mounts have been moved, so look until nothing is added.
    while more := [
        entry for entry in by_id.values() if entry.parent_id in seen and entry.mount_id not in seen
    ]:
        found += more
        seen |= {entry.mount_id for entry in more}
    return found


def reachable(tree: Sequence[MountEntry]) -> list[MountEntry]:
    """Return the mounts of *tree*, which :func:`subtree` made, to which a path leads from its top; the top comes first.

    A mount is out of reach where another one lies over its root, where another child of its parent lies over a directory above its
    mount point, or where its directory was removed. Paths alone do not tell: what is mounted on /a before /a is mounted over has the same path as
    what is mounted there after.
    """
    found = [tree[0]]
    covered = set()
    for parent in found:  # grows as children are found
        children = [entry for entry in tree if entry.parent_id == parent.mount_id and entry is not tree[0]]
        on_root = [child for child in children if child.mount_point == parent.mount_point]
        if on_root and parent is not tree[0]:
            covered.add(parent.mount_id)
        found += on_root or [child for child in children if not _hidden(child, children)]
    return [entry for entry in found if entry.mount_id not in covered]


def _hidden(entry: MountEntry, siblings: Iterable[MountEntry]) -> bool:
    if entry.mount_point.endswith("//deleted"):
        return True
    return any(entry.mount_point.startswith(other.mount_point.rstrip("/") + "/") for other in siblings)

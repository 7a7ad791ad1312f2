"""Define persistent layers, named volumes, unpacked archives and images as values: which can be pruned, and how they are displayed.

Pure: sandbox/lifecycle/inventory.py finds them, sandbox/lifecycle/kept_removal.py removes them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from sandbox.sizes import human_size
from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import Any, Literal

Kind = Literal["layer", "changes", "volume", "archive", "image"]

KINDS: tuple[Kind, ...] = ("layer", "changes", "volume", "archive", "image")
NAMES: dict[Kind, tuple[str, str]] = {
    "layer": ("persistent layer", "persistent layers"),
    "changes": ("kept ephemeral layer", "kept ephemeral layers"),
    "volume": ("named volume", "named volumes"),
    "archive": ("unpacked archive", "unpacked archives"),
    "image": ("image", "images"),
}
REPLACEABLE: tuple[Kind, ...] = ("archive", "image")
"""The kinds whose unreferenced items can be made again."""
SHORTEST_PREFIX = 8
"""The fewest characters shown of an archive's name, which is a digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReference:
    """An environment file whose start used an item, and whether the file exists now."""

    file: str
    exists: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptItem:
    """A persistent layer, a named volume, an unpacked archive or an image."""

    kind: Kind
    name: str
    #: Its directory; for an image, the file of names.
    path: str
    #: Disk space; None if it could not be counted.
    bytes: int | None
    #: The time of the last use in seconds since the epoch; None if unknown.
    used: float | None
    files: tuple[FileReference, ...] = ()
    #: The runs that use it, as text.
    in_use: tuple[str, ...] = ()
    #: The persistent layers that are used over this archive, or that are forks and need layers of this one.
    layers: tuple[str, ...] = ()
    #: The layers below a persistent layer ("dir:/"), the path of the unpacked archive, or the source of the image.
    source: tuple[str, ...] = ()
    #: Whether the archive or layout at its path is still the unpacked or imported one. If not, no start uses this item.
    current: bool = True
    #: Of an image: its blobs and unpacked layers, which other images may share, with the bytes of each.
    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The item's name in commands: "volume:data"."""
        return f"{self.kind}:{self.name}"

    @property
    def referenced(self) -> bool:
        """Whether a run uses it, or a start of a known file may.

        If no file is known, layers and volumes count as referenced, but not archives, which can be unpacked again. An image is
        referenced by its name, unless a start has given it the name of a file that has changed or is gone.
        """
        if self.kind == "image":
            return bool(self.in_use) or self.current
        if self.in_use or (self.layers and self.kind != "archive"):
            return True
        if self.kind == "archive":
            return self.current and (bool(self.layers) or any(one.exists for one in self.files))
        return not self.files or any(one.exists for one in self.files)

    def as_dict(self) -> dict[str, Any]:
        """Return the item for JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "path": self.path,
            "bytes": self.bytes,
            "last_used": None
            if self.used is None
            else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.used)),
            "referenced": self.referenced,
            "in_use": list(self.in_use),
            "files": [{"file": one.file, "exists": one.exists} for one in self.files],
            "layers": list(self.layers),
            "source": list(self.source),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A path that an ended run, or an interrupted removal or import, has left behind, and its disk space."""

    path: str
    bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All items in the state directory, and all leftovers."""

    items: tuple[KeptItem, ...] = ()
    leftovers: tuple[Leftover, ...] = ()


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return for each of *names* its shortest unique prefix of at least SHORTEST_PREFIX characters."""
    return {
        name: next(
            (
                name[:length]
                for length in range(SHORTEST_PREFIX, len(name))
                if not any(other != name and other.startswith(name[:length]) for other in names)
            ),
            name,
        )
        for name in names
    }


def to_prune(items: Iterable[KeptItem], *, data: bool) -> list[KeptItem]:
    """Return the unreferenced ones of *items*: archives and images, and with *data* also persistent layers and named volumes."""
    return [item for item in items if not item.referenced and (data or item.kind in REPLACEABLE)]


def in_words(items: Sequence[KeptItem]) -> str:
    """Return the number of *items* of each kind as text: "2 persistent layers and 1 named volume"."""
    counts = [(sum(item.kind == kind for item in items), NAMES[kind]) for kind in KINDS]
    words = [f"{count} {one if count == 1 else many}" for count, (one, many) in counts if count]
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1] if words else "nothing"


def total(sizes: Iterable[int | None]) -> int:
    """Return the sum of the known ones of *sizes*."""
    return sum(size for size in sizes if size is not None)


def space(items: Iterable[KeptItem]) -> int:
    """Return the disk space of *items* as far as it is known; what several images share counts once."""
    parts: dict[str, int] = {}
    rest = 0
    for item in items:
        parts.update(item.parts)
        rest += (item.bytes or 0) if item.kind != "image" else 0
    return rest + sum(parts.values())


def listing(items: Sequence[KeptItem]) -> list[tuple[str, str, str, str]]:
    """Return a row for each of *items*: name, size, time of the last use, and references."""
    rows = []
    for item in items:
        used = "?" if item.used is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used))
        rows.append((item.title, human_size(item.bytes), used, _references(item)))
    return rows


def _references(item: KeptItem) -> str:
    words = [f"in use by {run}" for run in item.in_use]
    words += [f"layer:{name}" for name in item.layers]
    words += [one.file if one.exists else f"{one.file} (gone)" for one in item.files]
    if item.kind == "image":
        words += item.source if item.current else [f"{item.source[0]} (changed or gone)"]
        return ", ".join(words) or "made here"
    if item.kind == "archive":
        source = item.source[0] if item.source else "an unknown archive"
        words.insert(0, f"{source}{'' if item.current else ' (changed after unpacking)'}")
    return ", ".join(words) or "unknown"


def sums(inventory: Inventory) -> list[dict[str, Any]]:
    """Return for each kind, and for leftovers, the number, the bytes, and the bytes that are unreferenced."""
    found: list[dict[str, Any]] = []
    for kind in KINDS:
        items = [item for item in inventory.items if item.kind == kind]
        found.append(
            {
                "kind": kind,
                "count": len(items),
                "bytes": space(items),
                "unreferenced_bytes": space(item for item in items if not item.referenced),
            }
        )
    left = total(one.bytes for one in inventory.leftovers)
    found.append(
        {"kind": "leftover", "count": len(inventory.leftovers), "bytes": left, "unreferenced_bytes": left}
    )
    return found

"""What is kept between runs, as values: persistent layers, named volumes and unpacked archives; which may go, and how they are shown.

Pure: sandbox/lifecycle/inventory.py finds them, sandbox/lifecycle/kept_removal.py removes them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any, Literal

Kind = Literal["layer", "volume", "archive"]

KINDS: tuple[Kind, ...] = ("layer", "volume", "archive")
NAMES: dict[Kind, tuple[str, str]] = {
    "layer": ("persistent layer", "persistent layers"),
    "volume": ("named volume", "named volumes"),
    "archive": ("unpacked archive", "unpacked archives"),
}
SHORTEST_PREFIX = 8
"""Characters of the name of an archive, a digest, that are shown at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReference:
    """An environment file that was started with something that is kept, and whether it is there now."""

    file: str
    exists: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptItem:
    """One thing that is kept."""

    kind: Kind
    name: str
    #: Its directory.
    path: str
    #: Disk space; None where it cannot be counted.
    bytes: int | None
    #: When it was used last, in seconds since the epoch; None where that is not known.
    used: float | None
    files: tuple[FileReference, ...] = ()
    #: The runs that use it, for people.
    in_use: tuple[str, ...] = ()
    #: The persistent layers that are kept over an archive.
    layers: tuple[str, ...] = ()
    #: The layers below a persistent layer ("dir:/"), or the archive that was unpacked.
    source: tuple[str, ...] = ()
    #: Whether the archive at its path is still the one that was unpacked: no other start finds this one.
    current: bool = True

    @property
    def title(self) -> str:
        """How commands name it: "volume:data"."""
        return f"{self.kind}:{self.name}"

    @property
    def referenced(self) -> bool:
        """Whether a run uses it or a start of a known file may. Where no file is known, data counts as referenced; an archive,
        which is unpacked again when it is needed, does not.
        """
        if self.in_use:
            return True
        if self.kind == "archive":
            return self.current and (bool(self.layers) or any(one.exists for one in self.files))
        return not self.files or any(one.exists for one in self.files)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
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
    """What an ended run or an interrupted removal or import has left, and its disk space."""

    path: str
    bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Everything that is kept, and what is left over."""

    items: tuple[KeptItem, ...] = ()
    leftovers: tuple[Leftover, ...] = ()


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return for each of *names* the shortest beginning, from SHORTEST_PREFIX characters on, that no other has."""
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
    """Return those of *items* that are unreferenced: archives, and with *data* persistent layers and named volumes, too."""
    return [item for item in items if not item.referenced and (data or item.kind == "archive")]


def in_words(items: Sequence[KeptItem]) -> str:
    """Return how many *items* of which kind there are: "2 persistent layers and 1 named volume"."""
    counts = [(sum(item.kind == kind for item in items), NAMES[kind]) for kind in KINDS]
    words = [f"{count} {one if count == 1 else many}" for count, (one, many) in counts if count]
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1] if words else "nothing"


def total(sizes: Iterable[int | None]) -> int:
    """Return the sum of *sizes*, without those that are not known."""
    return sum(size for size in sizes if size is not None)


def human_size(size: int | None) -> str:
    """Return *size* bytes for people: "1.5 GiB"; "?" for None."""
    if size is None:
        return "?"
    for unit, bits in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >> bits:
            return f"{size / (1 << bits):.1f} {unit}"
    return f"{size} B"


def listing(items: Sequence[KeptItem]) -> list[tuple[str, str, str, str]]:
    """Return a row for each of *items*: name, size, time of the last use, and who refers to it."""
    rows = []
    for item in items:
        used = "?" if item.used is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used))
        rows.append((item.title, human_size(item.bytes), used, _references(item)))
    return rows


def _references(item: KeptItem) -> str:
    words = [f"in use by {run}" for run in item.in_use]
    words += [f"layer:{name}" for name in item.layers]
    words += [one.file if one.exists else f"{one.file} (gone)" for one in item.files]
    if item.kind == "archive":
        source = item.source[0] if item.source else "an unknown archive"
        words.insert(0, f"{source}{'' if item.current else ' (changed since)'}")
    return ", ".join(words) or "unknown"


def sums(inventory: Inventory) -> list[dict[str, Any]]:
    """Return for each kind, and for what is left over, the number, the bytes, and the bytes of what is unreferenced."""
    found: list[dict[str, Any]] = []
    for kind in KINDS:
        items = [item for item in inventory.items if item.kind == kind]
        found.append(
            {
                "kind": kind,
                "count": len(items),
                "bytes": total(item.bytes for item in items),
                "unreferenced_bytes": total(item.bytes for item in items if not item.referenced),
            }
        )
    left = total(one.bytes for one in inventory.leftovers)
    found.append(
        {"kind": "leftover", "count": len(inventory.leftovers), "bytes": left, "unreferenced_bytes": left}
    )
    return found

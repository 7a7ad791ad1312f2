"""List what outlives a run: names, sizes, times of last use, and references. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from sandbox.errors import StateError
from sandbox.images.layer_store import digest_of_archive, digest_of_path
from sandbox.images.origin import read_origin
from sandbox.images.places import archives_in, layers_in
from sandbox.images.unpacked_trees import UnpackedTrees, ids_of_layer
from sandbox.lifecycle.disk_space import measure
from sandbox.lifecycle.kept_images import image_names, kept_images, unused_parts_of_images
from sandbox.lifecycle.kept_items import FileReference, Inventory, KeptItem, Kind, Leftover, short_names
from sandbox.plan import IdPlan, LayerRecord
from sandbox.state.earlier_layers import forks
from sandbox.state.layer_records import ids_from_json, read_record
from sandbox.state.location import Locations
from sandbox.state.locks import probe
from sandbox.state.references import read_references
from sandbox.state.removal import NEW, REMOVED
from sandbox.state.runs import Run, list_runs
from sandbox.state.stack_record import RecordedStack
from sandbox.state.sweeping import directories_of
from sandbox.state.trusted_files import read_json
from unionfs._stdlib.dataclasses import replace

BASES: dict[Kind, str] = {
    "layer": "sandboxes",
    "changes": "changes",
    "volume": "volumes",
    "archive": "archives",
}
"""The directory of each kind whose items are directories: of archives in the image directory, of the others in the state directory."""


def base_of(where: Locations, kind: Kind) -> str:
    """Return the path of the directory that the items of *kind* are in."""
    return os.path.join(where.images if kind == "archive" else where.state, BASES[kind])


def list_names(where: Locations, kind: Kind) -> list[str]:
    """Return the names of the items of *kind*; none if there are none, or no such directory."""
    if kind == "image":
        return image_names(where)
    mark = "tree" if kind == "archive" else "state.json"
    base = base_of(where, kind)
    try:
        names = sorted(os.listdir(base))
    except OSError:
        return []
    return [
        name
        for name in names
        if not name.startswith(".")
        and not (kind == "archive" and name.endswith((".new", ".importing")))
        and os.path.lexists(os.path.join(base, name, mark))
    ]


def ids_of(kind: Kind, path: str) -> IdPlan | None:
    """Return the id maps under which the files in the directory *path* were created; None if these are unknown."""
    if kind == "archive":
        return ids_of_layer(path)
    try:
        return ids_from_json((read_record(path) or {}).get("ids"))
    except StateError:
        return None


def take(where: Locations, *, sizes: bool = True) -> Inventory:
    """Return everything that outlives a run; with *sizes*, with the disk space of each item.

    Raises:
        OSError: the records of runs cannot be read.
        StateError: the file of the names of images is damaged.
    """
    runs = [run for run in list_runs(where.state) if run.state != "ended"]
    items = [
        *(_layer(where, name, runs) for name in list_names(where, "layer")),
        *(_changes(where, name, runs) for name in list_names(where, "changes")),
        *(_volume(where, name, runs) for name in list_names(where, "volume")),
    ]
    items = _with_forks(where, items)
    over: dict[str, list[str]] = {}
    for item in items:
        for source in item.source:
            over.setdefault(source, []).append(item.name)
    items += _archives(where, runs, over)
    left = [*_removed(where), *_ended(where)]
    images, unused = kept_images(where, sizes=sizes), unused_parts_of_images(where, sizes=sizes)
    if not sizes:
        leftovers = [Leftover(path=path, bytes=None) for path, _ in left]
        return Inventory(items=(*items, *images), leftovers=(*leftovers, *unused))
    found = measure([*((item.path, ids_of(item.kind, item.path)) for item in items), *left])
    leftovers = [Leftover(path=path, bytes=found.get(path)) for path, _ in left]
    return Inventory(
        items=(*(replace(item, bytes=found.get(item.path)) for item in items), *images),
        leftovers=(*leftovers, *unused),
    )


def _layer(where: Locations, name: str, runs: Sequence[Run]) -> KeptItem:
    path = os.path.join(base_of(where, "layer"), name)
    try:
        record = LayerRecord.read(read_record(path) or {})
    except (StateError, ValueError):
        record = LayerRecord(file=None, layers=None)
    return KeptItem(
        kind="layer",
        name=name,
        path=path,
        bytes=None,
        used=_time(path, "state.json"),
        files=_files(record.file),
        in_use=_shown(run for run in runs if run.record is not None and run.record.layer == name),
        source=tuple(f"{kind}:{below}" for kind, below, _ in record.layers or ()),
    )


def _with_forks(where: Locations, items: Sequence[KeptItem]) -> list[KeptItem]:
    """Return *items* with the persistent layers that were forked from each."""
    try:
        found = forks(where.state)
    except StateError:
        return list(items)  # reported by the command that would remove one of them
    return [
        replace(item, layers=tuple(os.path.basename(path) for path in found.get(item.path, ())))
        for item in items
    ]


def _changes(where: Locations, name: str, runs: Sequence[Run]) -> KeptItem:
    path = os.path.join(base_of(where, "changes"), name)
    try:
        state = read_json(os.path.join(path, "state.json"))
    except (OSError, ValueError):
        state = {}
    stack = RecordedStack.read(state, path)
    file = state.get("file") if isinstance(state, dict) else None
    return KeptItem(
        kind="changes",
        name=name,
        path=path,
        bytes=None,
        used=_time(path, "state.json"),
        files=_files(file if isinstance(file, str) else None),
        in_use=_shown(run for run in runs if run.id == name),
        source=() if stack is None else tuple(layer.shown() for layer in stack.layers),
    )


def _volume(where: Locations, name: str, runs: Sequence[Run]) -> KeptItem:
    path = os.path.join(base_of(where, "volume"), name)
    return KeptItem(
        kind="volume",
        name=name,
        path=path,
        bytes=None,
        used=_time(path, "lock"),
        files=_files(*read_references(path).files, with_input=True),
        in_use=_shown(run for run in runs if run.record is not None and name in run.record.volumes),
    )


def _archives(where: Locations, runs: Sequence[Run], over: dict[str, list[str]]) -> list[KeptItem]:
    names = list_names(where, "archive")
    short = short_names(names)
    found = []
    for name in names:
        path = os.path.join(base_of(where, "archive"), name)
        known = read_references(path)
        archive = known.archive
        found.append(
            KeptItem(
                kind="archive",
                name=short[name],
                path=path,
                bytes=None,
                used=_time(path, "lock"),
                files=_files(*known.files),
                in_use=_shown(
                    run for run in runs if run.record is not None and archive in run.record.archives
                ),
                layers=tuple(over.get(f"tar:{archive}", ())),
                source=() if archive is None else (archive,),
                current=archive is None or _is_current(path, archive),
            )
        )
    return found


def _is_current(place: str, archive: str) -> bool:
    """Return whether a start with *archive* could use the layer in the directory *place* of the store, under any ids.

    If only the archive's timestamp changed, its key differs, and the next start compares its content. Here its size is compared
    instead, which differs for most other archives.
    """
    try:
        info = os.stat(archive)
    except OSError:
        return False
    origin = read_origin(place)
    if origin is not None and origin.size == info.st_size:
        return True
    return os.path.basename(place).startswith(f"{digest_of_path(archive)}-{digest_of_archive(info)}-")


def _files(*names: str | None, with_input: bool = False) -> tuple[FileReference, ...]:
    """Return the files *names*; with *with_input* also standard input ("<stdin>"), which counts as existing."""
    return tuple(
        FileReference(file=name, exists=not name.startswith("/") or _may_exist(name))
        for name in names
        if name is not None and (with_input or name.startswith("/"))
    )


def _may_exist(path: str) -> bool:
    """Return whether *path* exists, or cannot be looked up now, for example on a network file system (ESTALE)."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _shown(runs: Iterable[Run]) -> tuple[str, ...]:
    return tuple(run.shown() for run in runs)


def _time(path: str, name: str) -> float | None:
    try:
        return os.lstat(os.path.join(path, name)).st_mtime
    except OSError:
        return None


def interrupted_removals(where: Locations) -> list[tuple[str, IdPlan | None]]:
    """Return the paths that interrupted removals have renamed, and interrupted forks have made, with their ids.

    A caller that removes them has the lock of the state directory, under which a fork makes its directory and locks it.
    """
    found = []
    for kind in BASES:
        if kind == "archive":
            continue  # UnpackedTrees.interrupted() finds these
        base = base_of(where, kind)
        try:
            names = sorted(name for name in os.listdir(base) if name.startswith(REMOVED))
        except OSError:
            continue
        paths = [os.path.join(base, name) for name in names]
        paths += _interrupted_forks(base) if kind == "layer" else []
        found += [(path, ids_of(kind, path)) for path in paths]
    return found


def _interrupted_forks(base: str) -> list[str]:
    paths = [os.path.join(base, name) for name in sorted(os.listdir(base)) if name.startswith(NEW)]
    return [path for path in paths if probe(os.path.join(path, "lock")) != "held"]


def _removed(where: Locations) -> list[tuple[str, IdPlan | None]]:
    """Return the paths that interrupted removals and imports have left behind, with their ids."""
    bases = (archives_in(where.images), layers_in(where.images))
    imports = [(path, ids_of_layer(path)) for base in bases for path in UnpackedTrees(base).interrupted()]
    return interrupted_removals(where) + imports


def _ended(where: Locations) -> list[tuple[str, IdPlan | None]]:
    """Return the directories of ended runs, with their ids."""
    found = []
    for run in list_runs(where.state):
        if run.state != "ended":
            continue
        ids = None if run.record is None else ids_from_json(run.record.ids)
        # None: the run's directory is unknown, and is left alone.
        paths = directories_of(run.path, run.record) or ()
        found += [(path, ids) for path in paths if os.path.isdir(path)]
    return found

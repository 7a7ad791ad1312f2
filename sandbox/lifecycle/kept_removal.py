"""Remove items of the state directory, under their locks and the ids that own their files; refuse those in use."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from sandbox.errors import SandboxError, StateError
from sandbox.images.places import archives_in, layers_in
from sandbox.images.stored_images import normalized
from sandbox.images.unpacked_trees import UnpackedTrees
from sandbox.lifecycle.inventory import base_of, ids_of, interrupted_removals, list_names
from sandbox.lifecycle.kept_items import KINDS, NAMES, Kind
from sandbox.state import sweeping
from sandbox.state.earlier_layers import origins_of, refuse_if_forked, remove_unused_of
from sandbox.state.location import Locations
from sandbox.state.locks import claim, exclusively_locked
from sandbox.state.node import this_place
from sandbox.state.references import read_references
from sandbox.state.removal import REMOVED, remove_directory
from sandbox.state.runs import Run, list_runs, users_of
from sandbox.state.snapshots import locked_to_remove

_KINDS: dict[str, Kind] = {kind: kind for kind in KINDS}


def find(where: Locations, thing: str) -> tuple[Kind, str] | Run:
    """Return what the argument *thing* refers to: KIND:NAME, or the id of a run or a unique prefix of one.

    Raises:
        StateError: nothing has this name, or more than one thing has.
    """
    prefix, colon, name = thing.partition(":")
    if colon and prefix in _KINDS:
        kind = _KINDS[prefix]
        if kind == "image":
            return kind, name
        names = list_names(where, kind)
        # A prefix is enough for archives, whose names are digests.
        found = [one for one in names if one == name or (kind == "archive" and name and one.startswith(name))]
        if len(found) == 1:
            return kind, found[0]
        hint = "`sandbox ls` lists layers, volumes, archives and images"
        if found:
            raise StateError(f"{len(found)} {NAMES[kind][1]} begin with {name}", hint=hint)
        raise StateError(f"there is no {NAMES[kind][0]} {name}", hint=hint)
    if colon:
        raise StateError(
            f"{thing}: {prefix} is not one of layer, changes, volume, archive and image",
            hint="write layer:NAME, changes:ID, volume:NAME, archive:NAME or image:NAME",
        )
    if not thing:  # the empty string is a prefix of every id
        raise StateError(
            "the argument is empty", hint="`sandbox ls` lists layers, volumes, archives and images"
        )
    runs: dict[str, Run | None] = dict.fromkeys(list_names(where, "changes"))
    runs |= {run.id: run for run in list_runs(where.state)}
    matching = [name for name in runs if name.startswith(thing)]
    exact = [thing] if thing in runs else matching
    if len(exact) == 1:
        # What a run has kept has the id of the run, which may not have ended.
        return runs[exact[0]] or ("changes", exact[0])
    if exact:
        raise StateError(
            f"{len(exact)} runs begin with {thing}: {', '.join(sorted(exact))}",
            hint="write more characters of the id",
        )
    others = [f"{kind}:{thing}" for kind in KINDS if _canonical(kind, thing) in list_names(where, kind)]
    hint = (
        f"did you mean {' or '.join(others)}?"
        if others
        else "`sandbox ls` lists layers, volumes, archives and images"
    )
    raise StateError(f"there is no run {thing}", hint=hint)


def _canonical(kind: Kind, name: str) -> str:
    return normalized(name) if kind == "image" else name


def remove_run(where: Locations, run: Run) -> None:
    """Remove the leftovers of the ended *run*, and what it has kept: its record, its log and its ephemeral layer.

    Raises:
        StateError: it has not ended, or belongs to another machine.
    """
    if run.state == "running":
        raise StateError(
            f"sandbox {run.shown()} is running", hint=f"`sandbox stop {run.id}` ends it, or add --force"
        )
    if run.state != "ended":
        raise StateError(
            f"this machine cannot determine whether sandbox {run.shown()} has ended",
            hint=f"remove it on its own machine; if that machine no longer exists, remove {run.path}",
        )
    ended = sweeping.claim_ended(run.path, this_place())
    if ended is None or not sweeping.sweep([ended]):
        raise StateError(
            f"the leftovers of sandbox {run.id} cannot be removed", hint=f"remove {run.path} by hand"
        )
    if run.record is not None and run.record.background and run.id in list_names(where, "changes"):
        remove_kept(where, "changes", run.id)


def remove_kept(where: Locations, kind: Kind, name: str) -> None:
    """Remove the item *name* of *kind*; of an image, its name, and what no other image uses.

    Any other than an image is renamed first, so that a concurrent start creates a new item and sees no part of the old one.

    Raises:
        StateError: it is in use, or one of its files cannot be removed.
        ImageError: there is no such image.
        SandboxError: the user namespace that its files belong to cannot be created.
    """
    if kind == "image":
        from sandbox.images.collection import remove

        remove(where, [name])
        return
    base = base_of(where, kind)
    path = os.path.join(base, name)
    if os.path.islink(path):
        raise StateError(f"{path} is a symbolic link", hint="remove it and its target by hand")
    lock, fd = claim(os.path.join(path, "lock"))
    try:
        users = users_of(
            where.state,
            layer=name if kind == "layer" else None,
            volume=name if kind == "volume" else None,
            archive=read_references(path).archive if kind == "archive" else None,
        )
        if lock == "held" or users:
            by = f" by {' and '.join(run.shown() for run in users)}" if users else ""
            far = [run.path for run in users if run.state != "running"]
            hint = (
                f"end it on its machine; if that machine no longer exists, remove {far[0]}"
                if far
                else "end the sandbox first"
            )
            raise StateError(f"{NAMES[kind][0]} {name} is in use{by}", hint=hint)
        ids = ids_of(kind, path)
        removed = os.path.join(base, f"{REMOVED}{os.urandom(4).hex()}")
        origins = []
        with ExitStack() as undo:
            if kind in ("layer", "changes"):
                undo.enter_context(locked_to_remove(path, name))
                refuse_if_forked(where.state, path, name)
                origins = origins_of(path)
            try:
                os.rename(path, removed)
            except FileNotFoundError:
                raise StateError(f"the {NAMES[kind][0]} {name} was removed by another process") from None
        remove_directory(removed, ids)
        remove_unused_of(where.state, origins)
    finally:
        if fd >= 0:
            os.close(fd)


def remove_interrupted(where: Locations, warn: Callable[[str], None]) -> list[str]:
    """Remove the leftovers of interrupted removals, forks and imports of this machine, and what no image uses; return the paths.

    *warn* receives the reason for each that cannot be removed; the others are removed all the same.
    """
    gone: list[str] = []
    with exclusively_locked(where.state):
        found = interrupted_removals(where)
    for path, ids in found:
        try:
            remove_directory(path, ids)
        except SandboxError as error:
            warn(error.message)
        else:
            gone.append(path)
    try:
        gone += UnpackedTrees(archives_in(where.images)).remove_interrupted()
        gone += _collect_images(where)
    except SandboxError as error:
        warn(error.message)
    return gone


def _collect_images(where: Locations) -> list[str]:
    from sandbox.images.blobs import BlobStore
    from sandbox.images.collection import collect
    from sandbox.images.oci.digest import Digest

    found, blobs = collect(where), BlobStore(where.images)
    return [
        *(blobs.path(Digest.parse(blob)) for blob in found.blobs),
        *(os.path.join(layers_in(where.images), key) for key in found.layers),
    ]

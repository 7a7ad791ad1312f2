"""Layers and volumes: what of the host becomes visible, and the directories that it needs to be mounted on."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace

from sandbox.ops import BindVolume, TmpfsVolume
from sandbox.plan.findings import Findings
from sandbox.plan.values import LayerPlan, MountPoint
from sandbox.sources import PathFact
from sandbox.spec.model import Spec
from sandbox.spec.tables import Volume
from sandbox.spec.values.volumes import MANAGED

#: Kinds of layers and volumes that can be planned; of others `Spec.unenforced` says that this version has them not.
LAYER_KINDS = ("dir", "tar")
VOLUME_TYPES = ("bind", "tmpfs")


def inside(path: str, directory: str) -> bool:
    """Tell whether *path* is *directory* or lies below it; both absolute, without symbolic links."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def plan_layers(
    spec: Spec, paths: Mapping[str, PathFact], state_directory: str, findings: Findings
) -> tuple[LayerPlan, ...]:
    """Return the layers, bottom first; those that are refused are left out."""
    planned = []
    for number, layer in enumerate(spec.root.layers):
        if layer.kind not in LAYER_KINDS:
            continue
        key = f"root.layers[{number}]"
        fact = paths[layer.path]
        refusal = _layer_refusal(layer.kind, layer.path, fact, state_directory)
        if refusal is not None:
            findings.refuse(key, *refusal)
            continue
        mode = fact.mode if layer.kind == "dir" else 0o755
        planned.append(LayerPlan(kind=layer.kind, path=fact.real, cross=layer.cross, mode=mode))
    return tuple(planned)


def _layer_refusal(
    kind: str, path: str, fact: PathFact, state_directory: str
) -> tuple[str, str | None] | None:
    """Return message and hint of why the layer cannot be used; None if it can."""
    wanted = "directory" if kind == "dir" else "file"
    if fact.kind == "missing":
        return f"{path}: {fact.reason}", _layer_hint(path)
    if fact.kind == "refused":
        return f"{path}: {fact.reason}", "a layer must be readable by the user who starts the sandbox"
    if fact.kind != wanted:
        other = "tar" if fact.kind == "file" else "dir"
        return f"{path} is a {fact.kind}, not a {wanted}", f'write "{other}:{path}"'
    if state_directory and inside(fact.real, state_directory):
        return f"{path} is in the sandboxes' own state directory", "copy it elsewhere and name the copy"
    return None


def _layer_hint(path: str) -> str:
    if posixpath.basename(path).startswith("debian"):
        return f"make one: scripts/mkrootfs {path}"
    return "name an existing directory or archive; relative paths start at the file's directory"


def plan_volumes(
    spec: Spec, paths: Mapping[str, PathFact], findings: Findings
) -> tuple[BindVolume | TmpfsVolume, ...]:
    """Return the volumes in the order in which they can be mounted; those that are refused are left out."""
    planned: list[BindVolume | TmpfsVolume] = []
    for number, volume in enumerate(spec.volumes):
        if volume.type not in VOLUME_TYPES:
            continue
        if volume.source is not None:
            fact = paths[volume.source]
            if fact.kind in ("missing", "refused"):
                hint = "make it first, or name an existing file or directory"
                findings.refuse(f"volumes[{number}].source", f"{volume.source}: {fact.reason}", hint)
                continue
        planned.append(_plan_volume(volume, paths))
    # A volume on a path of another one is mounted after it, whatever their order in the file.
    planned.sort(key=lambda volume: volume.target.split("/"))
    by_target = {volume.target: volume for volume in planned}
    return tuple(_created_in_tmpfs(volume, by_target) for volume in planned)


def _plan_volume(volume: Volume, paths: Mapping[str, PathFact]) -> BindVolume | TmpfsVolume:
    options = set(volume.options)
    if volume.type == "tmpfs":
        return TmpfsVolume(
            target=volume.target,
            size=volume.size,
            mode=0o1777 if volume.mode is None else volume.mode,
            read_only=volume.read_only,
            noexec="noexec" in options,
        )
    assert volume.source is not None
    return BindVolume(
        source=paths[volume.source].real,
        target=volume.target,
        read_only=volume.read_only,
        noexec="noexec" in options,
    )


def _created_in_tmpfs(
    volume: BindVolume | TmpfsVolume, by_target: Mapping[str, BindVolume | TmpfsVolume]
) -> BindVolume | TmpfsVolume:
    directory = volume.target
    while directory != "/":
        directory = posixpath.dirname(directory)
        around = by_target.get(directory)
        if around is not None:
            return replace(volume, create=True) if isinstance(around, TmpfsVolume) else volume
    return volume


def plan_skeleton(
    volumes: tuple[BindVolume | TmpfsVolume, ...], paths: Mapping[str, PathFact]
) -> tuple[MountPoint, ...]:
    """Return the paths that a generated layer has to provide."""
    points = [MountPoint(path=path) for path in MANAGED]
    files = {fact.real for fact in paths.values() if fact.kind == "file"}
    for volume in volumes:
        is_directory = isinstance(volume, TmpfsVolume) or volume.source not in files
        points.append(MountPoint(path=volume.target, is_directory=is_directory))
    return tuple(points)

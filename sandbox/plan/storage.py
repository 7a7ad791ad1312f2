"""Plan the layers, and the mount points that a generated layer below them provides."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping

from sandbox.host.image_formats import refusal as image_refusal
from sandbox.host.paths import PathFact
from sandbox.host.private_directories import PrivateFacts
from sandbox.plan.findings import Findings
from sandbox.plan.image_values import StoredImage
from sandbox.plan.operations import HOSTS, RESOLV_CONF, BindVolume, TmpfsVolume, VolumeOperation
from sandbox.plan.private import private_part
from sandbox.plan.values import LayerPlan, MountPoint
from sandbox.spec.file_types import wrong_layer_type
from sandbox.spec.model import Spec
from sandbox.spec.values import Layer
from sandbox.spec.values.layers import IMAGE_KINDS
from sandbox.spec.values.volumes import MANAGED

#: The kinds of layers that name a path of the host which the sandbox itself reads.
LAYER_KINDS = ("dir", "tar")
#: All kinds that name a path of the host.
PATH_KINDS = (*LAYER_KINDS, "oci", "docker-archive")


def inside(path: str, directory: str) -> bool:
    """Tell whether *path* is *directory* or lies below it; both are absolute and without symbolic links."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def plan_layers(
    spec: Spec,
    paths: Mapping[str, PathFact],
    images: Mapping[int, StoredImage],
    private: PrivateFacts,
    findings: Findings,
) -> tuple[LayerPlan, ...]:
    """Return the layers, bottom first; those that are refused are left out.

    *images* are the images in the store, by the number of their layer in the file.
    """
    planned = []
    for number, layer in enumerate(spec.root.layers):
        key = f"root.layers[{number}]"
        if layer.kind in IMAGE_KINDS:
            image = images.get(number)
            if image is None:
                findings.refuse(key, *missing_image(layer, spec.root.pull))
            elif not image.layers:
                findings.refuse(key, f"{layer.shown()} has no layers", "name an image with files")
            else:
                planned += [
                    LayerPlan(
                        kind="image",
                        path=image.identity,
                        image=part,
                        immutable=True,
                        mount=layer.mount,
                        lazy=image.source if part.table in image.partial else "",
                    )
                    for part in image.layers
                ]
            continue
        fact = paths[layer.path]
        refusal = _layer_refusal(layer, fact, private)
        if refusal is not None:
            findings.refuse(key, *refusal)
            continue
        mode = fact.mode if layer.kind == "dir" else 0o755
        planned.append(
            LayerPlan(
                kind=layer.kind,
                path=fact.real,
                cross=layer.cross,
                identity=fact.identity,
                mode=mode,
                immutable=layer.immutable or layer.kind == "tar",
                mount=layer.mount,
            )
        )
    return tuple(planned)


def missing_image(layer: Layer, pull: str) -> tuple[str, str]:
    """Return the message and the hint about the image of *layer*, which is not in the store; *pull* is the value of root.pull."""
    if layer.kind == "image":
        hint = "`sandbox image ls` lists the images; `sandbox pull` fetches one, `sandbox image import` imports one"
    elif pull == "never":
        hint = (
            f'`sandbox pull {layer.shown()}` fetches it; `sandbox up` does not, because root.pull is "never"'
        )
    else:
        hint = f"`sandbox up` fetches it, and so does `sandbox pull {layer.shown()}`"
    return f"{layer.shown()} is not in the image store", hint


def needs_open_requests(server: str, layers: tuple[LayerPlan, ...]) -> bool:
    """Tell whether the kernel must send FUSE_OPEN requests to *server*: the direct server needs none if no layer changes.

    Without them, a file that is deleted in a layer while it is served is lost for processes that have it open
    (unionfs/README.md).
    """
    return server == "pyfuse3" or not all(layer.immutable for layer in layers)


def _layer_refusal(layer: Layer, fact: PathFact, private: PrivateFacts) -> tuple[str, str | None] | None:
    """Return message and hint if the layer cannot be used, otherwise None."""
    kind, path = layer.kind, layer.path
    if fact.kind == "missing":
        return f"{path}: {fact.reason}", fact.remedy or _layer_hint(path)
    if fact.kind == "refused":
        hint = "a layer must be readable by the user who starts the sandbox"
        return f"{path}: {fact.reason}", fact.remedy or hint
    known = fact.type or (stat.S_IFDIR if fact.kind == "directory" else stat.S_IFREG)
    if (wrong := wrong_layer_type(kind, path, known)) is not None:
        return wrong
    if fact.image is not None:
        return image_refusal(fact.image, path, is_directory=True)
    if fact.distrusted_because:
        hint = f"copy the archive to a directory of yours, or make it readable for all users: chmod o+r {fact.real}"
        return f"{path}: {fact.distrusted_because}", hint
    for shown in (fact.real, *(fact.real.rstrip("/") + crossed for crossed in layer.cross)):
        if (part := private_part(shown, private)) is not None:
            named = path if shown == fact.real else shown
            return f"{named} is in the sandboxes' own {part.name}", "copy it elsewhere and name the copy"
    return None


def _layer_hint(path: str) -> str:
    if os.path.basename(path).startswith("debian"):
        return f"make one: scripts/mkrootfs {path}"
    return "name an existing directory or archive; relative paths start at the file's directory"


def plan_skeleton(
    spec: Spec, volumes: tuple[VolumeOperation, ...], paths: Mapping[str, PathFact]
) -> tuple[MountPoint, ...]:
    """Return what a generated layer has to provide: the mount points that do not lie in another volume, and an image's directory.

    An image may name a working directory that it does not contain. Docker and podman create it.
    """
    points = [MountPoint(path=path) for path in MANAGED]
    if "process.cwd" in spec.image_values and spec.process.cwd not in ("/", *MANAGED):
        points.append(MountPoint(path=spec.process.cwd))
    files = {fact.real for fact in paths.values() if fact.kind == "file"}
    if spec.network.mode != "none":
        points += [
            MountPoint(path=path, is_directory=False)
            for path in (HOSTS, RESOLV_CONF)
            if not any(volume.target in ("/etc", path) for volume in volumes)
        ]
    points += [
        MountPoint(path=volume.target, is_directory=shows_directory(volume, files))
        for volume in volumes
        if volume.within is None
    ]
    return tuple(points)


def shows_directory(volume: VolumeOperation, files: Collection[str]) -> bool:
    """Tell whether *volume* is a directory; *files* are the sources that are files."""
    return isinstance(volume, TmpfsVolume) or (isinstance(volume, BindVolume) and volume.source not in files)

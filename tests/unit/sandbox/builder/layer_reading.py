"""A machine without a sandbox, on which layers over nothing are written, and what is in such a layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sandbox.builder.context import BuildContext
from sandbox.builder.copy_step import Output, copy_from_context
from sandbox.builder.inputs import scan
from sandbox.builder.machine import Machine
from sandbox.images.blobs import BlobStore
from sandbox.images.build.dockerignore import IgnoreRules, parse
from sandbox.images.build.plan import CopyFiles
from sandbox.images.oci.digest import Digest
from sandbox.images.tar import Kind, open_archive
from sandbox.state.location import Locations

if TYPE_CHECKING:
    from sandbox.plan.image_values import ImageLayer

LATEST = 2_000_000_000


class Found(NamedTuple):
    """One member of a layer: its content, or the target of a link."""

    kind: Kind
    mode: int
    owner: tuple[int, int]
    content: bytes
    seconds: float


def machine(base: Path) -> Machine:
    """Return a machine with an image directory in *base*. It opens no layers and starts nothing."""
    absent = cast("Any", None)
    return Machine(
        where=Locations(state=str(base / "state"), images=str(base / "images")),
        facts=absent,
        state=absent,
        secret=None,
        ids=absent,
        warn=lambda _text: None,
        progress=None,
    )


def copied(
    base: Path, action: CopyFiles, *, ignore: str = "", latest: int = LATEST, context: str = "context"
) -> ImageLayer | None:
    """Copy files of *base*/context to a layer over nothing."""
    rules = parse(ignore.encode(), ".dockerignore") if ignore else IgnoreRules()
    opened = BuildContext(str(base / context), rules)
    try:
        return copy_from_context(
            machine(base),
            [],
            action,
            opened,
            scan(opened, action),
            Output(compression="gzip", latest=latest),
        )
    finally:
        opened.close()


def members(base: Path, layer: ImageLayer | None) -> dict[str, Found]:
    """Return the members of *layer* in the image directory of *base*, in their order."""
    assert layer is not None
    found = {}
    with open(BlobStore(str(base / "images")).open(Digest.parse(layer.digest)), "rb") as file:
        archive = open_archive(file, "layer")
        for member in archive:
            content = b"".join(bytes(piece) for _, piece in archive.data())
            name = member.name.decode("utf-8", "surrogateescape").rstrip("/")
            found[name] = Found(
                member.kind,
                member.mode,
                (member.uid, member.gid),
                content or member.link,
                member.mtime_ns / 10**9,
            )
    return found

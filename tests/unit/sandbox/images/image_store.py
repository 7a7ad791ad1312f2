"""Helpers: an image directory whose layers are unpacked in the process of the test, without a user namespace."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from sandbox.images import bounded, image_layers, mounted_layers, unpacked_trees
from sandbox.images.adding import unpacker
from sandbox.images.importing import host_platform, import_image
from sandbox.images.places import scratch_in
from sandbox.images.stored_images import ImageRecord
from sandbox.images.transports.layout import Layout
from sandbox.kernel.idmaps import single_map
from sandbox.plan import IdPlan
from tests.support.images import Image, write_layout

IDS = IdPlan(uid_map=single_map(os.geteuid()), gid_map=single_map(os.getegid()), helpers=None, single=True)


class _Done:
    """Stands for a child process that has ended (`sandbox.as_container_root.Child`)."""

    def __init__(self, action: Callable[[], str | None]) -> None:
        self._output = action() or ""

    def wait(self, _meanwhile: object = None) -> str:
        return self._output

    def end(self) -> None: ...


def unpack_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers be unpacked and indexed in this process."""
    monkeypatch.setattr(image_layers, "start_with_ids", lambda _ids, action: _Done(action))
    monkeypatch.setattr(mounted_layers, "run_with_ids", lambda _ids, action, _meanwhile=None: action())
    monkeypatch.setattr(unpacked_trees, "chown_to_root", lambda _ids, *_fds: None)
    # The limit would apply to the whole process of the tests, which has more memory already.
    monkeypatch.setattr(bounded, "memory_limit", lambda _memory: nullcontext())


def imported(
    images: Path, layout: Path, image: Image, name: str | None = "sample:1", *, unpack: bool = True
) -> ImageRecord:
    """Write *image* into *layout*, and import it into the image directory *images*."""
    write_layout(layout, image)
    source = Layout(str(layout), "t", f"oci:{layout}:t", scratch_in(str(images)))
    prepare = unpacker(str(images), IDS, lambda _text: None) if unpack else None
    try:
        return import_image(str(images), source, host_platform(), name, prepare=prepare, resumable=False)
    finally:
        source.close()


def files_of(images: Path) -> dict[str, list[str]]:
    """Return the names of blobs, partial blobs, records and unpacked layers."""
    places = {"blobs": "blobs/sha256", "partial": "partial", "records": "manifests", "layers": "layers"}
    return {
        what: sorted(os.listdir(images / place)) if (images / place).is_dir() else []
        for what, place in places.items()
    }


NOTHING: dict[str, list[str]] = {"blobs": [], "partial": [], "records": [], "layers": []}

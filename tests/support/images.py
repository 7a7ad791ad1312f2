"""Write layouts and archives of images for tests, by the standard library alone, so that they do not depend on the tested code.

layout = write_layout(tmp_path / "layout", Image(layers=(tar_of({"etc/motd": b"hello"}),), config={"Cmd": ["sh"]}))
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
TAG = "org.opencontainers.image.ref.name"
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def tar_of(files: Mapping[str, bytes | str | None], **attributes: Any) -> bytes:
    """Return a tar: a member for each of *files*, whose value is the content, None for a directory, or "-> TARGET" for a link.

    "=> TARGET" is a hard link. *attributes* are those of each TarInfo.
    """
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, value in files.items():
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if value is None or isinstance(value, str) else 0o644
            for key, given in attributes.items():
                setattr(member, key, given)
            if value is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(value, str):
                member.type = tarfile.SYMTYPE if value.startswith("-> ") else tarfile.LNKTYPE
                member.linkname = value[3:]
            else:
                member.size = len(value)
            tar.addfile(member, io.BytesIO(value) if isinstance(value, bytes) else None)
    return output.getvalue()


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image: its uncompressed layers, bottom first, and its documents, with the changes that a test makes to them."""

    layers: Sequence[bytes] = ()
    #: The field `config` of the configuration.
    config: Mapping[str, Any] = field(default_factory=dict)
    compressed: bool = True
    architecture: str = MACHINE
    #: Replaces the diff ids.
    diff_ids: Sequence[str] | None = None
    #: Fields of the configuration document, and of the manifest.
    document: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def blobs(self) -> list[bytes]:
        """Return the blobs of the layers."""
        return [gzip.compress(one, mtime=0) if self.compressed else one for one in self.layers]

    def config_content(self) -> bytes:
        """Return the configuration."""
        diff_ids = [digest_of(one) for one in self.layers] if self.diff_ids is None else self.diff_ids
        document = {
            "architecture": self.architecture,
            "os": "linux",
            "config": dict(self.config),
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
            **self.document,
        }
        return json.dumps(document).encode()

    def manifest_content(self) -> bytes:
        """Return the manifest."""
        media_type = LAYER + ("+gzip" if self.compressed else "")
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe(CONFIG, self.config_content()),
            "layers": [describe(media_type, one) for one in self.blobs()],
            **self.manifest,
        }
        return json.dumps(document).encode()

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return digest_of(self.manifest_content())


def describe(media_type: str, content: bytes, **fields: Any) -> dict[str, Any]:
    """Return the descriptor of *content*."""
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **fields}


def add_blob(layout: Path, content: bytes) -> Path:
    """Write a blob into *layout* and return its path."""
    path = layout / "blobs/sha256" / hashlib.sha256(content).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_layout(layout: Path, *images: Image, tags: Sequence[str] = ("t",)) -> Path:
    """Write a layout of *images* with *tags*, and return its path."""
    entries = []
    for image, tag in zip(images, tags, strict=True):
        for content in (*image.blobs(), image.config_content(), image.manifest_content()):
            add_blob(layout, content)
        entries.append(describe(MANIFEST, image.manifest_content(), annotations={TAG: tag} if tag else {}))
    return write_index(layout, entries)


def write_index(layout: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    """Write the files of *layout* that are no blobs."""
    layout.mkdir(parents=True, exist_ok=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": list(entries)}))
    return layout


def pack(directory: Path, archive: Path, *, compressed: bool = False) -> Path:
    """Write the files of *directory* into a tar, and return its path."""
    with tarfile.open(archive, "w:gz" if compressed else "w") as tar:
        for path in sorted(directory.rglob("*")):
            tar.add(path, str(path.relative_to(directory)), recursive=False)
    return archive


def docker_files(image: Image, names: Sequence[str] = ("sample:1",)) -> dict[str, bytes | str | None]:
    """Return the members of an archive of `docker save` with *image*, as `tar_of` takes them; layers are plain."""
    config = image.config_content()
    layers = {f"{number}/layer.tar": content for number, content in enumerate(image.layers)}
    entry = {
        "Config": f"{hashlib.sha256(config).hexdigest()}.json",
        "RepoTags": list(names),
        "Layers": list(layers),
    }
    return {**layers, entry["Config"]: config, "manifest.json": json.dumps([entry]).encode()}  # type: ignore[dict-item]

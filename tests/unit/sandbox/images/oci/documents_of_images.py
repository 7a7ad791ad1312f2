"""Documents of images for tests, as dictionaries that a test changes before it encodes them."""

from __future__ import annotations

import json
from typing import Any

from sandbox.images.oci import media_types

DIGEST = "sha256:" + "a1" * 32
OTHER = "sha512:" + "b2" * 64


def descriptor(media_type: str, **fields: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 7, **fields}


def manifest(**fields: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": descriptor(media_types.OCI_CONFIG),
        "layers": [descriptor(media_types.OCI_LAYER + "+gzip"), descriptor(media_types.OCI_LAYER)],
        **fields,
    }


def index(*platforms: str | None, **fields: Any) -> dict[str, Any]:
    """Return an index with an entry for each of *platforms*, whose sizes count them; None for one without a platform."""
    entries = []
    for number, platform in enumerate(platforms):
        entry = descriptor(media_types.OCI_MANIFEST, size=number)
        if platform is not None:
            names = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
            entry["platform"] = names
        entries.append(entry)
    return {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries, **fields}


def config(**fields: Any) -> dict[str, Any]:
    return {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [DIGEST, OTHER]},
        **fields,
    }


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()

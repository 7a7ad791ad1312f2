"""Name the parts of the image directory."""

from __future__ import annotations

import os


def archives_in(images: str) -> str:
    """Return the directory of the unpacked `tar:` archives in the image directory *images*."""
    return os.path.join(images, "archives")


def layers_in(images: str) -> str:
    """Return the directory of the unpacked layers of images in the image directory *images*."""
    return os.path.join(images, "layers")


def scratch_in(images: str) -> str:
    """Create the directory of temporary files in the image directory *images*, and return its path.

    Raises:
        OSError: it cannot be created.
    """
    path = partial_in(images)
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def partial_in(images: str) -> str:
    """Return the directory of blobs that are being received, and of other temporary files."""
    return os.path.join(images, "partial")

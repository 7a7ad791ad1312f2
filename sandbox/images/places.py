"""Name the parts of the image directory. Pure."""

from __future__ import annotations

import os


def archives_in(images: str) -> str:
    """Return the directory of the unpacked `tar:` archives in the image directory *images*."""
    return os.path.join(images, "archives")


def layers_in(images: str) -> str:
    """Return the directory of the unpacked layers of images in the image directory *images*."""
    return os.path.join(images, "layers")


def partial_in(images: str) -> str:
    """Return the directory of blobs that are being received, and of other temporary files."""
    return os.path.join(images, "partial")

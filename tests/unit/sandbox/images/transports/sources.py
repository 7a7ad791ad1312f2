"""Helpers: open a source, and read or copy its image."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandbox.errors import ImageError
from sandbox.images.importing import host_platform
from sandbox.images.transports.image_source import FoundImage, ImageSource, find_image
from sandbox.images.transports.opening import open_source


@contextmanager
def opened(text: str) -> Iterator[ImageSource]:
    """Open the source *text* within the context; afterwards no descriptor of it is open."""
    before = set(os.listdir("/proc/self/fd"))
    with tempfile.TemporaryDirectory() as scratch:
        source = open_source(text, scratch)
        try:
            yield source
        finally:
            source.close()
        assert os.listdir(scratch) == []
    assert set(os.listdir("/proc/self/fd")) == before


def found(text: str) -> tuple[FoundImage, list[bytes]]:
    """Return the image of the source *text*, and the content of its layers."""
    with opened(text) as source:
        image = find_image(source, host_platform())
        return image, [copied(source, number, image) for number in range(len(image.manifest.layers))]


def copied(source: ImageSource, number: int, image: FoundImage) -> bytes:
    """Return the content of a layer as `ImageSource.copy` writes it over older content."""
    with tempfile.TemporaryFile() as target:
        target.write(b"older content" * 9)
        target.flush()
        seen: list[int] = []
        source.copy(image.manifest.layers[number], target.fileno(), seen.append)
        assert sum(seen) == image.manifest.layers[number].size
        target.seek(0)
        return target.read()


def refused(text: str) -> str:
    """Read the image of the source *text*, which must be refused, and return the message."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ImageError) as caught:
        found(text)
    assert caught.value.hint
    assert caught.value.message.startswith(text.partition(":")[0] + ":")
    assert set(os.listdir("/proc/self/fd")) == before
    return caught.value.message

"""From the text of an argument or a layer to a source of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.images.transports.opening import open_source, split_reference
from sandbox.spec.load import parse

A = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("kind", "text", "path", "reference"),
    [
        ("oci", "/lay", "/lay", ""),
        ("oci", "/lay:1.0", "/lay", "1.0"),
        ("oci", "/a:b/lay", "/a:b/lay", ""),
        ("oci", "/a:b/lay:t", "/a:b/lay", "t"),
        ("oci", f"/lay:{A}", "/lay", A),
        ("docker-archive", "/image.tar", "/image.tar", ""),
        ("docker-archive", "/image.tar:debian:13", "/image.tar", "debian:13"),
        ("docker-archive", "/image.tar:host:5000/a/b:1", "/image.tar", "host:5000/a/b:1"),
    ],
)
def test_arguments_and_layers_are_split_in_the_same_way(
    kind: str, text: str, path: str, reference: str
) -> None:
    assert split_reference(kind, text) == (path, reference)
    spec = parse(f'[root]\nlayers = ["{kind}:{text}"]\n'.encode(), path="t.toml", environ={})
    (layer,) = spec.root.layers
    assert (layer.kind, layer.path, layer.reference) == (kind, path, reference)
    assert layer.shown() == f"{kind}:{text}"


@pytest.mark.parametrize("text", ["", "debian", "./lay", "tar:./base.tar", "dir:/", "image:debian"])
def test_what_is_no_source_of_images_is_refused_with_the_forms(text: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        open_source(text, str(tmp_path))
    assert "oci:PATH" in str(caught.value.hint)

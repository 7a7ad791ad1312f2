"""Archives of images have what the image has, and equal images give equal archives."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.images.oci.archive_writers import write_docker_archive, write_oci_archive
from sandbox.images.oci.image_content import ImageContent
from sandbox.images.oci.layout_writer import write_layout
from tests.unit.sandbox.images.oci.layer_streams import file
from tests.unit.sandbox.images.oci.sample_images import LOWER, MemoryBlobs, image
from unionfs._stdlib.dataclasses import replace


def oci_archive(content: ImageContent, tag: str | None = "t") -> bytes:
    output = io.BytesIO()
    write_oci_archive(output, content, tag)
    return output.getvalue()


def docker_archive(content: ImageContent, *references: str) -> bytes:
    output = io.BytesIO()
    write_docker_archive(output, content, references)
    return output.getvalue()


def members(archive: bytes) -> dict[str, bytes]:
    """Return the files in *archive*, in their order, after the headers were compared with the expected ones."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)
            assert member.mode == (0o755 if member.isdir() else 0o644)
            assert member.name not in found
            if member.isreg():
                found[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize("docker", [False, True])
def test_an_oci_archive_is_the_tar_of_the_layout(docker: bool, tmp_path: Path) -> None:
    content, _ = image(tmp_path, docker=docker)
    write_layout(str(tmp_path / "layout"), content, "t")
    layout = {
        str(path.relative_to(tmp_path / "layout")): path.read_bytes()
        for path in (tmp_path / "layout").rglob("*")
        if path.is_file()
    }
    found = members(oci_archive(content))
    assert found == layout
    assert list(found) == sorted(found)


def test_a_docker_archive_has_the_layers_uncompressed(tmp_path: Path) -> None:
    content, blobs = image(tmp_path)
    plain, _ = image(tmp_path, compression="")
    found = members(docker_archive(content, "localhost/a:1", "b:2"))
    config = blobs.by_digest[str(content.manifest.config.digest)]
    layers = [f"{diff_id.hex}.tar" for diff_id in content.config().diff_ids]
    assert json.loads(found["manifest.json"]) == [
        {
            "Config": f"{content.manifest.config.digest.hex}.json",
            "RepoTags": ["localhost/a:1", "b:2"],
            "Layers": layers,
        }
    ]
    assert list(found) == ["manifest.json", f"{content.manifest.config.digest.hex}.json", *layers]
    assert found[f"{content.manifest.config.digest.hex}.json"] == config
    assert [hashlib.sha256(found[layer]).hexdigest() + ".tar" for layer in layers] == layers
    assert [len(found[layer]) for layer in layers] == [layer.size for layer in plain.manifest.layers]


def test_a_docker_archive_does_not_depend_on_the_compression(tmp_path: Path) -> None:
    layers = [
        dict(members(docker_archive(image(tmp_path, compression=each)[0])).items())
        for each in ("", "gzip", "zstd")
    ]
    assert layers[0] == layers[1] == layers[2]


def test_equal_images_give_equal_archives(tmp_path: Path) -> None:
    one, _ = image(tmp_path)
    two, _ = image(tmp_path)
    assert oci_archive(one) == oci_archive(two)
    assert docker_archive(one, "a:b") == docker_archive(two, "a:b")


def test_equal_layers_are_written_once(tmp_path: Path) -> None:
    content, blobs = image(tmp_path, changes=(LOWER, [file(b"other")], LOWER))
    found = members(docker_archive(content))
    listed = json.loads(found["manifest.json"])[0]["Layers"]
    assert (len(listed), len(set(listed)), len(found)) == (3, 2, 4)
    assert len(members(oci_archive(content))) == 2 + 1 + len(blobs.by_digest)


def test_an_image_without_layers_is_written(tmp_path: Path) -> None:
    content, _ = image(tmp_path, changes=())
    assert json.loads(members(docker_archive(content))["manifest.json"])[0]["Layers"] == []
    assert len(members(oci_archive(content, None))) == 4


def damaged(content: ImageContent, blobs: MemoryBlobs, digest: str) -> ImageContent:
    whole = blobs.by_digest[digest]
    other = MemoryBlobs()
    other.by_digest = {**blobs.by_digest, digest: whole[:-1] + bytes([whole[-1] ^ 1])}
    return replace(content, blobs=other)


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_a_damaged_blob_is_refused_by_its_digest(compression: str, tmp_path: Path) -> None:
    content, blobs = image(tmp_path, compression=compression)
    for part in (content.manifest.config, content.manifest.layers[1]):
        broken = damaged(content, blobs, str(part.digest))
        for write in (oci_archive, docker_archive):
            with pytest.raises(ImageError, match=part.digest.hex):
                write(broken)


def test_a_layer_with_another_diff_id_is_refused(tmp_path: Path) -> None:
    content, blobs = image(tmp_path)
    config = content.config()
    other = blobs.add(
        content.manifest.config.media_type, replace(config, diff_ids=config.diff_ids[::-1]).encode()
    )
    broken = ImageContent.of("it", replace(content.manifest, config=other), blobs)
    with pytest.raises(ImageError, match=f"layer {content.manifest.layers[0].digest} has the diff id"):
        docker_archive(broken)


def test_another_number_of_diff_ids_is_refused(tmp_path: Path) -> None:
    content, _ = image(tmp_path)
    broken = replace(content, manifest=replace(content.manifest, layers=content.manifest.layers[:1]))
    with pytest.raises(ImageError, match="has 1 layers, but its configuration has 2 diff ids"):
        docker_archive(broken)


def test_a_configuration_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    content, blobs = image(tmp_path)
    config = replace(content.manifest.config, size=(4 << 20) + 1)
    broken = replace(content, manifest=replace(content.manifest, config=config))
    with pytest.raises(ImageError, match="configuration of more than 4194304 bytes"):
        docker_archive(broken)
    assert blobs.reads == {}


@pytest.mark.parametrize(
    "reference", ["", "a", "a:", "A:b", "a/:b", "host:x/a:b", "a:b c", "a:b\n", "../a:b", "a:" + "b" * 129]
)
def test_what_is_no_name_with_a_tag_is_refused_before_anything_is_written(
    reference: str, tmp_path: Path
) -> None:
    output = io.BytesIO()
    with pytest.raises(ImageError, match="is not a name with a tag"):
        write_docker_archive(output, image(tmp_path)[0], [reference])
    assert output.getvalue() == b""


@pytest.mark.parametrize(
    "reference", ["a:b", "localhost/a/b:v1.2_x", "host.example:5000/a__b/c--d:T", "x/y.z:1"]
)
def test_names_with_tags_are_taken(reference: str, tmp_path: Path) -> None:
    [listed] = json.loads(members(docker_archive(image(tmp_path)[0], reference))["manifest.json"])
    assert listed["RepoTags"] == [reference]

"""Archives of docker save: every form that tools write, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sandbox.images.importing import host_platform
from sandbox.images.transports.image_source import find_image
from tests.support.images import Image, digest_of, docker_files, tar_of
from tests.unit.sandbox.images.transports.sources import found, opened, refused

ONE = Image(layers=(tar_of({"one": b"1" * 99999}), tar_of({"two": b"2"})), config={"Cmd": ["one"]})
TWO = Image(layers=(tar_of({"two": b"2"}),))
Files = dict[str, bytes | str | None]


def write(path: Path, files: Files, *, compressed: bool = False) -> Path:
    content = tar_of(files)
    path.write_bytes(gzip.compress(content) if compressed else content)
    return path


def entries(files: Files) -> list[dict[str, Any]]:
    content = files["manifest.json"]
    assert isinstance(content, bytes)
    return list(json.loads(content))


def with_entry(files: Files, **changes: Any) -> Files:
    (entry,) = entries(files)
    return {**files, "manifest.json": json.dumps([entry | changes]).encode()}


@pytest.mark.parametrize("compressed", [False, True])
def test_an_image_is_read_and_gets_the_same_digest_each_time(compressed: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "image.tar", docker_files(ONE), compressed=compressed)
    image, layers = found(f"docker-archive:{path}")
    assert layers == list(ONE.layers)
    assert [str(layer.digest) for layer in image.manifest.layers] == [digest_of(one) for one in ONE.layers]
    assert image.config.process.cmd == ("one",)
    again = write(tmp_path / "again.tar", docker_files(ONE, ["other:1"]), compressed=not compressed)
    assert found(f"docker-archive:{again}")[0].descriptor == image.descriptor


def test_the_layers_of_skopeo_are_links_to_their_files(tmp_path: Path) -> None:
    files = docker_files(ONE)
    for number in range(2):
        files[f"{digest_of(ONE.layers[number])[7:]}.tar"] = files.pop(f"{number}/layer.tar")
        files[f"{number}/layer.tar"] = f"-> ../{digest_of(ONE.layers[number])[7:]}.tar"
    assert found(f"docker-archive:{write(tmp_path / 'image.tar', files)}")[1] == list(ONE.layers)


def test_hard_links_and_later_members_of_one_name_are_as_for_tar(tmp_path: Path) -> None:
    files = {"0/layer.tar": b"an older member", **docker_files(ONE)}
    files["1/layer.tar"] = "=> kept.tar"
    files["kept.tar"] = ONE.layers[1]
    assert found(f"docker-archive:{write(tmp_path / 'image.tar', files)}")[1] == list(ONE.layers)


def test_layers_in_blobs_that_are_compressed_are_read(tmp_path: Path) -> None:
    blobs = ONE.blobs()
    files = docker_files(ONE)
    for number, blob in enumerate(blobs):
        del files[f"{number}/layer.tar"]
        files[f"blobs/sha256/{digest_of(blob)[7:]}"] = blob
    files = with_entry(files, Layers=[f"blobs/sha256/{digest_of(blob)[7:]}" for blob in blobs])
    image, layers = found(f"docker-archive:{write(tmp_path / 'image.tar', files)}")
    assert layers == blobs
    assert [str(layer.digest) for layer in image.manifest.layers] == list(map(digest_of, blobs))


@pytest.mark.parametrize("name", ["one:1", "docker.io/library/one:1", "one", "host:5000/sub/one:2"])
def test_an_image_is_chosen_by_its_name(name: str, tmp_path: Path) -> None:
    files = docker_files(ONE, ["one:1", "one:latest", "host:5000/sub/one:2"])
    other = docker_files(TWO, ["two:1"])
    other = with_entry(other | {"two.tar": other.pop("0/layer.tar")}, Layers=["two.tar"])
    both = json.dumps(entries(other) + entries(files)).encode()
    path = write(tmp_path / "image.tar", {**other, **files, "manifest.json": both})
    assert found(f"docker-archive:{path}:{name}")[1] == list(ONE.layers)
    assert "has more than one image" in refused(f"docker-archive:{path}")
    assert "has no image three:1" in refused(f"docker-archive:{path}:three:1")


@pytest.mark.parametrize("names", [[], None])
def test_an_image_without_names_is_read(names: list[str] | None, tmp_path: Path) -> None:
    files = with_entry(docker_files(ONE), RepoTags=names)
    assert found(f"docker-archive:{write(tmp_path / 'image.tar', files)}")[1] == list(ONE.layers)


def test_an_unpacked_archive_is_read(tmp_path: Path) -> None:
    for name, content in docker_files(ONE).items():
        assert isinstance(content, bytes)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert found(f"docker-archive:{tmp_path}")[1] == list(ONE.layers)


@pytest.mark.parametrize("key", ["Config", "Layers"])
@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/hostname", "link/secret"])
def test_paths_that_lead_out_of_an_unpacked_archive_are_refused(key: str, path: str, tmp_path: Path) -> None:
    directory = tmp_path / "archive"
    directory.mkdir()
    (directory / "a").mkdir()
    (directory / "link").symlink_to(tmp_path)
    (tmp_path / "secret").write_bytes(ONE.layers[0] if key == "Layers" else ONE.config_content())
    files = with_entry(docker_files(ONE), **{key: [path, path] if key == "Layers" else path})
    for name, content in files.items():
        assert isinstance(content, bytes)
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)
    assert refused(f"docker-archive:{directory}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"manifest.json": None}, "has no manifest.json, so it is no archive of `docker save`"),
        ({"manifest.json": b"[]"}, "has no image"),
        ({"manifest.json": b"{}"}, "not an array"),
        ({"manifest.json": b"[" * 200_000 + b"]" * 200_000}, "JSON nested more than 64 deep"),
        ({"manifest.json": b'[], "x": ['}, "not valid JSON"),
        ({"manifest.json": b" " * (5 << 20)}, "more than 4194304"),
        ({"0/layer.tar": "-> nowhere"}, "the layer 0/layer.tar is missing"),
        ({"0/layer.tar": "-> layer.tar"}, "too many symbolic links"),
        ({"0/layer.tar": None}, "the layer 0/layer.tar is missing"),
        ({"0/layer.tar": b"other"}, "has the digest"),
    ],
)
def test_a_damaged_or_hostile_archive_is_refused(changes: Files, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "image.tar", docker_files(ONE) | changes)
    assert message in refused(f"docker-archive:{path}")


def test_another_number_of_layers_is_refused(tmp_path: Path) -> None:
    files = with_entry(docker_files(ONE), Layers=["0/layer.tar"])
    path = write(tmp_path / "image.tar", files)
    message = "manifest.json has 1 layers, but the configuration has 2"
    assert message in refused(f"docker-archive:{path}")


@pytest.mark.parametrize("size", [100, 512, 60000, -1025])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_archive_is_refused(compressed: bool, size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "image.tar", docker_files(ONE), compressed=compressed)
    whole = path.stat().st_size
    os.truncate(path, size if 0 < size < whole else whole - 10 if compressed else whole - 9 * 1024)
    assert refused(f"docker-archive:{path}")


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.images.transports.files._MEMBERS", 3)
    path = write(tmp_path / "image.tar", docker_files(ONE))
    assert "more than 3 members" in refused(f"docker-archive:{path}")


def test_an_archive_with_too_long_names_is_refused(tmp_path: Path) -> None:
    names = {f"{number}" + "x" * 60_000: b"" for number in range(150)}
    path = write(tmp_path / "image.tar", {**names, **docker_files(ONE)})
    assert "the names of its members have more than 8388608 bytes" in refused(f"docker-archive:{path}")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.images.transports.files.FREE_EXPANSION", 1 << 20)
    path = write(tmp_path / "image.tar", {"zeros": bytes(64 << 20), **docker_files(ONE)}, compressed=True)
    assert "as a decompression bomb does" in refused(f"docker-archive:{path}")


def test_a_cancelled_copy_ends_with_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "image.tar", docker_files(ONE))
    with opened(f"docker-archive:{path}") as source, open(tmp_path / "target", "wb") as target:
        image = find_image(source, host_platform())
        source.cancel()
        with pytest.raises(Exception, match="cancelled"):
            source.copy(image.manifest.layers[0], target.fileno(), lambda _count: None)
    assert (tmp_path / "target").read_bytes() == b""

"""`sandbox commit` and `sandbox export`: an image has what the sandbox shows, here and in other tools."""

from __future__ import annotations

import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.images import (
    LARGE,
    base,
    change,
    check_store,
    layout,
    shown,
    spec,
    succeed,
)
from tests.e2e.support import PYTHON, Launcher, first_line, sandbox

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.umoci]

#: A change that depends on no kind of layer.
SMALL = "open('/data/small', 'w').write('small')"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return the archive of `base`."""
    return base(tmp_path / "base.tar")


def imported(launcher: Launcher, archive: Path, name: str = "base:1") -> str:
    """Add the image of *archive*, which umoci makes, to the store as *name*; return the digest of its manifest."""
    image = layout(launcher.directory / "layout", archive)
    return str(succeed(launcher, "image", "import", f"oci:{image}", name)["digest"])


def blob(launcher: Launcher, digest: str) -> Path:
    return launcher.state / "images" / "blobs" / digest.replace(":", "/")


def documents(launcher: Launcher, digest: str) -> tuple[Any, Any]:
    """Return the manifest and the configuration of an image of the store."""
    manifest = json.loads(blob(launcher, digest).read_text())
    return manifest, json.loads(blob(launcher, manifest["config"]["digest"]).read_text())


def members(launcher: Launcher, layer: dict[str, Any]) -> list[tarfile.TarInfo]:
    with tarfile.open(blob(launcher, layer["digest"])) as tar:
        return tar.getmembers()


def again(image: str) -> str:
    """Return an environment file of the image *image* alone, to look at it."""
    return spec(f"image:{image}", name="again", writable="ephemeral")


# -- what is committed is what the sandbox showed ----------------------------------------------------------


def test_an_image_of_a_persistent_sandbox_over_an_image_shows_the_same_tree(
    launcher: Launcher, archive: Path
) -> None:
    lower = imported(launcher, archive)
    text = spec("image:base:1")
    change(launcher, text)
    expected = shown(launcher, text)
    digest = succeed(launcher, "commit", "box", "made:1")["digest"]
    assert shown(launcher, again("made:1")) == expected

    below, _ = documents(launcher, lower)
    manifest, config = documents(launcher, digest)
    assert manifest["layers"][:-1] == below["layers"]
    assert (config["config"]["Env"], config["config"]["Cmd"]) == (["OF=umoci"], ["/opt/sh"])
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]) == 2
    assert len([step for step in config["history"] if not step.get("empty_layer")]) == 2
    assert config["history"][-1]["created_by"] == "sandbox commit box"
    check_store(launcher)


def test_a_layer_has_whole_files_every_name_of_a_link_and_no_mark_of_a_union(
    launcher: Launcher, archive: Path
) -> None:
    imported(launcher, archive)
    change(launcher, spec("image:base:1"))
    manifest, _ = documents(launcher, succeed(launcher, "commit", "box", "made")["digest"])
    found = {member.name: member for member in members(launcher, manifest["layers"][-1])}
    with tarfile.open(blob(launcher, manifest["layers"][-1]["digest"])) as tar:
        assert tar.extractfile(found["data/mode"]).read() == LARGE  # type: ignore[union-attr]
    names = [name for name in ("name", "other", "third") if f"data/{name}" in found]
    assert names == ["name", "other", "third"]
    assert {found[f"data/{name}"].linkname for name in names} == {"", "data/name"}
    assert "data/elsewhere/kept" in found
    assert "data/.wh.moved" in found
    assert "data/.wh.gone" in found
    assert "data/socket" not in found
    assert {
        name
        for member in found.values()
        for name in member.pax_headers
        if "xattr" in name and name != "SCHILY.xattr.user.mine"
    } == set()
    assert not any("work" in name or name.startswith("usr/") for name in found), found


@pytest.mark.twice
def test_a_committed_layer_is_no_larger_than_its_changes_compressed(
    launcher: Launcher, archive: Path
) -> None:
    imported(launcher, archive)
    data = os.urandom(300_000) + bytes(700_000)
    (launcher.directory / "data").write_bytes(data)
    program = "import os; open('/data/big', 'wb').write(os.urandom(300_000) + bytes(700_000))"
    change(launcher, spec("image:base:1"), program)
    for compression in ("gzip", "zstd"):
        manifest, _ = documents(
            launcher, succeed(launcher, "commit", "box", "made", "--compression", compression)["digest"]
        )
        layer = manifest["layers"][-1]
        assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar+{compression}"
        assert layer["size"] < len(zlib.compress(data)) + 1000
        assert shown(launcher, again("made"))[b"big"].size == len(data)


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_an_archive_below_becomes_a_layer_as_it_is(
    launcher: Launcher, tmp_path: Path, compression: str
) -> None:
    archive = base(tmp_path / "base.tar", compression)
    text = spec(f"tar:{archive}")
    change(launcher, text)
    expected = shown(launcher, text)
    manifest, config = documents(launcher, succeed(launcher, "commit", "box", "made")["digest"])
    assert shown(launcher, again("made")) == expected
    assert manifest["layers"][0]["mediaType"].endswith(f".tar{compression and '+'}{compression}")
    assert blob(launcher, manifest["layers"][0]["digest"]).read_bytes() == archive.read_bytes()
    assert config["history"][0]["created_by"] == "tar:base.tar"
    check_store(launcher)


@pytest.mark.twice
def test_images_and_archives_are_mixed_and_the_topmost_image_gives_the_configuration(
    launcher: Launcher, archive: Path, tmp_path: Path
) -> None:
    lower = imported(launcher, archive)
    (tmp_path / "over").mkdir()
    with tarfile.open(tmp_path / "over.tar", "w") as tar:
        info = tarfile.TarInfo("data/over")
        tar.addfile(info)
    text = spec(f"tar:{archive}", "image:base:1", f"tar:{tmp_path}/over.tar")
    change(launcher, text, SMALL)
    expected = shown(launcher, text)
    manifest, config = documents(launcher, succeed(launcher, "commit", "box", "made")["digest"])
    below, _ = documents(launcher, lower)
    assert shown(launcher, again("made")) == expected
    assert len(manifest["layers"]) == 4
    assert manifest["layers"][1] == below["layers"][0]
    assert config["config"]["Env"] == ["OF=umoci"]


@pytest.mark.twice
def test_an_image_that_is_a_layer_twice_stays_so(launcher: Launcher, archive: Path, tmp_path: Path) -> None:
    imported(launcher, archive)
    with tarfile.open(tmp_path / "over.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("data/.wh.changed"))
    text = spec("image:base:1", f"tar:{tmp_path}/over.tar", "image:base:1")
    change(launcher, text, SMALL)
    expected = shown(launcher, text)
    assert b"changed" in expected
    manifest, _ = documents(launcher, succeed(launcher, "commit", "box", "made")["digest"])
    assert len(manifest["layers"]) == 4
    assert shown(launcher, again("made")) == expected


@pytest.mark.twice
def test_kept_changes_and_a_running_sandbox_are_committed(launcher: Launcher, archive: Path) -> None:
    imported(launcher, archive)
    text = spec("image:base:1", writable="ephemeral")
    change(launcher, text, SMALL, "--keep-changes")
    kept = succeed(launcher, "commit", "box", "kept")["digest"]
    assert sandbox(launcher, "discard", "box").status == 0
    program = f"{SMALL}\nimport time; print('ready', flush=True); time.sleep(60)"
    with launcher.start(text, [PYTHON, "-c", program]) as supervisor:
        assert first_line(supervisor) == "ready"
        running = succeed(launcher, "commit", "box", "running")["digest"]
    assert shown(launcher, again("kept"))[b"small"].data == b"small"
    assert shown(launcher, again("running"))[b"small"].data == b"small"
    assert kept != running
    check_store(launcher)


@pytest.mark.twice
def test_changes_of_before_and_after_a_snapshot_and_those_of_a_fork_are_committed_as_one_layer(
    launcher: Launcher, archive: Path
) -> None:
    imported(launcher, archive)
    text = spec("image:base:1")
    change(launcher, text)
    assert sandbox(launcher, "snapshot", "box", "first").status == 0
    program = "import os; os.chdir('/data'); os.unlink('new/file'); os.rmdir('new'); os.chmod('elsewhere/kept', 0o600)"
    change(launcher, text, program)
    expected = shown(launcher, text)
    assert sandbox(launcher, "fork", "box", "other").status == 0
    digests = [succeed(launcher, "commit", name, name)["digest"] for name in ("box", "other")]
    manifests = [documents(launcher, digest)[0] for digest in digests]
    assert len(manifests[0]["layers"]) == 2
    assert manifests[0]["layers"] == manifests[1]["layers"]
    assert shown(launcher, again("other")) == expected


@pytest.mark.twice
def test_a_sandbox_without_changes_is_the_image_that_it_began_with(launcher: Launcher, archive: Path) -> None:
    lower = imported(launcher, archive)
    assert launcher.up(spec("image:base:1"), [PYTHON, "-c", ""]).status == 0
    manifest, _ = documents(launcher, succeed(launcher, "commit", "box", "made")["digest"])
    assert manifest["layers"] == documents(launcher, lower)[0]["layers"]


# -- what cannot be a layer ---------------------------------------------------------------------------------


def test_a_directory_below_is_refused_and_with_flatten_included(
    launcher: Launcher, archive: Path, tmp_path: Path
) -> None:
    imported(launcher, archive)
    (tmp_path / "over" / "data").mkdir(parents=True)
    (tmp_path / "over" / "data" / "of-directory").write_text("directory")
    text = spec("image:base:1", f"dir:{tmp_path}/over")
    change(launcher, text)
    expected = shown(launcher, text)
    refused = sandbox(launcher, "commit", "box", "made")
    assert refused.status == 125
    assert f"dir:{tmp_path}/over is a directory of this machine" in refused.err
    assert "--flatten" in refused.err
    manifest, config = documents(launcher, succeed(launcher, "commit", "--flatten", "box", "made")["digest"])
    assert shown(launcher, again("made")) == expected
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) == len(config["history"]) == 1
    assert (config["config"]["Env"], config["config"]["Cmd"]) == (["OF=umoci"], ["/opt/sh"])
    assert not any(member.name.startswith("usr/") for member in members(launcher, manifest["layers"][0]))
    check_store(launcher)


@pytest.mark.once
def test_an_archive_with_a_compression_that_images_cannot_have_is_refused(
    launcher: Launcher, tmp_path: Path
) -> None:
    archive = base(tmp_path / "base.tar.xz", "xz")
    change(launcher, spec(f"tar:{archive}"), SMALL)
    refused = sandbox(launcher, "commit", "box", "made")
    assert refused.status == 125
    assert f"tar:{archive}: layers of images cannot have its compression" in refused.err
    assert succeed(launcher, "image", "ls") == []
    succeed(launcher, "commit", "--flatten", "box", "made")
    assert shown(launcher, again("made"))[b"small"].data == b"small"


@pytest.mark.once
def test_an_archive_that_was_replaced_is_refused(launcher: Launcher, archive: Path, tmp_path: Path) -> None:
    change(launcher, spec(f"tar:{archive}"), SMALL)
    base(archive, more=b"other")
    refused = sandbox(launcher, "commit", "box", "made")
    assert refused.status == 125
    assert f"tar:{archive} has changed since the sandbox began with it" in refused.err
    archive.unlink()
    refused = sandbox(launcher, "commit", "box", "made")
    assert refused.status == 125
    assert f"tar:{archive}: no such file" in refused.err
    check_store(launcher)


@pytest.mark.once
def test_text_that_is_no_utf_8_and_times_that_are_none(launcher: Launcher, archive: Path) -> None:
    real = os.fsdecode(os.fsencode(archive.parent) + b"/real-\xff.tar")
    os.rename(archive, real)
    archive.symlink_to(real)
    change(launcher, spec(f"tar:{archive}"), SMALL)
    comment = os.fsdecode(b"a\xffb")
    _, config = documents(
        launcher, succeed(launcher, "commit", "--comment", comment, "box", "made")["digest"]
    )
    assert [step["created_by"] for step in config["history"]] == ["tar:real-\ufffd.tar", "sandbox commit box"]
    assert config["history"][1]["comment"] == "a\ufffdb"
    for wrong in ("soon", "-1", "1e9", "\u0665", "9" * 5000, "253402300800"):
        refused = sandbox(launcher, "commit", "box", "made", environ={"SOURCE_DATE_EPOCH": wrong})
        assert refused.status == 125
        assert "SOURCE_DATE_EPOCH is" in refused.err
    latest = succeed(launcher, "commit", "box", "made", SOURCE_DATE_EPOCH="253402300799")
    assert documents(launcher, latest["digest"])[1]["created"] == "9999-12-31T23:59:59Z"
    check_store(launcher)

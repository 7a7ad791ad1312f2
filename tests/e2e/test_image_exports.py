"""Images that are exported have the tree of the sandbox in other tools, equal digests at any time and place, and come whole or not."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.images import ROOT, base, change, check_store, layout, process, run, shown, spec, succeed
from tests.e2e.support import PYTHON, Launcher, sandbox
from tests.support.podman import Podman, listed
from tests.support.tree import Entry, snapshot

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.umoci]

SMALL = "open('/data/small', 'w').write('small')"


@pytest.fixture
def text(launcher: Launcher) -> str:
    """Return the environment file of a sandbox over an image in the store, without changes yet."""
    image = layout(launcher.directory / "layout", base(launcher.directory / "base.tar"))
    succeed(launcher, "image", "import", f"oci:{image}", "base:1")
    return spec("image:base:1")


def as_umoci_unpacks(tree: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """Return *tree* with what umoci unpacks for this account: an ordinary user gets no owners."""
    return {
        path: replace(
            entry,
            uid=entry.uid if ROOT else None,
            gid=entry.gid if ROOT else None,
            xattrs={name: value for name, value in entry.xattrs.items() if name != "user.rootlesscontainers"},
        )
        for path, entry in tree.items()
    }


def test_umoci_unpacks_an_exported_layout_to_the_tree_of_the_sandbox_and_its_tags_stay(
    launcher: Launcher, text: str, tmp_path: Path
) -> None:
    change(launcher, text)
    digest = succeed(launcher, "export", "box", f"oci:{tmp_path}/layout:2")["digest"]
    assert set(run("umoci", "ls", "--layout", tmp_path / "layout").split()) == {"1", "2"}
    assert [image["name"] for image in succeed(launcher, "image", "ls")] == ["base:1"]
    check_store(launcher)
    rootless = [] if ROOT else ["--rootless"]
    run("umoci", "unpack", *rootless, "--image", f"{tmp_path}/layout:2", tmp_path / "bundle")
    found = snapshot(tmp_path / "bundle" / "rootfs" / "data", nlink=True, mtime=True)
    assert as_umoci_unpacks(found) == as_umoci_unpacks(shown(launcher, text))
    index = json.loads((tmp_path / "layout" / "index.json").read_text())
    assert digest in [one["digest"] for one in index["manifests"]]


@pytest.mark.podman
@pytest.mark.busybox
@pytest.mark.twice
def test_podman_loads_and_runs_an_exported_image_with_the_same_tree(
    launcher: Launcher, text: str, podman: Podman, tmp_path: Path
) -> None:
    change(launcher, text)
    tree = shown(launcher, text)
    succeed(launcher, "export", "box", f"docker-archive:{tmp_path}/image.tar:localhost/made:1")
    podman("load", "--input", tmp_path / "image.tar")
    # Without a network and limits, podman needs no cgroup.
    run_here = ("run", "--rm", "--network", "none", "localhost/made:1", "/opt/busybox")
    assert podman(*run_here, "cat", "/data/elsewhere/kept") == "old moved/kept\n"
    podman("create", "--name", "it", "localhost/made:1")
    podman("export", "--output", tmp_path / "tree.tar", "it")
    podman("rm", "it")
    found = {
        path.removeprefix(b"data/"): entry
        for path, entry in listed(tmp_path / "tree.tar").items()
        if path.startswith(b"data/")
    }
    assert {path for path in found if path} == set(tree) - {b"."}
    for path, (mode, content) in found.items():
        entry = tree[path or b"."]
        assert mode == (entry.mode if entry.mode is not None else 0o777)
        if entry.type == "symlink":
            assert content == entry.target
        elif entry.type == "file" and (entry.size or 0) < 4096:
            assert content == entry.data


@pytest.mark.skopeo
@pytest.mark.twice
def test_skopeo_copies_what_is_exported_and_its_copies_are_imported_with_the_same_digests(
    launcher: Launcher, text: str, tmp_path: Path
) -> None:
    change(launcher, text, SMALL)
    made = succeed(launcher, "commit", "box", "made:1")["digest"]
    for kind in ("oci", "oci-archive", "docker-archive"):
        source = f"{kind}:{tmp_path}/{kind}.out:localhost/made:1"
        if kind != "docker-archive":
            source = f"{kind}:{tmp_path}/{kind}.out:1"
        exported = succeed(launcher, "export", "image:made:1", source)["digest"]
        copy = f"oci:{tmp_path}/copy-{kind}:1"
        run("skopeo", "--insecure-policy", "copy", source, copy)
        imported = succeed(launcher, "image", "import", copy, f"back:{kind}")["digest"]
        if kind != "docker-archive":
            assert exported == imported == made
        back = f"docker-archive:{tmp_path}/back-{kind}.tar:localhost/back:1"
        run("skopeo", "--insecure-policy", "copy", copy, back)
        succeed(launcher, "image", "import", back, f"again:{kind}")
        layers = [
            [layer["diff_id"] for layer in succeed(launcher, "image", "inspect", name)["layers"]]
            for name in ("made:1", f"back:{kind}", f"again:{kind}")
        ]
        assert layers[0] == layers[1] == layers[2]
    check_store(launcher)


@pytest.mark.twice
def test_equal_changes_have_equal_digests_at_other_times_places_umasks_and_stores(
    tmp_path: Path, archive_at_two_places: tuple[Path, Path]
) -> None:
    digests = set()
    for number, archive in enumerate(archive_at_two_places):
        directory = tmp_path / f"place-{number}"
        directory.mkdir()
        other = Launcher(directory)
        other.environ |= {"TZ": ("UTC", "Pacific/Chatham")[number]}
        before = os.umask((0o022, 0o077)[number])
        try:
            succeed(other, "image", "import", f"oci:{archive}", "base:1")
            # The times of the files are after SOURCE_DATE_EPOCH, which they are set to.
            change(other, spec("image:base:1"))
            for compression in ("gzip", "zstd"):
                made = succeed(
                    other,
                    *("commit", "box", "made", "--compression", compression),
                    SOURCE_DATE_EPOCH="1500000000",
                )
                digests.add((compression, made["digest"]))
        finally:
            os.umask(before)
    assert len(digests) == 2


@pytest.fixture
def archive_at_two_places(tmp_path: Path) -> tuple[Path, Path]:
    image = layout(tmp_path / "first", base(tmp_path / "base.tar"))
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    return Path(image), Path(f"{tmp_path}/second:1")


# -- destinations --------------------------------------------------------------------------------------------


@pytest.mark.once
def test_a_failed_export_leaves_no_file_and_the_old_archive(
    launcher: Launcher, text: str, tmp_path: Path
) -> None:
    change(launcher, text, SMALL)
    place = tmp_path / "place"
    place.mkdir()
    old = place / "old.tar"
    old.write_text("old")
    manifest = succeed(launcher, "image", "inspect", "base:1")
    layer = launcher.state / "images" / "blobs" / manifest["layers"][0]["digest"].replace(":", "/")
    content = layer.read_bytes()
    layer.write_bytes(content[:-100])
    for source, destination in (
        ("image:base:1", f"oci-archive:{old}:1"),
        ("box", f"docker-archive:{old}:a:1"),
        ("box", f"oci:{place}/layout:1"),
        ("image:base:1", f"oci-archive:{place}/no/such:1"),
        ("image:base:1", f"oci:{old}:1"),
    ):
        done = sandbox(launcher, "export", source, destination)
        assert done.status == 125, destination
        assert "Traceback" not in done.err
        assert done.err.count("sandbox: ") == 1
    assert old.read_text() == "old"
    assert [path.name for path in place.iterdir()] == ["old.tar"]
    layer.write_bytes(content)
    check_store(launcher)
    for destination in (f"oci-archive:{old}:1", f"docker-archive:{old}:a:1", f"oci:{place}/layout:1"):
        succeed(launcher, "export", "box", destination)
    with tarfile.open(old) as tar:
        assert "manifest.json" in tar.getnames()


@pytest.mark.once
def test_an_image_that_does_not_exist_and_what_an_image_has_not_are_refused(
    launcher: Launcher, text: str, tmp_path: Path
) -> None:
    change(launcher, text, SMALL)
    blobs = launcher.state / "images/blobs/sha256"
    before = os.stat(blobs).st_mtime_ns
    for arguments, message in {
        ("image:none", f"oci:{tmp_path}/out"): "the image store has no image none",
        ("nobody", f"oci:{tmp_path}/out"): "there is no writable layer of a sandbox nobody",
        ("box", "/data/small", f"oci:{tmp_path}/out"): "an image has the whole root",
        ("image:base:1", f"tar:{tmp_path}/out"): "is not an image",
        ("--flatten", "image:base:1", f"oci:{tmp_path}/out"): "--flatten",
        ("box", f"oci:{tmp_path}/out:a b"): "'a b' is not a tag",
        ("box", f"oci-archive:{tmp_path}/out:-"): "'-' is not a tag",
        ("box", f"docker-archive:{tmp_path}/out:Upper:1"): "'Upper:1' is not a name with a tag",
    }.items():
        done = sandbox(launcher, "export", *arguments)
        assert done.status == 125
        assert message in done.err
        # No image was made for it, which would have changed the directory of blobs.
        assert os.stat(blobs).st_mtime_ns == before
    assert not (tmp_path / "out").exists()
    for name in ("oci:made", "a b", "../made", "made@sha256:0", "-x"):
        assert sandbox(launcher, "commit", "box", "--", name).status == 125
    assert launcher.up(text, [PYTHON, "-c", ""]).status == 0


@pytest.mark.once
def test_exports_of_several_sandboxes_and_prune_at_once_do_not_disturb_each_other(
    launcher: Launcher, text: str, tmp_path: Path
) -> None:
    change(launcher, text)
    assert sandbox(launcher, "fork", "box", "other").status == 0
    with ExitStack() as undo:
        started = [
            undo.enter_context(process(launcher, "export", name, f"oci:{tmp_path}/{name}:1", "--json"))
            for name in ("box", "other", "box")
        ]
        while started[0].poll() is None:
            assert sandbox(launcher, "image", "prune").status == 0
        ended = [one.communicate() for one in started]
    assert [one.returncode for one in started] == [0, 0, 0], ended
    rootless = [] if ROOT else ["--rootless"]
    for name in ("box", "other"):
        run("umoci", "unpack", *rootless, "--image", f"{tmp_path}/{name}:1", tmp_path / f"unpacked-{name}")
    check_store(launcher)

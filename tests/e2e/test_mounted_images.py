"""Images whose layers are mounted instead of unpacked: a sandbox over them behaves as over the unpacked ones."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.images import base, change, check_store, shown, spec, succeed
from tests.e2e.support import Launcher, sandbox
from tests.e2e.test_changes import rows
from tests.support.images import Image, tar_of, write_layout
from tests.unit.sandbox.images.oci.test_other_tools import Podman

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: A second layer: whiteouts of a file and of a directory, an opaque directory, and a directory that it does not list.
UPPER = tar_of(
    {
        "data/.wh.deleted": b"",
        "data/.wh.gone": b"",
        "data/replaced/.wh..wh..opq": b"",
        "data/replaced/new": b"of the second layer",
        "data/moved/kept": b"of the second layer",
        "opt/more": b"more",
    },
    mtime=1_600_000_000,
)


@pytest.fixture
def image(launcher: Launcher) -> str:
    """Return an OCI layout with an image of two layers, with gzip, as `oci:` names it."""
    base(launcher.directory / "base.tar")
    content = (launcher.directory / "base.tar").read_bytes()
    config = {"Cmd": ["/bin/sh", "-c", "echo $OF; cat /opt/more"], "Env": ["OF=the image", "PATH=/bin"]}
    write_layout(launcher.directory / "layout", Image(layers=(content, UPPER), config=config))
    return f"{launcher.directory}/layout:t"


def mounted(image: str, **options: str) -> str:
    """Return an environment file with *image*, KIND = VALUE, mounted."""
    text = spec("PLACE", **options)
    kind, _, value = image.partition(":")
    return text.replace('"PLACE"', f'{{ {kind.replace("-", "_")} = "{value}", mount = true }}')


def of_kind(launcher: Launcher, image: str, kind: str) -> str:
    """Return *image* as a layer of *kind*."""
    if kind == "docker-archive":
        succeed(launcher, "image", "import", f"oci:{image}", "sample:1")
        done = sandbox(launcher, "export", "image:sample:1", f"docker-archive:{launcher.directory}/saved.tar")
        assert done.status == 0, done.err
        assert sandbox(launcher, "image", "rm", "sample:1").status == 0
        return f"docker-archive:{launcher.directory}/saved.tar"
    if kind == "image":
        succeed(launcher, "image", "import", f"oci:{image}", "sample:1")
        return "image:sample:1"
    return f"oci:{image}"


@pytest.mark.twice
@pytest.mark.parametrize("kind", ["oci", "docker-archive", "image"])
def test_a_mounted_image_looks_as_the_unpacked_one(launcher: Launcher, image: str, kind: str) -> None:
    source = of_kind(launcher, image, kind)
    unpacked = shown(launcher, spec(source, writable="ephemeral"))
    assert b"replaced/new" in unpacked
    assert not {b"deleted", b"gone", b"replaced/old"} & unpacked.keys()
    assert shown(launcher, mounted(source, writable="ephemeral")) == unpacked
    indexes = list(launcher.state.glob("images/layers/*/members"))
    assert len(indexes) == 2
    check_store(launcher)


@pytest.mark.once
def test_its_layers_are_not_unpacked_and_its_defaults_count(launcher: Launcher, image: str) -> None:
    text = mounted(f"oci:{image}", writable="none")
    done = launcher.up(text)
    assert (done.status, done.out) == (0, "the image\nmore"), done.err
    assert [list(tree.iterdir()) for tree in launcher.state.glob("images/layers/*/tree")] == [[], []]
    told = " ".join(sandbox(launcher, "explain", launcher.write(text)).out.split())
    assert "whose layers are mounted, not unpacked" in told
    locked = launcher.write(text)
    assert sandbox(launcher, "lock", locked).status == 0
    assert launcher.up(text, options=["--locked"]).out == "the image\nmore"


@pytest.mark.once
def test_a_blob_that_was_changed_is_refused_and_nothing_is_kept(launcher: Launcher, image: str) -> None:
    (largest,) = sorted(Path(f"{launcher.directory}/layout/blobs/sha256").iterdir(), key=_size)[-1:]
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    done = launcher.up(mounted(f"oci:{image}", writable="none"))
    assert done.status == 125
    assert largest.name in done.err
    assert list(launcher.state.glob("images/layers/*/members")) == []
    check_store(launcher)


def _size(path: Path) -> int:
    return path.stat().st_size


@pytest.mark.twice
def test_the_changes_over_it_are_listed_committed_and_last(launcher: Launcher, image: str) -> None:
    found = []
    for name, text in (
        ("unpacked", spec(f"oci:{image}", name="unpacked")),
        ("mounted", mounted(f"oci:{image}", name="mounted")),
    ):
        change(launcher, text, CHANGES)
        listed = rows(sandbox(launcher, "diff", name, "--json"))
        assert "/data/added" in str(listed)
        again = shown(launcher, text)
        made = succeed(launcher, "commit", name, f"{name}:1")
        layers = succeed(launcher, "image", "inspect", f"{name}:1")["layers"]
        found.append((listed, again, [layer["diff_id"] for layer in layers]))
        assert made["digest"]
        assert shown(launcher, spec(f"image:{name}:1", name="look", writable="ephemeral")) == again
    assert found[0] == found[1]
    for name in ("unpacked", "mounted"):
        done = sandbox(launcher, "export", name, "--changes", f"tar:{launcher.directory}/{name}.tar")
        assert done.status == 0, done.err


CHANGES = """
import os
os.chdir("/data")
open("changed", "a").write("more")
open("added", "w").write("added")
os.unlink("file-then-directory")
os.chmod("mode", 0o600)
os.rename("replaced/new", "renamed")
os.utime("added", (1, 1)); os.utime("changed", (1, 1)); os.utime("replaced", (1, 1)); os.utime(".", (1, 1))
"""


@pytest.mark.once
def test_a_kept_layer_over_it_keeps_the_image_in_the_store(launcher: Launcher, image: str) -> None:
    succeed(launcher, "image", "import", f"oci:{image}", "sample:1")
    text = mounted("image:sample:1")
    change(launcher, text, "open('/data/added', 'w').write('x')")
    done = sandbox(launcher, "image", "rm", "sample:1")
    assert done.status != 0
    assert "in use by layer:box" in done.err
    assert sandbox(launcher, "image", "prune").status == 0
    assert rows(sandbox(launcher, "diff", "box", "--json"))
    assert sandbox(launcher, "rm", "layer:box").status == 0
    assert sandbox(launcher, "image", "rm", "sample:1").status == 0
    assert list(launcher.state.glob("images/layers/*/members")) == []


@pytest.mark.once
@pytest.mark.skopeo
def test_an_image_in_large_pieces_is_refused_with_a_command_that_makes_one_that_can_be_mounted(
    launcher: Launcher,
) -> None:
    base(launcher.directory / "base.tar")
    content = (launcher.directory / "base.tar").read_bytes()
    large = tar_of({"data/": None, "data/large": random.Random(1).randbytes(20 << 20), "data/x": b"x"})
    write_layout(launcher.directory / "layout", Image(layers=(content, large)))
    text = mounted(f"oci:{launcher.directory}/layout:t", writable="ephemeral")
    done = launcher.up(text, ["true"])
    assert done.status == 125
    assert "its files cannot be read where they are" in done.err
    (command,) = re.findall(r"in such pieces: (.*); or remove", done.err)
    subprocess.run(
        ["sh", "-ec", command.replace("skopeo", "skopeo --insecure-policy")],
        check=True,
        cwd=launcher.directory,
        capture_output=True,
    )
    again = mounted(f"oci:{launcher.directory}/seekable:1", writable="ephemeral")
    unpacked = spec(f"oci:{launcher.directory}/layout:t", writable="ephemeral")
    assert shown(launcher, again) == shown(launcher, unpacked)
    check_store(launcher)


@pytest.fixture
def podman() -> Iterator[Podman]:
    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))
    found = Podman(directory)
    try:
        yield found
    finally:
        found.end()
        shutil.rmtree(directory)


@pytest.mark.once
@pytest.mark.podman
def test_an_image_that_podman_pushed_as_zstd_chunked_is_mounted(
    launcher: Launcher, image: str, podman: Podman
) -> None:
    podman("pull", f"oci:{image}")
    name = podman("images", "--quiet").strip()
    target = f"oci:{launcher.directory}/pushed:1"
    podman("push", "--compression-format", "zstd:chunked", "--force-compression", name, target)
    manifest = _manifest(launcher.directory / "pushed")
    assert {layer["mediaType"].rpartition("+")[2] for layer in manifest["layers"]} == {"zstd"}
    assert shown(launcher, mounted(target, writable="ephemeral")) == shown(
        launcher, spec(f"oci:{image}", writable="ephemeral")
    )


def _manifest(layout_path: Path) -> dict[str, list[dict[str, str]]]:
    index = json.loads((layout_path / "index.json").read_text())
    digest = index["manifests"][0]["digest"].partition(":")[2]
    found: dict[str, list[dict[str, str]]] = json.loads((layout_path / "blobs/sha256" / digest).read_text())
    return found

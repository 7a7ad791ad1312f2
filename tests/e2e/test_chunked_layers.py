"""Layers in the format zstd:chunked: podman fetches single files of them, and every other reader takes them for zstd."""

from __future__ import annotations

import hashlib
import json
import random
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.building import Project, T
from tests.e2e.images import CHANGE, LARGE, base, change, layout, run, shown, spec, succeed
from tests.e2e.support import Launcher, sandbox
from tests.support.podman import Podman, listed
from tests.support.requirements import require, why_no_whiteouts
from tests.unit.sandbox.images.registry.docker_registry import running

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

CHUNKED = "zstd:chunked"
POSITION = "io.github.containers.zstd-chunked.manifest-position"
BIG = random.Random(1).randbytes(700_000)


def layers_of(directory: Path) -> list[dict[str, Any]]:
    """Return the descriptors of the layers of the only image in the layout *directory*."""
    index = json.loads((directory / "index.json").read_text())
    manifest = json.loads(blob_of(directory, index["manifests"][0]).read_text())
    found: list[dict[str, Any]] = manifest["layers"]
    return found


def blob_of(directory: Path, descriptor: dict[str, Any]) -> Path:
    return directory / "blobs" / str(descriptor["digest"]).replace(":", "/")


@pytest.fixture
def partial() -> Iterator[Podman]:
    """Return podman that fetches single files of layers; only its driver for kernel OverlayFS does that."""
    parents = ["/var/tmp", tempfile.gettempdir()]
    parent = next((path for path in parents if why_no_whiteouts(path) is None), None)
    if parent is None:
        require("whiteouts")
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        Path(directory).chmod(0o755)
        found = Podman(Path(directory), driver="overlay", pull_options='enable_partial_images = "true"')
        try:
            yield found
        finally:
            found.end()


@pytest.mark.podman
@pytest.mark.docker_registry
@pytest.mark.busybox
@pytest.mark.twice
def test_podman_fetches_only_the_files_that_it_lacks(
    project: Project, partial: Podman, podman: Podman, tmp_path: Path
) -> None:
    (project.path / "big").write_bytes(BIG)
    (project.path / "data/näme").write_text("of two layers\n")
    project.at(T)
    first = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY big /data/big\n"
    second = f'{first}COPY --chown=7:8 big data /more/\nRUN ["/bin/busybox", "rm", "/data/big"]\n'
    launcher = project.launcher
    with running(launcher.directory, requests=True) as host:
        for name, text in (("first", first), ("second", second)):
            assert project.build(text, "-t", name, "--compression", CHUNKED).status == 0
            succeed(launcher, "push", name, f"docker://{host}/{name}:1", "--tls-verify=false")
            (launcher.directory / "log").write_text("")
            partial("--log-level", "debug", "pull", "--tls-verify=false", f"{host}/{name}:1")
            assert "Created zstd:chunked differ" in partial.err
            assert "Fallback" not in partial.err
        # Of the layer with `big` and `data`, only the small files are missing; the first layers are there.
        missing = [int(number) for number in re.findall(r"Missing (\d+) bytes out of 70", partial.err)]
        assert missing == [len("one\n") + len("of two layers\n")]
        log = (launcher.directory / "log").read_text()
        sent = [int(size) for size in re.findall(r'blobs/\S+ HTTP/1.1" 206 (\d+)', log)]
        assert 0 < sum(sent) < 10_000
        podman("pull", "--tls-verify=false", f"{host}/second:1")
        trees = []
        for tool in (partial, podman):
            tool("create", "--name", "it", f"{host}/second:1", "/bin/busybox")
            tool("export", "--output", tmp_path / "tree.tar", "it")
            tool("rm", "it")
            trees.append({path: found for path, found in listed(tmp_path / "tree.tar").items() if path})
    assert trees[0] == trees[1]
    assert trees[0][b"more/big"] == (0o644, BIG)
    assert b"data/big" not in trees[0]


#: A file with holes, which tar-split data cannot express.
SPARSE = "import os; f = open('/data/holes', 'wb'); f.truncate(9 << 20); f.write(b'begin')"


@pytest.mark.podman
@pytest.mark.docker_registry
@pytest.mark.umoci
@pytest.mark.twice
@pytest.mark.parametrize(("program", "is_partial"), [(CHANGE, True), (SPARSE, False)], ids=["each", "sparse"])
def test_podman_fetches_objects_of_each_kind(
    program: str, is_partial: bool, launcher: Launcher, partial: Podman, podman: Podman, tmp_path: Path
) -> None:
    image = layout(tmp_path / "base", base(tmp_path / "base.tar"))
    succeed(launcher, "image", "import", f"oci:{image}", "base:1")
    change(launcher, spec("image:base:1"), program)
    succeed(launcher, "commit", "box", "made:1", "--compression", CHUNKED)
    names = ["made"]
    if is_partial:
        succeed(launcher, "commit", "--flatten", "box", "flat:1", "--compression", CHUNKED)
        names.append("flat")
    with running(launcher.directory) as host:
        for name in names:
            succeed(launcher, "push", f"{name}:1", f"docker://{host}/{name}:1", "--tls-verify=false")
            trees = []
            for tool in (partial, podman):
                tool("--log-level", "debug", "pull", "--tls-verify=false", f"{host}/{name}:1")
                assert ("Created zstd:chunked differ" in tool.err) == (is_partial and tool is partial)
                tool("create", "--name", name, f"{host}/{name}:1", "/opt/busybox")
                tool("export", "--output", tmp_path / "tree.tar", name)
                tool("rm", name)
                trees.append(listed(tmp_path / "tree.tar"))
                (tmp_path / "tree.tar").unlink()
            # containers/storage ignores FIFOs and devices in a partial pull (pkg/chunked/storage_linux.go, ApplyDiff).
            assert trees[0] == {
                path: entry for path, entry in trees[1].items() if not is_partial or path != b"data/fifo"
            }
            assert b"data/changed" in trees[0]


@pytest.mark.skopeo
@pytest.mark.busybox
@pytest.mark.once
def test_skopeo_reads_the_layers_as_zstd(project: Project, tmp_path: Path) -> None:
    (project.path / "big").write_bytes(BIG)
    project.at(T)
    text = "FROM scratch\nCOPY big data /data/\n"
    digests = [
        project.digest(text, "-t", "it", "--compression", CHUNKED, *more) for more in ((), ("--no-cache",))
    ]
    assert digests[0] == digests[1]
    succeed(project.launcher, "export", "image:it", f"oci:{tmp_path}/layout:1")
    [layer] = layers_of(tmp_path / "layout")
    assert layer["mediaType"].endswith("+zstd")
    assert POSITION in layer["annotations"]
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        f"oci:{tmp_path}/layout:1",
        f"docker-archive:{tmp_path}/a.tar:it:1",
    )
    with tarfile.open(tmp_path / "a.tar") as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(archive.extractfile(manifest[0]["Config"]))  # type: ignore[arg-type]
        content = archive.extractfile(manifest[0]["Layers"][0]).read()  # type: ignore[union-attr]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(content).hexdigest()}"]


@pytest.mark.busybox
@pytest.mark.once
def test_a_layer_is_mounted_without_unpacking_it(project: Project, tmp_path: Path) -> None:
    (project.path / "big").write_bytes(BIG)
    project.at(T)
    text = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY big data /data/\nADD root.tar /\n"
    with tarfile.open(project.path / "root.tar", "w") as tar:
        for name in ("proc", "sys", "dev", "tmp"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
    assert project.build(text, "-t", "it", "--compression", CHUNKED).status == 0
    succeed(project.launcher, "export", "image:it", f"oci:{tmp_path}/layout:1")
    archives = []
    for number, layer in enumerate(layers_of(tmp_path / "layout")):
        archives.append(tmp_path / f"{number}.tar.zst")
        archives[-1].write_bytes(blob_of(tmp_path / "layout", layer).read_bytes())
    layers = ", ".join(f'{{ tar = "{path}", mount = true }}' for path in archives)
    done = project.launcher.up(
        f"[root]\nlayers = [{layers}]\n", ["/bin/busybox", "md5sum", "/data/big", "/data/file"]
    )
    sums = [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in (BIG, b"one\n")]
    assert done.facts_text() == f"{sums[0]}  /data/big\n{sums[1]}  /data/file\n"


@pytest.mark.umoci
@pytest.mark.twice
def test_a_commit_has_such_a_layer_and_other_images_over_it_keep_its_annotations(
    launcher: Launcher, tmp_path: Path
) -> None:
    image = layout(tmp_path / "base", base(tmp_path / "base.tar"))
    succeed(launcher, "image", "import", f"oci:{image}", "base:1")
    text = spec("image:base:1")
    change(launcher, text)
    tree = shown(launcher, text)
    succeed(launcher, "commit", "box", "made:1", "--compression", CHUNKED)
    with ExitStack() as undo:
        undo.callback(sandbox, launcher, "discard", "other")
        over = spec("image:made:1", name="other")
        assert shown(launcher, over) == tree
        change(launcher, over, "open('/data/small', 'w').write('small')")
        succeed(launcher, "commit", "other", "above:1")
    succeed(launcher, "export", "image:above:1", f"oci:{tmp_path}/above:1")
    annotated = [POSITION in layer.get("annotations", {}) for layer in layers_of(tmp_path / "above")]
    assert annotated == [False, True, False]
    _, chunked, _ = layers_of(tmp_path / "above")
    assert chunked["size"] < len(LARGE)

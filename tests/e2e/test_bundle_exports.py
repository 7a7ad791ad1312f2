"""An exported bundle has the tree that the sandbox or image shows, and runc runs it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.images import CHANGE, ROOT, base, change, layout, run, shown, spec, succeed
from tests.e2e.support import Launcher, sandbox
from tests.support.tree import Entry, snapshot
from tests.unit.sandbox.oci_runtime.test_bundle import run as run_bundle

pytestmark = [
    *(getattr(pytest.mark, name) for name in ("fuse", "userns", "umoci", "busybox", "runc")),
    *([] if ROOT else [pytest.mark.newuidmap]),
]

PROGRAM = ("/opt/busybox", "sh", "-c", "cat /data/elsewhere/kept /data/moved/kept; echo $OF; id -u")
OWNED = f"{CHANGE}\nos.chown('changed', 1000, 1001)\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory on a file system with programs."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp"))
    yield path
    done = succeed_in_namespace("rm", "-rf", str(path))
    assert done == ""
    shutil.rmtree(path, ignore_errors=True)


def succeed_in_namespace(*command: str) -> str:
    """Run *command* with the ids of sandboxes: an ordinary user cannot remove files of its subordinate ids."""
    return run(*([] if ROOT else ["unshare", "--map-auto", "--map-root-user"]), *command)


@pytest.fixture
def text(launcher: Launcher) -> str:
    """Return the environment file of a sandbox over an image in the store, without changes yet."""
    image = layout(launcher.directory / "layout", base(launcher.directory / "base.tar"))
    program = [word for part in PROGRAM for word in ("--config.cmd", part)]
    run("umoci", "config", "--image", image, "--clear", "config.cmd", *program)
    succeed(launcher, "image", "import", f"oci:{image}", "base:1")
    return spec("image:base:1")


def comparable(tree: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """Return *tree*; without owners for an ordinary user, where those of a bundle are subordinate ids."""
    if ROOT:
        return tree
    return {path: replace(entry, uid=None, gid=None) for path, entry in tree.items()}


def test_a_bundle_of_a_sandbox_has_its_tree_and_runs_the_program_of_its_image(
    launcher: Launcher, text: str, place: Path
) -> None:
    change(launcher, text, OWNED)
    succeed(launcher, "export", "box", f"bundle:{place}/bundle")
    found = snapshot(place / "bundle" / "rootfs" / "data", nlink=True, mtime=True)
    assert comparable(found) == comparable(shown(launcher, text))
    assert run_bundle("runc", place, place / "bundle") == ["old moved/kept", "umoci", "0"]


def test_a_bundle_of_an_image_has_its_tree_and_leaves_nothing_in_the_state(
    launcher: Launcher, text: str, place: Path
) -> None:
    image = shown(launcher, text)
    before = snapshot(launcher.run)
    succeed(launcher, "export", "image:base:1", f"bundle:{place}/bundle")
    found = snapshot(place / "bundle" / "rootfs" / "data", nlink=True, mtime=True)
    assert comparable(found) == comparable(image)
    assert run_bundle("runc", place, place / "bundle") == ["old moved/kept", "umoci", "0"]
    assert snapshot(launcher.run) == before
    assert [one["kind"] for one in json.loads(sandbox(launcher, "ls", "--json").out)] == ["layer", "image"]


@pytest.mark.once
def test_a_bundle_is_not_written_over_files_or_of_a_part_or_of_nothing(
    launcher: Launcher, text: str, place: Path
) -> None:
    change(launcher, text)
    (place / "old").mkdir()
    (place / "old" / "file").write_text("old")
    for arguments, message in (
        (("box", f"bundle:{place}/old"), "a directory that is not empty"),
        (("box", "/data", f"bundle:{place}/new"), "a bundle has the whole root"),
        (("box", "--changes", f"bundle:{place}/new"), "a bundle has the whole root"),
        (("none", f"bundle:{place}/new"), "none"),
        (("image:none:1", f"bundle:{place}/new"), "none:1"),
    ):
        done = sandbox(launcher, "export", *arguments)
        assert (done.status, message in done.err) == (125, True), (arguments, done.err)
    assert os.listdir(place) == ["old"]
    assert os.listdir(place / "old") == ["file"]

"""The index of a layer of the store: made by the first sandbox, used by the next ones, and removed with the layer."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.support import Launcher

LOOK = "ls -ln /data /data/deep; cat /data/deep/file /data/link; /data/program"


def archive(path: Path, text: str) -> None:
    """Write a layer whose program and files have the content *text*."""
    with tarfile.open(path, "w") as tar:
        script = f"#!/bin/sh\necho {text}\n"
        for name, mode, content in (
            ("data/deep/file", 0o640, f"{text}\n"),
            ("data/program", 0o755, script),
            ("data/.wh.gone", 0o644, ""),
        ):
            info = tarfile.TarInfo(name)
            info.mode, info.size = mode, len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
        link = tarfile.TarInfo("data/link")
        link.type, link.linkname = tarfile.SYMTYPE, "deep/file"
        tar.addfile(link)


def indexes(launcher: Launcher) -> list[Path]:
    """List the indexes in the store."""
    return sorted(launcher.state.glob("images/archives/*/index/*.index"))


@pytest.mark.parametrize("ids", ["", '[ids]\nmap = "single"\n'], ids=["usual", "single"])
def test_every_sandbox_sees_the_same_whether_the_layer_has_an_index_yet_or_not(
    launcher: Launcher, tmp_path: Path, ids: str
) -> None:
    archive(tmp_path / "data.tar", "one")
    spec = '[root]\nlayers = ["dir:/", "tar:data.tar"]\n' + ids
    first = launcher.shell(LOOK, spec)
    assert first.status == 0, first.err
    (made,) = launcher.state.glob("images/archives/*/index")
    if os.geteuid() == 0:
        assert len(indexes(launcher)) == 1
    assert made.stat().st_mode & 0o777 == 0o700
    assert launcher.shell(LOOK, spec) == first
    changed = launcher.shell(f"echo two > /data/deep/file; rm /data/program; {LOOK}", spec)
    assert "two\ntwo" in changed.out


def test_the_index_is_removed_with_the_layer(launcher: Launcher, tmp_path: Path) -> None:
    spec = '[root]\nlayers = ["dir:/", "tar:data.tar"]\n'
    archive(tmp_path / "data.tar", "one")
    assert launcher.shell(LOOK, spec).status == 0
    before = list(launcher.state.glob("images/archives/*/index"))
    (tmp_path / "data.tar").unlink()
    archive(tmp_path / "data.tar", "another")
    done = launcher.shell(LOOK, spec)
    assert done.out.endswith("another\nanother\nanother\n"), done.err
    after = list(launcher.state.glob("images/archives/*/index"))
    assert len(after) == 1
    assert after != before

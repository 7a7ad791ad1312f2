"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.building import Project
from tests.e2e.support import Launcher


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    """Return a launcher whose state directory is removed after the test."""
    return Launcher(tmp_path)


@pytest.fixture
def project(launcher: Launcher, tmp_path: Path) -> Iterator[Project]:
    """Return a build context with a BusyBox; the images are removed after the test."""
    made = Project(launcher, tmp_path / "context")
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a directory of the host that every user may write to, with one file."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    (directory / "file").write_text("of the host\n")
    return directory


@pytest.fixture
def on_root(tmp_path: Path) -> Iterator[Path]:
    """Return an empty directory on the file system of /.

    A layer `dir:/` shows mounts below it, such as a tmpfs on /tmp, as empty directories.
    """
    root = os.stat("/").st_dev
    if tmp_path.stat().st_dev == root:
        yield tmp_path
        return
    for parent in ("/var/tmp", os.path.expanduser("~"), "/"):
        if os.path.isdir(parent) and os.stat(parent).st_dev == root and os.access(parent, os.W_OK):
            path = tempfile.mkdtemp(prefix="sandbox-test-", dir=parent)
            try:
                yield Path(path)
            finally:
                shutil.rmtree(path)
            return
    pytest.skip("needs a directory on the file system of / that this account may write to (as /var/tmp)")

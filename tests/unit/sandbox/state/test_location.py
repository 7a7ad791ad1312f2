"""The state directory and the image directory: where they are, whom they belong to, and what an earlier version left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import StateError
from sandbox.state.directory import StateDirectory
from sandbox.state.location import default_image_path, default_path


def test_default_place_follows_the_base_directory_specification() -> None:
    assert default_path({}, 0) == "/var/lib/sandbox"
    assert default_path({"XDG_STATE_HOME": "/x"}, 1000) == "/x/sandbox"
    assert default_path({"SANDBOX_STATE_DIR": "/y"}, 0) == "/y"


@pytest.mark.parametrize(
    ("environ", "uid", "path"),
    [
        ({}, 0, "/var/lib/sandbox/images"),
        ({"XDG_DATA_HOME": "/x"}, 1000, "/x/sandbox/images"),
        ({"XDG_DATA_HOME": "/x", "SANDBOX_STATE_DIR": "/y"}, 1000, "/y/images"),
        ({"SANDBOX_CACHE_DIR": "/z", "SANDBOX_STATE_DIR": "/y"}, 0, "/z/images"),
    ],
)
def test_image_directory_is_beside_the_data_of_the_user(environ: dict[str, str], uid: int, path: str) -> None:
    assert default_image_path(environ, uid) == path


def test_image_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images").chmod(0o777)
    with pytest.raises(StateError, match=r"images can be written by other users") as caught:
        StateDirectory(str(tmp_path / "state"), images=str(tmp_path / "images"))
    assert "SANDBOX_CACHE_DIR" in (caught.value.hint or "")


def test_archives_of_an_earlier_version_move_to_the_image_directory(tmp_path: Path) -> None:
    old = tmp_path / "state" / "layers"
    (old / "key" / "tree").mkdir(parents=True)
    (old / "half.new").mkdir()
    (tmp_path / "state").chmod(0o700)
    StateDirectory(str(tmp_path / "state"), images=str(tmp_path / "images")).close()
    assert os.listdir(tmp_path / "images" / "archives") == ["key"]
    assert (tmp_path / "images" / "archives" / "key" / "tree").is_dir()
    assert os.listdir(old) == ["half.new"]
    StateDirectory(str(tmp_path / "state"), images=str(tmp_path / "images")).close()

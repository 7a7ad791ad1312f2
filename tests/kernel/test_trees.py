"""Directories made through descriptors, and the flags of renameat2(2) that not every file system supports."""

from __future__ import annotations

import os

import pytest

from sandbox.kernel import trees
from tests.kernel.support import refusal


def test_names_are_exchanged_and_whiteouts_left_where_the_file_system_supports_that(tmp_path):
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    (tmp_path / "one").write_text("1")
    (tmp_path / "other").mkdir()
    trees.exchange(one, other)
    assert (tmp_path / "other").read_text() == "1"
    assert refusal(trees.exchange, one, str(tmp_path / "absent")) == "ENOENT"
    reason = refusal(trees.rename_leaving_whiteout, other, str(tmp_path / "moved"))
    if reason is not None:
        pytest.skip(f"the file system of {tmp_path} leaves no whiteouts: {reason}")
    assert (tmp_path / "moved").read_text() == "1"
    assert os.stat(other).st_rdev == 0


def test_directories_are_made_where_they_are_missing_and_never_through_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    top = os.open(tmp_path, os.O_PATH)
    try:
        for names in ([], ["there"], ["there", "a", "b"]):
            made = trees.make_directories(top, names)
            try:
                assert os.path.samestat(os.fstat(made), os.stat(tmp_path.joinpath(*names)))
            finally:
                os.close(made)
        with pytest.raises(NotADirectoryError):
            trees.make_directories(top, ["link", "planted"])
    finally:
        os.close(top)
    assert os.listdir(tmp_path / "elsewhere") == []

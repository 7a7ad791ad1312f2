"""Directories made through descriptors, and the flags of renameat2(2) that not every file system supports."""

from __future__ import annotations

import errno
import os

import pytest

from sandbox.kernel import _libc, trees
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


def test_names_in_open_directories_are_exchanged_and_never_replaced_unasked(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "one" / "file").write_text("1")
    (tmp_path / "other" / "directory").mkdir()
    one, other = (os.open(tmp_path / name, os.O_PATH) for name in ("one", "other"))
    try:
        trees.exchange_at(one, b"file", other, b"directory")
        assert (tmp_path / "other" / "directory").read_text() == "1"
        assert refusal(trees.rename_to_new_name, other, b"directory", one, b"file") == "EEXIST"
        trees.rename_to_new_name(other, b"directory", one, b"new\xff")
        assert sorted(os.listdir(os.fsencode(tmp_path / "one"))) == [b"file", b"new\xff"]
    finally:
        os.close(one)
        os.close(other)


def test_a_file_system_that_cannot_refuse_to_replace_is_asked_whether_the_name_exists(tmp_path, monkeypatch):
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, "unsupported")

    monkeypatch.setattr(_libc, "renameat2", unsupported)
    (tmp_path / "one").write_text("1")
    (tmp_path / "other").write_text("2")
    top = os.open(tmp_path, os.O_PATH)
    try:
        assert refusal(trees.rename_to_new_name, top, b"one", top, b"other") == "EEXIST"
        trees.rename_to_new_name(top, b"one", top, b"new")
    finally:
        os.close(top)
    assert sorted(os.listdir(tmp_path)) == ["new", "other"]

"""When `up` starts the server only after the file has been read: a search for words in the file."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from sandbox.cli.up import _may_need_no_server

TAR = '[root]\nlayers = ["tar:a.tar"]\n'


def glance(file: Path | str, *assignments: str) -> bool:
    return _may_need_no_server(argparse.Namespace(file=str(file), assignments=list(assignments)))


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        (TAR + 'writable = "none"\n', True),
        (TAR + "writable='none'\n", True),
        (TAR + 'server = "none"\n', True),
        ('root = { layers = ["tar:a.tar"], "writable" = "none" }\n', True),
        (TAR + 'writable = "none"\nserver = "direct"\n', False),
        (TAR, False),
        (TAR + '[network]\nmode = "none"\n', False),
        ('[root]\nlayers = ["dir:/"]\nwritable = "none"\n', False),
        ("", False),
    ],
)
def test_words_of_the_file_tell(tmp_path: Path, text: str, *, waits: bool) -> None:
    (tmp_path / "x.toml").write_text(text)
    assert glance(tmp_path / "x.toml") == waits


def test_so_do_changes_for_one_run(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(TAR)
    assert glance(tmp_path / "x.toml", "root.writable=none")
    assert not glance(tmp_path / "x.toml", "process.user=1")


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    assert not glance(tmp_path / "missing.toml")
    assert not glance(tmp_path)
    assert not glance("a\0b")
    assert not glance("-")

"""The file in which the inode numbers of copies outlast their entries in the link index."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from unionfs.types import Ino
from unionfs.upper import origin_log
from unionfs.upper.origin_log import ORIGINS_FILE, Origin, append_origins, read_origins, remove_origins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE, TWO = Origin(Ino(10), 1 << 60), Origin(Ino((1 << 64) - 1), None)


@pytest.fixture
def home_fd(tmp_path: Path) -> Iterator[int]:
    """Return a descriptor of an empty directory."""
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def test_records_are_read_as_they_were_appended_and_the_last_one_of_an_object_counts(home_fd: int) -> None:
    assert read_origins(home_fd) == {}
    append_origins(home_fd, [(1, TWO), (2, TWO)])
    append_origins(home_fd, [(1, ONE)])
    assert read_origins(home_fd) == {1: ONE, 2: TWO}
    remove_origins(home_fd)
    remove_origins(home_fd)
    assert read_origins(home_fd) == {}


def test_without_records_no_file_is_made(home_fd: int, tmp_path: Path) -> None:
    append_origins(home_fd, [])
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_was_cut_off_at_any_byte_is_ignored(home_fd: int, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(ORIGINS_FILE)
    append_origins(home_fd, [(0x1234, Origin(Ino(0x567), 0x89AB))])
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert read_origins(home_fd) == {}
        append_origins(home_fd, [(2, ONE)])
        assert read_origins(home_fd) in ({2: ONE}, {2: ONE, 0x1234: Origin(Ino(0x567), 0x89AB)})


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_log, "ORIGINS_FILE", b"full")
    fd = os.open("/dev", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with pytest.raises(OSError, match="No space left"):
            append_origins(fd, [(1, ONE)])
    finally:
        os.close(fd)

"""The content of the /etc/hosts that a sandbox shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.runtime.rootfs.hosts import content_of, with_name


def test_the_name_is_added_behind_what_the_root_has():
    assert with_name(b"127.0.0.1 localhost\n10.0.0.2 db # base\n", "box") == (
        b"127.0.0.1 localhost\n10.0.0.2 db # base\n127.0.1.1\tbox\n"
    )


def test_a_last_line_without_an_end_stays_a_line():
    assert with_name(b"127.0.0.1 localhost", "box") == b"127.0.0.1 localhost\n127.0.1.1\tbox\n"


def test_an_empty_file_gets_localhost_too():
    text = with_name(b"", "box")
    assert text == b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tbox\n"


def test_a_file_that_has_the_name_stays_as_it_is():
    assert with_name(b"127.0.0.1 localhost\n10.1.1.1 other box\n", "box") is None


def test_a_name_in_a_comment_or_part_of_another_one_is_not_the_name():
    text = b"127.0.0.1 localhost\n10.1.1.1 box2 # box\n"
    assert with_name(text, "box") == text + b"127.0.1.1\tbox\n"


def test_bytes_that_are_no_text_stay():
    assert with_name(b"\xff\xfe localhost\n", "box") == b"\xff\xfe localhost\n127.0.1.1\tbox\n"


@pytest.mark.parametrize(("mode", "content"), [(0o644, b"10.0.0.2 db\n"), (0o640, None), (0o600, None)])
def test_a_file_that_not_everybody_may_read_is_not_shown_to_everybody(
    tmp_path: Path, mode: int, content: bytes | None
):
    """The /etc/hosts of a layer may be a symbolic link to such a file."""
    (tmp_path / "secret").write_bytes(b"10.0.0.2 db\n")
    (tmp_path / "secret").chmod(mode)
    place = os.open(tmp_path / "secret", os.O_PATH)
    try:
        assert content_of(place) == content
    finally:
        os.close(place)

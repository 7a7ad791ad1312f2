"""The content of the /etc/hosts that a sandbox shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.runtime.rootfs.name_files import content_of, with_names


def test_the_name_is_added_behind_what_the_root_has():
    assert with_names(b"127.0.0.1 localhost\n10.0.0.2 db # base\n", "box", ()) == (
        b"127.0.0.1 localhost\n10.0.0.2 db # base\n127.0.1.1\tbox\n"
    )


def test_a_last_line_without_an_end_stays_a_line():
    assert with_names(b"127.0.0.1 localhost", "box", ()) == b"127.0.0.1 localhost\n127.0.1.1\tbox\n"


def test_an_empty_file_gets_localhost_too():
    text = with_names(b"", "box", ())
    assert text == b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tbox\n"


def test_a_file_that_has_the_name_stays_as_it_is():
    assert with_names(b"127.0.0.1 localhost\n10.1.1.1 other box\n", "box", ()) is None


def test_a_name_in_a_comment_or_part_of_another_one_is_not_the_name():
    text = b"127.0.0.1 localhost\n10.1.1.1 box2 # box\n"
    assert with_names(text, "box", ()) == text + b"127.0.1.1\tbox\n"


def test_bytes_that_are_no_text_stay():
    assert with_names(b"\xff\xfe localhost\n", "box", ()) == b"\xff\xfe localhost\n127.0.1.1\tbox\n"


def test_names_of_the_file_come_first_because_the_first_address_of_a_name_counts():
    text = with_names(b"127.0.0.1 localhost\n10.1.1.1 db\n", "box", (("10.0.0.2", "db"), ("fd00::2", "web")))
    assert text == (b"10.0.0.2\tdb\nfd00::2\tweb\n127.0.0.1 localhost\n10.1.1.1 db\n127.0.1.1\tbox\n")


def test_a_host_name_among_the_names_of_the_file_gets_no_other_address():
    assert with_names(b"127.0.0.1 localhost\n", "box", (("10.0.0.2", "box"),)) == (
        b"10.0.0.2\tbox\n127.0.0.1 localhost\n"
    )


def test_a_sandbox_with_the_name_of_the_host_adds_only_names_of_the_file():
    assert with_names(b"127.0.0.1 localhost\n", None, ()) is None
    assert with_names(b"127.0.0.1 localhost\n", None, (("10.0.0.2", "db"),)) == (
        b"10.0.0.2\tdb\n127.0.0.1 localhost\n"
    )


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

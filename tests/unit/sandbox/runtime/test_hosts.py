"""The content of the /etc/hosts that a sandbox shows."""

from __future__ import annotations

from sandbox.runtime.hosts import with_name


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

"""The format of logs."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from sandbox.state.log_files import LONGEST, LogLine, decode, encode, format_time, parse_time

TIME = 1_796_157_078_000_000_001


def decoded(stream: str, data: bytes) -> list[LogLine]:
    encoded = encode(stream, data, TIME)
    assert not encoded or encoded.endswith(b"\n")
    found = [decode(line) for line in encoded.split(b"\n")[:-1]]
    assert None not in found
    return [line for line in found if line is not None]


def test_lines_are_those_of_the_container_runtime_interface() -> None:
    assert encode("stdout", b"one\ntwo", TIME) == (
        b"2026-12-01T20:31:18.000000001Z stdout F one\n2026-12-01T20:31:18.000000001Z stdout P two\n"
    )
    assert encode("stderr", b"", TIME) == b""
    assert [(line.whole, line.text) for line in decoded("stdout", b"a\r\n\n\x0cb\n")] == [
        (True, b"a\r"),
        (True, b""),
        (True, b"\x0cb"),
    ]


@given(st.sampled_from(["stdout", "stderr", "sandbox"]), st.binary(max_size=200))
def test_what_is_read_is_what_was_printed(stream: str, data: bytes) -> None:
    lines = decoded(stream, data)
    assert b"".join(line.text + (b"\n" if line.whole else b"") for line in lines) == data
    assert {(line.time, line.stream) for line in lines} <= {(TIME, stream)}


def test_a_long_line_is_cut_into_parts() -> None:
    data = bytes(range(1, 10)) * LONGEST
    lines = decoded("stdout", data.replace(b"\n", b"") + b"\n")
    assert [line.whole for line in lines] == [False] * (len(lines) - 1) + [True]
    assert max(len(line.text) for line in lines) == LONGEST
    assert b"".join(line.text for line in lines) == data.replace(b"\n", b"")


@given(st.integers(0, 2**61))
def test_a_time_is_read_as_it_was_written(moment: int) -> None:
    text = format_time(moment)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", text)
    assert parse_time(text) == moment


def test_what_is_no_line_of_a_log_is_none() -> None:
    for line in (
        b"",
        b"2026 stdout F x",
        b"2026-12-01T20:31:18Z stdout X x",
        b"2026-12-01T20:31:18Z other F x",
    ):
        assert decode(line) is None
    assert parse_time("yesterday") is None
    assert parse_time("2026-12-01T20:31:18") == 1_796_157_078 * 10**9

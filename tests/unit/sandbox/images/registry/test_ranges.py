"""Ranges in headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.images.registry.ranges import ContentRange, parse_content_range, parse_uploaded, range_header


@given(st.integers(0, 10**18), st.integers(1, 10**6), st.integers(0, 10**6), st.booleans())
def test_a_content_range_is_parsed(start: int, length: int, rest: int, known: bool) -> None:
    end, size = start + length, start + length + rest
    header = f"bytes {start}-{end - 1}/{size if known else '*'}"
    assert parse_content_range(header) == ContentRange(start, end, size if known else None)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes */5",
        "bytes 1-2",
        "bytes 2-1/5",
        "bytes 0-5/5",
        "items 0-1/5",
        "bytes=0-1/5",
        "bytes -1-2/5",
        "bytes 0x1-2/5",
        "bytes ١-٢/٥",
        f"bytes 0-{'9' * 20}/*",
        "bytes 0-1/5, 3-4/5",
    ],
)
def test_a_malformed_content_range_is_none(header: str | None) -> None:
    assert parse_content_range(header) is None


def test_a_range_is_requested_up_to_its_last_byte() -> None:
    assert (range_header(5), range_header(0, 1), range_header(5, 10)) == (
        "bytes=5-",
        "bytes=0-0",
        "bytes=5-9",
    )


@pytest.mark.parametrize(
    ("header", "count"),
    [("0-0", 1), ("0-1023", 1024), ("bytes=0-9", 10), ("1-5", None), ("0-", None), ("", None), (None, None)],
)
def test_the_range_of_an_upload_says_how_much_the_registry_has(header: str | None, count: int | None) -> None:
    assert parse_uploaded(header) == count

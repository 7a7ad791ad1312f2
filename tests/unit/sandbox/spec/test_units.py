"""Test `sandbox.spec.units`: sizes, durations, octal modes."""

from __future__ import annotations

import pytest

from sandbox.spec.units import (
    format_duration,
    format_octal,
    format_size,
    parse_duration,
    parse_octal,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("100B", 100),
        ("1K", 1024),
        ("1k", 1024),
        ("64KiB", 65536),
        ("512M", 512 * 1024**2),
        ("512 M", 512 * 1024**2),
        ("1.5G", 3 * 1024**3 // 2),
        ("0.3G", 322122547),
        ("2T", 2 * 1024**4),
        ("1P", 1024**5),
        ("7E", 7 * 1024**6),
        ("0.5", 0),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_sizes_are_binary_multiples(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "+1", "1.M", ".5M", "1.5.2G", "1e3", "1X", "1 2M", "٣M", " 1M", "1M ", "0x10"]
)
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_a_decimal_unit_is_refused_because_it_is_ambiguous() -> None:
    with pytest.raises(ValueError, match=r'"512MB" is ambiguous; write "512M" \(powers of 1024\)'):
        parse_size("512MB")


@pytest.mark.parametrize("text", ["8E", "9223372036854775808", "99999999999999999999T"])
def test_a_size_beyond_64_bits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1, "1"), (1024, "1K"), (1536, "1536"), (4 * 1024**2, "4M"), (2**60, "1E"), (2**70, "1024E")],
)
def test_a_size_is_shown_with_the_largest_whole_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("2d", 172800),
        ("0s", 0),
        ("1m1ms", 60.001),
        ("1s1s", 2),
    ],
)
def test_the_parts_of_a_duration_add_up(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 h", "1h 30m", "1w", "1.s", "1S", "1h30", "٣s"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.5, "500ms"), (5400, "1h30m"), (90061.001, "1d1h1m1s1ms")]
)
def test_a_duration_is_shown_as_it_is_read(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "mode"), [("0755", 0o755), ("755", 0o755), ("0", 0), ("1777", 0o1777), ("0o", None), ("8", None)]
)
def test_modes_are_octal(text: str, mode: int | None) -> None:
    if mode is not None:
        assert parse_octal(text) == mode
        return
    with pytest.raises(ValueError, match="is not an octal mode"):
        parse_octal(text)


def test_a_mode_is_shown_with_four_digits() -> None:
    assert [format_octal(mode) for mode in (0, 0o22, 0o1777)] == ["0000", "0022", "1777"]

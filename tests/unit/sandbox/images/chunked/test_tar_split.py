"""The CRC of tar-split data is that of Go's hash/crc64 with the polynomial of ISO 3309."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.images.chunked.tar_split import crc64

_POLYNOMIAL = 0xD800000000000000  # crc64.ISO of Go: x^4 + x^3 + x + 1, reversed


def _table() -> list[int]:
    found = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return found


_TABLE = _table()


def crc64_by_table(data: bytes, before: int = 0) -> int:
    """Return the CRC as hash/crc64 computes it, byte by byte."""
    value = ~before & (1 << 64) - 1
    for byte in data:
        value = _TABLE[(value ^ byte) & 255] ^ value >> 8
    return ~value & (1 << 64) - 1


def test_the_crc_of_the_usual_text_is_the_known_one() -> None:
    # "check" of CRC-64/GO-ISO in the catalogue of parametrised CRC algorithms
    assert crc64(b"123456789") == crc64_by_table(b"123456789") == 0xB90956C775A41001


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_the_crc_is_that_of_a_table_in_one_piece_and_in_two(data: bytes, cut: int) -> None:
    expected = crc64_by_table(data)
    assert crc64(data) == expected
    assert crc64(memoryview(data)[cut:], crc64(data[:cut])) == expected


def test_the_crc_of_many_bytes_is_that_of_a_table() -> None:
    data = bytes(range(256)) * 700
    assert crc64(data) == crc64_by_table(data)

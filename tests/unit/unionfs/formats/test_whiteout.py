"""The codecs of deletion marks."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.formats.whiteout import (
    ALL_MARKS,
    NO_MARKS,
    MarkPolicy,
    Raw,
    decode,
    is_reserved_name,
    whiteout_name,
)
from unionfs.types import Mark

AUFS = MarkPolicy(overlay=False, aufs=True)
OVERLAY = MarkPolicy(overlay=True, aufs=False)


def test_a_plain_directory_has_no_marks_whatever_is_in_it() -> None:
    raw = [(b".wh.x", Raw.OTHER), (b".wh..wh..opq", Raw.OTHER), (b"null", Raw.NULL_DEVICE)]
    assert decode(raw, NO_MARKS) == (dict.fromkeys((b".wh.x", b".wh..wh..opq", b"null"), Mark.OTHER), False)


def test_a_device_0_0_is_a_whiteout_in_the_overlay_format_only() -> None:
    raw = [(b"x", Raw.NULL_DEVICE)]
    assert decode(raw, OVERLAY) == ({b"x": Mark.WHITEOUT}, False)
    assert decode(raw, AUFS) == ({b"x": Mark.OTHER}, False)


def test_a_wh_name_is_a_whiteout_and_no_entry() -> None:
    assert decode([(b".wh.x", Raw.OTHER)], AUFS) == ({b"x": Mark.WHITEOUT}, False)


def test_a_wh_name_is_an_ordinary_one_in_the_overlay_format() -> None:
    assert decode([(b".wh.x", Raw.OTHER)], OVERLAY) == ({b".wh.x": Mark.OTHER}, False)


@pytest.mark.parametrize(
    ("kind", "mark"), [(Raw.OTHER, Mark.OTHER), (Raw.DIRECTORY, Mark.OPAQUE_DIRECTORY)], ids=str
)
def test_a_wh_name_beside_an_entry_hides_lower_layers_only(kind: Raw, mark: Mark) -> None:
    raw = [(b".wh.x", Raw.OTHER), (b"x", kind)]
    for order in itertools.permutations(raw):
        assert decode(order, AUFS) == ({b"x": mark}, False)


def test_an_opaque_mark_counts_wherever_it_stands_among_the_entries() -> None:
    raw = [(b"a", Raw.OTHER), (b".wh..wh..opq", Raw.OTHER), (b"b", Raw.DIRECTORY), (b".wh.c", Raw.OTHER)]
    expected = {b"a": Mark.OTHER, b"b": Mark.DIRECTORY, b"c": Mark.WHITEOUT}
    for order in itertools.permutations(raw):
        assert decode(order, AUFS) == (expected, True)


@pytest.mark.parametrize("name", [b".wh..wh.plnk", b".wh..wh.orph", b".wh..wh.aufs", b".wh."])
def test_bookkeeping_of_aufs_is_neither_entry_nor_whiteout(name: bytes) -> None:
    assert decode([(name, Raw.OTHER)], AUFS) == ({}, False)


def test_a_wh_form_has_at_most_255_bytes() -> None:
    assert whiteout_name(b"n" * 251) == b".wh." + b"n" * 251
    for length in (252, 253, 254, 255):
        with pytest.raises(ValueError, match=f"{length} bytes"):
            whiteout_name(b"n" * length)


@given(st.binary(min_size=1, max_size=251).filter(lambda name: not name.startswith(b".wh.")))
def test_writing_a_wh_form_and_reading_it_gives_the_whiteout_of_the_name(name: bytes) -> None:
    assert decode([(whiteout_name(name), Raw.OTHER)], AUFS) == ({name: Mark.WHITEOUT}, False)


def test_wh_names_are_reserved_where_they_are_read_as_marks() -> None:
    assert is_reserved_name(b".wh.x", ALL_MARKS)
    assert is_reserved_name(b".wh.x", AUFS)
    assert not is_reserved_name(b".wh.x", OVERLAY)
    assert not is_reserved_name(b"x.wh.", ALL_MARKS)

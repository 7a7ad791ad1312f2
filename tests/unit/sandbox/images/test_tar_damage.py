"""Reading damaged archives, and archives with more or larger headers than are accepted."""

from __future__ import annotations

import base64
import gzip
import time

import pytest

from sandbox.images.attributes import VALUE_LIMIT
from sandbox.images.tar import GLOBAL_LIMIT, NAME_LIMIT, RECORD_LIMIT
from tests.unit.sandbox.images.tars import (
    contents,
    directory,
    error_of,
    file,
    header,
    members,
    only,
    pax,
    pax_record,
    pax_sparse,
    record,
    symlink,
    tar,
)


def test_an_empty_file_is_an_error() -> None:
    assert error_of(b"").message == "a.tar: the file is empty"


@pytest.mark.parametrize("data", [b"hello", b"#!/bin/sh\n" * 200, b"\x7fELF" + bytes(5000)])
def test_a_file_that_is_no_archive_is_an_error_that_says_so(data: bytes) -> None:
    assert error_of(data).message.startswith("a.tar: not a tar archive: ")


def test_a_damaged_header_is_not_the_end_of_the_archive() -> None:
    data = bytearray(tar(file(b"a", b"x"), file(b"b"), file(b"c")))
    data[1024 + 10] ^= 1
    error = error_of(bytes(data))
    assert error.message == "a.tar: damaged at byte 1024: a header has a wrong checksum"


def test_a_plain_archive_cut_off_anywhere_is_an_error() -> None:
    data = tar(pax([(b"path", b"x")]), file(b"a", b"x" * 600), directory(b"d"), pax_sparse("1.0"))
    for length in range(0, len(data) - 1023, 7):
        error_of(data[:length])
    assert "without the two zero blocks of its end" in error_of(data[:-1024]).message
    assert "within the member that begins at byte 0" in error_of(data[:2000]).message


def test_compressed_data_tells_by_itself_where_it_ends() -> None:
    without_mark = file(b"x", b"y")
    assert contents(gzip.compress(without_mark)) == {b"x": b"y"}
    error_of(gzip.compress(without_mark[:-1]))
    error_of(gzip.compress(without_mark + pax([(b"path", b"y")])))


def test_an_archive_without_members_is_one() -> None:
    assert members(tar()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"no record",
        b"5 x=\n" + b"junk",
        b"99 path=x\n",
        b"4 x=\n",
        b"7 path=x\n",
        b"0 x=\n",
        b"-5 x=\n",
        b" x=y\n",
        b"6 =xy\n",
        b"6 xyz\n",
        b"6 x=yz",
        b"10 uid=-1\n",
        b"11 uid=0x1\n",
        b"11 size=-5\n",
        b"13 mtime=nan\n",
        b"14 mtime=1e99\n",
        b"35 LIBARCHIVE.xattr.user.x=x\xff==x==x\n",
        b"9" * 5000,
    ],
)
def test_a_pax_header_that_does_not_fit_together_is_an_error(content: bytes) -> None:
    error_of(tar(file(b"a"), record(content, b"x"), file(b"b")))


@pytest.mark.parametrize(
    "parts",
    [
        (pax([(b"path", b"a\0b")]), file(b"x")),
        (pax([(b"linkpath", b"a\0b")]), symlink(b"x", b"y")),
        (pax([(b"SCHILY.xattr.user.a\0b", b"v")]), file(b"x")),
        (header(b""),),
        (record(b"\0", b"L"), header(b"")),
    ],
)
def test_zero_bytes_in_names_and_empty_names_are_errors(parts: tuple[bytes, ...]) -> None:
    error_of(tar(file(b"first"), *parts))


def test_an_unknown_type_is_an_error_that_names_the_member() -> None:
    error = error_of(tar(file(b"first"), header(b"label", flag=b"V")))
    assert error.message == "a.tar: damaged at byte 512: label is of the unknown type 'V'"


def test_a_negative_size_is_an_error() -> None:
    error_of(tar(file(b"first"), header(b"x", size=-512)))


def test_a_sparse_file_beyond_what_a_file_can_be_is_an_error() -> None:
    records = [(b"GNU.sparse.size", b"%d" % 2**63), (b"GNU.sparse.map", b"")]
    assert "9223372036854775808 bytes" in error_of(tar(file(b"first"), pax(records), file(b"s"))).message


@pytest.mark.parametrize("size", [2**40, 2**63, 2**90])
def test_a_size_beyond_the_archive_is_an_error(size: int) -> None:
    error_of(tar(file(b"first"), header(b"x", size=size)))


def test_a_record_at_the_limit_is_read_and_one_byte_more_refused() -> None:
    whole = pax_record(b"comment", b"v" * (RECORD_LIMIT - len(b"1048576 comment=\n")))
    assert len(whole) == RECORD_LIMIT
    assert only(tar(record(whole, b"x"), file(b"x"))).name == b"x"
    assert only(tar(record(b"n" * NAME_LIMIT, b"L"), file(b"x"))).name == b"n" * NAME_LIMIT
    for flag, limit in ((b"x", RECORD_LIMIT), (b"g", RECORD_LIMIT), (b"L", NAME_LIMIT), (b"K", NAME_LIMIT)):
        error = error_of(tar(file(b"a"), record(b"x" * (limit + 1), flag)))
        assert f"a header record of {limit + 1} bytes, more than the allowed {limit}" in error.message


def test_a_value_of_64_kib_is_read_and_one_byte_more_refused_with_the_name_of_the_member() -> None:
    value = b"v" * VALUE_LIMIT
    assert only(tar(pax([(b"SCHILY.xattr.user.x", value)]), file(b"x"))).xattrs == {b"user.x": value}
    for form, written in ((b"SCHILY", value + b"v"), (b"LIBARCHIVE", base64.b64encode(value + b"v"))):
        error = error_of(tar(file(b"a"), pax([(form + b".xattr.user.x", written)]), directory(b"here")))
        assert f"here: its attribute user.x has {VALUE_LIMIT + 1} bytes" in error.message


def test_values_that_are_not_used_may_be_of_any_size_and_leave_but_their_names() -> None:
    large = b"v" * (RECORD_LIMIT - 1000)
    (member,) = members(
        tar(pax([(b"comment", large)]), pax([(b"SCHILY.xattr.com.apple.ResourceFork", large)]), file(b"x"))
    )
    assert (member.xattrs, member.left_out) == ({}, (b"com.apple.ResourceFork",))


def test_the_size_that_a_record_claims_is_not_believed() -> None:
    error_of(tar(file(b"a"), header(b"x", flag=b"x", size=2**60)))


@pytest.mark.parametrize("flag", [b"x", b"g", b"L", b"K"])
def test_a_long_chain_of_records_is_refused(flag: bytes) -> None:
    content = b"9 path=x\n" if flag in b"xg" else b"x\0"
    error = error_of(tar(file(b"a"), record(content, flag) * 10_000, file(b"b")))
    assert "bytes of headers for one member" in error.message


def test_global_headers_do_not_pile_up() -> None:
    parts = [
        part
        for number in range(30)
        for part in (pax([(b"SCHILY.xattr.user.%d" % number, b"v" * 5_000)], b"g"), file(b"x%d" % number))
    ]
    assert f"more than {GLOBAL_LIMIT} bytes of global headers" in error_of(tar(*parts)).message
    # Unused and replaced records do not count.
    parts = [pax([(b"comment", b"v" * 50_000), (b"path", b"p" * 50_000)], b"g") + file(b"x")] * 30
    assert len(members(tar(*parts))) == 30


def test_a_megabyte_of_digits_costs_no_time() -> None:
    data = tar(file(b"a"), record(b"1" * RECORD_LIMIT, b"x"), file(b"b"))
    start = time.process_time()
    error_of(data)
    # This takes milliseconds. With backtracking, in quadratic time, it would take an hour.
    assert time.process_time() - start < 20

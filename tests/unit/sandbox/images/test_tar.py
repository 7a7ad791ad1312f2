"""Reading tar archives: every form of header, names, numbers, attributes and sparse files."""

from __future__ import annotations

import base64

import pytest

from sandbox.images.names import printable
from sandbox.images.tar import RECORD_LIMIT, Kind, Member
from tests.unit.sandbox.images.tars import (
    BLOCK,
    CHARACTER,
    DIRECTORY,
    GNU,
    LONG,
    SPARSE_CONTENT,
    SPARSE_DATA,
    SPARSE_MAP,
    contents,
    error_of,
    file,
    header,
    members,
    octal,
    old_sparse,
    only,
    padded,
    pax,
    pax_sparse,
    record,
    symlink,
    tar,
)


def test_a_plain_header_gives_every_field() -> None:
    block = header(b"usr/x", size=5, mode=0o104755, uid=12, gid=34, mtime=56)
    assert only(tar(block, padded(b"hello"))) == Member(
        name=b"usr/x", kind=Kind.FILE, mode=0o4755, uid=12, gid=34, mtime_ns=56 * 10**9, size=5
    )


def test_every_type_of_member_is_told() -> None:
    flags = b"\0" + b"01234567"
    kinds = [member.kind for member in members(tar(*(header(b"x", flag=bytes([flag])) for flag in flags)))]
    assert kinds == [Kind.FILE, *Kind, Kind.FILE]


def test_a_file_whose_name_ends_in_a_slash_is_a_directory_as_in_v7() -> None:
    data = tar(header(b"d/", flag=b"\0", size=3, magic=b""), padded(b"abc"), file(b"next"))
    assert [(member.name, member.kind) for member in members(data)] == [
        (b"d/", Kind.DIRECTORY),
        (b"next", Kind.FILE),
    ]


def test_a_size_of_what_has_no_data_is_ignored() -> None:
    data = tar(*(header(b"x", flag=b"%d" % flag, size=999, link=b"y") for flag in range(1, 7)), file(b"next"))
    assert members(data)[-1].name == b"next"


def test_a_device_has_its_numbers_if_they_are_valid() -> None:
    def device_of(block: bytes) -> tuple[int, int] | None:
        return only(tar(block)).device

    assert device_of(header(b"x", flag=CHARACTER, device=(5, 1))) == (5, 1)
    assert device_of(header(b"x", flag=BLOCK, device=(4095, 1048575))) == (4095, 1048575)
    assert device_of(header(b"x", flag=BLOCK, device=(4096, 0))) is None
    assert device_of(header(b"x", device=(5, 1))) is None
    block = bytearray(header(b"x", flag=CHARACTER))
    block[329:337] = b"invalid\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert device_of(bytes(block)) is None


def test_the_prefix_of_ustar_continues_the_name() -> None:
    assert only(tar(header(b"name", tail=b"some/where"))).name == b"some/where/name"


def test_the_times_that_gnu_tar_keeps_in_the_place_of_the_prefix_are_no_name() -> None:
    assert only(tar(header(b"name", magic=GNU, tail=octal(1_700_000_000, 12)))).name == b"name"


@pytest.mark.parametrize("number", [2**33, -1, -(2**33), 2**62])
def test_numbers_beyond_octal_are_read_in_base_256(number: int) -> None:
    assert only(tar(header(b"x", mtime=number))).mtime_ns == number * 10**9


@pytest.mark.parametrize("field", [b"        ", b"\0\0\0\0\0\0\0\0", b" 644 \0\0\0", b"0000644 "])
def test_number_fields_may_be_padded_with_blanks_and_zeros(field: bytes) -> None:
    block = bytearray(header(b"x"))
    block[100:108] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert only(tar(bytes(block))).mode in {0, 0o644}


def test_a_checksum_of_signed_characters_is_taken() -> None:
    block = bytearray(header("ä".encode()))
    unsigned = int(block[148:154], 8)
    block[148:156] = b"%06o\0 " % (unsigned - 256 * 2)
    assert only(tar(bytes(block))).name == "ä".encode()


def test_names_that_are_not_utf8_survive() -> None:
    names = [b"\xff\xfe", b"caf\xe9", "café".encode()]
    data = tar(
        file(names[0]),
        *(part for name in names for part in (pax([(b"path", name)]), file(b"short"))),
        *(part for name in names for part in (record(name + b"\0", b"L"), file(b"short"))),
        symlink(b"link", b"\xff"),
    )
    read_back = members(data)
    assert [member.name for member in read_back] == [names[0], *names, *names, b"link"]
    assert read_back[-1].link == b"\xff"


def test_long_names_of_gnu_tar_hold_for_one_member() -> None:
    data = tar(
        record(LONG + b"\0", b"L"),
        record(LONG[::-1] + b"\0", b"K"),
        header(LONG[:100], flag=b"2", link=LONG[:100]),
        file(b"next"),
    )
    first, second = members(data)
    assert (first.name, first.link, second.name, second.link) == (LONG, LONG[::-1], b"next", b"")


def test_pax_overrides_the_header_for_one_member() -> None:
    data = tar(
        pax(
            [
                (b"path", LONG),
                (b"linkpath", b"target"),
                (b"uid", b"100000"),
                (b"gid", b"4294967294"),
                (b"mtime", b"1700000000.123456789999"),
                (b"comment", b"ignored\nwith a line"),
            ]
        ),
        symlink(b"short", b"other"),
        file(b"next"),
    )
    first, second = members(data)
    assert (first.name, first.link, first.uid, first.gid) == (LONG, b"target", 100000, 4294967294)
    assert first.mtime_ns == 1700000000123456789
    assert (second.name, second.uid, second.mtime_ns) == (b"next", 0, 1700000000 * 10**9)


def test_the_size_of_pax_is_the_one_that_counts() -> None:
    data = tar(pax([(b"size", b"3")]), header(b"x", size=0), padded(b"abc"), file(b"next", b"de"))
    assert contents(data) == {b"x": b"abc", b"next": b"de"}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"1.5", 1_500_000_000),
        (b"-1.5", -1_500_000_000),
        (b"7.", 7_000_000_000),
        (b"1.0000000019", 1_000_000_001),
    ],
)
def test_times_of_pax_keep_nanoseconds(text: bytes, nanoseconds: int) -> None:
    assert only(tar(pax([(b"mtime", text)]), file(b"x"))).mtime_ns == nanoseconds


def test_an_empty_value_of_pax_leaves_the_header_as_it_is() -> None:
    data = tar(pax([(b"path", b""), (b"uid", b""), (b"mtime", b"")]), file(b"x", uid=7))
    assert (only(data).name, only(data).uid) == (b"x", 7)


def test_global_pax_headers_hold_until_they_are_overridden() -> None:
    data = tar(
        pax([(b"uid", b"5"), (b"comment", b"0123abc")], b"g"),
        file(b"a"),
        pax([(b"uid", b"6")]),
        file(b"b"),
        file(b"c"),
        pax([(b"uid", b"7")], b"g"),
        file(b"d"),
    )
    assert [member.uid for member in members(data)] == [5, 6, 5, 7]


def test_extended_attributes_are_read_in_both_forms() -> None:
    value = bytes(range(256)) + b"\n=x"
    data = tar(
        pax(
            [
                (b"SCHILY.xattr.user.raw", value),
                (b"SCHILY.xattr.user.a%3Db%25", b"escaped"),
                (b"SCHILY.xattr.user.empty", b""),
                (b"LIBARCHIVE.xattr.user.%c3%a4", base64.b64encode(value).rstrip(b"=")),
                (b"LIBARCHIVE.xattr.user.raw", base64.b64encode(b"the raw form wins")),
            ]
        ),
        file(b"x"),
    )
    assert only(data).xattrs == {
        b"user.raw": value,
        b"user.a=b%": b"escaped",
        b"user.empty": b"",
        "user.ä".encode(): value,
    }


@pytest.mark.parametrize(
    "part",
    [old_sparse(extended=False), old_sparse(extended=True), *map(pax_sparse, ("0.0", "0.1", "1.0"))],
    ids=["old", "old-extended", "0.0", "0.1", "1.0"],
)
def test_every_form_of_sparse_file_is_read(part: bytes) -> None:
    data = tar(part, file(b"next", b"n"))
    assert contents(data) == {b"s": SPARSE_CONTENT, b"next": b"n"}
    assert members(data)[0].extents == tuple(SPARSE_MAP)


@pytest.mark.parametrize(
    "numbers",
    [b"2000,50,1000,100", b"1000,100,1050,50", b"1000,100,2080,50", b"1000,100,2000,51", b"1000", b"1000,x"],
    ids=["order", "overlap", "beyond", "more-than-data", "half", "text"],
)
def test_a_sparse_map_that_cannot_be_is_an_error(numbers: bytes) -> None:
    records = [(b"GNU.sparse.size", b"2100"), (b"GNU.sparse.map", numbers)]
    error_of(tar(file(b"first"), pax(records), header(b"s", size=150), padded(SPARSE_DATA)))


def test_a_sparse_map_without_end_is_refused_before_it_fills_the_memory() -> None:
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")]
    listing = b"99999999\n" + b"1\n" * (3 * RECORD_LIMIT)
    error = error_of(tar(file(b"a"), pax(records), header(b"s", size=len(listing)), padded(listing)))
    assert "bytes of headers for one member" in error.message


def test_names_in_messages_are_on_one_line_and_bounded() -> None:
    assert printable(b"plain \xc3\xa4") == "plain ä"
    assert printable(b"a\nb\x1b[2J\xff\0") == "a\\nb\\x1b[2J\\xff\\x00"
    assert len(printable(b"x" * 5000)) <= 200
    assert printable("\u202e".encode()).isascii()


def test_a_directory_flag_is_what_it_is_without_a_slash() -> None:
    assert only(tar(header(b"d", flag=DIRECTORY))).kind is Kind.DIRECTORY

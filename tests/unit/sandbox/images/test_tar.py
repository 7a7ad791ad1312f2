"""Reading tar archives: every form of header, every compression, and whatever is wrong with them."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import random
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.attributes import VALUE_LIMIT
from sandbox.images.names import printable
from sandbox.images.tar import GLOBAL_LIMIT, NAME_LIMIT, RECORD_LIMIT, Kind, Member, open_archive
from tests.unit.sandbox.images.tars import (
    CHARACTER,
    DIRECTORY,
    GNU,
    contents,
    directory,
    file,
    hard_link,
    header,
    members,
    octal,
    padded,
    pax,
    pax_record,
    read,
    record,
    symlink,
    tar,
)

LONG = b"d" * 150 + b"/" + b"f" * 150


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
compressed = pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS.keys())


def error_of(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        contents(data)
    assert caught.value.hint
    assert caught.value.message.startswith("a.tar: ")
    return caught.value


def only(data: bytes) -> Member:
    [member] = members(data)
    return member


# Headers


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


SPARSE_CONTENT = bytes(1000) + b"A" * 100 + bytes(900) + b"B" * 50 + bytes(50)
SPARSE_MAP = [(1000, 100), (2000, 50)]
SPARSE_DATA = b"A" * 100 + b"B" * 50


def old_sparse(*, extended: bool) -> bytes:
    pairs = [octal(offset, 12) + octal(length, 12) for offset, length in SPARSE_MAP]
    inline, more = (pairs[:1] + [bytes(24)] * 3, pairs[1:]) if extended else (pairs + [bytes(24)] * 2, [])
    tail = bytes(41) + b"".join(inline) + (b"\1" if more else b"\0") + octal(len(SPARSE_CONTENT), 12)
    block = header(b"s", flag=b"S", size=150, magic=GNU, tail=tail)
    return block + (b"".join(more).ljust(512, b"\0") if more else b"") + padded(SPARSE_DATA)


def pax_sparse(version: str) -> bytes:
    numbers = [number for extent in SPARSE_MAP for number in extent]
    if version == "1.0":
        listing = padded(b"".join(b"%d\n" % number for number in [len(SPARSE_MAP), *numbers]))
        records = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"s"),
            (b"GNU.sparse.realsize", b"2100"),
            (b"size", b"%d" % (len(listing) + 150)),
        ]
        return pax(records) + header(b"GNUSparseFile.0/s", size=1) + listing + padded(SPARSE_DATA)
    if version == "0.1":
        listed = [(b"GNU.sparse.map", b",".join(b"%d" % number for number in numbers))]
    else:
        listed = [
            (key, b"%d" % value)
            for extent in SPARSE_MAP
            for key, value in zip((b"GNU.sparse.offset", b"GNU.sparse.numbytes"), extent, strict=True)
        ]
    records = [(b"GNU.sparse.size", b"2100"), (b"GNU.sparse.numblocks", b"2"), *listed]
    return pax(records) + header(b"s", size=150) + padded(SPARSE_DATA)


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


# Compression


@compressed
def test_compression_is_told_by_its_magic_bytes(compress: Callable[[bytes], bytes]) -> None:
    content = random.Random(0).randbytes(700_000) + bytes(5_000_000)
    data = compress(tar(file(b"x", content), file(b"y", b"end")))
    assert contents(data) == {b"x": content, b"y": b"end"}


@compressed
def test_several_frames_make_one_archive(compress: Callable[[bytes], bytes]) -> None:
    whole = tar(file(b"x", bytes(range(256)) * 20), file(b"y", b"end"))
    data = b"".join(compress(whole[start : start + 700]) for start in range(0, len(whole), 700))
    assert contents(data) == {b"x": bytes(range(256)) * 20, b"y": b"end"}


def test_zstd_may_begin_and_go_on_with_frames_to_be_skipped() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + b"12345678"
    whole = tar(file(b"x", b"content"))
    data = skippable + zstd(whole[:600]) + skippable + zstd(whole[600:]) + skippable
    assert contents(data) == {b"x": b"content"}


def test_zeros_behind_a_gzip_member_are_padding() -> None:
    assert contents(gzip.compress(tar(file(b"x"))) + bytes(5000)) == {b"x": b""}


@compressed
def test_garbage_behind_the_compressed_data_is_an_error(compress: Callable[[bytes], bytes]) -> None:
    error_of(compress(tar(file(b"x"))) + b"garbage")


@compressed
def test_a_compressed_archive_cut_off_anywhere_is_an_error(compress: Callable[[bytes], bytes]) -> None:
    data = compress(tar(file(b"x", random.Random(0).randbytes(1500)), file(b"y")))
    for length in range(len(data)):
        error_of(data[:length])


@compressed
def test_a_damaged_compressed_archive_is_an_error(compress: Callable[[bytes], bytes]) -> None:
    data = bytearray(compress(tar(file(b"x", random.Random(0).randbytes(100_000)))))
    data[len(data) // 2] ^= 0x55
    if compress is zstd:  # without a checksum: what is damaged is the content, if anything is
        return
    assert "damaged" in error_of(bytes(data)).message


def test_a_checksum_of_zstd_is_verified() -> None:
    data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(tar(file(b"x", b"y" * 1000))))
    data[-1] ^= 1
    assert "damaged" in error_of(bytes(data)).message


@compressed
def test_a_bomb_is_unpacked_in_little_memory(compress: Callable[[bytes], bytes]) -> None:
    size = 1 << 27
    source = header(b"x", size=size) + bytes(size) + bytes(1024)
    data = compress(source)
    del source
    assert len(data) < size // 500
    tracemalloc.start()
    try:
        for _ in (archive := read(data)):
            for _ in archive.data():
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (80 << 20)


@pytest.mark.parametrize(
    ("module", "compression", "compress"), [("zstandard", "zstd", zstd), ("lzma", "xz", lzma.compress)]
)
def test_a_compression_whose_module_is_missing_is_an_error_that_names_it(
    module: str, compression: str, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = compress(tar(file(b"x")))
    monkeypatch.setitem(sys.modules, module, None)
    error = error_of(data)
    assert compression in error.message
    assert module in error.message


@pytest.mark.parametrize("magic", [b"\x04\x22\x4d\x18", b"PK\x03\x04"])
def test_an_unknown_compression_is_an_error_that_names_it(magic: bytes) -> None:
    error = error_of(magic + bytes(1000))
    assert error.message in {
        "a.tar: compressed with lz4, which is not supported",
        "a.tar: compressed with zip, which is not supported",
    }


@pytest.mark.parametrize("name", [b"LZIP", b"\x1f\x8b\x08", b"BZh91AY&SY"])
def test_a_plain_archive_whose_first_name_looks_like_a_compression_is_plain(name: bytes) -> None:
    assert only(tar(file(name))).name == name


def test_a_source_that_gives_little_at_a_time_is_read_to_the_end() -> None:
    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(100, size or 0))

    content = random.Random(0).randbytes(3000)
    for data in (tar(file(b"x", content)), gzip.compress(tar(file(b"x", content)))):
        archive = open_archive(Dripping(data), "a.tar")
        for _ in archive:
            assert b"".join(bytes(piece) for _, piece in archive.data()) == content


# Damage


def test_an_empty_file_is_an_error() -> None:
    assert error_of(b"").message == "a.tar: the file is empty"


@pytest.mark.parametrize("data", [b"hello", b"#!/bin/sh\n" * 200, b"\x7fELF" + bytes(5000)])
def test_a_file_that_is_no_archive_is_an_error_that_says_so(data: bytes) -> None:
    assert error_of(data).message.startswith("a.tar: no tar archive: ")


def test_a_damaged_header_is_not_the_end_of_the_archive() -> None:
    data = bytearray(tar(file(b"a", b"x"), file(b"b"), file(b"c")))
    data[1024 + 10] ^= 1
    error = error_of(bytes(data))
    assert error.message == "a.tar: damaged at byte 1024: the checksum of a header does not match"


def test_a_plain_archive_cut_off_anywhere_is_an_error() -> None:
    data = tar(pax([(b"path", b"x")]), file(b"a", b"x" * 600), directory(b"d"), pax_sparse("1.0"))
    for length in range(0, len(data) - 1023, 7):
        error_of(data[:length])
    assert "without the mark of its end" in error_of(data[:-1024]).message
    assert "inside of the member that begins at byte 0" in error_of(data[:2000]).message


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


# Bombs


def test_a_record_at_the_limit_is_read_and_one_byte_more_refused() -> None:
    whole = pax_record(b"comment", b"v" * (RECORD_LIMIT - len(b"1048576 comment=\n")))
    assert len(whole) == RECORD_LIMIT
    assert only(tar(record(whole, b"x"), file(b"x"))).name == b"x"
    assert only(tar(record(b"n" * NAME_LIMIT, b"L"), file(b"x"))).name == b"n" * NAME_LIMIT
    for flag, limit in ((b"x", RECORD_LIMIT), (b"g", RECORD_LIMIT), (b"L", NAME_LIMIT), (b"K", NAME_LIMIT)):
        error = error_of(tar(file(b"a"), record(b"x" * (limit + 1), flag)))
        assert f"a header record of {limit + 1} bytes, where up to {limit} are taken" in error.message


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
    # What is not used, or replaced, does not count.
    parts = [pax([(b"comment", b"v" * 50_000), (b"path", b"p" * 50_000)], b"g") + file(b"x")] * 30
    assert len(members(tar(*parts))) == 30


def test_a_megabyte_of_digits_costs_no_time() -> None:
    data = tar(file(b"a"), record(b"1" * RECORD_LIMIT, b"x"), file(b"b"))
    start = time.process_time()
    error_of(data)
    # It takes milliseconds; with backtracking, in proportion to the square of the length, it takes an hour.
    assert time.process_time() - start < 20


# Properties

EVERYTHING = tar(
    pax([(b"comment", b"x")], b"g"),
    directory(b"d/"),
    file(b"d/f", b"content" * 100),
    pax([(b"path", LONG), (b"SCHILY.xattr.user.x", b"v"), (b"mtime", b"1.5")]),
    file(b"short"),
    record(LONG + b"\0", b"L"),
    symlink(b"short", b"target"),
    hard_link(b"h", b"d/f"),
    header(b"dev/null", flag=CHARACTER, device=(1, 3)),
    old_sparse(extended=True),
    pax_sparse("0.0"),
    pax_sparse("0.1"),
    pax_sparse("1.0"),
    file(b"last", b"x"),
)


@settings(deadline=None)  # the machine may be busy
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(EVERYTHING) - 1), st.binary(min_size=1, max_size=12)), max_size=4
    ),
    cut=st.none() | st.integers(0, len(EVERYTHING)),
    mend=st.booleans(),
)
def test_a_changed_archive_is_read_or_refused_and_nothing_else(
    changes: list[tuple[int, bytes]], cut: int | None, mend: bool
) -> None:
    data = bytearray(EVERYTHING)
    for position, value in changes:
        data[position : position + len(value)] = value
        if mend:  # a checksum that fits lets the change through to what reads the fields
            start = position // 512 * 512
            block = data[start : start + 512]
            if len(block) == 512:
                block[148:156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    refusal = refusal_of(bytes(data[:cut]))
    assert refusal is None or (refusal.hint and refusal.message.isprintable())


def refusal_of(data: bytes) -> ImageError | None:
    """Return why *data* is refused; if it is not, check what it holds without filling its holes."""
    try:
        for member in (archive := read(data)):
            assert b"\0" not in member.name
            for offset, piece in archive.data():
                assert 0 <= offset <= offset + len(piece) <= member.size
    except ImageError as error:
        return error
    return None


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@settings(deadline=None)  # the machine may be busy
@given(
    entries=st.lists(
        st.tuples(
            st.text("ab/é\udcff. ", min_size=1, max_size=40).filter(lambda name: name.strip("/")),
            st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
            st.integers(0, 0o7777),
            st.integers(0, 0o7777777),
            st.integers(0, 2**31),
            st.binary(max_size=1100),
        ),
        max_size=5,
    )
)
def test_what_python_writes_is_read_back(
    form: int, entries: list[tuple[str, bytes, int, int, int, bytes]]
) -> None:
    stream = io.BytesIO()
    expected = []
    with tarfile.open(
        fileobj=stream, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for name, flag, mode, owner, mtime, data in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid, info.mtime = flag, mode, owner, owner // 2, mtime
            if flag == tarfile.REGTYPE:
                info.size = len(data)
            elif flag != tarfile.DIRTYPE:
                info.linkname = "target"
            archive.addfile(info, io.BytesIO(data))
            kind = Kind(flag)
            raw = name.encode("utf-8", "surrogateescape")
            if kind is Kind.FILE and raw.endswith(b"/"):
                kind = Kind.DIRECTORY
            expected.append((raw.rstrip(b"/"), kind, mode, owner, owner // 2, mtime * 10**9))
    assert [
        (one.name.rstrip(b"/"), one.kind, one.mode, one.uid, one.gid, one.mtime_ns)
        for one in members(stream.getvalue())
    ] == expected


def test_names_in_messages_are_on_one_line_and_bounded() -> None:
    assert printable(b"plain \xc3\xa4") == "plain ä"
    assert printable(b"a\nb\x1b[2J\xff\0") == "a\\nb\\x1b[2J\\xff\\x00"
    assert len(printable(b"x" * 5000)) <= 200
    assert printable("\u202e".encode()).isascii()


def test_a_directory_flag_is_what_it_is_without_a_slash() -> None:
    assert only(tar(header(b"d", flag=DIRECTORY))).kind is Kind.DIRECTORY

"""Small archives that request many resources. Each is unpacked, or refused with one error that names the member, in little
memory and in time proportional to its size.

A separate process unpacks and measures each archive, as the launcher does.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.images.compression import zstd_module
from sandbox.kernel.trees import remove_contents
from tests.unit.sandbox.images.tars import (
    CHARACTER,
    END,
    GNU,
    directory,
    file,
    hard_link,
    header,
    octal,
    padded,
    pax,
    pax_record,
    record,
    symlink,
    tar,
)

zstd = zstd_module("tests")
MIB = 1 << 20
#: Of a process that unpacks an archive of one file: 30 MiB.
SMALL = 64 * MIB
#: Of any process that unpacks.
MOST = 300 * 10**6
#: Processor seconds. Each of these takes up to three, and without a bound minutes or hours.
SHORT = 40


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of one unpacking."""

    error: str | None
    entries: int | None
    seconds: float
    peak: int


Unpack = Callable[..., Measured]


@pytest.fixture
def measure(tmp_path: Path) -> Iterator[Unpack]:
    """Return a function that unpacks an archive, given in parts, plain or compressed, in a separate process."""
    destination = tmp_path / "destination"
    destination.mkdir()

    def run(parts: Iterable[bytes], *, compress: bool = True, memory: int | None = None) -> Measured:
        path = tmp_path / "archive"
        with gzip.open(path, "wb", compresslevel=1) if compress else open(path, "wb") as archive:
            for part in parts:
                archive.write(part)
        return run_file(path, memory=memory)

    def run_file(path: Path, *, memory: int | None = None) -> Measured:
        command = [sys.executable, "-m", "tests.unit.sandbox.images.measured_program", str(path)]
        command += [str(destination), *([] if memory is None else [str(memory)])]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        measured = Measured(**json.loads(done.stdout))
        assert measured.peak < MOST, f"{measured.peak / MIB:.0f} MiB"
        return measured

    run.file = run_file  # type: ignore[attr-defined]
    yield run
    fd = os.open(destination, os.O_RDONLY)
    try:
        remove_contents(fd)
    finally:
        os.close(fd)


def is_small(measured: Measured) -> bool:
    assert measured.peak < SMALL, f"{measured.peak / MIB:.0f} MiB"
    assert measured.seconds < SHORT, f"{measured.seconds:.1f} s"
    return True


# Attributes


def with_attributes(form: bytes, size: int, count: int = 1000) -> Iterator[bytes]:
    """Yield *count* directories, each with three attributes of *size* bytes that differ from all others."""
    for number in range(count):
        for name in b"abc":
            value = b"%d" % number
            yield pax([(form % name, value + b"v" * (size - len(value)))])
        yield directory(b"d%d" % number)
    yield END


def test_attributes_of_a_megabyte_are_refused_and_the_directory_named(measure: Unpack) -> None:
    done = measure(with_attributes(b"SCHILY.xattr.user.%c", MIB - 100, 40))
    assert is_small(done)
    assert f"d0: its attribute user.a has {MIB - 100} bytes" in str(done.error)


def test_attributes_that_are_not_taken_are_left_out_whatever_their_size(measure: Unpack) -> None:
    done = measure(with_attributes(b"SCHILY.xattr.trusted.%c", MIB - 100, 40))
    assert is_small(done)
    assert (done.error, done.entries) == (None, 40)


def test_attributes_of_all_directories_together_have_a_bound(measure: Unpack) -> None:
    done = measure(with_attributes(b"SCHILY.xattr.user.%c", 65536))
    assert done.error is not None
    assert "d170: the extended attributes of directories take more than 32 MiB of memory" in done.error
    assert done.peak < SMALL + 40 * MIB


def test_attributes_that_many_directories_share_cost_nothing(measure: Unpack) -> None:
    parts = (
        pax([(b"SCHILY.xattr.user.x", b"v" * 3000)]) + directory(b"d%d" % number) for number in range(4_000)
    )
    done = measure([*parts, END])
    assert is_small(done)
    assert done.entries == 4_000


@pytest.mark.parametrize("key", [b"SCHILY.xattr.user.%d", b"SCHILY.xattr.trusted.%d", b"path%d"])
@pytest.mark.parametrize("flag", [b"x", b"g"])
def test_sixty_thousand_records_in_the_headers_of_a_member(measure: Unpack, key: bytes, flag: bytes) -> None:
    records = [
        pax([(key % (number + start), b"") for number in range(20_000)], flag)
        for start in (0, 20_000, 40_000)
    ]
    members = [file(b"f%d" % number) for number in range(2_000)]
    done = measure([*records, directory(b"here"), *members, END])
    assert is_small(done)
    if b"user" in key and flag == b"g":
        assert "bytes of global headers" in str(done.error)
    elif b"user" in key:  # more than any file system stores, or than are allowed in total
        assert done.error is None or "here" in done.error
    elif b"trusted" in key and flag == b"g":
        assert "bytes of global headers" in str(done.error)
    else:
        assert (done.error, done.entries) == (None, 2_001)


def test_headers_of_many_megabytes_for_each_member_take_the_time_to_read_them(measure: Unpack) -> None:
    body = b"".join(pax_record(b"k%d" % number, b"") for number in range(60_000))[: MIB - 16]
    body = body[: body.rindex(b"\n") + 1]
    one = record(body, b"x") * 3 + file(b"f")
    done = measure([one] * 5 + [END])
    assert is_small(done)
    assert done.entries == 5


def test_header_records_that_claim_to_be_huge_are_refused(measure: Unpack) -> None:
    for flag in b"xgLK":
        done = measure([header(b"h", flag=bytes([flag]), size=8 << 30), bytes(64 * MIB)])
        assert is_small(done)
        assert "a header record of 8589934592 bytes" in str(done.error)


# Frames


def compress_zstd(data: bytes, **parameters: int) -> bytes:
    """Compress *data* as a stream, whose frame does not state its size, so that its window is that of *parameters*."""
    options = {getattr(zstd.CompressionParameter, name): value for name, value in parameters.items()}
    compressor = zstd.ZstdCompressor(options=options)
    return bytes(compressor.compress(data) + compressor.flush())


EMPTY = {
    "gzip": gzip.compress(b"", mtime=0),
    "zstd": zstd.compress(b""),
    "skippable": b"\x50\x2a\x4d\x18\0\0\0\0",
    "bzip2": bz2.compress(b""),
    "xz": lzma.compress(b"", preset=9),
}


@pytest.mark.parametrize("compression", list(EMPTY))
def test_very_many_frames_with_nothing_in_them(measure: Unpack, compression: str, tmp_path: Path) -> None:
    compress = {"gzip": gzip.compress, "zstd": zstd.compress, "skippable": zstd.compress}
    compress |= {"bzip2": bz2.compress, "xz": lzma.compress}
    whole = compress[compression](tar(file(b"f", b"x")))
    (tmp_path / "frames").write_bytes(whole[:0] + EMPTY[compression] * 100_000 + whole)
    done = measure.file(tmp_path / "frames")  # type: ignore[attr-defined]
    assert done.peak < SMALL + 64 * MIB  # the dictionary size of xz -9
    assert done.seconds < SHORT
    assert (done.error, done.entries) == (None, 1)


def test_frames_of_one_byte_each(measure: Unpack, tmp_path: Path) -> None:
    data = tar(*(file(b"f%d" % number) for number in range(100)))
    (tmp_path / "frames").write_bytes(b"".join(gzip.compress(bytes([byte]), 1, mtime=0) for byte in data))
    done = measure.file(tmp_path / "frames")  # type: ignore[attr-defined]
    assert is_small(done)
    assert (done.error, done.entries) == (None, 100)


def test_large_windows_that_real_archives_have_are_read(measure: Unpack, tmp_path: Path) -> None:
    data = tar(file(b"f", os.urandom(MIB) * 160))
    (tmp_path / "large").write_bytes(compress_zstd(data, window_log=27, enable_long_distance_matching=1))
    done = measure.file(tmp_path / "large")  # type: ignore[attr-defined]
    assert (done.error, done.entries) == (None, 1)
    assert done.peak < 220 * MIB


def test_a_window_that_is_too_large_is_an_error_that_says_so(measure: Unpack, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(compress_zstd(tar(file(b"f")), window_log=28))
    dictionary = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 29}]
    (tmp_path / "large.xz").write_bytes(lzma.compress(tar(file(b"f")), filters=dictionary))
    for name in ("large", "large.xz"):
        done = measure.file(tmp_path / name)  # type: ignore[attr-defined]
        assert is_small(done)
        assert "needs too much memory" in str(done.error)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz"])
def test_zeros_without_end_are_a_bomb_that_ends_before_it_is_read(
    measure: Unpack, tmp_path: Path, compression: str
) -> None:
    compress = {"gzip": gzip.compress, "zstd": zstd.compress, "xz": lzma.compress}[compression]
    zeros = compress(bytes(64 * MIB))
    # The zeros follow the end of the tar, so that the test writes nothing.
    (tmp_path / "bomb").write_bytes(compress(tar(file(b"f"))) + zeros * 100)
    done = measure.file(tmp_path / "bomb")  # type: ignore[attr-defined]
    assert "as those of a decompression bomb do" in str(done.error)
    assert done.peak < 2 * SMALL
    assert done.seconds < SHORT


# Holes


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_hole_behind_the_archive_is_not_read_to_its_end(
    measure: Unpack, tmp_path: Path, packed: bool
) -> None:
    data = tar(file(b"f", b"x"))
    path = tmp_path / "hole"
    path.write_bytes(gzip.compress(data) if packed else data)
    os.truncate(path, 1 << 43)
    done = measure.file(path)  # type: ignore[attr-defined]
    assert is_small(done)
    assert (done.error is None) is not packed
    if packed:
        assert "bytes of zeros" in str(done.error)


def sparse_map(form: str, entries: int) -> Iterator[bytes]:
    """Yield a sparse file whose map has *entries* entries without data."""
    if form == "1.0":
        records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")]
        listing = padded(b"%d\n" % entries + b"0\n" * (2 * entries))
        yield pax(records) + header(b"s", size=len(listing)) + listing
    elif form == "0.1":
        yield pax([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b",".join([b"0"] * (2 * entries)))])
        yield header(b"s")
    elif form == "0.0":
        both = pax_record(b"GNU.sparse.offset", b"0") + pax_record(b"GNU.sparse.numbytes", b"0")
        yield pax([(b"GNU.sparse.size", b"9")])
        for start in range(0, entries, 20_000):
            yield record(both * min(20_000, entries - start), b"x")
        yield header(b"s")
    else:
        pair = octal(0, 12) + octal(0, 12)
        yield header(b"s", flag=b"S", magic=GNU, tail=bytes(41) + pair * 4 + b"\1" + octal(9, 12))
        blocks = entries // 21
        for number in range(blocks):
            yield (pair * 21 + (b"\1" if number < blocks - 1 else b"\0")).ljust(512, b"\0")


@pytest.mark.parametrize(
    ("form", "fitting", "excessive"),
    [
        ("1.0", 450_000, 2_000_000),
        ("0.1", 250_000, 1_000_000),
        ("0.0", 60_000, 200_000),
        ("old", 80_000, 200_000),
    ],
)
def test_sparse_maps_of_very_many_entries(measure: Unpack, form: str, fitting: int, excessive: int) -> None:
    done = measure([*sparse_map(form, fitting), END])
    assert done.peak < 4 * SMALL
    assert (done.error, done.entries) == (None, 1)
    done = measure([file(b"first"), *sparse_map(form, excessive), END])
    assert done.peak < 4 * SMALL
    assert "header" in str(done.error)
    assert done.seconds < SHORT


# Trees


def test_directories_cost_little_memory_each(measure: Unpack) -> None:
    count = 8_000
    base = measure([*(directory(b"some/directories/000000") for _ in range(count)), END])
    done = measure([*(directory(b"some/directories/%06d" % number) for number in range(count)), END])
    assert (done.error, done.entries) == (None, count)
    assert done.peak - base.peak < count * 450
    assert done.seconds < SHORT


@pytest.mark.long
def test_six_hundred_thousand_directories_fit_and_two_million_are_an_error(measure: Unpack) -> None:
    count = 600_000
    done = measure(_directories(count))
    assert (done.error, done.entries) == (None, count)
    assert done.seconds < count / 2000
    done = measure(_directories(2_000_000))
    assert "unpacking takes more than 256 MiB of memory" in str(done.error)


def _directories(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield directory(b"%03d/%07d" % (number % 1000, number))
    yield END


def test_more_directories_than_the_memory_has_room_for_are_an_error_that_names_one(measure: Unpack) -> None:
    done = measure(_directories(25_000), memory=12 * MIB)
    assert done.error is not None
    assert done.error.startswith("a.tar: ")
    assert "/0" in done.error
    assert "unpacking takes more than 12 MiB of memory" in done.error
    assert done.peak < SMALL


@pytest.mark.parametrize("module", ["zstd", "xz"])
def test_a_decompressor_that_gets_no_memory_says_so(measure: Unpack, module: str, tmp_path: Path) -> None:
    data = tar(file(b"f", b"x"))
    if module == "zstd":
        data = compress_zstd(data, window_log=27)
    else:
        dictionary = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 27}]
        data = lzma.compress(data, filters=dictionary)
    (tmp_path / "packed").write_bytes(data)
    done = measure.file(tmp_path / "packed", memory=60 * MIB)  # type: ignore[attr-defined]
    assert "memory" in str(done.error)
    assert "damaged" not in str(done.error)


def test_deep_directories_that_few_members_name_take_time_as_their_number(measure: Unpack) -> None:
    # Each member creates 2040 nested directories. Setting their attributes by paths from the root would take 2 million steps each.
    names = [b"%04d/" % number + b"d/" * 2040 for number in range(4)]
    done = measure([*(record(name + b"\0", b"L") + directory(b"short") for name in names), END])
    assert (done.error, done.entries) == (None, 4)
    assert done.peak < 2 * SMALL
    assert done.seconds < SHORT


def test_links_that_lead_through_thousands_of_directories_are_refused(measure: Unpack) -> None:
    long = b"./" * 2000
    chain = [symlink(b"l%d" % number, long + b"l%d" % (number + 1)) for number in range(38)]
    members = [file(b"l0/f%d" % number) for number in range(2_000)]
    done = measure([directory(b"l38"), *chain, *members, END])
    assert is_small(done)
    assert "l0/f0: its path contains too many symbolic links" in str(done.error)


@pytest.mark.parametrize("count", [5_000, pytest.param(70_000, marks=pytest.mark.long)])
def test_a_flood_of_hard_links_is_made_or_refused_at_the_member(measure: Unpack, count: int) -> None:
    links = (hard_link(b"d%d/l%d" % (number % 100, number), b"f") for number in range(count))
    done = measure([file(b"f", b"x"), *links, END])
    assert is_small(done)
    if done.error is None:  # ext4 allows 65000; the limits of XFS and tmpfs are not reached
        assert done.entries == count + 1
    else:
        assert done.error.startswith("a.tar: d")
        assert "with more hard links" in done.error


def test_a_flood_of_devices_that_are_left_out(measure: Unpack) -> None:
    done = measure([*(header(b"dev/%d" % number, flag=CHARACTER) for number in range(20_000)), END])
    assert is_small(done)
    assert (done.error, done.entries) == (None, 0)


def test_directories_that_are_replaced_again_and_again(measure: Unpack) -> None:
    one = [
        directory(b"d"),
        *(file(b"d/%d" % number) for number in range(50)),
        file(b"d"),
        symlink(b"d", b"e"),
    ]
    done = measure([part for _ in range(200) for part in one] + [END])
    assert is_small(done)
    assert done.error is None

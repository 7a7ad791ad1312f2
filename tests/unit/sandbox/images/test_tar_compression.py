"""Reading compressed archives: every compression, several frames, padding, damage and bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import sys
import tracemalloc
from collections.abc import Callable

import pytest

from sandbox.images.compression import zstd_module
from sandbox.images.tar import open_archive
from tests.unit.sandbox.images.tars import (
    contents,
    error_of,
    file,
    header,
    only,
    read,
    tar,
)

zstd = zstd_module("tests")
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
compressed = pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS.keys())


@pytest.fixture(params=["isal.isal_zlib", "zlib"], autouse=True)
def gzip_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have gzip read by isal, and by zlib as without isal."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    else:
        pytest.importorskip(request.param)


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
    data = skippable + zstd.compress(whole[:600]) + skippable + zstd.compress(whole[600:]) + skippable
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
    if compress is zstd.compress:  # without a checksum, so that damage may only change the content
        return
    assert "damaged" in error_of(bytes(data)).message


def test_a_checksum_of_zstd_is_verified() -> None:
    data = bytearray(
        zstd.compress(tar(file(b"x", b"y" * 1000)), options={zstd.CompressionParameter.checksum_flag: 1})
    )
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
    ("module", "compression", "compress"),
    [(zstd.__name__, "zstd", zstd.compress), ("lzma", "xz", lzma.compress)],
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

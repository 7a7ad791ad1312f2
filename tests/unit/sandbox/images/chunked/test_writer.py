"""A zstd:chunked layer has a table by which each file is read alone, and is a plain zstd layer for other readers."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import os
import random
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.chunked import writer
from sandbox.images.chunked.footer import annotations_of
from sandbox.images.chunked.writer import CHUNK_SIZE, LARGEST_SPARSE
from sandbox.images.compression import open_plain
from tests.unit.sandbox.images.chunked.layers import assemble, files_of, table, toc_of
from tests.unit.sandbox.images.chunked.test_tar_split import crc64_by_table
from tests.unit.sandbox.images.oci.layer_streams import Change, Layer, T, directory, file, stream
from tests.unit.sandbox.images.oci.test_layer_writer import layers

TEMPORARY = Path(tempfile.gettempdir())
CHUNKED = "zstd:chunked"
KINDS = {
    tarfile.REGTYPE: "reg",
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.DIRTYPE: "dir",
    tarfile.FIFOTYPE: "fifo",
}


def text_of(change: Change) -> Change:
    """Return *change* with names that are UTF-8."""

    def utf8(name: bytes) -> bytes:
        return name.decode("latin-1").encode()

    return replace(
        change,
        names=tuple(map(utf8, change.names)),
        link=utf8(change.link),
        xattrs={utf8(name): value for name, value in change.xattrs.items()},
    )


def stated(layer: Layer) -> dict[str, str]:
    return dict(layer.written.descriptor.annotations)


def nanoseconds(member: tarfile.TarInfo) -> int:
    """Return the modification time of *member*; tarfile has made a float of it."""
    text = member.pax_headers.get("mtime", str(int(member.mtime)))
    negative = text.startswith("-")
    seconds, _, fraction = text.lstrip("-").partition(".")
    value = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
    return -value if negative else value


@given(layers())
@settings(deadline=None)
def test_the_table_has_what_the_tar_has(changes: list[Change]) -> None:
    changes = list(map(text_of, changes))
    plain = Layer(stream(changes), TEMPORARY)
    layer = Layer(stream(changes), TEMPORARY, compression=CHUNKED)
    assert layer.tar == plain.tar
    assert layer.written.diff_id == plain.written.diff_id
    assert str(layer.written.descriptor.digest) == f"sha256:{hashlib.sha256(layer.blob).hexdigest()}"
    toc = toc_of(layer.blob, stated(layer))
    found = files_of(layer.blob, toc)
    with tarfile.open(fileobj=io.BytesIO(plain.tar), encoding="utf-8") as tar:
        members = tar.getmembers()
        assert [entry.rstrip("/") for entry in found] == [member.name for member in members]
        for member, (entry, content, _) in zip(members, found.values(), strict=True):
            assert entry["type"] == KINDS[member.type]
            assert entry["name"].endswith("/") == member.isdir()
            assert entry.get("linkName", "") == member.linkname
            assert entry.get("mode", 0) == member.mode
            assert (entry.get("uid", 0), entry.get("gid", 0)) == (member.uid, member.gid)
            assert (entry.get("devMajor", 0), entry.get("devMinor", 0)) == (member.devmajor, member.devminor)
            seconds, _, fraction = entry["modtime"].removesuffix("Z").partition(".")
            whole = int(datetime.fromisoformat(seconds + "+00:00").timestamp())
            assert whole * 10**9 + int(fraction.ljust(9, "0")) == nanoseconds(member)
            assert {
                f"SCHILY.xattr.{name}": base64.b64decode(value)
                for name, value in entry.get("xattrs", {}).items()
            } == {
                name: value.encode("utf-8", "surrogateescape")
                for name, value in member.pax_headers.items()
                if name.startswith("SCHILY.xattr.")
            }
            if member.isreg():
                assert content == tar.extractfile(member).read()  # type: ignore[union-attr]
                digest = f"sha256:{hashlib.sha256(content).hexdigest()}" if content else None
                assert entry.get("digest") == digest
    split = table(layer.blob, stated(layer), "tarsplit-position")
    contents = {name: content for name, (_, content, _) in found.items()}
    checksums = {name: crc64_by_table(content) for name, content in contents.items()}
    assert assemble(split, contents, checksums) == plain.tar


def large(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE + 5])
def test_a_file_consists_of_chunks_with_digests(size: int) -> None:
    content = large(size)
    layer = Layer(stream([file(b"large", content), file(b"next", b"n")]), TEMPORARY, compression=CHUNKED)
    found = files_of(layer.blob, toc_of(layer.blob, stated(layer)))
    entry, shown, chunks = found["large"]
    assert shown == content
    assert entry["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    pieces = [content[at : at + CHUNK_SIZE] for at in range(0, size, CHUNK_SIZE)]
    digests = [f"sha256:{hashlib.sha256(piece).hexdigest()}" for piece in pieces]
    assert chunks == [
        (len(piece), digest)
        for piece, digest in zip(pieces, digests if len(pieces) > 1 else [""], strict=True)
    ]
    assert found["next"][1] == b"n"


@pytest.mark.parametrize(
    "ranges", [((0, 2), (6 << 20, 2)), ((6 << 20, 4),), ((0, 4),), ()], ids=["both", "first", "last", "only"]
)
def test_the_holes_of_a_sparse_file_are_chunks_of_zeros(ranges: tuple[tuple[int, int], ...]) -> None:
    data = b"abcd" if ranges else b""
    changes = [file(b"holes", data, ranges=ranges, size=8 << 20), file(b"last", b"l")]
    layer = Layer(stream(changes), TEMPORARY, compression=CHUNKED)
    expected, at = bytearray(8 << 20), 0
    for offset, length in ranges:
        expected[offset : offset + length] = data[at : at + length]
        at += length
    toc = toc_of(layer.blob, stated(layer))
    found = files_of(layer.blob, toc)
    assert found["holes"][1] == expected
    assert found["holes"][0]["digest"] == f"sha256:{hashlib.sha256(expected).hexdigest()}"
    assert found["last"][1] == b"l"
    # Tar-split data cannot express a sparse file. Without them, podman fetches the layer whole.
    assert "tarSplitDigest" not in toc
    assert stated(layer).keys() == {
        "io.github.containers.zstd-chunked.manifest-checksum",
        "io.github.containers.zstd-chunked.manifest-position",
    }


def test_no_frame_of_the_tar_is_larger_than_a_chunk() -> None:
    changes = [directory(b"%05d" % number) for number in range(3000)]  # headers of 1.5 MB in a row
    layer = Layer(stream([*changes, file(b"large", large(1 << 20))]), TEMPORARY, compression=CHUNKED)
    frames: list[tuple[int, int]] = []
    for _ in open_plain(io.BytesIO(layer.blob), "it", lambda *at: frames.append(at)).pieces:
        pass
    sizes = [after[1] - before[1] for before, after in itertools.pairwise(frames)]
    assert max(sizes) == CHUNK_SIZE
    assert sum(sizes) == len(layer.tar)
    assert len(frames) < 20


@given(layers(), st.randoms(use_true_random=False), st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_equal_changes_in_any_order_become_equal_bytes(
    changes: list[Change], order: random.Random, first: int
) -> None:
    changes = list(map(text_of, changes))
    one = Layer(stream(changes), TEMPORARY, compression=CHUNKED)
    order.shuffle(changes)
    other = Layer(stream(changes, first), TEMPORARY, compression=CHUNKED)
    assert one.blob == other.blob
    assert one.written == other.written


def test_the_annotations_are_those_that_the_footer_tells(tmp_path: Path) -> None:
    layer = Layer(stream([file(b"f", b"content")]), TEMPORARY, compression=CHUNKED)
    path = tmp_path / "blob"
    path.write_bytes(layer.blob)
    with open(path, "rb") as blob:
        assert annotations_of(blob.fileno()) == stated(layer)
    offset, size, _, kind = stated(layer)["io.github.containers.zstd-chunked.manifest-position"].split(":")
    content = layer.blob[int(offset) : int(offset) + int(size)]
    checksum = stated(layer)["io.github.containers.zstd-chunked.manifest-checksum"]
    assert checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert kind == "1"
    split = toc_of(layer.blob, stated(layer))["tarSplitDigest"]
    offset, size, _ = stated(layer)["io.github.containers.zstd-chunked.tarsplit-position"].split(":")
    assert split == f"sha256:{hashlib.sha256(layer.blob[int(offset) : int(offset) + int(size)]).hexdigest()}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (file(b"n\xff", b"x"), r"n\\xff: its name n\\xff is not UTF-8"),
        (replace(file(b"l"), type=0o120000, link=b"\xff"), r"l: its target \\xff is not UTF-8"),
        (file(b"a", xattrs={b"user.\xff": b""}), r"a: its attribute user\.\\xff is not UTF-8"),
        (
            file(b"t", mtime_ns=300_000_000_000 * 10**9),
            "t: its modification time: .* not in the years 1 to 9999",
        ),
        (
            file(b"s", ranges=(), size=LARGEST_SPARSE + 1),
            "s: a file with holes of 1073741825 bytes, more than",
        ),
    ],
    ids=["name", "target", "attribute", "time", "sparse"],
)
def test_what_the_table_cannot_express_is_refused_with_its_name(change: Change, reason: str) -> None:
    content = stream([change])
    with pytest.raises(ImageError, match=reason) as caught:
        Layer(content, TEMPORARY, compression=CHUNKED)
    assert caught.value.hint == "--compression zstd can express it"
    assert Layer(content, TEMPORARY, compression="zstd").tar


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd(1)")
def test_zstd_and_tar_read_the_layer(tmp_path: Path) -> None:
    changes = [
        directory(b"d"),
        file(b"d/large", large(CHUNK_SIZE + 9), b"other"),
        file(b"empty", mtime_ns=T * 10**9),
    ]
    layer = Layer(stream(changes), TEMPORARY, compression=CHUNKED)
    path = tmp_path / "layer.tar.zst"
    path.write_bytes(layer.blob)
    (tmp_path / "root").mkdir()
    subprocess.run(["tar", "--zstd", "-xf", path, "-C", tmp_path / "root"], check=True)
    assert (tmp_path / "root/other").read_bytes() == large(CHUNK_SIZE + 9)
    assert sorted(os.listdir(tmp_path / "root")) == ["d", "empty", "other"]


def test_memory_does_not_grow_with_the_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    class Watched(writer._Source):
        def take(self, end: int | None) -> bytes:
            kept.append(sum(map(len, self._kept)))
            return super().take(end)

    monkeypatch.setattr(writer, "_Source", Watched)
    Layer(stream([file(b"large", bytes(32 << 20)), file(b"last", b"x")]), TEMPORARY, compression=CHUNKED)
    assert max(kept) < 4 << 20

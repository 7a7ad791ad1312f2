"""The tables of contents of zstd:chunked and eStargz: what they tell is what the tar has, and nothing else is believed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.chunked.pieces import WrongChunkError, extractor
from sandbox.images.chunked.table_archive import TableArchive
from sandbox.images.chunked.toc import (
    FOOTER,
    LARGEST_CHUNK,
    TableEntry,
    decode_table,
    place_in_footer,
    place_of,
    table_of,
)
from sandbox.images.tar import Member, open_archive
from tests.support.chunked import ChunkedLayer, content_of, write_estargz, write_zstd_chunked
from tests.support.images import tar_of

LARGE = content_of(1, 10_000) + bytes(9_000) + content_of(2, 700)
TAR = tar_of(
    {
        "d/": None,
        "d/large": LARGE,
        "d/small": b"small",
        "d/empty": b"",
        "d/link": "-> large",
        "d/other": "=> d/small",
        "d/.wh.gone": b"",
        "d/again": b"again",
    },
    mtime=1_600_000_000,
    uid=7,
)
WRITERS: list[Callable[..., ChunkedLayer]] = [write_zstd_chunked, write_estargz]


def entries_of(layer: ChunkedLayer) -> list[TableEntry]:
    place = place_of(layer.annotations, len(layer.blob))
    assert place is not None
    if not place.length:
        place = place_in_footer(layer.blob[-FOOTER:], place, len(layer.blob))
        assert place is not None
    content = layer.blob[place.offset : place.offset + place.length]
    archive = TableArchive(content, place, "layer")
    found = []
    before = 0
    for member in archive:
        found.append(TableEntry(member, archive.position, tuple(archive.chunks[before:])))
        before = len(archive.chunks)
    return found


def contents(layer: ChunkedLayer, entry: TableEntry) -> bytes:
    """Return the contents of a file, from the pieces that the table names."""
    extract = extractor("zstd" if "zstd" in layer.media_type else "estargz")
    extents = entry.member.extents or ((0, entry.member.size),) * bool(entry.member.size)
    data = bytearray(entry.member.size)
    joined = b"".join(
        extract(layer.blob[chunk.stored : chunk.stored + chunk.stored_size], chunk) for chunk in entry.chunks
    )
    for offset, length in extents:
        data[offset : offset + length], joined = joined[:length], joined[length:]
    assert joined == b""
    return bytes(data)


def members_of(tar: bytes) -> list[tuple[Member, bytes]]:
    stream = open_archive(io.BytesIO(tar), "tar")
    return [(member, b"".join(bytes(piece) for _, piece in stream.data())) for member in stream]


def normal(member: Member) -> Member:
    return member._replace(name=member.name.rstrip(b"/"), extents=None)


@pytest.mark.parametrize("chunk", [100, 4096, 1 << 20])
@pytest.mark.parametrize("write", WRITERS)
def test_the_members_and_their_contents_are_those_of_the_tar(
    write: Callable[..., ChunkedLayer], chunk: int
) -> None:
    layer = write(TAR, chunk)
    found = [(normal(entry.member), contents(layer, entry)) for entry in entries_of(layer)]
    expected = [(normal(member), content) for member, content in members_of(TAR)]
    assert found == expected


def test_files_may_share_a_gzip_member_with_the_header_before_them() -> None:
    layer = write_estargz(TAR, 4096, inner=True)
    assert any("innerOffset" in entry for entry in layer.entries)
    found = {entry.member.name: contents(layer, entry) for entry in entries_of(layer)}
    assert found[b"d/large"] == LARGE
    assert found[b"d/again"] == b"again"


def test_chunks_of_zeros_are_holes() -> None:
    layer = write_zstd_chunked(TAR, 1000, zeros=True)
    (large,) = [entry for entry in entries_of(layer) if entry.member.name == b"d/large"]
    assert large.member.extents is not None
    assert sum(length for _, length in large.member.extents) == len(LARGE) - 9000
    assert contents(layer, large) == LARGE


@pytest.mark.parametrize("write", WRITERS)
def test_the_chunks_follow_each_other_in_the_data(write: Callable[..., ChunkedLayer]) -> None:
    end = 0
    for entry in entries_of(write(TAR, 1000)):
        if entry.chunks:
            assert entry.position == end
        for chunk in entry.chunks:
            assert chunk.position == end
            end += chunk.size
    assert end == len(LARGE) + len(b"small") + len(b"again")


def test_attributes_and_devices_are_those_of_the_tar() -> None:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("f")
        info.pax_headers = {"SCHILY.xattr.user.mine": "value", "SCHILY.xattr.trusted.other": "x"}
        archive.addfile(info)
        device = tarfile.TarInfo("null")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    found = [normal(entry.member) for entry in entries_of(write_zstd_chunked(output.getvalue()))]
    expected = [normal(member)._replace(device=None) for member, _ in members_of(output.getvalue())]
    assert found == expected
    assert found[0].xattrs == {b"user.mine": b"value"}
    assert found[0].left_out == (b"trusted.other",)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("", 0),
        ("1970-01-01T00:00:00Z", 0),
        ("2020-09-13T12:26:40Z", 1_600_000_000 * 10**9),
        ("2020-09-13T14:26:40.5+02:00", 1_600_000_000 * 10**9 + 500_000_000),
        ("1969-12-31T23:59:59.000000001Z", -(10**9) + 1),
    ],
)
def test_times_are_those_of_rfc_3339(text: str, nanoseconds: int) -> None:
    table = {"version": 1, "entries": [{"type": "dir", "name": "d", "mode": 493, "modtime": text}]}
    (entry,) = decode_table(json.dumps(table).encode(), 1000, "t")
    assert entry.member.mtime_ns == nanoseconds


def reg(**changes: Any) -> dict[str, Any]:
    digest = "sha256:" + "0" * 64
    return {"type": "reg", "name": "f", "mode": 420, "size": 4, "offset": 10, "digest": digest} | changes


def chunk(**changes: Any) -> dict[str, Any]:
    digest = "sha256:" + "0" * 64
    return {
        "type": "chunk", "name": "f", "offset": 20, "chunkOffset": 2, "chunkSize": 2, "chunkDigest": digest,
    } | changes  # fmt: skip


FIRST = {"chunkSize": 2, "chunkDigest": "sha256:" + "0" * 64}


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([reg(type="disk")], "an unknown type"),
        ([reg(name="")], "no name"),
        ([reg(name="a\0b")], "not valid"),
        ([reg(name=7)], "not valid"),
        ([reg(size=-1)], "out of range"),
        ([reg(size="4")], "is no integer"),
        ([reg(size=1 << 63)], "out of range"),
        ([reg(offset=0)], "outside of the blob"),
        ([reg(offset=1000)], "outside of the blob"),
        ([reg(offset=5000)], "outside of the blob"),
        ([reg(digest="md5:0")], "no digest that can be verified"),
        ([reg(digest=None)], "no digest that can be verified"),
        ([reg(**FIRST), chunk(chunkOffset=3)], "do not follow each other"),
        ([reg(**FIRST), chunk(chunkSize=9)], "do not follow each other"),
        ([reg(**FIRST), chunk(chunkSize=1)], "do not have all of its contents"),
        ([reg(**FIRST), chunk(chunkDigest="")], "no digest that can be verified"),
        ([reg(**FIRST)], "do not have all of its contents"),
        ([{"type": "dir", "name": "d", "mode": 493}, chunk()], "is no file"),
        ([chunk()], "an unknown type"),
        ([reg(size=LARGEST_CHUNK + 1)], "more than 64 MiB"),
        ([reg(innerOffset=LARGEST_CHUNK)], "more than 64 MiB"),
        ([reg(modtime="yesterday")], "its time is not valid"),
        ([reg(modtime="2020-13-01T00:00:00Z")], "wrong type"),
        ([reg(xattrs={"user.a": "%"})], "not in base64"),
        ([reg(xattrs=["user.a"])], "wrong type"),
        ([{"name": "f"}], "wrong type"),
        (["f"], "TypeError|AttributeError"),
        (7, "TypeError"),
    ],
)
def test_an_entry_that_makes_no_sense_is_an_error_that_names_it(entries: object, reason: str) -> None:
    table = json.dumps({"version": 1, "entries": entries}).encode()
    with pytest.raises(ImageError, match=reason) as caught:
        list(decode_table(table, 1000, "layer"))
    assert caught.value.hint == "pull the image whole: remove root.lazy"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"x", b'{"version": 2, "entries": []}', b"[" * 200_000, b'"\xff"']
)
def test_what_is_no_table_is_an_error(content: bytes) -> None:
    with pytest.raises(ImageError):
        list(decode_table(content, 1000, "layer"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2000) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["reg", "chunk", "dir", "hardlink", "symlink"]), "name": st.text(max_size=3)},
            optional={
                key: st.integers(-3, 1200) | json_values
                for key in ("size", "offset", "endOffset", "chunkOffset", "chunkSize", "innerOffset", "mode")
            }
            | {"digest": st.just("sha256:" + "0" * 64), "chunkDigest": st.just("sha256:" + "1" * 64)},
        ),
        max_size=6,
    )
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_any_table_is_an_error_or_tells_chunks_inside_the_blob(entries: list[dict[str, Any]]) -> None:
    end = 0
    try:
        for entry in decode_table(json.dumps({"version": 1, "entries": entries}).encode(), 1000, "layer"):
            assert sum(one.size for one in entry.chunks) <= entry.member.size
            for one in entry.chunks:
                assert one.position == end
                assert 0 < one.stored < one.stored + one.stored_size <= 1000
                end += one.size
    except ImageError:
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"manifest-checksum": "sha256:0"},
        {"manifest-checksum": "sha512:" + "0" * 128},
        {"manifest-position": "1:2:3"},
        {"manifest-position": "1:2:3:2"},
        {"manifest-position": "1:0:3:1"},
        {"manifest-position": "99:2:3:1"},
        {"manifest-position": "1:99999999999:3:1"},
        {"manifest-position": "-1:2:3:1"},
    ],
)
def test_annotations_of_another_form_are_those_of_no_table(changes: dict[str, str]) -> None:
    prefix = "io.github.containers.zstd-chunked."
    good = {f"{prefix}manifest-checksum": "sha256:" + "0" * 64, f"{prefix}manifest-position": "1:2:3:1"}
    assert table_of(good, 100) == "sha256:" + "0" * 64
    assert place_of(good | {prefix + key: value for key, value in changes.items()}, 100) is None


@pytest.mark.parametrize("damage", ["magic", "digits", "length", "zero"])
def test_a_footer_of_another_form_is_that_of_no_table(damage: str) -> None:
    layer = write_estargz(TAR)
    place = place_of(layer.annotations, len(layer.blob))
    assert place is not None
    footer = layer.blob[-FOOTER:]
    assert place_in_footer(footer, place, len(layer.blob)) is not None
    bad = {
        "magic": b"\0" + footer[1:],
        "digits": footer.replace(b"STARGZ", b"STARGY"),
        "length": footer[:-1],
        "zero": footer[:16] + b"0" * 16 + footer[32:],
    }[damage]
    assert place_in_footer(bad, place, len(layer.blob)) is None


@pytest.mark.parametrize("write", WRITERS)
def test_a_table_with_another_digest_is_refused(write: Callable[..., ChunkedLayer]) -> None:
    layer = write(TAR)
    other = {
        key: "sha256:" + "0" * 64 if "sha256" in value else value for key, value in layer.annotations.items()
    }
    with pytest.raises(ImageError, match="the table of contents has the digest sha256"):
        entries_of(ChunkedLayer(layer.blob, other, layer.tar, layer.entries))


@pytest.mark.parametrize("write", WRITERS)
def test_a_piece_with_other_content_is_refused(write: Callable[..., ChunkedLayer]) -> None:
    layer = write(TAR, 1000)
    extract = extractor("zstd" if write is write_zstd_chunked else "estargz")
    for entry in entries_of(layer):
        for one in entry.chunks:
            piece = bytearray(layer.blob[one.stored : one.stored + one.stored_size])
            assert extract(bytes(piece), one)
            with pytest.raises(WrongChunkError):
                extract(bytes(piece), one._replace(digest=bytes(32)))
            with pytest.raises(WrongChunkError):
                extract(bytes(piece[:8]), one)
            with pytest.raises(WrongChunkError):
                extract(b"", one)

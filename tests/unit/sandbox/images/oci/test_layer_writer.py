"""Equal changes become equal layers, which have what the changes have."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.oci import media_types
from sandbox.images.oci.layer_blob import LayerBlob
from sandbox.images.oci.layer_writer import write_layer
from sandbox.images.tar import Kind, open_archive
from tests.unit.sandbox.images import tars
from tests.unit.sandbox.images.oci.layer_streams import Change, Layer, T, directory, file, mark, stream
from unionfs.changes import pax

NAMES = st.binary(min_size=1, max_size=6).filter(
    lambda name: not set(name) & {0, 0x2F} and name not in {b".", b".."} and not name.startswith(b".wh.")
)
TIMES = st.integers(-(10**18), 3 * 10**18)
XATTRS = st.dictionaries(
    st.binary(min_size=1, max_size=5).filter(lambda name: 0 not in name).map(lambda name: b"user." + name),
    st.binary(max_size=9),
    max_size=2,
)
IDS = st.integers(0, (1 << 32) - 2)
TEMPORARY = Path(tempfile.gettempdir())
STREAMS = ("", "gzip", "zstd")
"""The compressions of a tar as one stream."""


@st.composite
def layers(draw: st.DrawFn) -> list[Change]:
    """Return the changes of some layer."""
    names = draw(st.lists(NAMES, unique=True, max_size=8))
    directories, found = [b""], []
    free = []
    for name in names:
        path = b"/".join(filter(None, (draw(st.sampled_from(directories)), name)))
        meta = {
            "uid": draw(IDS),
            "gid": draw(IDS),
            "mtime_ns": draw(TIMES),
            "mode": draw(st.integers(0, 0o7777)),
        }
        kind = draw(st.sampled_from(["dir", "file", "link", "fifo", "mark", "device"]))
        if kind == "dir":
            directories.append(path)
            found.append(directory(path, **meta))
        elif kind == "mark":
            head, _, tail = path.rpartition(b"/")
            found.append(mark(b"/".join(filter(None, (head, b".wh." + tail)))))
        elif kind == "file":
            data = draw(st.binary(max_size=600))
            found.append(Change(names=(path,), data=data, xattrs=draw(XATTRS), **meta))
            free.append(len(found) - 1)
        elif kind == "link":
            found.append(Change(names=(path,), type=stat.S_IFLNK, link=draw(NAMES), **meta))
            free.append(len(found) - 1)
        elif kind == "fifo":
            found.append(Change(names=(path,), type=stat.S_IFIFO, **meta))
        else:
            device = draw(st.tuples(st.integers(0, 4095), st.integers(0, 200_000)))
            found.append(Change(names=(path,), type=stat.S_IFCHR, device=device, **meta))
    if draw(st.booleans()):
        found.append(directory(b"."))
    for at in free:
        extra = draw(st.lists(NAMES, max_size=2, unique=True))
        taken = {name for change in found for name in change.names}
        found[at] = replace(
            found[at], names=found[at].names + tuple(name for name in extra if name not in taken)
        )
    return found or [directory(b".")]


def names_in(tar: bytes) -> list[bytes]:
    """Return the names of the members as they stand in *tar*."""
    return [member.name for member in open_archive(io.BytesIO(tar), "it")]


@given(layers(), st.randoms(use_true_random=False), st.integers(0, 5), st.sampled_from(STREAMS))
@settings(deadline=None)
def test_equal_changes_in_any_order_become_equal_bytes(
    changes: list[Change], order: random.Random, first: int, compression: str
) -> None:
    one = Layer(stream(changes), TEMPORARY, compression=compression)
    order.shuffle(changes)
    other = Layer(stream(changes, first), TEMPORARY, compression=compression)
    assert one.blob == other.blob
    assert one.written == other.written
    again = Layer(one.tar, TEMPORARY, compression=compression)
    assert again.blob == one.blob


@given(layers(), st.none() | st.integers(0, 3 * 10**9))
def test_a_layer_has_what_the_changes_have(changes: list[Change], latest: int | None) -> None:
    layer = Layer(stream(changes), TEMPORARY, latest=latest)
    members = {member.name: member for member in open_archive(io.BytesIO(layer.tar), "it")}
    contents = tars.contents(layer.tar)
    assert len(members) == sum(len(change.names) for change in changes)
    for change in changes:
        first = min(change.names)
        slash = b"/" if change.type == stat.S_IFDIR else b""
        for name in change.names:
            found = members[name + slash]
            assert (found.uid, found.gid, found.mode) == (change.uid, change.gid, change.mode)
            assert found.mtime_ns == min(change.mtime_ns, (latest if latest is not None else T**2) * 10**9)
            if name != first:
                assert (found.kind, found.link, found.xattrs) == (Kind.HARD_LINK, first, {})
            else:
                assert found.xattrs == change.xattrs
                assert contents[name + slash] == change.data
                assert found.link == change.link
                assert found.device == (change.device if change.type == stat.S_IFCHR else None)


@given(layers())
def test_members_are_sorted_by_bytes_and_below_their_directories(changes: list[Change]) -> None:
    names = names_in(Layer(stream(changes), TEMPORARY).tar)
    listed = [b"" if name == b"./" else name for name in names]
    assert listed == sorted(listed)
    for at, name in enumerate(listed):
        if name.endswith(b"/"):
            below = [number for number, other in enumerate(listed) if other.startswith(name)]
            assert below == list(range(at, at + len(below)))


@given(layers())
def test_the_headers_have_no_names_of_owners_and_no_other_times(changes: list[Change]) -> None:
    with tarfile.open(
        fileobj=io.BytesIO(Layer(stream(changes), TEMPORARY).tar), errors="surrogateescape"
    ) as tar:
        for member in tar:
            assert (member.uname, member.gname) == ("", "")
            assert not {"atime", "ctime", "uname", "gname"} & member.pax_headers.keys()


def test_pax_records_stand_only_where_they_are_needed() -> None:
    plain = stream([file(b"etc/passwd", b"x"), directory(b"etc"), mark(b"etc/.wh.shadow")])
    layer = Layer(plain, TEMPORARY)
    assert layer.tar.count(b"PaxHeader") == 0
    assert len(layer.tar) == 5 * 512 - 512 + 512 + 512  # three headers, a block of data, and the end
    for changed in (
        file(b"a", mtime_ns=T * 10**9 + 1),
        file("ä".encode()),
        file(b"n" * 101),
        file(b"a", uid=1 << 21),
        file(b"a", xattrs={b"user.a": b"b"}),
    ):
        assert Layer(stream([changed]), TEMPORARY).tar.count(b"PaxHeader") == 1


SAMPLE = [
    directory(b".", mode=0o700),
    directory(b"d", mtime_ns=(T + 9) * 10**9 + 5),
    directory(b"d-e"),
    file(
        b"d/z", b"linked", b"a", b"d-e/l", mtime_ns=(T + 8) * 10**9 + 1, uid=1000, xattrs={b"user.k": b"\0v="}
    ),
    file(b"d/.bashrc", b"hidden"),
    mark(b"d/.wh..wh..opq"),
    mark(b".wh.gone"),
    Change(names=(b"s",), type=stat.S_IFLNK, mode=0o777, link=b"d/z"),
    file(b"big", bytes(range(256)) * 3000),
]


def test_the_diff_id_of_a_layer_is_the_same_everywhere(tmp_path: Path) -> None:
    """Another digest would be another image for everybody who builds it again."""
    layer = Layer(stream(SAMPLE), tmp_path, latest=T)
    assert str(layer.written.diff_id) == (
        "sha256:4be0b6933b27ced90f3bf731cec5f18210b8440a323b41eee51d4fc6ca712451"
    )


_PROGRAM = f"""
import io, os, sys, time
from sandbox.images.oci.layer_writer import write_layer
os.umask(int(sys.argv[1], 8))
time.tzset()
written = write_layer(
    sys.stdin.buffer, sys.stdout.buffer, temporary=sys.argv[2], compression=sys.argv[3], latest={T}
)
sys.stderr.write(str(written.descriptor.digest))
"""


@pytest.mark.parametrize("compression", STREAMS)
def test_another_time_umask_zone_place_and_hash_seed_change_nothing(compression: str, tmp_path: Path) -> None:
    results = set()
    for number, (umask, zone, seed) in enumerate((("000", "UTC", "1"), ("077", "Pacific/Kiritimati", "2"))):
        temporary = tmp_path / f"place{number}"
        temporary.mkdir()
        environment = {
            **os.environ,
            "TZ": zone,
            "PYTHONHASHSEED": seed,
            "LC_ALL": "C" if number else "C.UTF-8",
        }
        command = [sys.executable, "-c", _PROGRAM, umask, str(temporary), compression]
        time.sleep(1.1 * number)  # a second that gzip(1) would store
        done = subprocess.run(
            command, input=stream(SAMPLE), env=environment, capture_output=True, check=True, cwd=os.getcwd()
        )
        results.add((done.stdout, done.stderr))
        assert list(temporary.iterdir()) == []
    [(blob, digest)] = results
    assert digest.decode() == "sha256:" + hashlib.sha256(blob).hexdigest()


@pytest.mark.parametrize(
    ("compression", "media_type"),
    [("", ""), ("gzip", "+gzip"), ("zstd", "+zstd")],
)
def test_digests_size_and_type_are_those_of_the_blob(
    compression: str, media_type: str, tmp_path: Path
) -> None:
    layer = Layer(stream(SAMPLE), tmp_path, compression=compression)
    descriptor = layer.written.descriptor
    assert descriptor.media_type == media_types.OCI_LAYER + media_type
    assert media_types.LAYERS[descriptor.media_type] == compression
    assert str(descriptor.digest) == "sha256:" + hashlib.sha256(layer.blob).hexdigest()
    assert descriptor.size == len(layer.blob)
    assert str(layer.written.diff_id) == "sha256:" + hashlib.sha256(layer.tar).hexdigest()


def test_gzip_has_no_name_and_no_time(tmp_path: Path) -> None:
    blob = Layer(stream(SAMPLE), tmp_path, compression="gzip").blob
    assert blob[:9] == b"\x1f\x8b\x08\0\0\0\0\0\0"  # RFC 1952, 2.3: no flags, no time, no extra flags
    assert gzip.decompress(blob)


@given(st.lists(st.integers(0, 300_000), max_size=8), st.integers(0, 2**32), st.sampled_from(STREAMS))
def test_the_sizes_of_the_pieces_do_not_change_the_blob(cuts: list[int], seed: int, compression: str) -> None:
    source = random.Random(seed)
    data = b"".join(source.randbytes(200) + bytes(source.randrange(400)) for _ in range(1500))
    blobs = []
    for borders in ([], sorted(cuts)):
        output = io.BytesIO()
        blob = LayerBlob(output, compression)
        for start, end in zip([0, *borders], [*borders, len(data)], strict=True):
            blob.write(data[start:end])
        blobs.append((blob.finish(), output.getvalue()))
    assert blobs[0] == blobs[1]


def test_no_changes_make_no_layer(tmp_path: Path) -> None:
    output = io.BytesIO()
    assert write_layer(io.BytesIO(pax.END), output, temporary=str(tmp_path)) is None
    assert output.getvalue() == b""


def test_small_holes_are_written_as_zeros_and_large_ones_are_kept(tmp_path: Path) -> None:
    small = file(b"small", b"abcd", ranges=((100, 2), (70_000, 2)), size=200_000)
    empty = file(b"empty", ranges=(), size=1 << 20)
    large = file(b"large", b"abcd", b"other", ranges=((1 << 19, 2), (1 << 43, 2)), size=1 << 44)
    layer = Layer(stream([small, empty, large]), tmp_path)
    members = {member.name: member for member in open_archive(io.BytesIO(layer.tar), "it")}
    assert {name: member.size for name, member in members.items()} == {
        b"small": 200_000, b"empty": 1 << 20, b"large": 1 << 44, b"other": 0,
    }  # fmt: skip
    assert members[b"small"].extents is members[b"empty"].extents is None
    assert members[b"large"].extents == ((1 << 19, 2), (1 << 43, 2), (1 << 44, 0))
    assert len(layer.tar) < 2 << 20
    with tarfile.open(fileobj=io.BytesIO(layer.tar)) as tar:
        content = tar.extractfile("small").read()  # type: ignore[union-attr]
        assert content == bytes(100) + b"ab" + bytes(69_898) + b"cd" + bytes(129_998)
        assert tar.getmember("large").issparse()


def test_gnu_tar_lists_the_layer_as_expected(tmp_path: Path) -> None:
    layer = Layer(stream(SAMPLE), tmp_path, latest=T)
    command = ["tar", "--list", "--verbose", "--numeric-owner", "--full-time", "--file=-"]
    done = subprocess.run(
        command,
        input=layer.tar,
        capture_output=True,
        check=True,
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
    )
    assert done.stderr == b""
    assert [b" ".join(line.split()).decode() for line in done.stdout.splitlines()] == [
        "drwx------ 0/0 0 2023-11-14 22:13:20 ./",
        "-rw------- 0/0 0 1970-01-01 00:00:00 .wh.gone",
        "-rw-r--r-- 1000/0 6 2023-11-14 22:13:20 a",
        "-rw-r--r-- 0/0 768000 2023-11-14 22:13:20 big",
        "drwxr-xr-x 0/0 0 2023-11-14 22:13:20 d-e/",
        "hrw-r--r-- 1000/0 0 2023-11-14 22:13:20 d-e/l link to a",
        "drwxr-xr-x 0/0 0 2023-11-14 22:13:20 d/",
        "-rw-r--r-- 0/0 6 2023-11-14 22:13:20 d/.bashrc",
        "-rw------- 0/0 0 1970-01-01 00:00:00 d/.wh..wh..opq",
        "hrw-r--r-- 1000/0 0 2023-11-14 22:13:20 d/z link to a",
        "lrwxrwxrwx 0/0 0 2023-11-14 22:13:20 s -> d/z",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tars.file(b"../x"), r"\.\./x: a path with `\.\.`"),
        (tars.file(b"a/../../x"), r"a path with `\.\.`"),
        (tars.file(b"a") + tars.file(b"./a"), "two members with this name"),
        (tars.file(b"a") + tars.hard_link(b"b", b"a") + tars.file(b"b"), "two members with this name"),
        (tars.hard_link(b"a", b"b"), "a hard link to b, which is no file of this layer"),
        (tars.hard_link(b"a", b"../b"), r"a path with `\.\.`"),
        (tars.directory(b"d/") + tars.hard_link(b"a", b"d"), "a hard link to d, which is no file"),
        (tars.symlink(b"a", b""), "without a target"),
        (tars.file(b"."), "the root is not a directory"),
        (tars.file(b"a", uid=-1), "the owner -1:0 is not possible"),
        (tars.file(b"a", gid=(1 << 32) - 1), "the owner 0:4294967295 is not possible"),
        (tars.file(b".wh."), "a mark that hides no possible name"),
        (tars.file(b"d/.wh.."), "a mark that hides no possible name"),
        (tars.file(b".wh..."), "a mark that hides no possible name"),
        (tars.file(b".wh..wh.plnk"), "a mark that hides no possible name"),
        (tars.file(b".wh.a", b"x"), "a mark that is not an empty file"),
        (tars.directory(b".wh.a/"), "a mark that is not an empty file"),
        (tars.file(b".wh.a/b"), "in a directory whose name begins with .wh."),
        (tars.header(b"n", flag=tars.CHARACTER, device=(1 << 13, 0)), "a device without valid numbers"),
    ],
)
def test_a_member_that_no_layer_can_have_is_refused_by_name(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    output = io.BytesIO()
    with pytest.raises(ImageError, match=reason):
        write_layer(io.BytesIO(content + pax.END), output, temporary=str(tmp_path))
    assert output.getvalue() == b""
    assert list(tmp_path.iterdir()) == []


def test_hidden_files_may_be_deleted(tmp_path: Path) -> None:
    changes = [mark(b".wh..bashrc"), mark(b".wh...x"), mark(b".wh." + b"n" * 255)]
    assert len(names_in(Layer(stream(changes), tmp_path).tar)) == 3


def test_a_truncated_stream_makes_no_layer(tmp_path: Path) -> None:
    whole = stream(SAMPLE)
    for size in (600, len(whole) // 2, len(whole) - len(pax.END)):
        output = io.BytesIO()
        with pytest.raises(ImageError, match="truncated"):
            write_layer(io.BytesIO(whole[:size]), output, temporary=str(tmp_path))
        assert output.getvalue() == b""


def test_a_file_whose_name_looks_like_compressed_data_is_taken(tmp_path: Path) -> None:
    changes = [file(b"BZh91AY&SY", b"x", b"other"), file(b"z")]
    assert names_in(Layer(stream(changes), tmp_path).tar) == [b"BZh91AY&SY", b"other", b"z"]

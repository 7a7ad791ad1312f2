"""A mounted archive shows what unpacking it would write: the unpacker is the oracle."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images import attributes
from tests.support.archives import ALL_IDS, SINGLE_ID, mounted_archive
from tests.unit.sandbox.images.tars import (
    CHARACTER,
    FIFO,
    GNU,
    LONG,
    SPARSE_CONTENT,
    directory,
    extract,
    file,
    hard_link,
    header,
    old_sparse,
    pax,
    pax_sparse,
    record,
    symlink,
    tar,
)
from tests.unit.sandbox.images.test_unpack_properties import hostile, parts
from tests.unit.unionfs.support import Shown, Union
from unionfs._stdlib.dataclasses import replace
from unionfs.assemble import LayerSource, StackSource, open_stack
from unionfs.formats.whiteout import MarkPolicy

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
AUFS = MarkPolicy(overlay=False, aufs=True)
ROOT = os.geteuid() == 0


class Shows(Union):
    """A read-only union over layers that are given as they are opened."""

    def __init__(self, *lowers: LayerSource) -> None:
        self.fs = open_stack(StackSource(lowers=lowers))


def show(*lowers: LayerSource) -> dict[str, Shown]:
    """Return what a union of *lowers*, top first, shows."""
    union = Shows(*lowers)
    try:
        return union.show()
    finally:
        union.close()


def unpacked(data: bytes, place: str | Path, *, single_id: bool = not ROOT) -> LayerSource:
    """Unpack *data* into *place*, and return it as a layer."""
    extract(data, place, single_id=single_id)
    return LayerSource(fd=os.open(place, _OPEN_DIR), policy=AUFS)


def mounted(data: bytes) -> LayerSource:
    """Return *data* as a mounted layer, with the owners that unpacking could give here."""
    return mounted_archive(data, ALL_IDS if ROOT else SINGLE_ID)


def comparable(shown: dict[str, Shown], *, times: bool = True) -> dict[str, object]:
    """Return *shown* without what differs by account: without root, objects belong to this account, not to id 0."""
    return {
        path: (
            each.mode,
            (each.uid, each.gid) if ROOT else None,
            each.nlink,
            each.data,
            each.target,
            each.size,
            each.mtime_ns if times else None,
            each.xattrs,
        )
        for path, each in shown.items()
    }


@settings(max_examples=400, deadline=None)
@example(members=[("file", b"a", b""), ("hard", b"b", b"a"), ("file", b"a", b"")])
@example(members=[("symlink", b"a", b"b"), ("dir", b"b", b""), ("file", b"a/b", b"")])
@given(members=st.lists(hostile, min_size=1, max_size=12))
def test_a_mounted_archive_shows_what_unpacking_writes_or_is_refused_with_it(
    members: list[tuple[str, bytes, bytes]],
) -> None:
    data = tar(*parts(members))

    def outcome(way: str, place: str) -> object:
        try:
            layer = mounted(data) if way == "mounted" else unpacked(data, place)
        except ImageError as error:
            return error.message
        return comparable(show(layer))

    with tempfile.TemporaryDirectory() as base:
        place = os.path.join(base, "layer")
        assert outcome("mounted", place) == outcome("unpacked", place)


LOWER = tar(
    directory(b"d", mode=0o700),
    file(b"d/lower", b"lower"),
    directory(b"d/sub"),
    file(b"d/sub/deep", b"deep"),
    file(b"f", b"lower"),
    hard_link(b"f2", b"f"),
    symlink(b"l", b"d"),
)
MARKS = st.sampled_from(
    [
        file(b".wh.d"),
        file(b".wh.f"),
        file(b".wh.nothing"),
        file(b"d/.wh..wh..opq"),
        file(b"d/.wh.lower"),
        file(b"d/sub/.wh.deep"),
        file(b".wh..wh..opq"),
        file(b".wh..wh.aufs"),
        directory(b"d", mode=0o711),
        file(b"d/own", b"own"),
        file(b"d/sub/deep", b"other"),
        file(b"f", b"own"),
        symlink(b"d", b"l"),
        directory(b"."),
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    members=st.lists(MARKS, max_size=7),
    archived=st.sampled_from([(True, True), (True, False), (False, True)]),
)
def test_whiteouts_of_mounted_archives_hide_what_those_of_unpacked_ones_do(
    members: list[bytes], archived: tuple[bool, bool]
) -> None:
    datas = [tar(*members), LOWER]
    with tempfile.TemporaryDirectory() as base:
        plain = [unpacked(data, f"{base}/{number}") for number, data in enumerate(datas)]
        layers = [
            mounted(data) if is_archived else unpacked(data, f"{base}/other{number}")
            for number, (data, is_archived) in enumerate(zip(datas, archived, strict=True))
        ]
        assert comparable(show(*layers)) == comparable(show(*plain))


XATTRS = {
    "user": (b"SCHILY.xattr.user.name", b"value\0\xff"),
    "capability": (b"SCHILY.xattr.security.capability", bytes.fromhex("0100000200200000") + bytes(12)),
    "left-out": (b"SCHILY.xattr.user.overlay.opaque", b"y"),
}


@pytest.mark.parametrize("name", sorted(XATTRS))
@pytest.mark.parametrize(
    "member",
    [file(b"x", b"data"), directory(b"x"), symlink(b"x", b"y"), header(b"x", flag=FIFO)],
    ids=["file", "directory", "symlink", "fifo"],
)
def test_extended_attributes_are_those_that_unpacking_sets(tmp_path: Path, name: str, member: bytes) -> None:
    if name == "capability" and (not ROOT or member[156:157] != b"0"):
        pytest.skip("only root may set it, and only files have it")
    data = tar(pax([XATTRS[name]]) + member)
    assert comparable(show(mounted(data))) == comparable(show(unpacked(data, tmp_path / "layer")))


def acl(*entries: tuple[int, int, int]) -> bytes:
    return b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + number.to_bytes(4, "little")
        for tag, rights, number in entries
    )


_NO_ID = (1 << 32) - 1
LISTS = {
    "named": acl((1, 6, _NO_ID), (2, 4, 0), (4, 4, _NO_ID), (16, 7, _NO_ID), (32, 0, _NO_ID)),
    "plain": acl((1, 6, _NO_ID), (4, 4, _NO_ID), (32, 4, _NO_ID)),
    "masked": acl((1, 6, _NO_ID), (4, 7, _NO_ID), (16, 1, _NO_ID), (32, 4, _NO_ID)),
    "without-mask": acl((1, 6, _NO_ID), (2, 4, 0), (4, 4, _NO_ID), (32, 0, _NO_ID)),
    "out-of-order": acl((4, 4, _NO_ID), (1, 6, _NO_ID), (32, 4, _NO_ID)),
    "cut": acl((1, 6, _NO_ID))[:-1],
    "no-version": b"",
}


@pytest.mark.root
@pytest.mark.parametrize("kind", ["access", "default"])
@pytest.mark.parametrize("name", sorted(LISTS))
@pytest.mark.parametrize("member", [file(b"x", mode=0o640), directory(b"x", mode=0o750)], ids=["file", "dir"])
def test_access_control_lists_are_those_that_the_file_system_would_have(
    tmp_path: Path, kind: str, name: str, member: bytes
) -> None:
    data = tar(pax([(f"SCHILY.xattr.system.posix_acl_{kind}".encode(), LISTS[name])]) + member)

    def outcome(way: str) -> object:
        try:
            layer = mounted(data) if way == "mounted" else unpacked(data, tmp_path / "layer", single_id=False)
        except (ImageError, OSError):
            return "refused"
        return comparable(show(layer))

    assert outcome("mounted") == outcome("unpacked")


SPARSE = {
    "old": old_sparse(extended=False),
    "old-extended": old_sparse(extended=True),
    "0.0": pax_sparse("0.0"),
    "0.1": pax_sparse("0.1"),
    "1.0": pax_sparse("1.0"),
}


@pytest.mark.parametrize("form", sorted(SPARSE))
def test_a_sparse_file_has_its_holes(form: str) -> None:
    union = Shows(mounted(tar(SPARSE[form], file(b"after", b"after"))))
    try:
        assert union.read("s") == SPARSE_CONTENT
        assert union.read("after") == b"after"
        number = union.open("s")
        files, handles = union.fs.files, union.fs.handles
        for offset in range(0, len(SPARSE_CONTENT), 37):
            for size in (1, 99, 1000):
                assert files.read(number, offset, size) == SPARSE_CONTENT[offset : offset + size]
        seek = handles.file(number).seek
        assert [seek(at, os.SEEK_DATA) for at in (0, 999, 1000, 1050, 1100, 2049)] == [
            1000, 1000, 1000, 1050, 2000, 2049,
        ]  # fmt: skip
        assert [seek(at, os.SEEK_HOLE) for at in (0, 1000, 1099, 1100, 2000, 2050)] == [
            0, 1100, 1100, 1100, 2050, 2050,
        ]  # fmt: skip
        for at, whence in ((2050, os.SEEK_DATA), (2100, os.SEEK_HOLE), (-1, os.SEEK_DATA)):
            with pytest.raises(OSError, match="No such device or address"):
                seek(at, whence)
        handles.close_file(number)
        assert union.stat("s").blocks == 8
    finally:
        union.close()


NAMED = {
    "not-utf-8": file(b"\xff\xfe", b"data"),
    "long-gnu": record(LONG, b"L") + file(LONG[:99], b"data"),
    "long-pax": pax([(b"path", LONG)]) + file(b"short", b"data"),
    "too-long": pax([(b"path", b"x" * 256)]) + file(b"short", b"data"),
    "negative-time": file(b"old", mtime=-5),
    "nanoseconds": pax([(b"mtime", b"1700000000.123456789")]) + file(b"f"),
    "set-id": file(b"f", mode=0o6755),
    "gnu": header(b"f", magic=GNU),
    "device": header(b"f", flag=CHARACTER, device=(1, 3)),
    "link-to-device": header(b"f", flag=CHARACTER, device=(1, 3)) + hard_link(b"g", b"f"),
    "long-link": symlink(b"l", b"/" + b"t" * 3000),
    "empty-whiteout": file(b".wh."),
    "whiteout-of-dot": file(b".wh.."),
    "whiteout-with-content": file(b".wh.f", b"content"),
    "below-a-whiteout": file(b".wh.f") + file(b".wh.f/g"),
    "loop": symlink(b"a", b"b") + symlink(b"b", b"a") + file(b"a/f"),
    "link-to-symlink": symlink(b"a", b"b") + hard_link(b"c", b"a"),
    "link-through-symlink": directory(b"d")
    + file(b"d/f", b"x")
    + symlink(b"s", b"d")
    + hard_link(b"g", b"s/f"),
    "file-becomes-directory": file(b"a", b"x") + hard_link(b"b", b"a") + file(b"a/c", b"y"),
    "directory-becomes-link": file(b"d/f", b"x") + hard_link(b"g", b"d/f") + hard_link(b"d", b"g"),
    "link-inside-replaced": file(b"d/f", b"x") + hard_link(b"d", b"d/f"),
}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_each_kind_of_member_is_shown_or_refused_as_when_unpacking(tmp_path: Path, name: str) -> None:
    data = tar(NAMED[name])

    def outcome(way: str) -> object:
        try:
            layer = mounted(data) if way == "mounted" else unpacked(data, tmp_path / "layer")
        except ImageError as error:
            return error.message
        return comparable(show(layer))

    assert outcome("mounted") == outcome("unpacked")


def test_an_owner_that_the_sandbox_does_not_map_is_refused() -> None:
    from sandbox.kernel.idmaps import IdMap
    from sandbox.plan import IdPlan

    some = (IdMap(inside=0, outside=100000, count=1000),)
    ids = IdPlan(uid_map=some, gid_map=some, helpers=None, single=False)
    assert show(mounted_archive(tar(file(b"f", uid=999)), ids))["/f"].uid == 999
    with pytest.raises(ImageError, match=r"f: its owner 1000:0 is not among the ids of the sandbox"):
        mounted_archive(tar(file(b"f", uid=1000)), ids)


def test_what_is_left_out_is_reported_as_when_unpacking(tmp_path: Path) -> None:
    import io

    from tests.support.archives import write_index

    data = tar(
        header(b"null", flag=CHARACTER, device=(1, 3)),
        header(b"dev/null", flag=CHARACTER, device=(1, 3)),
        pax([(b"SCHILY.xattr.user.overlay.opaque", b"y")]) + file(b"f", b"1234"),
        directory(b"d"),
        hard_link(b"g", b"f"),
    )
    with open(tmp_path / "a.tar", "wb") as archive:
        archive.write(data)
    with open(tmp_path / "a.tar", "rb") as archive:
        # An index never uses the layers below: these supply what it lacks while it is mounted.
        unpacked = replace(extract(data, tmp_path / "layer"), used_below=False)
        assert write_index(archive, io.BytesIO()) == unpacked


def test_two_indexes_of_an_archive_are_equal() -> None:
    import io

    from tests.support.archives import memory_file, write_index

    outputs = []
    for _ in range(2):
        with open(memory_file(LOWER), "rb") as archive:
            archive.seek(0)
            output = io.BytesIO()
            write_index(archive, output)
            outputs.append(output.getvalue())
    assert outputs[0] == outputs[1]


def test_objects_have_numbers_and_hard_links_share_one() -> None:
    union = Shows(mounted(LOWER))
    try:
        numbers = {path: union.stat(path).ino for path in union.show()}
        assert numbers["/f"] == numbers["/f2"]
        assert len(set(numbers.values())) == len(numbers) - 1
        assert union.stat("f").nlink == 2
    finally:
        union.close()


def test_the_server_shows_the_limits_of_attributes_that_an_archive_may_have() -> None:
    value = os.urandom(attributes.VALUE_LIMIT)
    union = Shows(mounted(tar(pax([(b"SCHILY.xattr.user.large", value)]) + file(b"f"))))
    try:
        assert union.fs.xattrs.get(union.inode("f").ino, "user.large") == value
        assert stat.S_ISREG(union.stat("f").mode)
    finally:
        union.close()

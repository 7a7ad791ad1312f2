"""Reading archives that Hypothesis generates: changed at random, or written by tarfile."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.tar import Kind
from tests.unit.sandbox.images.tars import (
    CHARACTER,
    LONG,
    directory,
    file,
    hard_link,
    header,
    members,
    old_sparse,
    pax,
    pax_sparse,
    read,
    record,
    symlink,
    tar,
)

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
        if mend:  # with a correct checksum, the change reaches the code that reads the fields
            start = position // 512 * 512
            block = data[start : start + 512]
            if len(block) == 512:
                block[148:156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    refusal = refusal_of(bytes(data[:cut]))
    assert refusal is None or (refusal.hint and refusal.message.isprintable())


def refusal_of(data: bytes) -> ImageError | None:
    """Return why *data* is refused; if it is accepted, check its content without filling holes."""
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

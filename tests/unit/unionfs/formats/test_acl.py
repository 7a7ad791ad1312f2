"""The ACLs that a new object inherits from the default ACL of its directory, compared with a file system."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.tree import Dir, File
from unionfs.formats import acl

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.unionfs.conftest import MakeUnion

_BITS = st.integers(0, 7)


def encode(entries: list[tuple[int, int, int]]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@st.composite
def lists(draw: st.DrawFn) -> bytes:
    """Return a random valid ACL: entries in the order that the kernel requires, with a mask if there are named entries."""
    users = sorted(draw(st.sets(st.integers(1, 5), max_size=2)))
    groups = sorted(draw(st.sets(st.integers(1, 5), max_size=2)))
    none = (1 << 32) - 1
    entries = [(0x01, draw(_BITS), none)]
    entries += [(0x02, draw(_BITS), user) for user in users]
    entries.append((0x04, draw(_BITS), none))
    entries += [(0x08, draw(_BITS), group) for group in groups]
    if users or groups or draw(st.booleans()):
        entries.append((0x10, draw(_BITS), none))
    entries.append((0x20, draw(_BITS), none))
    return encode(entries)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "d"
    path.mkdir()
    try:
        os.setxattr(path, acl.DEFAULT, encode([(1, 7, 0), (4, 7, 0), (0x20, 7, 0)]))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("the file system of the temporary directory has no access control lists")
    return path


@pytest.mark.root  # other ids are not mapped in the user namespace of an ordinary account's tests
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(default=lists(), mode=st.integers(0, 0o777))
def test_what_is_inherited_is_what_the_file_system_below_gives(
    directory: Path, default: bytes, mode: int
) -> None:
    os.setxattr(directory, acl.DEFAULT, default)
    file = directory / "f"
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        info = os.stat(file)
        access = os.getxattr(file, acl.ACCESS) if acl.ACCESS in os.listxattr(file) else None
    finally:
        file.unlink()
    assert acl.inherit(default, stat.S_IFREG | mode) == (access, info.st_mode)


@pytest.mark.parametrize("value", [b"", b"\1\0\0\0", b"\2\0\0\0\1", encode([(1, 7, 0)])[:-1]])
def test_a_damaged_list_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        acl.inherit(value, 0o644)


def test_entries_of_ids_that_are_not_mapped_are_left_out() -> None:
    none = (1 << 32) - 1
    kept = [(0x01, 6, none), (0x02, 4, 5), (0x04, 4, none), (0x10, 6, none), (0x20, 4, none)]
    dropped = [(0x02, 6, none), (0x08, 6, none)]

    def encoded(entries: list[tuple[int, int, int]]) -> bytes:
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries))

    assert acl.mapped(encoded(kept + dropped)) == encoded(kept)
    assert acl.mapped(b"junk") == b"junk"


@pytest.mark.usefixtures("directory")  # the check whether there are ACLs
def test_a_list_that_the_work_directory_inherits_gives_nobody_a_right_to_copies(
    make_union: MakeUnion,
) -> None:
    union = make_union({"secret": File(b"x", mode=0o640), "d": Dir({"f": b""}, mode=0o750)})
    none, account = (1 << 32) - 1, os.getuid()  # an id that is mapped in any user namespace
    everything = [(1, 7, none), (2, 7, account), (4, 7, none), (0x10, 7, none), (0x20, 0, none)]
    for inheriting in (union.work, union.work / "unionfs", union.work / "unionfs" / "tmp"):
        os.setxattr(inheriting, acl.DEFAULT, encode(everything))
    union.reopen()
    union.chmod("secret", 0o640)
    union.create("d/new")
    for copy in ("secret", "d", "d/new"):
        assert not [name for name in os.listxattr(union.upper / copy) if name.startswith("system.")], copy

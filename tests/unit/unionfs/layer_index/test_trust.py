"""An index that is outdated, damaged, forged or writable by other users is not trusted."""

from __future__ import annotations

import os
import random
import stat
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.unionfs.layer_index.stacks import ABOVE, RICH, Layers, is_indexed, seen, show
from unionfs.inode.inode import DirectoryInode, FileInode
from unionfs.layer_index.format import HEADER, MAGIC, ROW

if TYPE_CHECKING:
    from unionfs.vfs.filesystem import UnionFs


def test_a_changed_layer_shows_as_it_is_and_its_index_is_made_anew(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"d": {"old": b""}, "e": {"f": b""}}, {"d": {"low": b""}, "e": {}})
    layers.unchanging = False
    assert "/d/old" in show(layers)
    (made,) = layers.files()
    (layers.paths[0] / "d" / "new").write_bytes(b"new")
    (layers.paths[0] / "d" / "old").unlink()
    (layers.paths[1] / "e" / "below").write_bytes(b"")
    fs = layers.open(build=False)
    found = seen(fs)
    assert not is_indexed(fs)
    fs.close()
    assert found == show(layers, indexed=False)
    assert not made.exists()
    fs = layers.open()
    assert is_indexed(fs)
    assert seen(fs) == found
    fs.close()


def test_a_layer_whose_root_changed_has_no_index(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"f": b""})
    assert show(layers)
    (layers.paths[0] / "g").write_bytes(b"")
    fs = layers.open(build=False)
    assert not is_indexed(fs)
    assert "/g" in seen(fs)
    fs.close()


def test_a_changed_file_is_found_out_when_it_is_opened(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"f": b"old", "d": {"g": b"old"}})
    fs = layers.open()
    inode = fs.inode_table.lookup(fs.inode_table.root, b"f")
    (layers.paths[0] / "f").write_bytes(b"longer than before")
    (layers.paths[0] / "d" / "g").write_bytes(b"longer, too")
    fs.handles.close_file(fs.files.open(inode.ino, os.O_RDONLY))
    assert not is_indexed(fs)
    assert fs.attributes.of(inode).size == len(b"longer than before")
    found = seen(fs)
    assert found["/d/g"][1] == b"longer, too"
    fs.close()
    assert layers.files() == []


@pytest.mark.parametrize("change", ["mode", "owner", "link", "fifo", "directory", "others write there"])
def test_a_file_that_somebody_else_may_have_written_is_not_believed(tmp_path: Path, change: str) -> None:
    layers = Layers(tmp_path, {"f": b"1"})
    plain = show(layers)
    (made,) = layers.files()
    if change == "mode":
        made.chmod(0o620)
    elif change == "owner":
        if os.geteuid():
            pytest.skip("only root gives files away")
        os.chown(made, 1234, -1)
    elif change == "link":
        made.rename(tmp_path / "moved")
        made.symlink_to(tmp_path / "moved")
    elif change == "fifo":
        made.unlink()
        os.mkfifo(made)
    elif change == "directory":
        made.unlink()
        made.mkdir()
    else:
        made.parent.chmod(0o777)
    fs = layers.open(build=False)
    assert not is_indexed(fs)
    assert seen(fs) == plain
    fs.close()


def test_an_index_is_of_its_layers_in_their_order_alone(tmp_path: Path) -> None:
    layers = Layers(tmp_path, {"f": b"1"}, {"f": b"2"})
    show(layers)
    layers.paths.reverse()
    fs = layers.open(build=False)
    assert not is_indexed(fs)
    assert seen(fs)["/f"][1] == b"2"
    fs.close()


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_index_shows_what_the_layers_show(tmp_path: Path, seed: int) -> None:
    layers = Layers(tmp_path, ABOVE, RICH)
    plain = show(layers)
    (made,) = layers.files()
    whole = made.read_bytes()
    rng = random.Random(seed)
    for _ in range(25):
        damaged = bytearray(whole)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        for _ in range(rng.randrange(1, 4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        made.write_bytes(damaged)
        made.chmod(0o600)
        assert show(layers, build=False) == plain


@pytest.mark.parametrize("seed", range(3))
def test_whatever_an_index_with_right_checksums_says_there_are_answers_and_errors_only(
    tmp_path: Path, seed: int
) -> None:
    layers = Layers(tmp_path, ABOVE, RICH)
    show(layers)
    (made,) = layers.files()
    whole = made.read_bytes()
    rng = random.Random(seed)
    for _ in range(40):
        made.write_bytes(_forge(whole, rng))
        made.chmod(0o600)
        fs = layers.open(build=False)
        try:
            _ask_everything(fs)
        finally:
            fs.close()
        if not made.exists():
            made.write_bytes(whole)


def _forge(whole: bytes, rng: random.Random) -> bytes:
    """Change random bytes, and correct the checksums."""
    magic, version, _, length, key_length, table_at, pages, refused = HEADER.unpack_from(whole)
    assert magic == MAGIC
    content = bytearray(whole)
    entry = struct.Struct("<QIIIII")
    for _ in range(rng.randrange(1, 4)):
        number = rng.randrange(pages)
        at = table_at + number * entry.size
        fields = list(entry.unpack_from(content, at))
        if rng.random() < 0.3:
            fields[rng.randrange(5)] = rng.choice([0, 1, 2, 100, 1 << 31, fields[1] - 1])
        elif fields[2]:
            place = fields[0] + rng.randrange(max(1, min(fields[1], length - fields[0])))
            content[min(place, length - 1)] = rng.randrange(256)
            if rng.random() < 0.5 and fields[0] + fields[2] * ROW.size <= length:
                row = fields[0] + rng.randrange(fields[2]) * ROW.size
                field = rng.choice([72, 76, 78])
                struct.pack_into("<H", content, row + field, rng.randrange(1 << 16))
        start, size = fields[0], fields[1]
        fields[5] = zlib.crc32(bytes(content[start : start + size]))
        entry.pack_into(content, at, *(field & 0xFFFFFFFF for field in fields))
    key = bytes(content[HEADER.size : HEADER.size + key_length])
    head = HEADER.pack(magic, version, 0, length, key_length, table_at, pages, refused)
    checksum = zlib.crc32(bytes(content[table_at:]), zlib.crc32(key, zlib.crc32(head)))
    return HEADER.pack(magic, version, checksum, length, key_length, table_at, pages, refused) + bytes(
        content[HEADER.size :]
    )


def _ask_everything(fs: UnionFs) -> None:
    pending = [1]
    while pending:
        ino = pending.pop()
        for ask in (_list, _describe, _read):
            with suppress(OSError):
                pending += ask(fs, ino)
        fs.trim()
        assert len(fs.inode_table) < 10_000


def _list(fs: UnionFs, ino: int) -> list[int]:
    if not isinstance(fs.inode_table.inode(ino), DirectoryInode):
        return []
    found = []
    number = fs.directories.open(ino)
    for _, child, after in fs.directories.entries(number, 0):
        if after > 2:
            child.lookups += 1
            if child.lookups == 1:
                found.append(child.ino)
    return found


def _describe(fs: UnionFs, ino: int) -> list[int]:
    fs.attributes.of(fs.inode_table.inode(ino))
    for name in fs.xattrs.list(ino):
        fs.xattrs.get(ino, name)
    return []


def _read(fs: UnionFs, ino: int) -> list[int]:
    inode = fs.inode_table.inode(ino)
    if isinstance(inode, FileInode):
        if stat.S_ISLNK(inode.kind):
            fs.files.readlink(ino)
        elif stat.S_ISREG(inode.kind):
            fs.files.read(fs.files.open(ino, os.O_RDONLY), 0, 100)
    return []

"""Reading directories while they change, long names, names of any bytes, deep paths."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.mount._libc import DirectoryStream
from tests.mount.support import Union, make_union
from tests.support.tree import Tree, make_tree

pytestmark = pytest.mark.fusermount

#: Enough entries for several getdents(2) calls with the C library's buffer (32 KiB), and for many READDIRPLUS replies.
MANY = 1500


def many(prefix: str, count: int = MANY) -> dict[str, bytes]:
    return {f"{prefix}{number:05}": b"" for number in range(count)}


def encoded(names: object) -> list[bytes]:
    return sorted(os.fsencode(name) for name in names)  # type: ignore[attr-defined]


def test_ten_thousand_entries_of_three_layers_are_listed_once_each(base: str) -> None:
    trees = [many("same-", 100) | many(prefix, 3400) for prefix in ("upper-", "top-", "bottom-")]
    with make_union(base, {"d": trees[1]}, {"d": trees[2]}, upper={"d": trees[0]}) as union:
        expected = sorted(set().union(*trees))
        assert len(expected) > 10_000
        assert sorted(os.listdir(f"{union.path}/d")) == expected


def test_seekdir_returns_to_the_position_of_telldir(base: str) -> None:
    with make_union(base, many("l"), upper=many("u")) as union, DirectoryStream(union.path) as stream:
        offsets, names = [], []
        while True:
            offsets.append(stream.tell())
            name = stream.read()
            if name is None:
                break
            names.append(name)
        for index in (len(names) - 1, 0, 1, MANY, 17, len(names)):
            stream.seek(offsets[index])
            assert stream.rest() == names[index:]


def test_positions_stay_valid_while_entries_are_made_and_removed(base: str) -> None:
    with make_union(base, many("l")) as union, DirectoryStream(union.path) as stream:
        first = [stream.read() for _ in range(100)]
        position = stream.tell()
        rest = stream.rest()
        for name in first[:50]:
            assert name is not None
            os.unlink(os.path.join(os.fsencode(union.path), name))
        make_tree(union.path, many("new", 50))
        stream.seek(position)
        assert [name for name in stream.rest() if name.startswith(b"l")] == rest


def test_entries_that_stay_are_listed_exactly_once_while_others_change(base: str) -> None:
    with make_union(base, many("stays") | many("goes")) as union, DirectoryStream(union.path) as stream:
        seen = []
        number = 0
        while (name := stream.read()) is not None:
            seen.append(name)
            if len(seen) % 4 == 0 and number < MANY:
                os.unlink(f"{union.path}/goes{number:05}")
                os.close(os.open(f"{union.path}/comes{number:05}", os.O_CREAT | os.O_WRONLY))
                number += 1
        assert number > 300
        assert sorted(name for name in seen if name.startswith(b"stays")) == encoded(many("stays"))
        assert len(set(seen)) == len(seen)


def test_rewinddir_lists_the_present_entries(base: str) -> None:
    with make_union(base, {"a": b"", "b": b""}) as union, DirectoryStream(union.path) as stream:
        assert sorted(stream.rest()) == [b"a", b"b"]
        os.unlink(f"{union.path}/a")
        os.mkdir(f"{union.path}/c")
        assert stream.read() is None
        stream.rewind()
        assert sorted(stream.rest()) == [b"b", b"c"]


def test_a_descriptor_opened_before_a_change_lists_the_present_entries(base: str) -> None:
    with make_union(base, {"a": b"", "b": b""}) as union:
        fd = os.open(union.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.unlink(f"{union.path}/a")
            os.mkdir(f"{union.path}/c")
            assert sorted(os.listdir(fd)) == ["b", "c"]
            os.rename(f"{union.path}/c", f"{union.path}/d")
            assert sorted(os.listdir(fd)) == ["b", "d"]
        finally:
            os.close(fd)


def test_deleting_while_listing_empties_a_directory(base: str) -> None:
    with make_union(base, {"d": many("l", 800)}, upper={"d": many("u", 800)}) as union:
        with DirectoryStream(f"{union.path}/d") as stream:
            while (name := stream.read()) is not None:
                os.unlink(os.path.join(os.fsencode(union.path), b"d", name))
        os.rmdir(f"{union.path}/d")
        assert os.listdir(union.path) == []


def test_a_removed_directory_that_is_open_is_empty_and_refuses_new_entries(base: str) -> None:
    with make_union(base, {"d": {}}) as union:
        fd = os.open(f"{union.path}/d", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.rmdir(f"{union.path}/d")
            assert os.listdir(fd) == []
            assert os.fstat(fd).st_nlink == 0
            with pytest.raises(FileNotFoundError):
                os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        finally:
            os.close(fd)


# -- names ---------------------------------------------------------------------------------------------

STRANGE = [b"n" * 255, b"\xff\xfe\x80", "ü€😀".encode(), b"new\nline", b" ", b"-rf", b"*", b"\\", b"..."]


@pytest.mark.whiteouts  # the prefix of the other format makes a name of 255 bytes too long
def test_names_of_any_bytes_can_be_listed_changed_renamed_and_deleted(base: str) -> None:
    lower: Tree = {
        b"dir": dict.fromkeys(STRANGE, b"lower"),
        b"other": {name: {b"inner": b"i"} for name in STRANGE},
    }
    with make_union(base, lower) as union:
        root = os.fsencode(union.path)
        directory, other = os.path.join(root, b"dir"), os.path.join(root, b"other")
        assert sorted(os.listdir(directory)) == sorted(os.listdir(other)) == sorted(STRANGE)
        for name in STRANGE:
            with open(os.path.join(directory, name), "r+b") as file:
                file.write(b"LOWER")
            os.symlink(name, os.path.join(root, name))
            assert os.readlink(os.path.join(root, name)) == name
            os.rename(os.path.join(directory, name), os.path.join(other, name, name))
            os.unlink(os.path.join(other, name, b"inner"))
        union.remount()
        assert os.listdir(directory) == []
        assert sorted(os.listdir(root)) == sorted([b"dir", b"other", *STRANGE])
        for name in STRANGE:
            assert os.listdir(os.path.join(other, name)) == [name]
            with open(os.path.join(other, name, name), "rb") as file:
                assert file.read() == b"LOWER"
            os.unlink(os.path.join(other, name, name))
            os.rmdir(os.path.join(other, name))
        assert os.listdir(other) == []


def test_a_name_of_256_bytes_is_too_long(base: str) -> None:
    with make_union(base, {"f": b""}) as union:
        path = f"{union.path}/{'n' * 256}"
        for attempt in (os.mkdir, os.lstat, os.unlink, lambda path: os.rename(f"{union.path}/f", path)):
            with pytest.raises(OSError, match="File name too long"):
                attempt(path)


def open_deep(root: str, names: list[str], *, make: bool = False) -> int:
    """Open the directory that *names* lead to, one after the other, because the path is longer than PATH_MAX."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for name in names:
        above = fd
        try:
            if make:
                os.mkdir(name, dir_fd=above)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    return fd


def write_deep(root: str, names: list[str], content: bytes, *, make: bool = False) -> None:
    at = open_deep(root, names, make=make)
    try:
        fd = os.open("file", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644, dir_fd=at)
    finally:
        os.close(at)
    with open(fd, "wb") as file:
        file.write(content)


def read_deep(root: str, names: list[str]) -> bytes:
    at = open_deep(root, names)
    try:
        fd = os.open("file", os.O_RDONLY, dir_fd=at)
    finally:
        os.close(at)
    with open(fd, "rb") as file:
        return file.read()


def test_paths_deeper_than_path_max_work_in_every_layer(base: str) -> None:
    names = ["d" * 250] * 20  # 5,020 bytes
    os.mkdir(f"{base}/lower")
    write_deep(f"{base}/lower", names, b"lower", make=True)
    with Union(base, [f"{base}/lower"]) as union:
        assert read_deep(union.path, names) == b"lower"
        write_deep(union.path, names, b"changed")
        union.remount()
        assert read_deep(union.path, names) == b"changed"
        assert read_deep(f"{base}/lower", names) == b"lower"
        new = ["n" * 250] * 20
        write_deep(union.path, new, b"new", make=True)
        union.remount()
        assert read_deep(union.path, new) == b"new"
        subprocess.run(["rm", "-r", f"{union.path}/{names[0]}", f"{union.path}/{new[0]}"], check=True)
        assert os.listdir(union.path) == []


def test_a_path_deeper_than_the_descriptors_that_are_kept_can_be_copied_up_and_removed(base: str) -> None:
    names = ["d"] * 400
    make_tree(f"{base}/lower", {"e": {f"{number:03}": {"f": b""} for number in range(200)}})
    write_deep(f"{base}/lower", names, b"bottom", make=True)
    limit = ["prlimit", "--nofile=340:340"]  # the server keeps a few tens of them for directories
    with Union(base, [f"{base}/lower"], wrapper=limit) as union:
        at = open_deep(union.path, names)
        try:
            for number in range(200):  # closes all descriptors of the deep path
                os.listdir(f"{union.path}/e/{number:03}")
            os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=at))
            assert sorted(os.listdir(at)) == ["file", "made"]
        finally:
            os.close(at)
        write_deep(union.path, names, b"changed")
        assert read_deep(union.path, names) == b"changed"
        subprocess.run(["rm", "-r", f"{union.path}/d"], check=True)
        assert os.listdir(union.path) == ["e"]

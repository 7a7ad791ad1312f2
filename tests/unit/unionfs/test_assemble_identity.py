"""Records about one stack of layers are not used for another stack with the same numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.mount.support import environment
from unionfs import _libc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union


def change_one_of_two_names(union: Union) -> None:
    """Copy up a hard-linked file and remove the changed name. Then only the index connects the other name to the copy."""
    union.write("a", b"CHANGED")
    union.unlink("a")
    assert union.read("b") == b"CHANGED"


def test_a_layer_that_was_made_anew_in_its_place_shows_its_own_files(make_union: MakeUnion) -> None:
    union = make_union({})
    lower = union.lowers[0]

    def make(first: str, second: str, data: bytes) -> None:
        (lower / first).write_bytes(data)
        os.link(lower / first, lower / second)

    make("a", "b", b"before!")
    union.reopen()
    change_one_of_two_names(union)
    union.fs.close()
    shutil.rmtree(lower)
    lower.mkdir()
    make("x", "y", b"another")  # on ext4, they have the inode numbers of the former files
    union.fs = union._open()
    assert union.read("x") == union.read("y") == b"another"
    assert union.index() == []


def test_the_same_layer_is_known_again(make_union: MakeUnion) -> None:
    union = make_union({"a": b"before!"})
    os.link(union.lowers[0] / "a", union.lowers[0] / "b")
    union.reopen()
    change_one_of_two_names(union)
    (union.lowers[0] / "new").write_bytes(b"")  # as in a layer that is the root of the host
    union.reopen()
    assert union.read("b") == b"CHANGED"


@pytest.mark.parametrize("lacking", ["file-system id", "birth time"])
def test_a_layer_that_cannot_be_told_from_another_is_not_believed_to_be_the_same(
    make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking == "birth time":
        monkeypatch.setattr(_libc, "birth_time_ns", lambda *_at: None)
    else:
        real: Callable[[int], os.statvfs_result] = os.fstatvfs

        def without_id(fd: int) -> os.statvfs_result:
            return os.statvfs_result((*real(fd)[:10], 0))

        monkeypatch.setattr(os, "fstatvfs", without_id)
    union = make_union({"a": b"before!"})
    os.link(union.lowers[0] / "a", union.lowers[0] / "b")
    union.reopen()
    change_one_of_two_names(union)  # within one mount, hard links are still kept together
    union.reopen()
    assert union.read("b") == b"before!"


_TWO_FILE_SYSTEMS = """
import os, subprocess, sys
from pathlib import Path
from tests.unit.unionfs.support import Union

base = Path(sys.argv[1])
lower = base / "lower0"
lower.mkdir()

def fill(first, second, data):
    subprocess.run(["mount", "-t", "tmpfs", "layer", lower], check=True)
    (lower / first).write_bytes(data)
    os.link(lower / first, lower / second)
    return lower.stat().st_ino, (lower / first).stat().st_ino

os.umask(0)
before = fill("a", "b", b"before!")
union = Union(base, [{}], {})
union.write("a", b"CHANGED")
union.unlink("a")
union.fs.close()
subprocess.run(["umount", lower], check=True)
assert fill("x", "y", b"another") == before, "two new file systems number alike"
union.fs = union._open()
print(union.read("x"), union.read("y"), union.index())
union.close()
"""


@pytest.mark.userns
def test_another_file_system_in_the_place_of_a_layer_shows_its_own_files(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", sys.executable, "-c", _TWO_FILE_SYSTEMS, tmp_path],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'another' b'another' []\n", "")


def replace_hard_links(union: Union, names: tuple[str, str], data: bytes) -> bool:
    """Replace the hard-linked file *names* in the layer. Return whether the new file has the same inode number."""
    lower = union.lowers[0]
    before = (lower / names[0]).stat().st_ino
    for name in names:
        (lower / name).unlink()
    made = []  # ext4 reuses an inode number at once, tmpfs never does
    for attempt in range(50):
        path = lower / f"made{attempt}"
        path.write_bytes(data)
        made.append(path)
        if path.stat().st_ino == before:
            break
    for name in names:
        os.link(made[-1], lower / name)
    found = made[-1].stat().st_ino == before
    for path in made:
        path.unlink()
    return found


def test_files_that_the_owner_of_a_layer_puts_in_the_place_of_others_show_as_they_are(
    make_union: MakeUnion,
) -> None:
    union = make_union({})
    for first, second in (("a", "b"), ("c", "d")):
        (union.lowers[0] / first).write_bytes(b"before!")
        os.link(union.lowers[0] / first, union.lowers[0] / second)
    union.reopen()
    union.write("a", b"CHANGED")
    union.unlink("c")
    for order in (["a", "b"], ["b", "a"]):
        union.fs.close()
        if not replace_hard_links(union, ("a", "b"), b"another"):
            union.fs = union._open()
            pytest.skip("the file system gives no number again, as tmpfs")
        replace_hard_links(union, ("c", "d"), b"another")
        union.fs = union._open()
        # The upper layer has a copy with the name a, and nothing with the name b.
        assert {name: union.read(name) for name in order} == {"a": b"CHANGED", "b": b"another"}
        assert {name: union.stat(name).nlink for name in order} == {"a": 1, "b": 2}
        union.write("a", b"ANOTHER")
        assert (union.read("a"), union.read("b")) == (b"ANOTHER", b"another")
        assert (union.read("d"), union.stat("d").nlink) == (b"another", 2)
        union.write("a", b"CHANGED")

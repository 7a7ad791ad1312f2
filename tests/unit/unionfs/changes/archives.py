"""Writes archives of a union, and unpacks them with GNU tar: whole trees, and layers over a copy of the tree below."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.layers import comparable_time
from tests.support.tree import Fifo, File, HardLink, Node, Symlink
from tests.unit.unionfs.changes.trees import Facts, source_of
from tests.unit.unionfs.operations import copy_tree
from unionfs.changes.compared_stack import open_stack_to_compare
from unionfs.changes.stream import Stream
from unionfs.formats.xattrs import is_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.unit.unionfs.support import Union

#: The modification time of some files: that of others would be the time of the test.
OLD = 10**18 + 123_456_789
LOWER: dict[str, Node] = {
    "a": File(b"a", mtime_ns=OLD),
    "b": File(b"b", mtime_ns=OLD),
    "big": File(b"x" * 40_000, mode=0o600, mtime_ns=OLD, xattrs={"user.color": b"blue"}),
    "d": {"a": b"d/a", "b": b"d/b", "sub": {"deep": {"x": b"x"}}, "link": Symlink(b"../a")},
    "e": {"a": b"e/a", "in": {"b": b"e/in/b"}},
    "h1": b"three names",
    "h2": HardLink("h1"),
    "hd": {"h3": HardLink("h1")},
    "s": Symlink(b"d/a"),
    "p": Fifo(mode=0o640),
}


WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

# -- writing -------------------------------------------------------------------------------------------


def written(union: Union, kind: str, paths: Iterable[bytes] | None = None) -> bytes:
    """Return the archive *kind* of *union*: "layer", "trees" or "members"."""
    stack = open_stack_to_compare(source_of(union))
    output = io.BytesIO()
    try:
        stream = Stream(stack, output)
        if kind == "layer":
            stream.layer(paths)
        else:
            getattr(stream, kind)(paths)
    finally:
        stack.close()
    return output.getvalue()


def listed(archive: bytes) -> dict[bytes, tarfile.TarInfo]:
    """Return the members of *archive* by path, which must be different."""
    with tarfile.open(
        fileobj=io.BytesIO(archive), mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as opened:
        infos = opened.getmembers()
    found = {os.fsencode(info.name): info for info in infos}
    assert len(found) == len(infos), "a path occurs twice"
    return found


def names(members: dict[bytes, tarfile.TarInfo]) -> list[str]:
    """Return the paths of *members* in order."""
    return [os.fsdecode(path) for path in members]


def xattrs_of(info: tarfile.TarInfo) -> dict[str, bytes]:
    """Return the extended attributes of a member."""
    prefix = "SCHILY.xattr."
    return {
        key.removeprefix(prefix): os.fsencode(value)
        for key, value in info.pax_headers.items()
        if key.startswith(prefix)
    }


# -- unpacking -----------------------------------------------------------------------------------------


def unpack(archive: bytes, target: Path) -> None:
    """Unpack *archive* by GNU tar over what is in *target*."""
    target.mkdir(exist_ok=True)
    command = [
        "tar",
        "--extract",
        "--file=-",
        "--directory",
        str(target),
        "--same-permissions",
        "--numeric-owner",
    ]
    command += ["--xattrs", "--xattrs-include=*", "--warning=no-unknown-keyword", "--warning=no-timestamp"]
    done = subprocess.run(command, input=archive, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr


def unpack_layer(archive: bytes, target: Path) -> None:
    """Unpack the layer *archive* over the tree *target* as the image specification has it (layer.md, "Applying Changesets").

    Whiteouts concern what was there before. A member that is no directory, or no longer one, replaces what has its path.
    """
    root = os.fsencode(target)
    members = listed(archive)
    for path, info in members.items():
        directory, name = os.path.split(os.path.join(root, path))
        if name == OPAQUE:
            if os.path.isdir(directory) and not os.path.islink(directory):
                for each in os.listdir(directory):
                    _remove(os.path.join(directory, each))
        elif name.startswith(WHITEOUT):
            _remove(os.path.join(directory, name.removeprefix(WHITEOUT)))
        elif info.isdir() and os.path.isdir(os.path.join(root, path)):
            at = os.path.join(root, path)
            if os.path.islink(at):
                os.unlink(at)
            else:
                for attribute in os.listxattr(at):
                    os.removexattr(at, attribute)
                # GNU tar does not notice the set-group-ID bit that a new directory gets from the one that it is in.
                os.chmod(at, 0o700)
        else:
            _remove(os.path.join(root, path))
    unpack(archive, target)
    for path in members:
        if os.path.basename(path).startswith(WHITEOUT):
            os.unlink(os.path.join(root, path))


def _remove(path: bytes) -> None:
    """Remove what is at *path*, which need not exist."""
    try:
        is_dir = stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    if is_dir:
        shutil.rmtree(path)
    else:
        os.unlink(path)


# -- comparing -----------------------------------------------------------------------------------------


def facts_on_disk(root: Path) -> dict[bytes, Facts]:
    """Return the tree below *root*, by path."""
    return {path: _facts(at) for path, at in _walk(os.fsencode(root))}


def _walk(root: bytes) -> Iterator[tuple[bytes, bytes]]:
    yield b"", root
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            at = os.path.join(directory, name)
            yield os.path.relpath(at, root), at


def _facts(at: bytes) -> Facts:
    info = os.lstat(at)
    is_dir, is_file = stat.S_ISDIR(info.st_mode), stat.S_ISREG(info.st_mode)
    data = None
    if is_file:
        with open(at, "rb") as file:
            data = zlib.crc32(file.read())
    names = sorted(os.listxattr(at, follow_symlinks=False))
    return Facts(
        mode=info.st_mode,
        uid=info.st_uid,
        gid=info.st_gid,
        mtime_ns=None if is_dir else info.st_mtime_ns,
        size=None if is_dir else info.st_size,
        data=data,
        target=os.readlink(at) if stat.S_ISLNK(info.st_mode) else None,
        rdev=info.st_rdev,
        xattrs=tuple((name, os.getxattr(at, name, follow_symlinks=False)) for name in names),
    )


def without_sockets(tree: dict[bytes, Facts]) -> dict[bytes, Facts]:
    """Return *tree* without what an archive cannot hold."""
    return {path: facts for path, facts in tree.items() if not stat.S_ISSOCK(facts.mode)}


def comparable(tree: dict[bytes, Facts]) -> dict[bytes, Facts]:
    """Return *tree* without what an archive cannot hold, and without times that an operation set to the present."""
    return {
        path: facts if facts.mtime_ns is None else facts._replace(mtime_ns=comparable_time(facts.mtime_ns))
        for path, facts in without_sockets(tree).items()
    }


def without_marks(tree: dict[bytes, Facts]) -> dict[bytes, Facts]:
    """Return *tree* without attributes that are named like marks, which a layer has not."""
    return {
        path: facts._replace(
            xattrs=tuple((name, value) for name, value in facts.xattrs if not is_private(name))
        )
        for path, facts in tree.items()
    }


def differences(ours: dict[bytes, Facts], theirs: dict[bytes, Facts]) -> dict[bytes, tuple[object, object]]:
    """Return what differs, by path."""
    return {
        path: (ours.get(path), theirs.get(path))
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    }


def links_on_disk(root: Path) -> set[frozenset[bytes]]:
    """Return the names of each file with several names below *root*."""
    return _groups((path, os.lstat(at)) for path, at in _walk(os.fsencode(root)))


def links_in(union: Union, paths: Iterable[bytes]) -> set[frozenset[bytes]]:
    """Return the names of each file with several names among *paths* of *union*."""
    found: dict[int, set[bytes]] = {}
    for path in paths:
        inode = union.inode(os.fsdecode(path))
        mode = union.fs.attributes.of(inode).mode
        if not stat.S_ISDIR(mode) and not stat.S_ISSOCK(mode):
            found.setdefault(inode.ino, set()).add(path)
    return {frozenset(names) for names in found.values() if len(names) > 1}


def _groups(objects: Iterable[tuple[bytes, os.stat_result]]) -> set[frozenset[bytes]]:
    found: dict[int, set[bytes]] = {}
    for path, info in objects:
        if not stat.S_ISDIR(info.st_mode) and not stat.S_ISSOCK(info.st_mode):
            found.setdefault(info.st_ino, set()).add(path)
    return {frozenset(names) for names in found.values() if len(names) > 1}


def check_layer_archive(union: Union, shown: dict[bytes, Facts], below: Path, copies: Path) -> None:
    """Check that the layer of *union*, unpacked over the tree *below*, gives what the union shows. The copy is in *copies*."""
    shown = without_marks(comparable(shown))
    target = Path(tempfile.mkdtemp(dir=copies)) / "layer"
    copy_tree(below, target)
    archive = written(union, "layer")
    unpack_layer(archive, target)
    assert differences(shown, without_marks(comparable(facts_on_disk(target)))) == {}
    assert links_on_disk(target) == links_in(union, shown)
    assert written(union, "layer") == archive, "two runs give different bytes"
    shutil.rmtree(target)


def data_ranges(path: Path) -> list[tuple[int, int]]:
    """Return the ranges of *path* that have data."""
    found, at = [], 0
    with open(path, "rb") as file:
        while at < path.stat().st_size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at - start))
    return found

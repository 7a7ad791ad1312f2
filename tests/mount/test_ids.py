"""Owners over a real mount with id maps, squashing, a single id, and file systems without attributes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.mount.support import Union, environment, make_union, run_unionfs, unmount
from tests.support.tree import (
    Device,
    Dir,
    Entry,
    Fifo,
    File,
    HardLink,
    Node,
    Socket,
    Symlink,
    make_tree,
    snapshot,
)

pytestmark = pytest.mark.fusermount

OVERRIDE = "user.containers.override_stat"
#: Every kind of object, with many owners and modes.
ZOO: dict[str, Node] = {
    "file": File(b"file", mode=0o640, uid=1, gid=2),
    "again": HardLink("file"),
    "program": File(b"program", mode=0o6755, uid=3, gid=4),
    "secret": File(b"secret", mode=0o000, uid=1000, gid=1000),
    "mine": File(b"mine", mode=0o644, uid=0, gid=0),
    "large": File(b"large" * 10_000, mode=0o4711, uid=65534, gid=65534),
    "directory": Dir({"inner": File(b"inner", mode=0o600, uid=5, gid=0)}, mode=0o2770, uid=1003, gid=1004),
    "sticky": Dir({}, mode=0o1777, uid=0, gid=0),
    "closed": Dir({"f": File(b"f", mode=0o400)}, mode=0o000, uid=7, gid=7),
    "link": Symlink(target=b"file", uid=0, gid=0),
    "theirs": Symlink(target=b"nowhere", uid=1001, gid=1002),
    "theirs-too": HardLink("theirs"),
    "pipe": Fifo(mode=0o622, uid=8, gid=9),
    "pipe-too": HardLink("pipe"),
    "socket": Socket(mode=0o700, uid=10, gid=0),
    "null": Device(1, 3, mode=0o666, uid=0, gid=11),
    "disk": Device(259, 70_000, block=True, mode=0o660, uid=12, gid=13),
}

State = dict[bytes, Entry]


@contextmanager
def fuse_overlayfs(base: str, options: str) -> Iterator[str]:
    """Mount Debian's fuse-overlayfs with *options*; yield the mount point."""
    path = os.path.join(base, "peer")
    os.mkdir(path)
    subprocess.run(["fuse-overlayfs", "-o", options, path], check=True, capture_output=True, timeout=60)
    try:
        yield path
    finally:
        unmount(path)


def owners(state: State) -> dict[bytes, tuple[int | None, int | None, int | None]]:
    return {path: (entry.uid, entry.gid, entry.mode) for path, entry in state.items()}


# -- maps and squashing --------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.fuse_overlayfs
@pytest.mark.parametrize(
    "options",
    [
        "squash_to_root",
        "squash_to_uid=5,squash_to_gid=6",
        "squash_to_uid=5",
        "uidmapping=0:100:1:1000:200:50,gidmapping=0:100:1:1000:200:50",
        "uidmapping=0:0:65536",
        "static_nlink",
    ],
)
def test_owners_show_as_with_fuse_overlayfs(base: str, options: str) -> None:
    make_tree(f"{base}/lower", ZOO)
    peer = f"lowerdir={base}/lower,{options}"
    with Union(base, [f"{base}/lower"], writable=False, options=options) as union:
        ours = owners(snapshot(union.path))
    with fuse_overlayfs(base, peer) as path:
        theirs = owners(snapshot(path))
    # It shows a root directory of its own.
    del ours[b"."], theirs[b"."]
    assert ours == theirs


@pytest.mark.root
def test_a_change_of_owner_goes_through_the_map_and_one_outside_of_it_is_refused(base: str) -> None:
    lower: dict[str, Node] = {"f": File(b"f", uid=1000, gid=1000), "g": File(b"g", uid=1000, gid=1000)}
    options = "uidmapping=1000:0:10,gidmapping=1000:0:10"
    with make_union(base, lower, upper={}, options=options) as union:
        os.chown(union.upper, 1000, 1000)
        os.chown(f"{union.path}/f", 3, 4)
        with pytest.raises(OSError, match="too large") as caught:
            os.chown(f"{union.path}/g", 10, 0)
        assert caught.value.errno == errno.EOVERFLOW
        os.mkdir(f"{union.path}/made")
        union.remount()
        found = snapshot(union.path)
        shown = {path: (found[path].uid, found[path].gid) for path in (b"f", b"g", b"made")}
        assert shown == {b"f": (3, 4), b"g": (0, 0), b"made": (0, 0)}
    kept = {name: os.lstat(f"{union.upper}/{name}") for name in ("f", "made")}
    assert {name: (info.st_uid, info.st_gid) for name, info in kept.items()} == {
        "f": (1003, 1004),
        "made": (1000, 1000),
    }


# -- owners in attributes ------------------------------------------------------------------------------


def pack(tree: str, archive: str) -> None:
    subprocess.run(
        ["tar", "--format=posix", "--numeric-owner", "-C", tree, "-cpf", archive, "."], check=True, timeout=60
    )


def unpack(archive: str, tree: str) -> None:
    subprocess.run(
        ["tar", "--numeric-owner", "--same-owner", "-C", tree, "-xpf", archive], check=True, timeout=60
    )


def members(archive: str) -> dict[str, tuple[object, ...]]:
    """Return tar's record of each member. tar skips sockets. The directory's order decides which of several names is the link."""
    found = {}
    with tarfile.open(archive) as file:
        for member in file:
            kind = b"file" if member.islnk() else member.type
            found[member.name] = (
                kind, member.mode, member.uid, member.gid, member.linkname if member.issym() else "",
                member.devmajor, member.devminor,
            )  # fmt: skip
    return found


@pytest.mark.root
def test_an_archive_with_many_owners_modes_and_devices_goes_in_and_comes_out_the_same(base: str) -> None:
    make_tree(f"{base}/zoo", {name: node for name, node in ZOO.items() if name != "socket"})
    pack(f"{base}/zoo", f"{base}/in.tar")
    with make_union(base, {}, options="xattr_permissions=2") as union:
        unpack(f"{base}/in.tar", union.path)
        union.remount()
        assert snapshot(union.path, mtime=True) == snapshot(f"{base}/zoo", mtime=True)
        pack(union.path, f"{base}/out.tar")
    assert members(f"{base}/in.tar").keys() == members(f"{base}/out.tar").keys()
    for path, entry in snapshot(union.upper).items():
        assert (entry.uid, entry.gid) == (0, 0), path
        assert entry.type in ("file", "dir", "symlink"), path


@pytest.mark.root
def test_owners_modes_and_types_of_a_lower_layer_survive_every_change_and_a_remount(base: str) -> None:
    make_tree(f"{base}/lower", ZOO)
    make_tree(f"{base}/model", ZOO)
    union = Union(base, [f"{base}/lower"], options="xattr_permissions=2")
    with union:
        for root in (union.path, f"{base}/model"):
            for number, name in enumerate(sorted(ZOO)):
                path = f"{root}/{name}"
                os.chown(path, 100 + number, 200, follow_symlinks=False)
                if not os.path.islink(path):
                    os.chmod(path, 0o4000 | number)
            os.link(f"{root}/theirs", f"{root}/linked-link", follow_symlinks=False)
            os.link(f"{root}/null", f"{root}/linked-null")
            os.chown(f"{root}/linked-link", 33, 34, follow_symlinks=False)
            os.symlink("made", f"{root}/made")
            os.link(f"{root}/made", f"{root}/made-too", follow_symlinks=False)
            os.chown(f"{root}/made", 35, 36, follow_symlinks=False)
            os.mknod(f"{root}/zero", 0o020600, os.makedev(1, 5))
            os.rename(f"{root}/directory", f"{root}/moved")
            os.chown(f"{root}/moved/inner", 9, 9)
        expected = snapshot(f"{base}/model", nlink=True)
        assert snapshot(union.path, nlink=True) == expected
        union.remount()
        assert snapshot(union.path, nlink=True) == expected


@pytest.mark.root
@pytest.mark.fuse_overlayfs
def test_fuse_overlayfs_shows_the_same_owners_and_modes_of_the_layer(base: str) -> None:
    make_tree(f"{base}/zoo", ZOO)
    with make_union(base, {}, options="xattr_permissions=2") as union:
        subprocess.run(["cp", "-a", f"{base}/zoo/.", union.path], check=True, timeout=60)
        ours = owners(snapshot(union.path))
    values = {
        name: os.getxattr(f"{union.upper}/{name}", OVERRIDE).decode()
        for name in ("file", "program", "secret", "closed", "theirs", "pipe", "socket", "null", "disk")
    }
    assert values == {
        "file": "1:2:0640:file",
        "program": "3:4:6755:file",
        "secret": "1000:1000:0000:file",
        "closed": "7:7:0000:dir",
        "theirs": "1001:1002:0777:symlink",
        "pipe": "8:9:0622:pipe",
        "socket": "10:0:0700:socket",
        "null": "0:11:0666:char-1-3",
        "disk": "12:13:0660:block-259-70000",
    }
    os.mkdir(f"{base}/empty")
    os.mkdir(f"{base}/peerwork")
    options = f"lowerdir={base}/empty,upperdir={union.upper},workdir={base}/peerwork,xattr_permissions=2"
    with fuse_overlayfs(base, options) as path:
        theirs = {name: os.lstat(os.path.join(os.fsencode(path), name)) for name in ours if name != b"."}
    for name, info in theirs.items():
        uid, gid, mode = ours[name]
        assert (info.st_uid, info.st_gid) == (uid, gid), name
        assert mode is None or info.st_mode & 0o7777 == mode, name


#: Runs in a user namespace with one id, and prints each fault.
_IN_NAMESPACE = """
import os, socket, stat, sys
from tests.mount.support import Union
from tests.support.tree import snapshot

base = sys.argv[1]
os.umask(0)
assert open("/proc/self/uid_map").read().split()[2] == "1"
union = Union(base, [base + "/lower"])
with union:
    root = union.path
    os.chmod(root + "/lower-file", 0o000)
    os.mkfifo(root + "/pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as sock:
        os.chdir(root)
        sock.bind("socket")
        os.chdir("/")
    with open(root + "/program", "wb") as file:
        file.write(b"program")
    os.chmod(root + "/program", 0o6711)
    os.mkdir(root + "/closed")
    os.close(os.open(root + "/closed/f", os.O_CREAT | os.O_WRONLY, 0o200))
    os.chmod(root + "/closed", 0)
    os.mkdir(root + "/shared", 0o3777)
    os.chmod(root + "/shared", 0o3777)
    os.symlink("target", root + "/link")
    os.link(root + "/link", root + "/link-too", follow_symlinks=False)
    os.link(root + "/pipe", root + "/pipe-too")
    os.rename(root + "/tree", root + "/moved")
    os.unlink(root + "/moved/f")
    before = snapshot(root, nlink=True, mtime=True)
    union.remount()
    assert snapshot(root, nlink=True, mtime=True) == before
    kinds = {name: (entry.type, entry.mode) for name, entry in before.items()}
    assert kinds[b"lower-file"] == ("file", 0) and before[b"lower-file"].data == b"lower"
    assert kinds[b"pipe"] == kinds[b"pipe-too"] == ("fifo", 0o640)
    assert kinds[b"socket"][0] == "socket"
    assert kinds[b"program"] == ("file", 0o6711)
    assert kinds[b"closed"] == ("dir", 0)
    assert kinds[b"shared"] == ("dir", 0o3777)
    assert before[b"link-too"].target == b"target" and before[b"link-too"].nlink == 2
    assert before[b"pipe"].nlink == 2
    assert {entry.uid for entry in before.values()} == {0}
    assert b"moved/f" not in before and b"moved/g" in before
print("good")
"""


@pytest.mark.userns
def test_with_a_single_id_everything_appears_to_work_and_the_layer_stays_ours(base: str) -> None:
    make_tree(f"{base}/lower", {"lower-file": b"lower", "tree/f": b"f", "tree/g": b"g"})
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", _IN_NAMESPACE, base]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")
    for path, entry in snapshot(f"{base}/upper", xattrs=False).items():
        assert (entry.uid, entry.gid) == (os.geteuid(), os.getegid()), path
        if entry.type not in ("symlink", "char"):  # not whiteouts
            assert entry.mode is not None
            assert entry.mode & 0o7600 == 0o600, path
    for name in ("upper", "work"):
        subprocess.run(["rm", "-rf", f"{base}/{name}"], check=True)


# -- file systems without attributes --------------------------------------------------------------


@pytest.fixture
def ramfs(base: str) -> Iterator[str]:
    """Yield a file system without extended attributes and without RENAME_WHITEOUT."""
    path = os.path.join(base, "ramfs")
    os.mkdir(path)
    subprocess.run(["mount", "-t", "ramfs", "ramfs", path], check=True)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            os.setxattr(path, "user.test", b"")
        yield path
    finally:
        subprocess.run(["umount", path], check=True, timeout=60)


@pytest.mark.root
def test_without_attributes_deletions_are_files_and_everything_else_works(ramfs: str, base: str) -> None:
    lower: dict[str, Node] = {
        **ZOO,
        "gone": b"gone",
        "gonedir/f": b"f",
        "old/f": b"f",
        "large-too": File(b"x" * 40_000, mode=0o644),
    }
    make_tree(f"{base}/lower", lower)
    make_tree(f"{base}/model", lower)
    with Union(ramfs, [f"{base}/lower"]) as union:
        for root in (union.path, f"{base}/model"):
            os.unlink(f"{root}/gone")
            subprocess.run(["rm", "-r", f"{root}/gonedir"], check=True)
            os.mkdir(f"{root}/gonedir")
            os.rename(f"{root}/mine", f"{root}/renamed")
            os.chown(f"{root}/large-too", 5, 6)
            os.chown(f"{root}/theirs", 5, 6, follow_symlinks=False)
            os.chmod(f"{root}/program", 0o4755)
            with open(f"{root}/file", "ab") as file:
                file.write(b" changed")
            os.mkdir(f"{root}/new")
            os.rename(f"{root}/new", f"{root}/newer")
            os.mknod(f"{root}/device", 0o020600, os.makedev(1, 5))
        with pytest.raises(OSError, match="cross-device") as caught:
            os.rename(f"{union.path}/old", f"{union.path}/other")
        assert caught.value.errno == errno.EXDEV
        expected = snapshot(f"{base}/model", nlink=True)
        assert snapshot(union.path, nlink=True) == expected
        union.remount()
        assert snapshot(union.path) == snapshot(f"{base}/model")
        assert os.path.exists(f"{union.upper}/.wh.gone")


@pytest.mark.root
def test_owners_cannot_be_kept_in_attributes_where_there_are_none(ramfs: str, base: str) -> None:
    make_tree(f"{base}/lower", {"f": b"f"})
    union = Union(ramfs, [f"{base}/lower"], options="xattr_permissions=2")
    done = run_unionfs("-f", "-o", union.options, union.path)
    assert done.returncode == 1
    assert "upperdir cannot store owners: its file system has no user.* attributes" in done.stderr

"""Operations that change a union, and a prepared state on disk, for tests of failures and kills."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.support.tree import File, HardLink, Node, Symlink, make_tree
from tests.unit.unionfs.support import Union
from unionfs import _libc
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.upper.format import WantedFormat
from unionfs.vfs.rename_plan import RENAME_EXCHANGE

_PUNCH = _libc.FALLOC_FL_PUNCH_HOLE | _libc.FALLOC_FL_KEEP_SIZE
Operation = Callable[[Union], None]

#: A modification time long ago, and a tolerance.
LONG_AGO = 10**18
SPAN = 10**9
#: Larger than the minimum size of files for which only metadata is copied.
_LARGE = 20_000

LOWER: dict[str, Node] = {
    "d/f": File(b"lower", mode=0o4755, mtime_ns=LONG_AGO, xattrs={"user.a": b"1"}),
    "d/big": File(b"x" * 5000, size=50_000, mode=0o640, mtime_ns=LONG_AGO + 7),
    "d/name": b"linked",
    "d/other": HardLink("d/name"),
    "d/link": Symlink(target=b"f"),
    "d/sub": {},
    "c/one": b"copied",
    "c/two": HardLink("c/one"),
    "c/link": Symlink(target=b"one"),
    "empty": {},
    "below": b"below",
    "gone": b"deleted",
    "gonedir/f": b"deleted",
    "marked/f": b"deleted",
    "t/dir/a": b"top",
    "t/dir/sub/b": b"b",
    "t/other/c": b"c",
    "moved/x": b"x",
    "moved/in/y": b"y",
    "l/large": File(b"L" * _LARGE, mode=0o4751, mtime_ns=LONG_AGO, xattrs={"user.a": b"1"}),
    "l/one": File(b"1" * _LARGE, mtime_ns=LONG_AGO + 1),
    "l/two": HardLink("l/one"),
    "m/meta": File(b"M" * _LARGE, mtime_ns=LONG_AGO + 2),
    "m/one": File(b"N" * _LARGE, mtime_ns=LONG_AGO + 3),
    "m/two": HardLink("m/one"),
    "m/both": File(b"B" * _LARGE, mtime_ns=LONG_AGO + 4),
    "s/one": Symlink(target=b"target"),
    "s/two": HardLink("s/one"),
}
BOTTOM: dict[str, Node] = {
    "t/dir/bottom": b"bottom",
    "t/dir/sub/c": b"bottom, too",
    "t/other/c": b"hidden",
    "marked/g": b"deleted",
}
UPPER: dict[str, Node] = {"upper": b"upper", "new/f": b"new"}


class Prepared:
    """One state on disk in one format. It opens any number of unions that begin with a copy of that state."""

    def __init__(self, base: Path, form: WantedFormat) -> None:
        """Create the state below *base*: some lower names deleted, some objects copied up, a directory renamed."""
        self._base = base
        self._form = form
        self.lowers = [base / "lower0", base / "lower1"]
        make_tree(self.lowers[0], LOWER)
        make_tree(self.lowers[1], BOTTOM)
        self._template = base / "template"
        make_tree(self._template / "upper", UPPER)
        (self._template / "work").mkdir()
        union = Union.over(self._template, self.lowers, form)
        try:
            _change(union)
        finally:
            union.close()
        self._serial = 0

    def fresh(self) -> Union:
        """Open another union in that state."""
        self._serial += 1
        base = self._base / str(self._serial)
        copy_tree(self._template, base)
        return Union.over(base, self.lowers, self._form)


def _change(union: Union) -> None:
    for name in ("gone", "gonedir/f", "marked/f", "marked/g"):
        union.unlink(name)
    union.rmdir("gonedir")
    if union.form.override_stat or os.geteuid() == 0:
        union.chown("marked", 5, 6)
    union.chmod("marked", 0o751)
    union.setxattr("marked", "user.b", b"2")
    union.write("c/one", b"COPIED")
    union.setxattr("c", "user.copied", b"")
    union.link("c/link", "upperlink")
    union.unlink("upperlink")
    for name in ("m/meta", "m/one", "m/both"):
        union.chmod(name, 0o2771)
    union.link("m/both", "m/again")
    union.symlink("upperlink", "target")
    union.create("foreign")
    union.mknod("pipe", stat.S_IFIFO | 0o644)
    try:
        union.rename("moved", "renamed")
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        union.mkdir("renamed")
        union.mkdir("renamed/in")


def copy_tree(source: Path, target: Path) -> None:
    """Copy everything below *source*, with its hard links, to the new directory *target*."""
    known: dict[int, bytes] = {}

    def copy(at: bytes, to: bytes) -> None:
        info = os.lstat(at)
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            first = known.setdefault(info.st_ino, to)
            if first is not to:
                os.link(first, to, follow_symlinks=False)
                return
        _copy_one(at, to, info)
        if stat.S_ISDIR(info.st_mode):
            for name in os.listdir(at):
                copy(at + b"/" + name, to + b"/" + name)
        elif stat.S_ISREG(info.st_mode):
            with open(at, "rb") as file:
                data = file.read()
            with open(to, "wb") as file:
                file.write(data.rstrip(b"\0"))
                file.truncate(info.st_size)
        if not stat.S_ISLNK(info.st_mode):
            for name in os.listxattr(at, follow_symlinks=False):
                os.setxattr(to, name, os.getxattr(at, name, follow_symlinks=False), follow_symlinks=False)
            os.chmod(to, stat.S_IMODE(info.st_mode))
        os.utime(to, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)

    copy(os.fsencode(source), os.fsencode(target))


def _copy_one(at: bytes, to: bytes, info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        os.mkdir(to)
    elif stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(at), to)
    else:
        os.mknod(to, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev)
    made = os.lstat(to)
    if (made.st_uid, made.st_gid) != (info.st_uid, info.st_gid):
        os.chown(to, info.st_uid, info.st_gid, follow_symlinks=False)


def _open_for_writing(union: Union, path: str) -> None:
    union.fs.handles.close_file(union.open(path, os.O_WRONLY))


def _open_truncating(union: Union, path: str) -> None:
    union.fs.handles.close_file(union.open(path, os.O_WRONLY | os.O_TRUNC))


def _copy_range(union: Union, source: str, target: str) -> None:
    assert union.copy_range(source, target, 0, 100, 1000) == 1000


def _rename(old: str, new: str, flags: int = 0) -> Operation:
    return lambda union: union.rename(old, new, flags)


#: Operations that neither write nor remove marks. Testing them in one format is enough.
WITHOUT_MARKS: Mapping[str, Operation] = {
    "copy a file up by opening it": lambda union: _open_for_writing(union, "d/f"),
    "copy a file with holes up": lambda union: _open_for_writing(union, "d/big"),
    "copy a hard link up": lambda union: _open_for_writing(union, "d/name"),
    "copy a symbolic link up": lambda union: union.link("d/link", "linked"),
    "change the mode of a directory": lambda union: union.chmod("d/sub", 0o700),
    "change the mode of a file": lambda union: union.chmod("upper", 0o4711),
    "set an attribute": lambda union: union.setxattr("d/f", "user.b", b"2"),
    "make a file": lambda union: union.create("d/sub/file"),
    "make a directory": lambda union: union.mkdir("d/sub/dir"),
    "make a symbolic link": lambda union: union.symlink("d/sub/link", "target"),
    "make a FIFO": lambda union: union.mknod("fifo", stat.S_IFIFO | 0o600),
    "make a directory with a set-id bit": lambda union: union.mkdir("d/sub/dir", 0o2755),
    "change the mode of a large file": lambda union: union.chmod("l/large", 0o600),
    "change the time of a large file": lambda union: union.utime("l/large", LONG_AGO + 99),
    "change the mode of a large hard link": lambda union: union.chmod("l/one", 0o600),
    "truncate a large file": lambda union: union.truncate("l/large", 100),
    "empty a large file": lambda union: union.truncate("l/large", 0),
    "link a large file": lambda union: union.link("l/large", "l/again"),
    "link a large hard link": lambda union: union.link("l/two", "l/again"),
    "write to a copy of metadata": lambda union: _open_for_writing(union, "m/meta"),
    "truncate a copy of metadata": lambda union: union.truncate("m/meta", 100),
    "empty a copy of metadata": lambda union: union.truncate("m/meta", 0),
    "open a copy of metadata, truncating it": lambda union: _open_truncating(union, "m/meta"),
    "link a copy of metadata": lambda union: union.link("m/meta", "m/more"),
    "write to a copy of a hard link's metadata": lambda union: _open_for_writing(union, "m/two"),
    "empty a copy of a hard link's metadata": lambda union: union.truncate("m/one", 0),
    "write to a copy of metadata with two names": lambda union: _open_for_writing(union, "m/again"),
    "empty a copy of metadata with two names": lambda union: union.truncate("m/both", 0),
    "link a copy of a hard link's metadata": lambda union: union.link("m/two", "m/more"),
    "allocate behind the end of a lower file": lambda union: union.allocate("d/big", 0, 50_000, 10_000),
    "punch a hole into a copy of metadata": lambda union: union.allocate("m/meta", _PUNCH, 0, 4096),
    "copy a range to a lower file": lambda union: _copy_range(union, "m/meta", "d/big"),
    "name a file that had no name": lambda union: union.link_unnamed("d/sub/file"),
}
WITH_MARKS: Mapping[str, Operation] = {
    "make a file where one was deleted": lambda union: union.create("gone"),
    "make a directory where one was deleted": lambda union: union.mkdir("gonedir"),
    "link a lower file": lambda union: union.link("below", "again"),
    "name a file that had no name where one was deleted": lambda union: union.link_unnamed("gone"),
    "unlink a lower file": lambda union: union.unlink("d/f"),
    "unlink an upper file": lambda union: union.unlink("upper"),
    "unlink one of two lower names": lambda union: union.unlink("d/name"),
    "unlink the linked name of a copy": lambda union: union.unlink("c/one"),
    "unlink the lower name of a copy": lambda union: union.unlink("c/two"),
    "unlink a copied symbolic link": lambda union: union.unlink("c/link"),
    "link a copy to where a file was deleted": lambda union: union.link("c/two", "gone"),
    "rename the lower name of a copy": _rename("c/two", "new/two"),
    "rename over the lower name of a copy": _rename("upper", "c/two"),
    "remove an empty lower directory": lambda union: union.rmdir("empty"),
    "remove a directory with marks": lambda union: union.rmdir("marked"),
    "rename a lower file": _rename("below", "new/below"),
    "rename an upper file": _rename("upper", "d/upper"),
    "rename over a lower file": _rename("upper", "below"),
    "rename to where a file was deleted": _rename("upper", "gone"),
    "rename a directory over an empty lower one": _rename("new", "empty"),
    "rename a directory over one with marks": _rename("new", "marked"),
    "rename a directory to where one was deleted": _rename("new", "gonedir"),
    "exchange an upper and a lower file": _rename("upper", "below", RENAME_EXCHANGE),
    "exchange a file and a directory": _rename("upper", "new", RENAME_EXCHANGE),
    "rename a copy of metadata": _rename("m/meta", "t/meta"),
    "rename the lower name of a copy of metadata": _rename("m/two", "t/meta"),
    "rename a large file": _rename("l/large", "t/large"),
    "rename a large hard link": _rename("l/one", "t/large"),
    "unlink a copy of metadata": lambda union: union.unlink("m/meta"),
    "unlink a copy of a hard link's metadata": lambda union: union.unlink("m/one"),
    "rename over a copy of metadata": _rename("upper", "m/meta"),
}
#: Operations that need redirects. The overlay formats have them only if the layer records that.
ON_DIRECTORIES: Mapping[str, Operation] = {
    "rename a lower directory in its parent": _rename("t/dir", "t/new"),
    "rename a lower directory to another parent": _rename("t/dir", "new/dir"),
    "rename a lower directory into a renamed one": _rename("t/dir", "renamed/dir"),
    "rename a lower directory out of a renamed one": _rename("renamed/in", "t/in"),
    "rename a renamed directory again": _rename("renamed", "again"),
    "rename a renamed directory to another parent": _rename("renamed", "t/dir/renamed"),
    "rename a renamed directory back to its place": _rename("renamed", "moved"),
    "rename a lower directory over an empty lower one": _rename("t/dir", "empty"),
    "rename a lower directory over a deleted one": _rename("t/dir", "gonedir"),
    "rename a lower directory over one with marks": _rename("t/dir", "marked"),
    "exchange two lower directories": _rename("t/dir", "t/other", RENAME_EXCHANGE),
    "exchange lower directories of two parents": _rename("t/dir", "d/sub", RENAME_EXCHANGE),
    "exchange a lower directory and a lower file": _rename("t/dir", "below", RENAME_EXCHANGE),
    "exchange a renamed and a lower directory": _rename("renamed", "t/dir", RENAME_EXCHANGE),
}
#: Operations whose result is stored in an attribute, so any ids can be used.
ON_OWNERS: Mapping[str, Operation] = {
    "change the owner of a file": lambda union: union.chown("upper", 5, 6),
    "change the group of a lower file": lambda union: union.chown("d/f", None, 6),
    "change the owner of a lower directory": lambda union: union.chown("d/sub", 5, 6),
    "change the owner of a large file": lambda union: union.chown("l/large", 5, 6),
    "change the owner of a large hard link": lambda union: union.chown("l/two", 5, 6),
    "change the owner of a symbolic link": lambda union: union.chown("upperlink", 5, 6),
    "change the owner of a lower symbolic link": lambda union: union.chown("d/link", 5, 6),
    "change the owner of a copied symbolic link": lambda union: union.chown("c/link", 5, 6),
    "change the owner of a symbolic link with two names": lambda union: union.chown("s/one", 5, 6),
    "make a file for somebody else": lambda union: union.create("d/sub/file", by=(5, 6)),
    "name a file of somebody else that had no name": lambda union: union.link_unnamed(
        "d/sub/file", mode=0o4755, by=(5, 6)
    ),
    "make a directory for somebody else": lambda union: union.mkdir("d/sub/dir", by=(5, 6)),
    "make a symbolic link for somebody else": lambda union: union.symlink("d/sub/link", "target", by=(5, 6)),
    "make a FIFO for somebody else": lambda union: union.mknod("fifo", stat.S_IFIFO | 0o600, by=(5, 6)),
    "make a set-id file for somebody else": lambda union: union.mknod(
        "d/sub/file", stat.S_IFREG | 0o4755, by=(5, 6)
    ),
    "make a directory for somebody else where one was deleted": lambda union: union.mkdir(
        "gonedir", by=(5, 6)
    ),
}
ON_ATTRIBUTES: Mapping[str, Operation] = {
    "make a device": lambda union: union.mknod("device", stat.S_IFCHR | 0o660, os.makedev(1, 3)),
    "make a block device": lambda union: union.mknod("gone", stat.S_IFBLK | 0o660, os.makedev(8, 1)),
    "make a socket": lambda union: union.mknod("socket", stat.S_IFSOCK | 0o755),
    "make a FIFO": WITHOUT_MARKS["make a FIFO"],
    "forbid everything": lambda union: union.chmod("upper", 0),
    "forbid everything in a directory": lambda union: union.chmod("new", 0),
    "link a FIFO": lambda union: union.link("pipe", "d/pipe"),
    "link a symbolic link": lambda union: union.link("upperlink", "d/again"),
    "copy a symbolic link up": WITHOUT_MARKS["copy a symbolic link up"],
    "rename a symbolic link": _rename("d/link", "new/link"),
    "rename a directory over one with marks": WITH_MARKS["rename a directory over one with marks"],
    "rename a lower directory to another parent": ON_DIRECTORIES[
        "rename a lower directory to another parent"
    ],
    "change the mode of a large file": WITHOUT_MARKS["change the mode of a large file"],
    "write to a copy of metadata": WITHOUT_MARKS["write to a copy of metadata"],
    "write to a copy of metadata with two names": WITHOUT_MARKS["write to a copy of metadata with two names"],
}

FORMS: Mapping[str, WantedFormat] = MappingProxyType(
    {
        "overlay": WantedFormat(whiteouts=WhiteoutFormat.OVERLAY, override_stat=False),
        "aufs": WantedFormat(whiteouts=WhiteoutFormat.AUFS, override_stat=False),
        "override": WantedFormat(override_stat=True),
    }
)
#: The operations for each format.
OPERATIONS: Mapping[str, Mapping[str, Operation]] = {
    "overlay": {
        **WITHOUT_MARKS,
        **WITH_MARKS,
        **ON_DIRECTORIES,
        **(ON_OWNERS if os.geteuid() == 0 else {}),
    },
    "aufs": {**WITH_MARKS, **ON_DIRECTORIES},
    "override": {**ON_OWNERS, **ON_ATTRIBUTES},
}
#: Operations that remove a name of an object with more names in lower layers. The count of those is written
#: after the removal. If that fails, the count stays too high, which leaves an entry in the index. A count that is too
#: low would delete the copy while it has names.
LOSES_A_LOWER_NAME = {
    "unlink one of two lower names",
    "unlink the lower name of a copy",
    "rename over the lower name of a copy",
    "rename the lower name of a copy",
    "rename the lower name of a copy of metadata",
    "rename a large hard link",
    "unlink a copy of a hard link's metadata",
}
#: Operations that copy contents into a file in place, because it has several names. After a kill, it has
#: the time of the kill.
FILLS_IN_PLACE = {
    "write to a copy of a hard link's metadata",
    "write to a copy of metadata with two names",
    "empty a copy of a hard link's metadata",
    "empty a copy of metadata with two names",
}
#: Operations that change the contents of a file with set-id bits. The bits are cleared first, as in every file system. If
#: a server without privileges fills the file in place, the kernel clears them, and a kill may prevent their restoration.
CLEARS_SET_ID = FILLS_IN_PLACE | {
    name
    for name in WITHOUT_MARKS
    if name.startswith(("truncate a ", "empty a ", "open a copy of metadata, truncating", "punch a "))
}

"""Trees on disk as values: `make_tree` writes one, `snapshot` reads one back for comparison.

A tree is a dictionary from names to nodes. A plain `bytes` is a regular file and a plain dictionary a directory, with
usual modes. The classes below make other nodes. Names are bytes or str and may contain slashes; missing directories
are made:

    make_tree(lower, {"etc/passwd": b"root", "bin": Symlink(b"usr/bin"), "gone": Whiteout()})
    assert snapshot(upper)[b"etc/passwd"].data == b"root"
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

Xattrs = Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Meta:
    """Metadata of every node; None leaves the value that creation sets."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    xattrs: Xattrs = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class File(_Meta):
    """A regular file. With a *size* beyond the data, it ends with a hole."""

    data: bytes = b""
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Dir(_Meta):
    """A directory."""

    entries: Mapping[str, Node] | Mapping[bytes, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opaque(Dir):
    """A directory that hides the lower ones, with the mark of kernel OverlayFS for users."""

    mark: str = "user.overlay.opaque"


@dataclass(frozen=True, slots=True)
class Symlink(_Meta):
    """A symbolic link. On Linux it has no mode and no user.* attributes."""

    target: bytes


@dataclass(frozen=True, slots=True)
class HardLink:
    """Another name of an earlier node. *path* is relative to the root of the tree."""

    path: str | bytes


@dataclass(frozen=True, slots=True)
class Fifo(_Meta):
    """A named pipe."""


@dataclass(frozen=True, slots=True)
class Socket(_Meta):
    """A bound UNIX socket without a listener."""


@dataclass(frozen=True, slots=True)
class Device(_Meta):
    """A character (or block) device node. Only real root can make one, except for the character device 0:0."""

    major: int
    minor: int
    block: bool = False


@dataclass(frozen=True, slots=True)
class Whiteout(_Meta):
    """A whiteout: the character device 0:0, which hides the name in lower layers. Since Linux 5.8 every user may make one."""


Node = Union[bytes, File, Dir, Symlink, HardLink, Fifo, Socket, Device, Whiteout, "Tree"]
Tree = Mapping[str, Node] | Mapping[bytes, Node]


def make_tree(directory: str | bytes | os.PathLike[str], tree: Tree) -> None:
    """Write *tree* into *directory*, which is made if it is missing. The umask has no effect on modes.

    Raises:
        OSError: as the system calls do; EEXIST if a name is there already.
    """
    root = os.fsencode(directory)
    os.makedirs(root, exist_ok=True)
    finish: list[tuple[bytes, _Meta]] = []
    _make_entries(root, root, tree, finish)
    # Innermost first: new entries change a directory's times, and a mode may forbid making them.
    for path, meta in reversed(finish):
        _apply_meta(path, meta)


def _make_entries(root: bytes, directory: bytes, tree: Tree, finish: list[tuple[bytes, _Meta]]) -> None:
    for name, node in tree.items():
        path = os.path.join(directory, os.fsencode(name))
        _make_parents(path, finish)
        if isinstance(node, HardLink):
            os.link(os.path.join(root, os.fsencode(node.path)), path, follow_symlinks=False)
            continue
        meta = _make_node(path, node)
        finish.append((path, meta))
        if isinstance(node, Dir):
            _make_entries(root, path, node.entries, finish)
        elif isinstance(node, Mapping):
            _make_entries(root, path, node, finish)


def _make_parents(path: bytes, finish: list[tuple[bytes, _Meta]]) -> None:
    parent = os.path.dirname(path)
    if not os.path.lexists(parent):
        _make_parents(parent, finish)
        os.mkdir(parent)
        finish.append((parent, _Meta(mode=0o755)))


def _make_node(path: bytes, node: Node) -> _Meta:
    """Make one object and return the metadata that remain to be set."""
    match node:
        case bytes():
            return _make_node(path, File(node))
        case File():
            with open(path, "xb") as file:
                file.write(node.data)
                if node.size is not None:
                    file.truncate(node.size)
            return _with_mode(node, 0o644)
        case Opaque():
            os.mkdir(path)
            os.setxattr(path, node.mark, b"y")
            return _with_mode(node, 0o755)
        case Dir():
            os.mkdir(path)
            return _with_mode(node, 0o755)
        case Symlink():
            os.symlink(node.target, path)
            return node
        case Fifo():
            os.mkfifo(path)
            return _with_mode(node, 0o644)
        case Socket():
            _make_socket(path)
            return _with_mode(node, 0o755)
        case Device():
            if (node.block, node.major, node.minor) == (False, 0, 0):
                _make_whiteout(path)
            else:
                os.mknod(
                    path, stat.S_IFBLK if node.block else stat.S_IFCHR, os.makedev(node.major, node.minor)
                )
            return _with_mode(node, 0o644)
        case Whiteout():
            _make_whiteout(path)
            return node
        case Mapping():
            os.mkdir(path)
            return _Meta(mode=0o755)
        case _:
            raise TypeError(f"{os.fsdecode(path)}: no node of a tree: {node!r}")


def _make_whiteout(path: bytes) -> None:
    try:
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    except PermissionError:
        # not at the top: pytest must first rewrite the plugin's assertions
        from tests.support.requirements import require

        require("whiteouts")
        raise


def _with_mode(meta: _Meta, default: int) -> _Meta:
    if meta.mode is not None:
        return meta
    return _Meta(mode=default, uid=meta.uid, gid=meta.gid, mtime_ns=meta.mtime_ns, xattrs=meta.xattrs)


def _make_socket(path: bytes) -> None:
    """Bind through the parent's descriptor, because a test's path may be longer than the 108 bytes of bind(2)."""
    parent = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(b"/proc/self/fd/%d/%s" % (parent, os.path.basename(path)))
    finally:
        os.close(parent)


def _apply_meta(path: bytes, meta: _Meta) -> None:
    if meta.uid is not None or meta.gid is not None:
        os.chown(
            path,
            -1 if meta.uid is None else meta.uid,
            -1 if meta.gid is None else meta.gid,
            follow_symlinks=False,
        )
    for name, value in meta.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    if meta.mode is not None:  # after chown, which clears set-id bits
        os.chmod(path, meta.mode)
    if meta.mtime_ns is not None:
        os.utime(path, ns=(meta.mtime_ns, meta.mtime_ns), follow_symlinks=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """The properties of one object of a tree. Those that were not requested are None, so that they compare equal."""

    type: str  # file, dir, symlink, fifo, socket, char or block
    mode: int | None  # permission bits, set-id and sticky; None for symbolic links
    uid: int | None = None
    gid: int | None = None
    size: int | None = None  # of regular files
    data: bytes | None = (
        None  # of regular files: the content, or its hash if it is long; None if it may not be read
    )
    target: bytes | None = None  # of symbolic links
    device: tuple[int, int] | None = None  # of device nodes
    nlink: int | None = None
    mtime_ns: int | None = None
    xattrs: Xattrs = field(default_factory=dict)


#: Longest content in bytes that a failed comparison shows.
_CONTENT_LIMIT = 4096

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


def snapshot(
    directory: str | bytes | os.PathLike[str],
    *,
    ids: bool = True,
    nlink: bool = False,
    mtime: bool = False,
    xattrs: bool = True,
) -> dict[bytes, Entry]:
    """Return every object below *directory* by its relative path. The directory itself is b"." . Follow no symbolic link.

    Args:
        directory: where to look.
        ids: compare owners.
        nlink: compare link counts, except those of directories, in which file systems differ.
        mtime: compare modification times.
        xattrs: compare extended attributes, if the file system has them.
    """
    root = os.fsencode(directory)
    result = {b".": _describe(root, ids, nlink, mtime, xattrs)}
    pending = [b""]
    while pending:
        relative = pending.pop()
        for name in sorted(os.listdir(os.path.join(root, relative))):
            path = os.path.join(relative, name)
            entry = result[path] = _describe(os.path.join(root, path), ids, nlink, mtime, xattrs)
            if entry.type == "dir":
                pending.append(path)
    return result


def _describe(path: bytes, ids: bool, nlink: bool, mtime: bool, xattrs: bool) -> Entry:
    status = os.lstat(path)
    kind = _TYPES[stat.S_IFMT(status.st_mode)]
    return Entry(
        type=kind,
        mode=None if kind == "symlink" else stat.S_IMODE(status.st_mode),
        uid=status.st_uid if ids else None,
        gid=status.st_gid if ids else None,
        size=status.st_size if kind == "file" else None,
        data=_read_content(path) if kind == "file" else None,
        target=os.readlink(path) if kind == "symlink" else None,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in {"char", "block"} else None,
        nlink=status.st_nlink if nlink and kind != "dir" else None,
        mtime_ns=status.st_mtime_ns if mtime else None,
        xattrs=_read_xattrs(path) if xattrs else {},
    )


def _read_content(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            head = file.read(_CONTENT_LIMIT + 1)
            if len(head) <= _CONTENT_LIMIT:
                return head
            digest = hashlib.sha256(head)
            while block := file.read(1 << 20):
                digest.update(block)
            return b"sha256:" + digest.hexdigest().encode()
    except PermissionError:
        return None


def _read_xattrs(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}

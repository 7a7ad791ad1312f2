"""Archives of layers, and their indexes, as the launcher makes them for the file system server."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from typing import BinaryIO

from sandbox.images.archive_index import index_archive
from sandbox.images.indexing import seekable_frames
from sandbox.images.report import UnpackReport
from sandbox.images.tar import open_archive
from sandbox.kernel.idmaps import IdMap
from sandbox.plan import IdPlan
from unionfs.assemble import LayerSource
from unionfs.formats.xattrs import is_private
from unionfs.layer_index.archive_frames import Frame

_ALL = (IdMap(inside=0, outside=0, count=(1 << 32) - 1),)
ALL_IDS = IdPlan(uid_map=_ALL, gid_map=_ALL, helpers=None, single=False)
_ONE = (IdMap(inside=0, outside=0, count=1),)
SINGLE_ID = IdPlan(uid_map=_ONE, gid_map=_ONE, helpers=None, single=True)


def packed(directory: str | os.PathLike[str]) -> bytes:
    """Return a tar of the layer in *directory*, with its device whiteouts and opaque directories as ``.wh.`` members."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        first: dict[int, str] = {}
        _pack(archive, os.fspath(directory), ".", first)
    return output.getvalue()


def _pack(archive: tarfile.TarFile, at: str, name: str, first: dict[int, str]) -> None:
    info = os.lstat(at)
    member = tarfile.TarInfo(name)
    member.mode, member.uid, member.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
    member.pax_headers = {"mtime": f"{info.st_mtime_ns // 10**9}.{info.st_mtime_ns % 10**9:09}"}
    names = os.listxattr(at, follow_symlinks=False)
    for each in names:
        if not is_private(each) and not each.startswith("security."):
            value = os.getxattr(at, each, follow_symlinks=False)
            member.pax_headers[f"SCHILY.xattr.{each}"] = value.decode(errors="surrogateescape")
    if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
        parent, _, leaf = name.rpartition("/")
        archive.addfile(tarfile.TarInfo(f"{parent}/.wh.{leaf}"))
        return
    if stat.S_ISLNK(info.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(at)
    elif stat.S_ISFIFO(info.st_mode):
        member.type = tarfile.FIFOTYPE
    elif stat.S_ISDIR(info.st_mode):
        member.type = tarfile.DIRTYPE
    elif info.st_ino in first:
        member.type, member.linkname = tarfile.LNKTYPE, first[info.st_ino]
    elif stat.S_ISREG(info.st_mode):
        member.size = info.st_size
        with open(at, "rb") as file:
            archive.addfile(member, file)
    else:
        raise AssertionError(f"{at} cannot be in an archive")
    if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
        first.setdefault(info.st_ino, name)
    if not stat.S_ISREG(info.st_mode) or member.type == tarfile.LNKTYPE:
        archive.addfile(member)
    if stat.S_ISDIR(info.st_mode):
        if any(each.endswith(".opaque") for each in names):
            archive.addfile(tarfile.TarInfo(f"{name}/.wh..wh..opq"))
        for entry in sorted(os.listdir(at)):
            _pack(archive, f"{at}/{entry}", f"{name}/{entry}", first)


def write_index(archive: BinaryIO, output: BinaryIO, ids: IdPlan = ALL_IDS) -> UnpackReport:
    """Write the index of *archive*, a file at its start, to *output*."""
    found: list[Frame] = []
    stream = open_archive(archive, "a.tar", lambda *at: found.append(Frame(*at)))
    size = os.fstat(archive.fileno()).st_size
    frames = (lambda: seekable_frames(found) or ()) if stream.compressed else tuple
    return index_archive(stream, lambda: stream.position, output, ids, size, frames)


def memory_file(content: bytes = b"") -> int:
    """Return a descriptor of a file in memory with *content*."""
    fd = os.memfd_create("archive", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    return fd


def mounted_archive(content: bytes, ids: IdPlan = ALL_IDS) -> LayerSource:
    """Return a layer that shows the archive *content*; whoever opens the stack closes its descriptors.

    Raises:
        ImageError: the archive cannot be indexed.
    """
    archive_fd, index_fd = memory_file(content), memory_file()
    try:
        with open(archive_fd, "rb", closefd=False) as archive, open(index_fd, "wb", closefd=False) as output:
            archive.seek(0)
            write_index(archive, output, ids)
    except BaseException:
        os.close(archive_fd)
        os.close(index_fd)
        raise
    return LayerSource(fd=archive_fd, archive_index_fd=index_fd)

"""Facts about the file system of an open file."""

from __future__ import annotations

from unionfs import _libc

#: Types of remote file systems that do not support RWF_NOWAIT (statfs(2)): FUSE, NFS, SMB, CIFS, 9P, Ceph, AFS. A read from
#: them may wait for another process or machine. Other file systems without RWF_NOWAIT keep their files in memory, or are
#: stacked on other file systems.
_REMOTE = frozenset((0x65735546, 0x6969, 0xFE534D42, 0xFF534D42, 0x01021997, 0x00C36400, 0x5346414F))


def is_remote(fd: int) -> bool:
    """Return whether a read from the file *fd*, on a file system without RWF_NOWAIT, may wait for another process or machine."""
    return _libc.file_system_type(fd) in _REMOTE

"""Bind-mount a file that exists in memory only over a file of the sandbox."""

from __future__ import annotations

import os
import stat

from sandbox.kernel import filesystems, mounts
from sandbox.kernel.mount_flags import MountFlags

_NAME = "content"


def mount(
    content: bytes, target_fd: int, place_fd: int, *, mode: int, noexec: bool, room: int = 0
) -> tuple[int, int]:
    """Mount a read-only file with *content* over the file *target_fd*.

    Returns an O_PATH descriptor of the mounted file and a descriptor of the file itself, with which `change_owner` changes the
    owner. The second one is for reading and writing: the caller closes it before any other program runs.

    The file belongs to id 0 of this user namespace, in a tmpfs of its own that is just large enough for *room* more bytes. The tmpfs is mounted on the
    empty directory *place_fd* of this mount namespace, which no program can reach and which disappears with the old root. Without
    this mount, only Linux 6.15 and later could bind a file of the tmpfs.
    """
    flags = MountFlags(nosuid=True, nodev=True)
    # The kernel rounds up to whole pages; 0 would be no limit.
    options = filesystems.tmpfs_options(size=max(1, len(content) + room), mode=0o700, inodes=2)
    top_fd = filesystems.detached_filesystem("tmpfs", options=options, flags=flags)
    try:
        mounts.attach(top_fd, place_fd)
        file_fd = _write(top_fd, content, mode)
    finally:
        os.close(top_fd)
    try:
        tree_fd = mounts.copy_tree(file_fd, recursive=False)
        try:
            flags = MountFlags(read_only=True, nosuid=True, nodev=True, noexec=noexec)
            mounts.attach_tree(tree_fd, target_fd, flags, source="content")
        except OSError:
            os.close(tree_fd)
            raise
    except OSError:
        os.close(file_fd)
        raise
    return tree_fd, file_fd


def change_owner(file_fd: int, uid: int, gid: int) -> None:
    """Change the owner of the file to *uid* and *gid* of this user namespace; the mode stays."""
    mode = stat.S_IMODE(os.fstat(file_fd).st_mode)
    os.fchown(file_fd, uid, gid)
    os.fchmod(file_fd, mode)  # chown(2) clears the set-id bits


def _write(top_fd: int, content: bytes, mode: int) -> int:
    fd = os.open(_NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=top_fd)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.fchmod(fd, mode)
    except OSError:
        os.close(fd)
        raise
    return fd

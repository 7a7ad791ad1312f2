"""Mount new file systems: FUSE, and those of the kernel (tmpfs, proc, sysfs, devpts, mqueue).

fsopen(2) and fsmount(2), Linux 5.2, are used for all but FUSE. The targets are directory descriptors, opened in this process's
own mount namespace (else EINVAL). The module has no state.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping

from sandbox.kernel import _libc, constants
from sandbox.kernel.mount_flags import SEALED, MountFlags
from sandbox.kernel.open_paths import mount_id, path_of

_TMPFS_FLAGS = MountFlags(nosuid=True, nodev=True)
_KERNEL_FLAGS = MountFlags(nosuid=True, nodev=True, noexec=True)


def mount_fuse(
    fuse_fd: int,
    target_fd: int,
    *,
    source: str = "unionfs",
    nosuid: bool = True,
    read_only: bool = False,
    posix_acl: bool = False,
    options: Iterable[str] = (),
) -> int:
    """Mount the FUSE connection *fuse_fd* on the directory *target_fd* and return an O_PATH descriptor of its root.

    *fuse_fd* is /dev/fuse, opened within this process's user namespace (else EINVAL). The caller closes its copy at once: only
    the server may have it open, so that its end ends the connection. The mount is always nodev. mount(2) is used because
    fsmount(2) has no MS_POSIXACL.

    Raises:
        OSError: EINVAL for a descriptor of another user namespace or one already mounted; EPERM without CAP_SYS_ADMIN.
    """
    data = ("rootmode=40000", "user_id=0", "group_id=0", "default_permissions", "allow_other", *options)
    flags = MountFlags(nosuid=nosuid, nodev=True, read_only=read_only).mount_flags()
    target = path_of(target_fd)
    try:
        _libc.mount(
            source,
            f"/proc/self/fd/{target_fd}",
            "fuse",
            flags | (constants.MS_POSIXACL if posix_acl else 0),
            f"fd={fuse_fd}," + ",".join(data),
        )
    except OSError as error:
        raise OSError(error.errno, error.strerror, target) from None
    root_fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if mount_id(root_fd) == mount_id(target_fd):
        os.close(root_fd)
        raise OSError(errno.ESTALE, "the mount point was moved away during the mount", target)
    return root_fd


def mount_tmpfs(
    target_fd: int,
    *,
    size: int | None = None,
    mode: int = 0o755,
    inodes: int | None = None,
    flags: MountFlags = _TMPFS_FLAGS,
) -> None:
    """Mount an empty tmpfs on the directory *target_fd*. *size* is in bytes; the kernel's limits hold for *size* or *inodes* None.

    Its pages are charged to the memory cgroup of the process that writes them.
    """
    options = tmpfs_options(size=size, mode=mode, inodes=inodes)
    mount_filesystem("tmpfs", target_fd, options=options, flags=flags)


def mount_proc(target_fd: int) -> None:
    """Mount the /proc of this process's pid namespace.

    Raises:
        OSError: EPERM if this mount namespace has no fully visible /proc (mount_too_revealing, fs/namespace.c: a container
            engine masked parts of it), or if the pid namespace is not this user namespace's.
    """
    mount_filesystem("proc", target_fd, flags=_KERNEL_FLAGS)


def mount_sysfs(target_fd: int) -> None:
    """Mount the /sys of this process's network namespace, read-only.

    Raises:
        OSError: EPERM as for :func:`mount_proc`, and when the network namespace is not this user namespace's.
    """
    mount_filesystem("sysfs", target_fd, flags=SEALED)


def mount_devpts(target_fd: int, *, tty_gid: int | None = None) -> None:
    """Mount a new instance of devpts.

    *tty_gid* is the group (5 is tty) that owns terminals and may write to them; it must be mapped (else EINVAL). With None only
    the user who opens a terminal has access to it.
    """
    options = {"newinstance": None, "ptmxmode": "0666", "mode": "0600"}
    if tty_gid is not None:
        options |= {"mode": "0620", "gid": str(tty_gid)}
    mount_filesystem("devpts", target_fd, options=options, flags=MountFlags(nosuid=True, noexec=True))


def mount_mqueue(target_fd: int) -> None:
    """Mount the POSIX message queues of this process's ipc namespace.

    Raises:
        OSError: EPERM when the ipc namespace is not this user namespace's.
    """
    mount_filesystem("mqueue", target_fd, flags=_KERNEL_FLAGS)


def mount_filesystem(
    fstype: str, target_fd: int, *, options: Mapping[str, str | None] | None = None, flags: MountFlags
) -> None:
    """Mount a new file system of type *fstype* on *target_fd*. An option with the value None is a flag."""
    try:
        tree_fd = detached_filesystem(fstype, options=options, flags=flags)
        try:
            _libc.move_mount(tree_fd, target_fd)
        finally:
            os.close(tree_fd)
    except OSError as error:
        raise OSError(error.errno, f"mount {fstype}: {error.strerror}", path_of(target_fd)) from None


def detached_filesystem(
    fstype: str, *, options: Mapping[str, str | None] | None = None, flags: MountFlags
) -> int:
    """Return a descriptor of the root of a new file system that is not mounted; closing it removes the file system."""
    fs_fd = _libc.fsopen(fstype)
    try:
        # Without it mountinfo shows "none" as the source.
        _libc.fsconfig(fs_fd, constants.FSCONFIG_SET_STRING, "source", fstype)
        for key, value in (options or {}).items():
            command = constants.FSCONFIG_SET_FLAG if value is None else constants.FSCONFIG_SET_STRING
            _libc.fsconfig(fs_fd, command, key, value)
        _libc.fsconfig(fs_fd, constants.FSCONFIG_CMD_CREATE)
        return _libc.fsmount(fs_fd, flags.attributes())
    finally:
        os.close(fs_fd)


def tmpfs_options(*, size: int | None, mode: int, inodes: int | None) -> dict[str, str | None]:
    """Return the options of a tmpfs; *size* in bytes."""
    options: dict[str, str | None] = {"mode": f"{mode:o}"}
    if size is not None:
        options["size"] = str(size)
    if inodes is not None:
        options["nr_inodes"] = str(inodes)
    return options

"""Mounts a directory, which yields an open /dev/fuse on which the kernel sends its requests, and unmounts it.

Root, or a process with CAP_SYS_ADMIN in a user namespace, uses mount(2). Other users need the set-user-id program fusermount3,
which passes the descriptor over a socket (fusermount3(1), libfuse lib/mount.c). libfuse does not do this here, because the
server answers the first request on the descriptor itself (fuse/libfuse/init_patch.py).
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
from collections.abc import Collection

from unionfs import _libc
from unionfs._stdlib.dataclasses import dataclass
from unionfs.errors import UnionError

_DEVICE = "/dev/fuse"
_HELPER = "fusermount3"
#: Options that are flags of mount(2). Those that are the default need no flag (_NOTHING).
_FLAGS = {
    "ro": _libc.MS_RDONLY,
    "nosuid": _libc.MS_NOSUID,
    "nodev": _libc.MS_NODEV,
    "noexec": _libc.MS_NOEXEC,
    "sync": _libc.MS_SYNCHRONOUS,
    "dirsync": _libc.MS_DIRSYNC,
    "noatime": _libc.MS_NOATIME,
    "nodiratime": _libc.MS_NODIRATIME,
}
#: The escape sequence for blanks and backslashes in mountinfo.
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_NOTHING = frozenset("rw suid dev exec async atime diratime".split())


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount, and the descriptor to serve it on. `mount` creates it; the caller unmounts it and closes the descriptor."""

    fd: int
    mountpoint: str
    #: The device number of the mount, which distinguishes it from another mount on the same directory.
    device: str | None

    def is_gone(self) -> bool:
        """Return whether the mount was unmounted: the descriptor then only reports errors."""
        poll = select.poll()
        poll.register(self.fd, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))

    def unmount(self) -> None:
        """Unmount now or, if the mount is in use, as soon as it is not. Do nothing if it is gone.

        If something is mounted over it, the mount stays: the path then leads to the other mount, which does not belong to this
        process.

        Raises:
            UnionError: neither fusermount3 nor umount(8) can unmount it. The message contains the output of the first of them.
        """
        if self.is_gone() or _device_on(self.mountpoint) != self.device:
            return
        try:
            _libc.umount2(os.fsencode(self.mountpoint), _libc.MNT_DETACH | _libc.UMOUNT_NOFOLLOW)
        except PermissionError:
            output = _unmount_by_helper(self.mountpoint)
            if output and _device_on(self.mountpoint) == self.device:
                raise UnionError(f"cannot unmount {self.mountpoint}: {output}") from None
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: no longer a mount point
                raise


def mount(mountpoint: str, options: Collection[str]) -> Mounted:
    """Mount on the directory *mountpoint*, an absolute path.

    Args:
        mountpoint: the directory.
        options: options of mount(8) and of the kernel's fuse (Documentation/filesystems/fuse.rst); mount(8) shows ``fsname=``
            and ``subtype=``.

    Raises:
        UnionError: mounting failed. The message contains the reason and the remedy.
    """
    if os.geteuid() == 0:
        try:
            return _mount_directly(mountpoint, options)
        except PermissionError:
            pass  # root without CAP_SYS_ADMIN, as in some containers: fusermount3 may still work
        except OSError as error:
            raise UnionError(f"cannot mount on {mountpoint}: {error.strerror}") from None
    return _mount_by_helper(mountpoint, options)


def _open_device() -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UnionError(
            f"{_DEVICE} does not exist: as root, run `modprobe fuse`; in a container, add the device to it"
        ) from None
    except PermissionError:
        raise UnionError(
            f"{_DEVICE} cannot be opened by this user: as root, run `chmod 666 {_DEVICE}`"
        ) from None


def _mount_directly(mountpoint: str, options: Collection[str]) -> Mounted:
    fd = _open_device()
    try:
        # Device nodes in layers do not work unless the options contain "dev", as with libfuse. Set-id programs in mounts of
        # root work, as with fuse-overlayfs.
        flags = 0 if "dev" in options else _libc.MS_NODEV
        source, subtype = "unionfs", "unionfs"
        data = [f"fd={fd}", "rootmode=40000", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
        for option in options:
            key, _, value = option.partition("=")
            if key == "fsname":
                source = value
            elif key == "subtype":
                subtype = value
            elif option in _FLAGS:
                flags |= _FLAGS[option]
            elif option not in _NOTHING:
                data.append(option)
        _libc.mount(
            os.fsencode(source),
            os.fsencode(mountpoint),
            os.fsencode(f"fuse.{subtype}"),
            flags,
            ",".join(data).encode(),
        )
    except BaseException:
        os.close(fd)
        raise
    return Mounted(fd, mountpoint, _device_on(mountpoint))


def _mount_by_helper(mountpoint: str, options: Collection[str]) -> Mounted:
    import subprocess

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        given = ",".join(option.replace("\\", "\\\\").replace(",", "\\,") for option in sorted(options))
        try:
            done = subprocess.run(
                [_HELPER, "-o", given, "--", mountpoint],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
        except OSError as error:
            # execvp(3) also fails with EACCES if it may not search a directory of PATH.
            if any(os.path.exists(os.path.join(part, _HELPER)) for part in os.get_exec_path()):
                raise UnionError(f"cannot mount on {mountpoint}: {_HELPER}: {error.strerror}") from None
            raise UnionError(f"{_HELPER} is not installed: as root, run `apt-get install fuse3`") from None
        if done.returncode != 0:
            os.close(_open_device())  # raises an error with a remedy if the device is the cause
            output = done.stderr.decode(errors="replace").strip().removeprefix(f"{_HELPER}: ")
            raise UnionError(f"cannot mount on {mountpoint}: {output or f'{_HELPER} failed'}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        raise UnionError(f"cannot mount on {mountpoint}: {_HELPER} sent no descriptor")
    os.set_inheritable(fds[0], False)
    return Mounted(fds[0], mountpoint, _device_on(mountpoint))


def _unmount_by_helper(mountpoint: str) -> str:
    """Unmount the directory *mountpoint* lazily with a set-user-id program. Return "", or the reason why that failed.

    fusermount3 looks for the owner of a mount in /etc/mtab and fails without that file (libfuse util/fusermount.c). umount(8)
    of util-linux reads /proc/self/mountinfo, and lets a user unmount a mount that has his user_id= (libmount,
    context_umount.c).
    """
    import subprocess

    output = ""
    for command in ([_HELPER, "-u", "-z", "--", mountpoint], ["umount", "-l", "-i", "--", mountpoint]):
        try:
            done = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            )
        except OSError as error:
            output = output or f"{command[0]}: {error.strerror}"
            continue
        if done.returncode == 0:
            return ""
        output = output or done.stderr.decode(errors="replace").strip() or f"{command[0]} failed"
    return output


def _device_on(mountpoint: str) -> str | None:
    """Return MAJOR:MINOR of the topmost mount on *mountpoint*, or None if there is none (proc_pid_mountinfo(5)).

    It sends no request to the file system there, because this process may be its server.
    """
    found = None
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            fields = line.split(b" ", 5)
            if _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), fields[4]) == os.fsencode(mountpoint):
                found = fields[2].decode()
    return found

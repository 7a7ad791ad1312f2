"""Moves the server into the sandbox's user namespace, and removes the rights that serving does not need.

The server stays outside the sandbox's pid and mount namespaces, because it must never walk a path of its own mount.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable

from unionfs import _libc

#: The capabilities that are needed to act on files of every id of the namespace, and no others.
_KEPT = {
    _libc.CAP_CHOWN,
    _libc.CAP_DAC_OVERRIDE,
    _libc.CAP_DAC_READ_SEARCH,
    _libc.CAP_FOWNER,
    _libc.CAP_FSETID,
    _libc.CAP_MKNOD,
    _libc.CAP_SETFCAP,
}


#: Access rights for files (linux/landlock.h): all of version 2 of the Landlock ABI, and those of later versions.
_READ = 1 << 2 | 1 << 3  # READ_FILE, READ_DIR
_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_REMOVE = 1 << 4 | 1 << 5  # REMOVE_DIR, REMOVE_FILE
_MAKE = 0b1111111 << 6  # MAKE_CHAR, _DIR, _REG, _SOCK, _FIFO, _BLOCK, _SYM
_REFER = 1 << 13
_TRUNCATE = 1 << 14  # version 3
_IOCTL_DEVICE = 1 << 15  # version 5
#: BIND_TCP and CONNECT_TCP (version 4), abstract unix sockets and signals (version 6).
_NETWORK, _SCOPED = 0b11, 0b11
#: Version 1 denies every rename and link from one directory to another.
_LEAST_VERSION = 2


def restrict_files(readable: Iterable[int], writable: Iterable[int]) -> bool:
    """Restrict this process with Landlock. Return False if the kernel has no suitable version.

    The process may then open files only below the directories *readable* and *writable* (descriptors), and write only below the
    latter. It can reach no network and no other process, as far as the kernel's Landlock supports that.

    Open descriptors stay usable. Python's library stays readable, because the process may still import some of it. Nothing
    below /proc can be opened: a rule covers the inode for which it was made, and procfs creates another inode for the same path
    after the kernel has reclaimed the first (proc_pid_make_inode, fs/proc/base.c). Links such as /proc/self/fd/5 can be
    followed, because Landlock checks the file that is opened and not the path to it.
    """
    version = _libc.landlock_version()
    if version < _LEAST_VERSION:
        return False
    write = _READ | _WRITE_FILE | _REMOVE | _MAKE | _REFER | (_TRUNCATE if version >= 3 else 0)
    handled = write | _EXECUTE | (_IOCTL_DEVICE if version >= 5 else 0)
    library = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in sys.path if os.path.isdir(path)]
    try:
        allowed = [(fd, _READ) for fd in (*library, *readable)] + [(fd, write) for fd in writable]
        network, scoped = (_NETWORK if version >= 4 else 0), (_SCOPED if version >= 6 else 0)
        _libc.landlock_restrict(handled, network, scoped, allowed)
    finally:
        for fd in library:
            os.close(fd)
    return True


def enter_user_namespace(fd: int) -> None:
    """Become id 0 of the user namespace *fd*, with new mount, network and IPC namespaces in it, and with few capabilities.

    Raises:
        OSError: the namespace cannot be entered, or it does not map id 0.
    """
    _libc.setns(fd, _libc.CLONE_NEWUSER)
    try:
        os.setgroups([])
    except OSError as error:
        if error.errno != errno.EPERM:  # always denied if the namespace maps a single id (user_namespaces(7))
            raise
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # Mounts propagate into a mount namespace of a less privileged user namespace, but not out of it (mount_namespaces(7)).
    _libc.unshare(_libc.CLONE_NEWNS | _libc.CLONE_NEWNET | _libc.CLONE_NEWIPC)
    _libc.keep_capabilities(_KEPT)
    _libc.set_not_dumpable()

"""Putting the server into the sandbox's user namespace, and taking from it what serving does not need
(Corrections 20).

The server stays outside the sandbox's pid and mount namespaces: it must never walk a path of its own mount.
"""

from __future__ import annotations

import errno
import os

from unionfs import _libc

#: What acting on files for every id of the namespace takes, and nothing else.
_KEPT = {
    _libc.CAP_CHOWN,
    _libc.CAP_DAC_OVERRIDE,
    _libc.CAP_DAC_READ_SEARCH,
    _libc.CAP_FOWNER,
    _libc.CAP_FSETID,
    _libc.CAP_MKNOD,
    _libc.CAP_SETFCAP,
}


def enter_user_namespace(fd: int) -> None:
    """Become id 0 of the user namespace *fd*, with mount, network and IPC namespaces of our own in it, and
    few capabilities.

    Raises:
        OSError: the namespace cannot be entered, or it does not map id 0.
    """
    _libc.setns(fd, _libc.CLONE_NEWUSER)
    try:
        os.setgroups([])
    except OSError as error:
        if error.errno != errno.EPERM:  # denied for good where a single id is mapped (user_namespaces(7))
            raise
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # A mount namespace owned by a lesser user namespace receives mounts but passes none on
    # (mount_namespaces(7)).
    _libc.unshare(_libc.CLONE_NEWNS | _libc.CLONE_NEWNET | _libc.CLONE_NEWIPC)
    _libc.keep_capabilities(_KEPT)
    _libc.set_not_dumpable()

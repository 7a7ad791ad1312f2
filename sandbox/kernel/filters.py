"""Whether a program could be given filters: of system calls (seccomp(2)) and of paths and ports (landlock(7))."""

from __future__ import annotations

import errno
import struct

from sandbox.kernel import _libc, process

_RETURN = 0x06  # BPF_RET | BPF_K of linux/bpf_common.h
_SECCOMP_RET_ALLOW = 0x7FFF0000
_ALLOW_ALL = struct.pack("=HBBI", _RETURN, 0, 0, _SECCOMP_RET_ALLOW)  # struct sock_filter


def allow_every_call() -> None:
    """Put a filter on this process that lets everything pass. It stays, as does no_new_privs: for a child that ends soon.

    Raises:
        OSError: EINVAL on a kernel without filters (CONFIG_SECCOMP_FILTER); EPERM, ENOSYS where an outer filter forbids it.
    """
    process.set_no_new_privileges()
    _libc.set_seccomp_filter(_ALLOW_ALL)


def has_libseccomp() -> bool:
    """Tell whether the library that compiles filters is there; it is loaded into this process."""
    return _libc.library_loads("libseccomp.so.2")


def landlock_version() -> int:
    """Return the version of Landlock's interface, 0 where the kernel has none or it was switched off at boot."""
    try:
        return _libc.landlock_version()
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise

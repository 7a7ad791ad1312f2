"""Find out whether a process can get a seccomp filter (seccomp(2)) or Landlock rules (landlock(7)) on this kernel."""

from __future__ import annotations

import errno
import struct

from sandbox.kernel import _libc, process

_RETURN = 0x06  # BPF_RET | BPF_K of linux/bpf_common.h
_SECCOMP_RET_ALLOW = 0x7FFF0000
_ALLOW_ALL = struct.pack("=HBBI", _RETURN, 0, 0, _SECCOMP_RET_ALLOW)  # struct sock_filter


def allow_every_call() -> None:
    """Install a filter that allows every system call. It cannot be removed, nor can no_new_privs: call it in a short-lived child.

    Raises:
        OSError: EINVAL on a kernel without CONFIG_SECCOMP_FILTER; EPERM or ENOSYS if an outer filter forbids the call.
    """
    process.set_no_new_privileges()
    _libc.set_seccomp_filter(_ALLOW_ALL)


def has_libseccomp() -> bool:
    """Return whether libseccomp, which compiles filters, is installed. This loads it into the process."""
    return _libc.library_loads("libseccomp.so.2")


def landlock_version() -> int:
    """Return the version of Landlock's ABI, or 0 if the kernel has none or Landlock was disabled at boot."""
    try:
        return _libc.landlock_version()
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise

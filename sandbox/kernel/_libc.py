"""Call the kernel by ctypes, for system calls that :mod:`os` lacks in some supported version of Python.

Each function is one call, as the manual page of its name in section 2 describes it. It takes typed values, raises
:class:`OSError` (errno, text, path), and has no policy. Calls that are younger than the C libraries of supported distributions
go through syscall(2). No other module of this package imports ctypes; the flags and numbers are in `constants`.
"""

from __future__ import annotations

import ctypes
import errno
import os

from sandbox.kernel import constants
from unionfs._stdlib.typing import NoReturn

#: Pairs of a 64-bit and a 32-bit machine: uname(2) may return either name for the other.
_PAIRS = (("x86_64", "i686"), ("aarch64", "armv8l"), ("ppc64le", "ppcle"), ("s390x", "s390"))

_int, _uint, _long, _ulong = ctypes.c_int, ctypes.c_uint, ctypes.c_long, ctypes.c_ulong
_str = ctypes.c_char_p

_libc = ctypes.CDLL(None, use_errno=True)
_libc.unshare.argtypes = (_int,)
_libc.setns.argtypes = (_int, _int)
_libc.mount.argtypes = (_str, _str, _str, _ulong, _str)
_libc.umount2.argtypes = (_str, _int)
_libc.pivot_root.argtypes = (_str, _str)
_libc.renameat2.argtypes = (_int, _str, _int, _str, _uint)
_libc.prctl.argtypes = (_int, _ulong, _ulong, _ulong, _ulong)
_libc.capget.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_libc.capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_libc.fstatfs.argtypes = (_int, ctypes.c_void_p)
_libc.syscall.restype = _long


def _machine() -> str:
    """Return the machine whose call numbers this interpreter uses.

    That is the one of uname(2), except for a 32-bit interpreter on a 64-bit kernel, and under setarch(8).
    """
    reported = os.uname().machine
    for wide, narrow in _PAIRS:
        if reported in (wide, narrow):
            return wide if ctypes.sizeof(ctypes.c_void_p) == 8 else narrow
    return reported


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls")
    )


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _layout_ = "ms"  # the layout that _pack_ has always meant; Python 3.14 requires it
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


class _NetPort(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int32))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _raise_errno(call: str, path: str | None = None) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}", path)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def unshare(flags: int) -> None:
    """Move this process (for CLONE_NEWPID and CLONE_NEWTIME: its future children) into new namespaces."""
    if _libc.unshare(flags) < 0:
        _raise_errno("unshare")


def setns(fd: int, flags: int) -> None:
    """Join the namespace that *fd* refers to. *flags* is the expected kind, 0 for any."""
    if _libc.setns(fd, flags) < 0:
        _raise_errno("setns")


def mount(source: str, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """Mount, remount or change propagation."""
    if _libc.mount(_bytes(source), _bytes(target), _bytes(fstype), flags, _bytes(data)) < 0:
        _raise_errno("mount", target)


def umount2(target: str, flags: int) -> None:
    """Unmount *target*."""
    if _libc.umount2(_bytes(target), flags) < 0:
        _raise_errno("umount", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make *new_root* the root of this mount namespace and put the old one at *put_old*."""
    if _libc.pivot_root(_bytes(new_root), _bytes(put_old)) < 0:
        _raise_errno("pivot_root", new_root)


def renameat2(
    source: str,
    target: str,
    flags: int,
    *,
    source_fd: int = constants.AT_FDCWD,
    target_fd: int = constants.AT_FDCWD,
) -> None:
    """Rename *source* in the directory *source_fd* to *target* in *target_fd*, with RENAME_* flags."""
    if _libc.renameat2(source_fd, _bytes(source), target_fd, _bytes(target), flags) < 0:
        _raise_errno("renameat2", source)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """Set or get a property of this process with integer arguments and return its result."""
    result: int = _libc.prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        _raise_errno(f"prctl({option}, {arg2})")
    return result


def capget() -> tuple[int, int, int]:
    """Return this thread's effective, permitted and inheritable sets as bit masks."""
    header, data = _CapHeader(constants.CAPABILITY_VERSION_3, 0), (_CapData * 2)()
    if _libc.capget(ctypes.byref(header), data) < 0:
        _raise_errno("capget")
    low, high = data[0], data[1]
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capability sets, given as bit masks."""
    header = _CapHeader(constants.CAPABILITY_VERSION_3, 0)
    low = _CapData(effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF)
    high = _CapData(effective >> 32, permitted >> 32, inheritable >> 32)
    if _libc.capset(ctypes.byref(header), (_CapData * 2)(low, high)) < 0:
        _raise_errno("capset")


def openat2(dirfd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open *path* below *dirfd* under the RESOLVE_* restrictions (Linux 5.6); close-on-exec.

    Raises:
        OSError: EXDEV for an escape under RESOLVE_BENEATH, ELOOP for a link under RESOLVE_NO_SYMLINKS, EAGAIN if a
            concurrent rename made the result unsafe, ENOSYS before Linux 5.6.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    fd: int = _libc.syscall(_long(constants.SYS_OPENAT2), _int(dirfd), _bytes(path), ctypes.byref(how), size)
    if fd < 0:
        _raise_errno("openat2", path)
    return fd


def fstatfs_type(fd: int) -> int:
    """Return the magic number of the file system of *fd*: ``f_type`` of fstatfs(2), which os.fstatvfs omits."""
    # The first field of struct statfs, a long except on s390x. The structure has at most 120 bytes.
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer) < 0:
        _raise_errno("fstatfs")
    kind = _uint if os.uname().machine == "s390x" else _ulong
    return kind.from_buffer(buffer).value & 0xFFFFFFFF


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """Open, or with OPEN_TREE_CLONE copy, the mount tree at *path* below *dirfd* (Linux 5.2)."""
    fd: int = _libc.syscall(
        _long(constants.SYS_OPEN_TREE), _int(dirfd), _bytes(path), _uint(flags | constants.OPEN_TREE_CLOEXEC)
    )
    if fd < 0:
        _raise_errno("open_tree", path or None)
    return fd


def move_mount(tree_fd: int, target_fd: int) -> None:
    """Attach the mount that *tree_fd* refers to on top of what *target_fd* refers to (Linux 5.2)."""
    flags = constants.MOVE_MOUNT_F_EMPTY_PATH | constants.MOVE_MOUNT_T_EMPTY_PATH
    arguments = (_int(tree_fd), b"", _int(target_fd), b"", _uint(flags))
    if _libc.syscall(_long(constants.SYS_MOVE_MOUNT), *arguments) < 0:
        _raise_errno("move_mount")


def mount_setattr(fd: int, attr_set: int, *, recursive: bool) -> None:
    """Add MOUNT_ATTR_* to the mount *fd* refers to, or to every mount of its tree (Linux 5.12)."""
    attributes = _MountAttr(attr_set, 0, 0, 0)
    flags = constants.AT_EMPTY_PATH | (constants.AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    result = _libc.syscall(
        _long(constants.SYS_MOUNT_SETATTR), _int(fd), b"", _uint(flags), ctypes.byref(attributes), size
    )
    if result < 0:
        _raise_errno("mount_setattr")


def have_mount_setattr() -> bool:
    """Return whether mount_setattr(2) exists: then a structure of size 0 fails with EINVAL, otherwise with ENOSYS."""
    arguments = (_int(-1), b"", _uint(0), None, ctypes.c_size_t(0))
    result = _libc.syscall(_long(constants.SYS_MOUNT_SETATTR), *arguments)
    return result == 0 or ctypes.get_errno() == errno.EINVAL


def fsopen(fstype: str) -> int:
    """Open a context in which to configure a new file system of type *fstype* (Linux 5.2)."""
    fd: int = _libc.syscall(_long(constants.SYS_FSOPEN), _bytes(fstype), _uint(constants.FSOPEN_CLOEXEC))
    if fd < 0:
        _raise_errno("fsopen", fstype)
    return fd


def _raise_context(fs_fd: int, call: str) -> NoReturn:
    """Raise errno together with the message of the file system, which the kernel queues on the descriptor."""
    number = ctypes.get_errno()
    try:
        text = os.read(fs_fd, 1024).decode(errors="replace").strip()
    except OSError:  # ENODATA: no message
        text = ""
    raise OSError(number, f"{call}: {os.strerror(number)}" + (f" ({text[2:]})" if text else ""))


def fsconfig(fs_fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    """Set an option of, or create, the file system that *fs_fd* configures (Linux 5.2)."""
    arguments = (_int(fs_fd), _uint(command), _bytes(key), _bytes(value), _int(0))
    if _libc.syscall(_long(constants.SYS_FSCONFIG), *arguments) < 0:
        _raise_context(fs_fd, f"fsconfig {key}" if key else "fsconfig")


def fsmount(fs_fd: int, attributes: int) -> int:
    """Return a detached mount of the file system made with *fs_fd* (Linux 5.2)."""
    fd: int = _libc.syscall(
        _long(constants.SYS_FSMOUNT), _int(fs_fd), _uint(constants.FSMOUNT_CLOEXEC), _uint(attributes)
    )
    if fd < 0:
        _raise_context(fs_fd, "fsmount")
    return fd


def close_range(first: int, last: int, flags: int = 0) -> None:
    """Close, or with CLOSE_RANGE_CLOEXEC mark, the descriptors *first* to *last* (Linux 5.9)."""
    if _libc.syscall(_long(constants.SYS_CLOSE_RANGE), _uint(first), _uint(last), _uint(flags)) < 0:
        _raise_errno("close_range")


def join_new_session_keyring() -> None:
    """Replace the session keyring by a new, empty, anonymous one; keyctl(2), KEYCTL_JOIN_SESSION_KEYRING.

    Raises:
        OSError: ENOSYS on a kernel without keys or an architecture whose call number is unknown here; EDQUOT if the
            user has too many keys.
    """
    number = constants.SYS_KEYCTL.get(_machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"keyctl: call number of {os.uname().machine} not known")
    if _libc.syscall(_long(number), _int(constants.KEYCTL_JOIN_SESSION_KEYRING), None) < 0:
        _raise_errno("keyctl")


def syncfs(fd: int) -> None:
    """Write the cached data of the file system of the open file *fd* to its disk."""
    if _libc.syncfs(_int(fd)) < 0:
        _raise_errno("syncfs")


def pidfd_send_signal(pidfd: int, signal_number: int) -> None:
    """Send a signal to the process that *pidfd* refers to (Linux 5.1)."""
    arguments = (_int(pidfd), _int(signal_number), None, _uint(0))
    if _libc.syscall(_long(constants.SYS_PIDFD_SEND_SIGNAL), *arguments) < 0:
        _raise_errno("pidfd_send_signal")


def overwrite(address: int, size: int, data: bytes) -> None:
    """Write *data*, truncated or padded with zeros to *size* bytes, to *address* of this process's memory."""
    ctypes.memmove(address, data[: size - 1].ljust(size, b"\0"), size)


def set_thread_name(name: bytes) -> None:
    """Name this thread, at most 15 bytes, as /proc/PID/comm shows it (prctl(2), PR_SET_NAME)."""
    buffer = ctypes.create_string_buffer(name[:15])
    prctl(constants.PR_SET_NAME, ctypes.addressof(buffer))


def set_seccomp_filter(program: bytes) -> None:
    """Install the seccomp filter *program*, BPF instructions of eight bytes, for this thread; it cannot be removed.

    Raises:
        OSError: EACCES without no_new_privs or CAP_SYS_ADMIN; EINVAL for an invalid program, or a kernel without filters.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    description = _SockFprog(len(program) // 8, ctypes.addressof(buffer))
    prctl(constants.PR_SET_SECCOMP, constants.SECCOMP_MODE_FILTER, ctypes.addressof(description))


def landlock_version() -> int:
    """Return the version of Landlock's ABI; landlock_create_ruleset(2).

    Raises:
        OSError: ENOSYS without Landlock in the kernel; EOPNOTSUPP if it was disabled at boot.
    """
    arguments = (None, ctypes.c_size_t(0), _uint(constants.LANDLOCK_CREATE_RULESET_VERSION))
    version: int = _libc.syscall(_long(constants.SYS_LANDLOCK_CREATE_RULESET), *arguments)
    if version < 0:
        _raise_errno("landlock_create_ruleset")
    return version


def set_seccomp_listener(program: bytes) -> int:
    """Install a filter as :func:`set_seccomp_filter` does, and return its listener (Linux 5.0).

    The listener is a close-on-exec descriptor that receives the calls for which *program* returns SECCOMP_RET_USER_NOTIF.

    Raises:
        OSError: also EBUSY if an outer filter has a listener; ENOSYS if the number of seccomp(2) is unknown here.
    """
    number = constants.SYS_SECCOMP.get(_machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"seccomp: call number of {os.uname().machine} not known")
    buffer = ctypes.create_string_buffer(program, len(program))
    description = _SockFprog(len(program) // 8, ctypes.addressof(buffer))
    flags = _uint(constants.SECCOMP_FILTER_FLAG_NEW_LISTENER)
    fd: int = _libc.syscall(
        _long(number), _uint(constants.SECCOMP_SET_MODE_FILTER), flags, ctypes.byref(description)
    )
    if fd < 0:
        _raise_errno("seccomp")
    return fd


def fork_sharing_descriptors() -> int:
    """Fork a sibling of this process that shares its file descriptor table; clone3(2) with CLONE_FILES and CLONE_PARENT.

    The table is shared until one of the two executes a program. Python's handlers of os.fork() do not run: the child must do
    little and end with os._exit().

    Raises:
        OSError: ENOSYS before Linux 5.3, or if an outer filter denies the call.
    """
    # With CLONE_PARENT the exit signal is that of this process, and clone3(2) refuses another one.
    arguments = _CloneArgs(flags=constants.CLONE_FILES | constants.CLONE_PARENT)
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    pid: int = _libc.syscall(_long(constants.SYS_CLONE3), ctypes.byref(arguments), size)
    if pid < 0:
        _raise_errno("clone3")
    return pid


def landlock_create_ruleset(fs: int, net: int, scoped: int, size: int) -> int:
    """Return a descriptor of a ruleset that handles these rights; *size* is the number of bytes that the kernel reads."""
    attributes = _RulesetAttr(fs, net, scoped)
    arguments = (ctypes.byref(attributes), ctypes.c_size_t(size), _uint(0))
    fd: int = _libc.syscall(_long(constants.SYS_LANDLOCK_CREATE_RULESET), *arguments)
    if fd < 0:
        _raise_errno("landlock_create_ruleset")
    return fd


def landlock_allow_beneath(ruleset_fd: int, allowed: int, path_fd: int) -> None:
    """Add a rule that allows the rights *allowed* to the file *path_fd* and everything below it."""
    rule = _PathBeneath(allowed, path_fd)
    arguments = (_int(ruleset_fd), _int(constants.LANDLOCK_RULE_PATH_BENEATH), ctypes.byref(rule), _uint(0))
    if _libc.syscall(_long(constants.SYS_LANDLOCK_ADD_RULE), *arguments) < 0:
        _raise_errno("landlock_add_rule")


def landlock_allow_port(ruleset_fd: int, allowed: int, port: int) -> None:
    """Add a rule that allows the rights *allowed* to the TCP port *port*."""
    rule = _NetPort(allowed, port)
    arguments = (_int(ruleset_fd), _int(constants.LANDLOCK_RULE_NET_PORT), ctypes.byref(rule), _uint(0))
    if _libc.syscall(_long(constants.SYS_LANDLOCK_ADD_RULE), *arguments) < 0:
        _raise_errno("landlock_add_rule")


def landlock_restrict_self(ruleset_fd: int) -> None:
    """Restrict this thread and its future children by the ruleset; this cannot be undone.

    Raises:
        OSError: EPERM without no_new_privs or CAP_SYS_ADMIN; E2BIG with sixteen rulesets already.
    """
    if _libc.syscall(_long(constants.SYS_LANDLOCK_RESTRICT_SELF), _int(ruleset_fd), _uint(0)) < 0:
        _raise_errno("landlock_restrict_self")


def libseccomp_version() -> tuple[int, int, int] | None:
    """Return the version of this machine's libseccomp, None without one; seccomp_version(3). The library stays loaded."""
    try:
        version = ctypes.CDLL("libseccomp.so.2").seccomp_version
    except (OSError, AttributeError):
        return None
    version.restype = ctypes.POINTER(_uint * 3)
    found = version()
    return (found.contents[0], found.contents[1], found.contents[2]) if found else None


def library_loads(name: str) -> bool:
    """Return whether the shared library *name*, such as libseccomp.so.2, can be loaded. It stays loaded."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True

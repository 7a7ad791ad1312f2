"""The only ctypes of this package: system calls that Python's :mod:`os` lacks in some supported version.

Each function is one call, as the manual page of its name in section 2 describes it: typed values in, :class:`OSError`
(errno, text, path) out, no policy. Calls younger than the C
libraries of supported distributions go through syscall(2): their numbers are the same on every architecture, as all
numbers from 424 on are (``include/uapi/asm-generic/unistd.h``).
"""

from __future__ import annotations

import ctypes
import errno
import os

from unionfs._stdlib.typing import NoReturn

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_POSIXACL = 0x10000
MS_PRIVATE = 0x40000
MS_RELATIME = 0x200000
MS_STRICTATIME = 0x1000000

MNT_DETACH = 0x2

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100

OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 0x1
FSMOUNT_CLOEXEC = 0x1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_NAME = 15
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLOSE_RANGE_CLOEXEC = 0x4

RENAME_EXCHANGE = 0x2
RENAME_WHITEOUT = 0x4

PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572

SECCOMP_MODE_FILTER = 2
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 0x8
LANDLOCK_CREATE_RULESET_VERSION = 0x1
LANDLOCK_RULE_PATH_BENEATH = 1
LANDLOCK_RULE_NET_PORT = 2

CLONE_FILES = 0x00000400
CLONE_PARENT = 0x00008000

_SYS_PIDFD_SEND_SIGNAL = 424
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_CLONE3 = 435
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_ADD_RULE = 445
_SYS_LANDLOCK_RESTRICT_SELF = 446
# seccomp(2) is older than the common table, too; prctl(2) does the same where no flag is needed.
_SYS_SECCOMP = {
    "x86_64": 317,
    "aarch64": 277,
    "riscv64": 277,
    "loongarch64": 277,
    "ppc64le": 358,
    "s390x": 348,
    "i686": 354,
    "armv7l": 383,
    "armv8l": 383,
}
# keyctl(2) is older than the common table, and no C library wraps it (libkeyutils does).
_SYS_KEYCTL = {
    "x86_64": 250,
    "aarch64": 219,
    "riscv64": 219,
    "loongarch64": 219,
    "ppc64le": 271,
    "s390x": 280,
    "i686": 288,
    "armv7l": 311,
    "armv8l": 311,
}
#: Machines of 64 and 32 bits that a kernel shows as one another.
_PAIRS = (("x86_64", "i686"), ("aarch64", "armv8l"), ("ppc64le", "ppcle"), ("s390x", "s390"))
_KEYCTL_JOIN_SESSION_KEYRING = 1
_CAPABILITY_VERSION_3 = 0x20080522
_MOUNT_ATTR_SIZE_VER0 = 32

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
    """Return the machine whose call numbers are this interpreter's: what uname(2) says, but for an interpreter of 32 bits on a
    kernel of 64, and for one of 64 bits that is shown another (setarch(8)).
    """
    said = os.uname().machine
    for wide, narrow in _PAIRS:
        if said in (wide, narrow):
            return wide if ctypes.sizeof(ctypes.c_void_p) == 8 else narrow
    return said


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
    _layout_ = "ms"  # what _pack_ means, and has meant; Python 3.14 wants it said
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
    """Move this process (for CLONE_NEWPID and CLONE_NEWTIME: its children to come) into new namespaces."""
    if _libc.unshare(flags) < 0:
        _raise_errno("unshare")


def setns(fd: int, flags: int) -> None:
    """Join the namespace that *fd* refers to. *flags* is the kind that is expected, 0 for any."""
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


def renameat2(source: str, target: str, flags: int) -> None:
    """Rename *source* to *target* in the way of the RENAME_* flags."""
    if _libc.renameat2(AT_FDCWD, _bytes(source), AT_FDCWD, _bytes(target), flags) < 0:
        _raise_errno("renameat2", source)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """Set or get a property of this process with integer arguments and return its result."""
    result: int = _libc.prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        _raise_errno(f"prctl({option}, {arg2})")
    return result


def capget() -> tuple[int, int, int]:
    """Return this thread's effective, permitted and inheritable sets as bit masks."""
    header, data = _CapHeader(_CAPABILITY_VERSION_3, 0), (_CapData * 2)()
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
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    low = _CapData(effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF)
    high = _CapData(effective >> 32, permitted >> 32, inheritable >> 32)
    if _libc.capset(ctypes.byref(header), (_CapData * 2)(low, high)) < 0:
        _raise_errno("capset")


def openat2(dirfd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open *path* below *dirfd* under the RESOLVE_* restrictions (Linux 5.6); close-on-exec.

    Raises:
        OSError: EXDEV for an escape under RESOLVE_BENEATH, ELOOP for a link under RESOLVE_NO_SYMLINKS, EAGAIN when a
            concurrent rename made the answer unsafe, ENOSYS before Linux 5.6.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    fd: int = _libc.syscall(_long(_SYS_OPENAT2), _int(dirfd), _bytes(path), ctypes.byref(how), size)
    if fd < 0:
        _raise_errno("openat2", path)
    return fd


def fstatfs_type(fd: int) -> int:
    """Return the magic number of the file system that *fd* is on: ``f_type`` of fstatfs(2), which os.fstatvfs leaves out."""
    # The first field of struct statfs, a long but for s390x; that is of 120 bytes at most.
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer) < 0:
        _raise_errno("fstatfs")
    kind = _uint if os.uname().machine == "s390x" else _ulong
    return kind.from_buffer(buffer).value & 0xFFFFFFFF


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """Open, or with OPEN_TREE_CLONE copy, the mount tree at *path* below *dirfd* (Linux 5.2)."""
    fd: int = _libc.syscall(
        _long(_SYS_OPEN_TREE), _int(dirfd), _bytes(path), _uint(flags | OPEN_TREE_CLOEXEC)
    )
    if fd < 0:
        _raise_errno("open_tree", path or None)
    return fd


def move_mount(tree_fd: int, target_fd: int) -> None:
    """Attach the mount that *tree_fd* refers to on top of what *target_fd* refers to (Linux 5.2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    if _libc.syscall(_long(_SYS_MOVE_MOUNT), _int(tree_fd), b"", _int(target_fd), b"", _uint(flags)) < 0:
        _raise_errno("move_mount")


def mount_setattr(fd: int, attr_set: int, *, recursive: bool) -> None:
    """Add MOUNT_ATTR_* to the mount *fd* refers to, or to every mount of its tree (Linux 5.12)."""
    attributes = _MountAttr(attr_set, 0, 0, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    result = _libc.syscall(
        _long(_SYS_MOUNT_SETATTR), _int(fd), b"", _uint(flags), ctypes.byref(attributes), size
    )
    if result < 0:
        _raise_errno("mount_setattr")


def have_mount_setattr() -> bool:
    """Tell whether mount_setattr(2) exists: a structure of no size is EINVAL where it does, ENOSYS where not."""
    result = _libc.syscall(_long(_SYS_MOUNT_SETATTR), _int(-1), b"", _uint(0), None, ctypes.c_size_t(0))
    return result == 0 or ctypes.get_errno() == errno.EINVAL


def fsopen(fstype: str) -> int:
    """Start to configure a new file system of type *fstype* (Linux 5.2)."""
    fd: int = _libc.syscall(_long(_SYS_FSOPEN), _bytes(fstype), _uint(FSOPEN_CLOEXEC))
    if fd < 0:
        _raise_errno("fsopen", fstype)
    return fd


def _raise_context(fs_fd: int, call: str) -> NoReturn:
    """Raise errno together with what the file system itself has to say, which it queues on the descriptor."""
    number = ctypes.get_errno()
    try:
        said = os.read(fs_fd, 1024).decode(errors="replace").strip()
    except OSError:  # ENODATA: it had nothing to say
        said = ""
    raise OSError(number, f"{call}: {os.strerror(number)}" + (f" ({said[2:]})" if said else ""))


def fsconfig(fs_fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    """Set an option of, or create, the file system that *fs_fd* configures (Linux 5.2)."""
    arguments = (_int(fs_fd), _uint(command), _bytes(key), _bytes(value), _int(0))
    if _libc.syscall(_long(_SYS_FSCONFIG), *arguments) < 0:
        _raise_context(fs_fd, f"fsconfig {key}" if key else "fsconfig")


def fsmount(fs_fd: int, attributes: int) -> int:
    """Return a detached mount of the file system made with *fs_fd* (Linux 5.2)."""
    fd: int = _libc.syscall(_long(_SYS_FSMOUNT), _int(fs_fd), _uint(FSMOUNT_CLOEXEC), _uint(attributes))
    if fd < 0:
        _raise_context(fs_fd, "fsmount")
    return fd


def close_range(first: int, last: int, flags: int = 0) -> None:
    """Close, or with CLOSE_RANGE_CLOEXEC mark, the descriptors *first* to *last* (Linux 5.9)."""
    if _libc.syscall(_long(_SYS_CLOSE_RANGE), _uint(first), _uint(last), _uint(flags)) < 0:
        _raise_errno("close_range")


def join_new_session_keyring() -> None:
    """Replace the session keyring by a new, empty, anonymous one; keyctl(2), KEYCTL_JOIN_SESSION_KEYRING.

    Raises:
        OSError: ENOSYS on a kernel without keys or an architecture whose call number is not known here; EDQUOT when
            the user has too many keys.
    """
    number = _SYS_KEYCTL.get(_machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"keyctl: call number of {os.uname().machine} not known")
    if _libc.syscall(_long(number), _int(_KEYCTL_JOIN_SESSION_KEYRING), None) < 0:
        _raise_errno("keyctl")


def syncfs(fd: int) -> None:
    """Write everything that the file system of the open file *fd* has in memory to its disk; syncfs(2)."""
    if _libc.syncfs(_int(fd)) < 0:
        _raise_errno("syncfs")


def pidfd_send_signal(pidfd: int, signal_number: int) -> None:
    """Send a signal to the process that *pidfd* refers to (Linux 5.1)."""
    arguments = (_int(pidfd), _int(signal_number), None, _uint(0))
    if _libc.syscall(_long(_SYS_PIDFD_SEND_SIGNAL), *arguments) < 0:
        _raise_errno("pidfd_send_signal")


def overwrite(address: int, size: int, data: bytes) -> None:
    """Write *data*, cut or filled up with zeros to *size* bytes, to *address* of this process's own memory."""
    ctypes.memmove(address, data[: size - 1].ljust(size, b"\0"), size)


def set_thread_name(name: bytes) -> None:
    """Name this thread, at most 15 bytes, as /proc/PID/comm shows it (prctl(2), PR_SET_NAME)."""
    buffer = ctypes.create_string_buffer(name[:15])
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def set_seccomp_filter(program: bytes) -> None:
    """Filter the system calls of this thread, for good, by *program*: BPF instructions of eight bytes (PR_SET_SECCOMP).

    Raises:
        OSError: EACCES without no_new_privs or CAP_SYS_ADMIN; EINVAL for a program, or a kernel without filters.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    description = _SockFprog(len(program) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(description))


def landlock_version() -> int:
    """Return the version of Landlock's interface; landlock_create_ruleset(2).

    Raises:
        OSError: ENOSYS without Landlock in the kernel; EOPNOTSUPP where it was switched off at boot.
    """
    arguments = (None, ctypes.c_size_t(0), _uint(LANDLOCK_CREATE_RULESET_VERSION))
    version: int = _libc.syscall(_long(_SYS_LANDLOCK_CREATE_RULESET), *arguments)
    if version < 0:
        _raise_errno("landlock_create_ruleset")
    return version


def set_seccomp_listener(program: bytes) -> int:
    """As :func:`set_seccomp_filter`, and return the close-on-exec descriptor that calls with SECCOMP_RET_USER_NOTIF are
    told on (Linux 5.0).

    Raises:
        OSError: also EBUSY where an outer filter has a listener; ENOSYS where the number of seccomp(2) is not known here.
    """
    number = _SYS_SECCOMP.get(_machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"seccomp: call number of {os.uname().machine} not known")
    buffer = ctypes.create_string_buffer(program, len(program))
    description = _SockFprog(len(program) // 8, ctypes.addressof(buffer))
    flags = _uint(SECCOMP_FILTER_FLAG_NEW_LISTENER)
    fd: int = _libc.syscall(_long(number), _uint(SECCOMP_SET_MODE_FILTER), flags, ctypes.byref(description))
    if fd < 0:
        _raise_errno("seccomp")
    return fd


def fork_sharing_descriptors() -> int:
    """Fork a child that has not a copy of this process's table of descriptors but the table itself, until one of the two
    executes a program, and that is a child of this process's parent; clone3(2) with CLONE_FILES and CLONE_PARENT.

    What runs at os.fork() for Python's sake does not: the child does little and ends with os._exit().

    Raises:
        OSError: ENOSYS before Linux 5.3, and where an outer filter has no such call.
    """
    # Of a sibling the exit signal is that of its older one, and none may be given.
    arguments = _CloneArgs(flags=CLONE_FILES | CLONE_PARENT)
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    pid: int = _libc.syscall(_long(_SYS_CLONE3), ctypes.byref(arguments), size)
    if pid < 0:
        _raise_errno("clone3")
    return pid


def landlock_create_ruleset(fs: int, net: int, scoped: int, size: int) -> int:
    """Return a descriptor of a ruleset that handles these rights; *size* is that of the structure the kernel is to read."""
    attributes = _RulesetAttr(fs, net, scoped)
    arguments = (ctypes.byref(attributes), ctypes.c_size_t(size), _uint(0))
    fd: int = _libc.syscall(_long(_SYS_LANDLOCK_CREATE_RULESET), *arguments)
    if fd < 0:
        _raise_errno("landlock_create_ruleset")
    return fd


def landlock_allow_beneath(ruleset_fd: int, allowed: int, path_fd: int) -> None:
    """Let the ruleset allow the rights *allowed* to what *path_fd* refers to and all that is below it."""
    rule = _PathBeneath(allowed, path_fd)
    arguments = (_int(ruleset_fd), _int(LANDLOCK_RULE_PATH_BENEATH), ctypes.byref(rule), _uint(0))
    if _libc.syscall(_long(_SYS_LANDLOCK_ADD_RULE), *arguments) < 0:
        _raise_errno("landlock_add_rule")


def landlock_allow_port(ruleset_fd: int, allowed: int, port: int) -> None:
    """Let the ruleset allow the rights *allowed* to the TCP port *port*."""
    rule = _NetPort(allowed, port)
    arguments = (_int(ruleset_fd), _int(LANDLOCK_RULE_NET_PORT), ctypes.byref(rule), _uint(0))
    if _libc.syscall(_long(_SYS_LANDLOCK_ADD_RULE), *arguments) < 0:
        _raise_errno("landlock_add_rule")


def landlock_restrict_self(ruleset_fd: int) -> None:
    """Hold this thread, and what it starts, to the ruleset, for good.

    Raises:
        OSError: EPERM without no_new_privs or CAP_SYS_ADMIN; E2BIG behind sixteen others.
    """
    if _libc.syscall(_long(_SYS_LANDLOCK_RESTRICT_SELF), _int(ruleset_fd), _uint(0)) < 0:
        _raise_errno("landlock_restrict_self")


def libseccomp_version() -> tuple[int, int, int] | None:
    """Return the version of the libseccomp that this machine has, None without one; it stays loaded. seccomp_version(3)."""
    try:
        version = ctypes.CDLL("libseccomp.so.2").seccomp_version
    except (OSError, AttributeError):
        return None
    version.restype = ctypes.POINTER(_uint * 3)
    found = version()
    return (found.contents[0], found.contents[1], found.contents[2]) if found else None


def library_loads(name: str) -> bool:
    """Tell whether the shared library *name*, such as libseccomp.so.2, is found and loads; it stays loaded."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True

"""Mounts: what is mounted where, by descriptors below the new root, never by path strings.

A path below the new root is the sandbox's to shape, so it is opened once, by :func:`open_in_root`, which cannot leave the
root, and everything after works on that descriptor. The new mount API is used (fsopen(2) and open_tree(2), Linux 5.2;
openat2(2), Linux 5.6, is needed anyway); only mount_setattr(2) (Linux 5.12) has a fallback.

Two rules of the kernel hold for every descriptor given to a function here:
- its mount must be one of this process's *own* mount namespace, hence opened after :func:`namespaces.unshare` (else EINVAL);
- it refers to what it was opened on: a mount placed on it later is not seen through it, but by opening the path again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping

from sandbox.kernel import _libc
from sandbox.kernel.mountinfo import MountEntry, parse_mountinfo, reachable, subtree
from unionfs._stdlib.dataclasses import dataclass

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/system/cpu/cpu*/thermal_throttle",
    "/sys/devices/virtual/powercap",
    "/sys/devices/virtual/tpm",
    "/sys/firmware",
    "/sys/fs/selinux",
)
"""Parts of /proc and /sys that belong to the host and are no namespace's: what runc, podman and docker mask, all of them.

Counters of power, interrupts and temperature are among them because what others compute can be read off them.
"""

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""What runc makes read-only. /proc/sys as a whole: most of it is the host's, and what a namespace has of its own is set up
before the program starts, by settings that say what they mean.
"""

_EAGAIN_TRIES = (
    128  # openat2(2): EAGAIN is a rename somewhere on the machine during the walk; systemd tries as often
)

_OPTION_NAMES = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "nosuid": ("nosuid", True),
    "suid": ("nosuid", False),
    "nodev": ("nodev", True),
    "dev": ("nodev", False),
    "noexec": ("noexec", True),
    "exec": ("noexec", False),
}

_PRESENT_OPTIONS = {
    "ro": _libc.MS_RDONLY,
    "nosuid": _libc.MS_NOSUID,
    "nodev": _libc.MS_NODEV,
    "noexec": _libc.MS_NOEXEC,
    "noatime": _libc.MS_NOATIME,
    "nodiratime": _libc.MS_NODIRATIME,
    "relatime": _libc.MS_RELATIME,
    "nosymfollow": _libc.MS_NOSYMFOLLOW,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFlags:
    """What may not be done through a mount. Flags are only ever added: a user namespace may not clear inherited ones."""

    read_only: bool = False
    nosuid: bool = False
    nodev: bool = False
    noexec: bool = False

    def attributes(self) -> int:
        """Return the MOUNT_ATTR_* bits of mount_setattr(2) and fsmount(2)."""
        return (
            (_libc.MOUNT_ATTR_RDONLY if self.read_only else 0)
            | (_libc.MOUNT_ATTR_NOSUID if self.nosuid else 0)
            | (_libc.MOUNT_ATTR_NODEV if self.nodev else 0)
            | (_libc.MOUNT_ATTR_NOEXEC if self.noexec else 0)
        )

    def mount_flags(self) -> int:
        """Return the MS_* bits of mount(2)."""
        return (
            (_libc.MS_RDONLY if self.read_only else 0)
            | (_libc.MS_NOSUID if self.nosuid else 0)
            | (_libc.MS_NODEV if self.nodev else 0)
            | (_libc.MS_NOEXEC if self.noexec else 0)
        )


_TMPFS_FLAGS = MountFlags(nosuid=True, nodev=True)
_KERNEL_FLAGS = MountFlags(nosuid=True, nodev=True, noexec=True)
_SEALED_FLAGS = MountFlags(read_only=True, nosuid=True, nodev=True, noexec=True)


def parse_options(options: Iterable[str]) -> MountFlags:
    """Return the flags that *options*, such as ``["ro", "nosuid"]``, ask for.

    Raises:
        ValueError: an option is unknown, or contradicts one before it.
    """
    given: dict[str, tuple[str, bool]] = {}
    for option in options:
        if option not in _OPTION_NAMES:
            raise ValueError(f"unknown mount option {option!r}: one of {', '.join(_OPTION_NAMES)}")
        field, value = _OPTION_NAMES[option]
        if field in given and given[field][1] != value:
            raise ValueError(f"mount options {given[field][0]!r} and {option!r} contradict each other")
        given[field] = (option, value)
    return MountFlags(**{field: value for field, (_, value) in given.items()})


def open_in_root(root_fd: int, path: str, *, directory: bool = False, links: bool = True) -> int:
    """Open *path*, absolute or not, as a process whose root is *root_fd* would find it; the descriptor is O_PATH.

    Symbolic links and ``..`` are followed but stay below the root (RESOLVE_IN_ROOT), links of /proc that are no paths are
    refused. Mounts are crossed: the topmost one at *path* is opened. Without *links* none is followed.

    Raises:
        OSError: ENOENT; ENOTDIR (with *directory* for anything else as well); ELOOP (too many links); EXDEV (a magic link).
    """
    resolve = _libc.RESOLVE_IN_ROOT | (0 if links else _libc.RESOLVE_NO_SYMLINKS)
    return _open_path(root_fd, path, resolve, directory=directory)


def open_beneath(top_fd: int, path: str, *, directory: bool = False) -> int:
    """Open the relative *path* below the directory *top_fd*, O_PATH, mounts crossed; what leads out of there is refused.

    Raises:
        OSError: EXDEV for a symbolic link or ``..`` that leads out; else as :func:`open_in_root`.
    """
    return _open_path(top_fd, path, _libc.RESOLVE_BENEATH | _libc.RESOLVE_NO_MAGICLINKS, directory=directory)


def open_within(top_fd: int, path: str) -> int:
    """Open the directory at the relative *path* below the directory *top_fd*, O_PATH: no link followed, no mount crossed.

    Raises:
        OSError: ELOOP for a link; EXDEV for a mount or ``..`` that leads out; ENOENT, ENOTDIR.
    """
    resolve = _libc.RESOLVE_BENEATH | _libc.RESOLVE_NO_SYMLINKS | _libc.RESOLVE_NO_XDEV
    return _open_path(top_fd, path, resolve, directory=True)


def _open_path(top_fd: int, path: str, resolve: int, *, directory: bool) -> int:
    flags = os.O_PATH | (os.O_DIRECTORY if directory else 0)
    for _ in range(_EAGAIN_TRIES - 1):
        try:
            return _libc.openat2(top_fd, path, flags, 0, resolve)
        except BlockingIOError:
            continue
    return _libc.openat2(top_fd, path, flags, 0, resolve)


def open_real(path: str, *, directory: bool = False) -> int:
    """Open the absolute *path*, O_PATH, on which there were no symbolic links when it was looked at, and may be none now.

    Raises:
        OSError: ELOOP where somebody has put one there since.
    """
    return _open_path(_libc.AT_FDCWD, path, _libc.RESOLVE_NO_SYMLINKS, directory=directory)


def path_of(fd: int) -> str:
    """Return where the kernel says *fd* is, for messages."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"descriptor {fd}"


def make_private() -> None:
    """Stop mounts from travelling between this mount namespace and the one it was copied from; mount_namespaces(7)."""
    _libc.mount("none", "/", None, _libc.MS_REC | _libc.MS_PRIVATE)


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

    *fuse_fd* is /dev/fuse, opened within this process's user namespace (else EINVAL). The caller closes its copy at once:
    only the server may hold it (DESIGN, 2). The mount is always nodev. By mount(2), as nothing else takes MS_POSIXACL.

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
            flags | (_libc.MS_POSIXACL if posix_acl else 0),
            f"fd={fuse_fd}," + ",".join(data),
        )
    except OSError as error:
        raise OSError(error.errno, error.strerror, target) from None
    root_fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if mount_id(root_fd) == mount_id(target_fd):
        os.close(root_fd)
        raise OSError(errno.ESTALE, "the mount point was moved away during the mount", target)
    return root_fd


def bind(
    source_fd: int,
    target_fd: int,
    *,
    recursive: bool = True,
    read_only: bool = False,
    nosuid: bool = False,
    nodev: bool = False,
    noexec: bool = False,
    use_setattr: bool | None = None,
) -> None:
    """Show what *source_fd* refers to on *target_fd* as well, both directories or both something else.

    The flags hold for every mount below the source too; those that the source has stay. Without *recursive* a source with
    mounts below it that came from a more privileged mount namespace is EINVAL, for it would uncover what they cover.
    *use_setattr* False is the way of kernels before Linux 5.12; None asks the kernel.

    Raises:
        OSError: EINVAL for a source of another mount namespace; ENOTDIR for a directory on a file or the reverse; ENOSPC
            beyond /proc/sys/fs/mount-max.
    """
    flags = MountFlags(read_only=read_only, nosuid=nosuid, nodev=nodev, noexec=noexec)
    try:
        tree_fd = copy_tree(source_fd, recursive=recursive)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path_of(source_fd), None, path_of(target_fd)) from None
    try:
        attach_tree(tree_fd, target_fd, flags, source=path_of(source_fd), use_setattr=use_setattr)
    finally:
        os.close(tree_fd)


def copy_tree(source_fd: int, *, recursive: bool = True) -> int:
    """Return a descriptor of a copy of the mounts at *source_fd*, mounted nowhere, for :func:`attach_tree`.

    The copy takes part in the propagation that its source takes part in now: of a slave it is a slave.
    """
    clone = _libc.OPEN_TREE_CLONE | _libc.AT_EMPTY_PATH | (_libc.AT_RECURSIVE if recursive else 0)
    return _libc.open_tree(source_fd, "", clone)


def attach_tree(
    tree_fd: int, target_fd: int, flags: MountFlags, *, source: str, use_setattr: bool | None = None
) -> None:
    """Mount the detached *tree_fd*, of *source*, on *target_fd* with *flags*; the descriptor is then that of its root there."""
    if use_setattr is None:
        use_setattr = _libc.have_mount_setattr()
    try:
        if flags.attributes() and use_setattr:
            _libc.mount_setattr(tree_fd, flags.attributes(), recursive=True)
        _libc.move_mount(tree_fd, target_fd)
        if flags.attributes() and not use_setattr:
            _remount_tree(tree_fd, flags)
    except OSError as error:
        target = path_of(target_fd)
        if error.errno == errno.EINVAL and _is_directory(tree_fd) != _is_directory(target_fd):
            text = "a directory can be bound on a directory only, and nothing else on one"
            raise OSError(errno.ENOTDIR, text, source, None, target) from None
        raise OSError(error.errno, error.strerror, source, None, target) from None


def pin_ancestors(root_fd: int, fd: int, *, own: Collection[int] = ()) -> tuple[int, ...]:
    """Make every directory above *fd*, on which something is to be mounted, a mount itself, below *root_fd*; returns the ids of
    those that were made. If there are any, the path is to be opened again.

    The way begins at the innermost mount around *fd* that is *root_fd*'s or among *own* (ids), above which all is held. Mounts
    of the host in a volume are not among these: a directory above one of them can be renamed.

    What is a mount point can be neither renamed nor removed. A directory above one could be renamed, and another be made in its
    place, where nothing is covered, now or at the next start. On FUSE it could be dropped, too: who is killed while the request
    waits for the server has the kernel forget the name, as nobody knows what became of it, and unmount all below
    (fuse_invalidate_entry, fs/fuse/dir.c; d_invalidate, fs/dcache.c). In /proc and /sys there are no such requests.

    Raises:
        OSError: also ENOENT, ENOTDIR or ELOOP where a directory has been renamed meanwhile.
    """
    if _libc.fstatfs_type(fd) in (_libc.PROC_SUPER_MAGIC, _libc.SYSFS_MAGIC):
        return ()
    inner, first, root = mount_id(fd), mount_id(root_fd), path_of(root_fd).rstrip("/")
    top = root
    if inner != first:
        table = {entry.mount_id: entry for entry in _own_mounts()}
        around = table[inner]
        while around.mount_id not in (first, *own) and around.parent_id in table:
            around = table[around.parent_id]
        top = root if around.mount_id == first else around.mount_point
    way = path_of(fd)[len(top) :].strip("/").split("/")[:-1]
    if not way:
        return ()
    # Without links: somebody may put one in a volume meanwhile, and they would lead to the host.
    at = open_in_root(root_fd, top[len(root) :] or "/", directory=True, links=False)
    made = []
    try:
        for name in way:
            below = open_in_root(at, name, directory=True, links=False)
            if mount_id(below) == mount_id(at):
                try:
                    bind(below, below)
                finally:
                    os.close(below)
                below = open_in_root(at, name, directory=True, links=False)
                made.append(mount_id(below))
            os.close(at)
            at = below
    finally:
        os.close(at)
    return tuple(made)


def restrict(mount_fd: int, flags: MountFlags, *, use_setattr: bool | None = None) -> None:
    """Add *flags* to the mount whose root is *mount_fd*, and to none below it."""
    if use_setattr is None:
        use_setattr = _libc.have_mount_setattr()
    if use_setattr:
        _libc.mount_setattr(mount_fd, flags.attributes(), recursive=False)
        return
    present = mount_id(mount_fd)
    options = next(entry.options for entry in _own_mounts() if entry.mount_id == present)
    _libc.mount("none", f"/proc/self/fd/{mount_fd}", None, remount_flags(options, flags))


def mount_tmpfs(
    target_fd: int,
    *,
    size: int | None = None,
    mode: int = 0o755,
    inodes: int | None = None,
    flags: MountFlags = _TMPFS_FLAGS,
) -> None:
    """Mount an empty tmpfs on the directory *target_fd*; *size* in bytes and *inodes* None are the kernel's halves of memory.

    Its pages are charged to the memory cgroup of whoever writes them.
    """
    options = tmpfs_options(size=size, mode=mode, inodes=inodes)
    mount_filesystem("tmpfs", target_fd, options=options, flags=flags)


def mount_proc(target_fd: int) -> None:
    """Mount the /proc of this process's pid namespace.

    Raises:
        OSError: EPERM when no /proc that is wholly visible is left in this mount namespace ("too revealing": a container
            engine masked parts of it), or when the pid namespace is not this user namespace's.
    """
    mount_filesystem("proc", target_fd, flags=_KERNEL_FLAGS)


def mount_sysfs(target_fd: int) -> None:
    """Mount the /sys of this process's network namespace, read-only.

    Raises:
        OSError: EPERM as for :func:`mount_proc`, and when the network namespace is not this user namespace's.
    """
    mount_filesystem("sysfs", target_fd, flags=_SEALED_FLAGS)


def mount_devpts(target_fd: int, *, tty_gid: int | None = None) -> None:
    """Mount a new instance of pseudo-terminals. *tty_gid* is the group (5 is tty) that terminals belong to and may be
    written by; it must be mapped (else EINVAL). With None they are their opener's alone.
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
    """Mount a new file system of type *fstype* on *target_fd*; an option whose value is None is one without a value."""
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
    """Return a descriptor of the root of a new file system that is mounted nowhere yet (and vanishes with it)."""
    fs_fd = _libc.fsopen(fstype)
    try:
        # Otherwise mountinfo says "none". Not every type takes a source: proc and sysfs do.
        _libc.fsconfig(fs_fd, _libc.FSCONFIG_SET_STRING, "source", fstype)
        for key, value in (options or {}).items():
            command = _libc.FSCONFIG_SET_FLAG if value is None else _libc.FSCONFIG_SET_STRING
            _libc.fsconfig(fs_fd, command, key, value)
        _libc.fsconfig(fs_fd, _libc.FSCONFIG_CMD_CREATE)
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


def attach(tree_fd: int, target_fd: int) -> None:
    """Mount the detached tree *tree_fd* on *target_fd*."""
    try:
        _libc.move_mount(tree_fd, target_fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path_of(target_fd)) from None


def pivot(new_root_fd: int) -> None:
    """Make the mount whose root is *new_root_fd* the root of this mount namespace and let go of the old one.

    The way of pivot_root(2), "pivot_root(".", ".")": the old root lands on top of the new one and is detached from there, so
    no directory for it is needed. A descriptor of a directory of the old root, *new_root_fd* not among them, still leads
    out: the caller closes them all.

    Raises:
        OSError: EINVAL when *new_root_fd* is no mount's root, or mounts are shared (see :func:`make_private`).
    """
    old_root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(new_root_fd)
        _libc.pivot_root(".", ".")
        # "." is the old root on every kernel there is; saying so does not depend on it.
        os.fchdir(old_root_fd)
        _libc.umount2(".", _libc.MNT_DETACH)
        os.chdir("/")
    finally:
        os.close(old_root_fd)


def mask(root_fd: int, paths: Iterable[str], null_fd: int, *, own: Collection[int] = ()) -> None:
    """Hide each of *paths* below *root_fd*: a directory under an empty read-only tmpfs, anything else under *null_fd*.

    *null_fd* is an O_PATH descriptor of /dev/null. A path that does not exist is no error, for the lists name things that
    depend on the kernel. A ``*`` stands for the rest of a name. *own* is that of :func:`pin_ancestors`.
    """
    empty_fd = -1
    try:
        for path in (match for pattern in paths for match in _matches(root_fd, pattern)):
            fd = _open_held(root_fd, path, own)
            if fd is None:
                continue
            try:
                if not _is_directory(fd):
                    bind(null_fd, fd, recursive=False, read_only=True, nosuid=True, noexec=True)
                elif empty_fd >= 0:
                    bind(empty_fd, fd, recursive=False)
                else:
                    # One for all: there may be hundreds of processors.
                    options = {"mode": "0555", "size": "4096", "nr_inodes": "2"}
                    empty_fd = detached_filesystem("tmpfs", options=options, flags=_SEALED_FLAGS)
                    attach(empty_fd, fd)
            finally:
                os.close(fd)
    finally:
        if empty_fd >= 0:
            os.close(empty_fd)


def make_read_only(root_fd: int, paths: Iterable[str], *, own: Collection[int] = ()) -> None:
    """Make each of *paths* below *root_fd*, and all mounts below it, read-only, by a bind of it on itself.

    A path that does not exist is passed over, and a ``*`` stands for the rest of a name, as in :func:`mask`.
    """
    for path in (match for pattern in paths for match in _matches(root_fd, pattern)):
        fd = _open_held(root_fd, path, own)
        if fd is None:
            continue
        try:
            bind(fd, fd, read_only=True)
        finally:
            os.close(fd)


def _matches(root_fd: int, pattern: str) -> Iterator[str]:
    """Yield the paths that *pattern* stands for: itself, unless one of its names ends with ``*``."""
    parent, star, rest = pattern.partition("*")
    if not star:
        yield pattern
        return
    parent, _, prefix = parent.rpartition("/")
    fd = _open_existing(root_fd, parent or "/")
    if fd is None:
        return
    try:
        names = sorted(os.listdir(f"/proc/self/fd/{fd}"))
    except NotADirectoryError:
        return
    finally:
        os.close(fd)
    for name in names:
        if name.startswith(prefix):
            yield from _matches(root_fd, f"{parent}/{name}{rest}")


def _open_existing(root_fd: int, path: str) -> int | None:
    try:
        return open_in_root(root_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _open_held(root_fd: int, path: str, own: Collection[int]) -> int | None:
    """Open *path*, if it is there, to mount on it."""
    fd = _open_existing(root_fd, path)
    if fd is None:
        return None
    try:
        held = pin_ancestors(root_fd, fd, own=own)
    except BaseException:
        os.close(fd)
        raise
    if not held:
        return fd
    os.close(fd)
    return _open_existing(root_fd, path)


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def mount_id(fd: int) -> int:
    """Return the id, as in mountinfo, of the mount that *fd* was opened through; proc_pid_fdinfo(5)."""
    # Not "ascii": that is a module to import, which process 1 could take only from the sandbox, and therefore does not.
    with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise OSError(errno.ENODATA, "no mnt_id in fdinfo", path_of(fd))


def remount_flags(options: Iterable[str], added: MountFlags) -> int:
    """Return the mount(2) flags that keep a mount's present *options* (of mountinfo) and add *added*.

    A remount that leaves one out asks to clear it, which is EPERM for flags that a user namespace inherited.
    """
    present = 0
    for option in options:
        present |= _PRESENT_OPTIONS.get(option, 0)
    if not present & (_libc.MS_NOATIME | _libc.MS_RELATIME):
        # strictatime is what mountinfo has no word for; without either flag mount(2) would set relatime.
        present |= _libc.MS_STRICTATIME
    return _libc.MS_REMOUNT | _libc.MS_BIND | added.mount_flags() | present


def _own_mounts() -> list[MountEntry]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def _remount_tree(tree_fd: int, added: MountFlags) -> None:
    """Add flags to the attached mount *tree_fd* and to every mount below it, one by one (before Linux 5.12)."""
    tree = reachable(subtree(_own_mounts(), mount_id(tree_fd)))
    top = tree[0].mount_point.rstrip("/")
    # What is out of reach for us is so for the sandbox too: what covers it came along and is locked in place.
    for entry in tree:
        if entry is tree[0]:
            _libc.mount("none", f"/proc/self/fd/{tree_fd}", None, remount_flags(entry.options, added))
            continue
        fd = open_in_root(tree_fd, entry.mount_point[len(top) :])
        try:
            if mount_id(fd) != entry.mount_id:
                raise OSError(
                    errno.EBUSY, "a mount below the source changed during the bind", entry.mount_point
                )
            _libc.mount("none", f"/proc/self/fd/{fd}", None, remount_flags(entry.options, added))
        finally:
            os.close(fd)

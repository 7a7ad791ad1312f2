"""Bind, attach, restrict and move mounts, by descriptors below the new root, never by path strings.

The new mount API is used (open_tree(2) and move_mount(2), Linux 5.2); only mount_setattr(2) (Linux 5.12) has a fallback.

Two rules of the kernel apply to every descriptor that a function here takes:
- its mount must be one of this process's *own* mount namespace, hence opened after :func:`namespaces.unshare` (else EINVAL);
- it refers to what it was opened on: a mount placed on it later is reached only by opening the path again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection

from sandbox.kernel import _libc, constants
from sandbox.kernel.mount_flags import MountFlags, remount_flags
from sandbox.kernel.mountinfo import MountEntry, parse_mountinfo, reachable, subtree
from sandbox.kernel.open_paths import is_directory, mount_id, open_in_root, path_of


def make_private() -> None:
    """Stop the propagation of mounts between this mount namespace and the one it was copied from; mount_namespaces(7)."""
    _libc.mount("none", "/", None, constants.MS_REC | constants.MS_PRIVATE)


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
    """Bind *source_fd* on *target_fd*: either both are directories or neither is.

    The flags are added to every mount below the source too; its present flags stay. Without *recursive*, a source with mounts
    below it that came from a more privileged mount namespace is EINVAL: the bind would uncover the files that they cover.
    *use_setattr* False remounts, as kernels before Linux 5.12 need it; None finds out.

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

    The copy has the propagation type that its source has now: the copy of a slave is a slave.
    """
    clone = constants.OPEN_TREE_CLONE | constants.AT_EMPTY_PATH | (constants.AT_RECURSIVE if recursive else 0)
    return _libc.open_tree(source_fd, "", clone)


def attach_tree(
    tree_fd: int, target_fd: int, flags: MountFlags, *, source: str, use_setattr: bool | None = None
) -> None:
    """Mount the detached *tree_fd*, of *source*, on *target_fd* with *flags*; it is then the descriptor of the mounted root."""
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
        if error.errno == errno.EINVAL and is_directory(tree_fd) != is_directory(target_fd):
            text = "a directory can be bound only on a directory, and a file only on a file"
            raise OSError(errno.ENOTDIR, text, source, None, target) from None
        raise OSError(error.errno, error.strerror, source, None, target) from None


def attach(tree_fd: int, target_fd: int) -> None:
    """Mount the detached tree *tree_fd* on *target_fd*."""
    try:
        _libc.move_mount(tree_fd, target_fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path_of(target_fd)) from None


def pin_ancestors(root_fd: int, fd: int, *, own: Collection[int] = ()) -> tuple[int, ...]:
    """Bind every directory between *root_fd* and the future mount point *fd* on itself; return the ids of the new mounts.

    If there are any, the caller has to open the path again. The directories are those below the innermost mount around *fd*
    that is *root_fd*'s or among *own* (ids): above that one all directories are pinned already. A mount of the host in a volume
    is no such mount: a directory above it can be renamed.

    A mount point can be neither renamed nor removed. A directory above one could be renamed, and replaced by another in which
    nothing is covered, now or at the next start. On FUSE it could also be invalidated: if the client dies mid-request, the
    kernel invalidates the dentry and unmounts everything below it (fuse_invalidate_entry, fs/fuse/dir.c; d_invalidate,
    fs/dcache.c). /proc and /sys have no such requests.

    Raises:
        OSError: also ENOENT, ENOTDIR or ELOOP if a directory has been renamed meanwhile.
    """
    if _libc.fstatfs_type(fd) in (constants.PROC_SUPER_MAGIC, constants.SYSFS_MAGIC):
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
    # Without links: another process may put one in a volume meanwhile, and it could lead to the host.
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


def pivot(new_root_fd: int) -> None:
    """Make the mount whose root is *new_root_fd* the root of this mount namespace and detach the old one.

    As in pivot_root(2), "pivot_root(".", ".")": the old root is stacked on the new one and detached from there, so it needs no
    directory. Descriptors of directories of the old root still lead out: the caller closes them all.

    Raises:
        OSError: EINVAL when *new_root_fd* is no mount's root, or mounts are shared (see :func:`make_private`).
    """
    old_root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(new_root_fd)
        _libc.pivot_root(".", ".")
        # "." is the old root on all known kernels; fchdir(2) does not depend on that.
        os.fchdir(old_root_fd)
        _libc.umount2(".", constants.MNT_DETACH)
        os.chdir("/")
    finally:
        os.close(old_root_fd)


def _own_mounts() -> list[MountEntry]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def _remount_tree(tree_fd: int, added: MountFlags) -> None:
    """Add flags to the attached mount *tree_fd* and to every mount below it, one by one (before Linux 5.12)."""
    tree = reachable(subtree(_own_mounts(), mount_id(tree_fd)))
    top = tree[0].mount_point.rstrip("/")
    # Mounts that this process cannot reach are unreachable in the sandbox too: the mounts that cover them are locked.
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

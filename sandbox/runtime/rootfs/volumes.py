"""Mounting volumes and devices in the new root: every target is opened by descriptors, and no link of it leads astray.

A target in the layers is found as the program would find it, links followed, within the root. A target in another volume is
found from that volume's root on, and a link that leads out of the volume is refused: whoever could write to it before chooses
where in the volume the mount goes, and not where in the sandbox.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.kernel import content, devices, mounts, trees
from sandbox.plan.operations import (
    BindDevice,
    BindVolume,
    CheckVolumes,
    DirectBind,
    FileVolume,
    GiveVolumes,
    HideDirectory,
    TmpfsVolume,
    VolumeOperation,
)

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.runtime.rootfs.executor import Workspace

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def bind(operation: BindVolume, workspace: Workspace) -> None:
    """Show a file or directory of the host."""
    tree = workspace.copies.pop(operation.target)
    workspace.mounted[operation.target] = tree
    is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    with _Target(operation, workspace, is_directory=is_directory) as target:
        mounts.attach_tree(tree, target, _flags(operation), source=operation.source)
    # Before the targets of other volumes are made in it.
    if operation.name is not None and _is_roots(tree) and _is_empty(tree):
        workspace.unused.add(operation.target)


def native(operation: DirectBind, workspace: Workspace) -> None:
    """Show a directory of one layer; not where it was found that that cannot be, which the file allows."""
    layer = workspace.native_fds.get(operation.target)
    if layer is None:
        return
    source = mounts.open_within(layer, operation.target.lstrip("/"))
    try:
        # Alone: what somebody mounts in the store is none of the layer.
        tree = mounts.copy_tree(source, recursive=False)
    finally:
        os.close(source)
    workspace.mounted[operation.target] = tree
    workspace.sealed.append(tree)
    place = _open_plain(operation.target, workspace)
    try:
        if held := mounts.pin_ancestors(workspace.root_fd, place, own=workspace.own_mounts()):
            os.close(place)
            place = -1
            workspace.held.update(held)
            place = _open_plain(operation.target, workspace)
        flags = mounts.MountFlags(read_only=True, nosuid=operation.nosuid, nodev=True)
        mounts.attach_tree(tree, place, flags, source=operation.target)
    finally:
        if place >= 0:
            os.close(place)


def _open_plain(path: str, workspace: Workspace) -> int:
    # A link in a layer of this machine may have come there since; the others have none on the way.
    return mounts.open_in_root(workspace.root_fd, path, directory=True, links=False)


def tmpfs(operation: TmpfsVolume, workspace: Workspace) -> None:
    """Mount an empty file system in memory."""
    options = mounts.tmpfs_options(size=operation.size, mode=operation.mode, inodes=None)
    with _Target(operation, workspace, is_directory=True) as target:
        # Read-only at the end, for other volumes may need a place in it.
        flags = mounts.MountFlags(nosuid=operation.nosuid, nodev=operation.nodev, noexec=operation.noexec)
        tree = mounts.detached_filesystem("tmpfs", options=options, flags=flags)
        try:
            mounts.attach(tree, target)
        except OSError:
            os.close(tree)
            raise
    workspace.mounted[operation.target] = tree
    if operation.read_only:
        workspace.sealed.append(tree)
        workspace.sealed_later.append(tree)


def file(operation: FileVolume, workspace: Workspace) -> None:
    """Show a file that is made in memory."""
    name = f"file-{len(workspace.mounted)}"
    with _Target(operation, workspace, is_directory=False) as target:
        tree, workspace.contents[operation.target] = show_content(
            operation.content,
            target,
            workspace.staging_fd,
            name,
            mode=operation.mode,
            noexec=operation.noexec,
        )
    workspace.mounted[operation.target] = tree


def show_content(
    data: bytes, target_fd: int, staging_fd: int, name: str, *, mode: int, noexec: bool
) -> tuple[int, int]:
    """Show a file with the content *data* on the file *target_fd*, as :func:`sandbox.kernel.content.show` does.

    The file system that holds it is mounted on the new directory *name* of *staging_fd*, which no program reaches.
    """
    os.mkdir(name, 0o700, dir_fd=staging_fd)
    place = os.open(name, _OPEN_DIR, dir_fd=staging_fd)
    try:
        return content.show(data, target_fd, place, mode=mode, noexec=noexec)
    finally:
        os.close(place)


def hide(operation: HideDirectory, workspace: Workspace) -> None:
    """Cover a private directory in the volume that holds it; the directories above it become mounts, which cannot be moved."""
    top = workspace.mounted[operation.volume]
    try:
        place = _open_private(operation, top)
    except FileNotFoundError:
        if operation.identity is None:
            return
        raise
    except PermissionError:
        if operation.closed:
            return  # a directory above is closed to init, and this one is closed to every id of the program
        raise
    try:
        if held := mounts.pin_ancestors(workspace.root_fd, place, own=workspace.own_mounts()):
            workspace.held.update(held)
            os.close(place)
            place = -1
            place = _open_private(operation, top)
        flags = mounts.MountFlags(read_only=True, nosuid=True, nodev=True, noexec=True)
        mounts.mount_tmpfs(place, size=4096, inodes=2, mode=0o555, flags=flags)
    finally:
        if place >= 0:
            os.close(place)


def _open_private(operation: HideDirectory, top: int) -> int:
    place = mounts.open_in_root(top, operation.path, directory=True, links=False)
    info = os.fstat(place)
    if operation.identity in (None, (info.st_dev, info.st_ino)):
        return place
    os.close(place)
    raise OSError(errno.ESTALE, f"is not the {operation.name} {operation.source}", operation.path)


def device(operation: BindDevice, workspace: Workspace) -> None:
    """Show a device node of the host in /dev."""
    node = workspace.source_fds[operation.source]
    dev = mounts.open_in_root(workspace.root_fd, "/dev", directory=True, links=False)
    try:
        path = operation.target.removeprefix("/dev/")
        numbers = (operation.major, operation.minor)
        devices.bind_device(dev, path, node, kind=operation.kind, numbers=numbers)
    finally:
        os.close(dev)


def give(operation: GiveVolumes, workspace: Workspace) -> None:
    """Give volumes to whom the program runs as; of those that are kept only the ones that nobody has used yet."""
    account = workspace.account()
    for target in operation.made + operation.kept:
        tree = workspace.mounted[target]
        if target in operation.kept and (target not in workspace.unused or not _is_roots(tree)):
            continue
        try:
            if target in workspace.contents:
                content.give(workspace.contents[target], account.uid, account.gid)
            else:
                os.chown(".", account.uid, account.gid, dir_fd=tree)
        except OSError as error:
            raise OSError(error.errno, error.strerror, target) from None


def _is_roots(tree: int) -> bool:
    found = os.fstat(tree)
    return (found.st_uid, found.st_gid) == (0, 0)


def _is_empty(tree: int) -> bool:
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    except PermissionError:
        return (
            False  # on a network file system, whose server knows of no capabilities here: nothing can be said
        )
    try:
        with os.scandir(fd) as found:
            return next(found, None) is None
    finally:
        os.close(fd)


def check(operation: CheckVolumes, workspace: Workspace) -> None:
    """Finish the volumes, and see that each is what its target leads to."""
    for fd in workspace.sealed_later:
        mounts.restrict(fd, mounts.MountFlags(read_only=True))
    ids = {mounts.mount_id(fd): target for target, fd in workspace.mounted.items()}
    for target in operation.targets:
        if target not in workspace.mounted:
            continue  # a native path that the file lets go
        fd = mounts.open_in_root(workspace.root_fd, target)
        try:
            found = ids.get(mounts.mount_id(fd))
        finally:
            os.close(fd)
        if found != target:
            text = "a symbolic link on the way leads elsewhere" if found is None else f"{found} covers it"
            raise OSError(errno.EBUSY, text, target)


def _flags(operation: BindVolume) -> mounts.MountFlags:
    return mounts.MountFlags(
        read_only=operation.read_only,
        nosuid=operation.nosuid,
        nodev=operation.nodev,
        noexec=operation.noexec,
    )


class _Target:
    """Where a volume goes, open for the time of a mount on it."""

    def __init__(self, operation: VolumeOperation, workspace: Workspace, *, is_directory: bool) -> None:
        self._operation, self._workspace, self._is_directory = operation, workspace, is_directory

    def __enter__(self) -> int:
        workspace = self._workspace
        self._fd = self._open()
        sealed = map(mounts.mount_id, workspace.sealed)
        try:
            # Nothing is renamed in what is or will be read-only, and a mount of a part would not become so with it.
            held = (
                ()
                if mounts.mount_id(self._fd) in sealed
                else mounts.pin_ancestors(workspace.root_fd, self._fd, own=workspace.own_mounts())
            )
        except BaseException:
            os.close(self._fd)
            raise
        if held:
            os.close(self._fd)
            workspace.held.update(held)
            self._fd = self._open()
        return self._fd

    def _open(self) -> int:
        operation, workspace = self._operation, self._workspace
        if operation.within is None:
            path = operation.target
            fd = mounts.open_in_root(workspace.root_fd, path, directory=self._is_directory)
            if mounts.mount_id(fd) not in {*workspace.held, *workspace.own_mounts()}:
                os.close(fd)
                raise OSError(errno.EXDEV, "leads into /proc, /sys or /dev", path)
            return fd
        top = workspace.mounted[operation.within]
        path = operation.target[len(operation.within) :].lstrip("/")
        if operation.create:
            _create(top, path, is_directory=self._is_directory)
        return mounts.open_beneath(top, path, directory=self._is_directory)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _create(top: int, path: str, *, is_directory: bool) -> None:
    """Make the relative *path* below *top* where it is missing; through a link that is in the way nothing is made."""
    *parents, name = path.split("/")
    try:
        at = trees.make_directories(top, parents)
    except NotADirectoryError:
        return  # what is in the way is refused when the target is opened
    try:
        if is_directory:
            os.mkdir(name, 0o755, dir_fd=at)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=at))
    except FileExistsError:
        pass  # it is opened next, or refused there
    finally:
        os.close(at)

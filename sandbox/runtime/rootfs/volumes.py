"""Mount volumes and devices in the new root; each target is opened as a descriptor, so that no symbolic link can redirect it.

A target in the layers is resolved as the program would resolve it: links are followed within the root. A target in another
volume is resolved from that volume's root, and a link that leads out of the volume is refused. So a user who could write to
that volume before can choose where in the volume the mount goes, but not where in the sandbox.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.kernel import devices, filesystems, memory_file, mounts, open_paths, trees
from sandbox.kernel.mount_flags import MountFlags
from sandbox.plan.operations import (
    BindDevice,
    BindVolume,
    CheckVolumes,
    ChownVolumes,
    DirectBind,
    FileVolume,
    HideDirectory,
    TmpfsVolume,
    VolumeOperation,
)

# Not typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.runtime.rootfs.executor import Workspace

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def bind(operation: BindVolume, workspace: Workspace) -> None:
    """Mount a file or directory of the host."""
    tree = workspace.copies.pop(operation.target)
    workspace.mounted[operation.target] = tree
    is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    with _Target(operation, workspace, is_directory=is_directory) as target:
        mounts.attach_tree(tree, target, _flags(operation), source=operation.source)
    # Now, because mount points of other volumes may be created in it later.
    if operation.name is not None and _is_roots(tree) and _is_empty(tree):
        workspace.unused.add(operation.target)


def direct_bind(operation: DirectBind, workspace: Workspace) -> None:
    """Mount a directory of one layer by a direct bind; do nothing if that is impossible and optional."""
    layer = workspace.direct_bind_fds.get(operation.target)
    if layer is None:
        return
    source = open_paths.open_within(layer, operation.target.lstrip("/"))
    try:
        # Not recursive: mounts below the layer's tree in the store are not part of the layer.
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
        flags = MountFlags(read_only=True, nosuid=operation.nosuid, nodev=True)
        mounts.attach_tree(tree, place, flags, source=operation.target)
    finally:
        if place >= 0:
            os.close(place)


def _open_plain(path: str, workspace: Workspace) -> int:
    # A directory of this machine, used as a layer, may contain a new link by now. Archives had no link on this path.
    return open_paths.open_in_root(workspace.root_fd, path, directory=True, links=False)


def tmpfs(operation: TmpfsVolume, workspace: Workspace) -> None:
    """Mount a tmpfs."""
    options = filesystems.tmpfs_options(size=operation.size, mode=operation.mode, inodes=None)
    with _Target(operation, workspace, is_directory=True) as target:
        # Read-only only at the end: mount points of other volumes may have to be created in it.
        flags = MountFlags(nosuid=operation.nosuid, nodev=operation.nodev, noexec=operation.noexec)
        tree = filesystems.detached_filesystem("tmpfs", options=options, flags=flags)
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
    """Mount a file whose content is in memory."""
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
    data: bytes, target_fd: int, staging_fd: int, name: str, *, mode: int, noexec: bool, room: int = 0
) -> tuple[int, int]:
    """Mount a file with the content *data* on the file *target_fd*, as :func:`sandbox.kernel.memory_file.mount` does.

    Its tmpfs is mounted on the new directory *name* of *staging_fd*, which no program reaches.
    """
    os.mkdir(name, 0o700, dir_fd=staging_fd)
    place = os.open(name, _OPEN_DIR, dir_fd=staging_fd)
    try:
        return memory_file.mount(data, target_fd, place, mode=mode, noexec=noexec, room=room)
    finally:
        os.close(place)


def hide(operation: HideDirectory, workspace: Workspace) -> None:
    """Cover a private directory of the launcher in a volume with an empty tmpfs, and pin the directories above it by mounts."""
    top = workspace.mounted[operation.volume]
    try:
        place = _open_private(operation, top)
    except FileNotFoundError:
        if operation.identity is None:
            return
        raise
    except PermissionError:
        if operation.closed:
            return  # init may not enter a directory above, and no id of the program may enter this one
        raise
    try:
        if held := mounts.pin_ancestors(workspace.root_fd, place, own=workspace.own_mounts()):
            workspace.held.update(held)
            os.close(place)
            place = -1
            place = _open_private(operation, top)
        flags = MountFlags(read_only=True, nosuid=True, nodev=True, noexec=True)
        filesystems.mount_tmpfs(place, size=4096, inodes=2, mode=0o555, flags=flags)
    finally:
        if place >= 0:
            os.close(place)


def _open_private(operation: HideDirectory, top: int) -> int:
    place = open_paths.open_in_root(top, operation.path, directory=True, links=False)
    info = os.fstat(place)
    if operation.identity in (None, (info.st_dev, info.st_ino)):
        return place
    os.close(place)
    raise OSError(errno.ESTALE, f"is not the {operation.name} {operation.source}", operation.path)


def device(operation: BindDevice, workspace: Workspace) -> None:
    """Bind a device node of the host in /dev."""
    node = workspace.source_fds[operation.source]
    dev = open_paths.open_in_root(workspace.root_fd, "/dev", directory=True, links=False)
    try:
        path = operation.target.removeprefix("/dev/")
        numbers = (operation.major, operation.minor)
        devices.bind_device(dev, path, node, kind=operation.kind, numbers=numbers)
    finally:
        os.close(dev)


def change_owner(operation: ChownVolumes, workspace: Workspace) -> None:
    """Change the owner of volumes to the program's account; of named volumes only those that are still unused."""
    account = workspace.account()
    for target in operation.made + operation.named:
        tree = workspace.mounted[target]
        if target in operation.named and (target not in workspace.unused or not _is_roots(tree)):
            continue
        try:
            if target in workspace.contents:
                memory_file.change_owner(workspace.contents[target], account.uid, account.gid)
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
        # A server of a network file system does not honour the capabilities of this user namespace: count it as in use.
        return False
    try:
        with os.scandir(fd) as found:
            return next(found, None) is None
    finally:
        os.close(fd)


def check(operation: CheckVolumes, workspace: Workspace) -> None:
    """Make the remaining volumes read-only, and check that each target leads to its own volume."""
    for fd in workspace.sealed_later:
        mounts.restrict(fd, MountFlags(read_only=True))
    ids = {open_paths.mount_id(fd): target for target, fd in workspace.mounted.items()}
    for target in operation.targets:
        if target not in workspace.mounted:
            continue  # an optional direct bind that was impossible
        fd = open_paths.open_in_root(workspace.root_fd, target)
        try:
            found = ids.get(open_paths.mount_id(fd))
        finally:
            os.close(fd)
        if found != target:
            text = (
                "a symbolic link in the path leads to another place"
                if found is None
                else f"{found} covers it"
            )
            raise OSError(errno.EBUSY, text, target)


def _flags(operation: BindVolume) -> MountFlags:
    return MountFlags(
        read_only=operation.read_only,
        nosuid=operation.nosuid,
        nodev=operation.nodev,
        noexec=operation.noexec,
    )


class _Target:
    """The mount point of a volume, open while the volume is mounted on it."""

    def __init__(self, operation: VolumeOperation, workspace: Workspace, *, is_directory: bool) -> None:
        self._operation, self._workspace, self._is_directory = operation, workspace, is_directory

    def __enter__(self) -> int:
        workspace = self._workspace
        self._fd = self._open()
        sealed = map(open_paths.mount_id, workspace.sealed)
        try:
            # Not in a read-only mount: there nothing can be renamed, and a bind of a part made now would stay writable.
            held = (
                ()
                if open_paths.mount_id(self._fd) in sealed
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
            fd = open_paths.open_in_root(workspace.root_fd, path, directory=self._is_directory)
            if open_paths.mount_id(fd) not in {*workspace.held, *workspace.own_mounts()}:
                os.close(fd)
                raise OSError(errno.EXDEV, "leads into /proc, /sys or /dev", path)
            return fd
        top = workspace.mounted[operation.within]
        path = operation.target[len(operation.within) :].lstrip("/")
        if operation.create:
            _create(top, path, is_directory=self._is_directory)
        return open_paths.open_beneath(top, path, directory=self._is_directory)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _create(top: int, path: str, *, is_directory: bool) -> None:
    """Create the relative *path* below *top* if it is missing; never through a symbolic link on the way."""
    *parents, name = path.split("/")
    try:
        at = trees.make_directories(top, parents)
    except NotADirectoryError:
        return  # opening the target reports the error
    try:
        if is_directory:
            os.mkdir(name, 0o755, dir_fd=at)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=at))
    except FileExistsError:
        pass  # opening the target checks it
    finally:
        os.close(at)

"""Execute the operations of a plan, one after the other, inside the sandbox's namespaces. Init calls this before exec."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Mapping

from sandbox.kernel import devices, filesystems, masked_paths, mounts, network, open_paths
from sandbox.kernel.mount_flags import MountFlags
from sandbox.plan.operations import (
    HOSTS,
    RESOLV_CONF,
    BindDevice,
    BindRoot,
    BindVolume,
    BuildDev,
    CheckVolumes,
    ChownVolumes,
    DirectBind,
    FileVolume,
    HideDirectory,
    LoopbackUp,
    MaskPaths,
    MountProc,
    MountRoot,
    MountSys,
    Operation,
    PivotRoot,
    ReadOnlyPaths,
    SetHostname,
    ShowHosts,
    ShowResolver,
    TmpfsVolume,
    VolumeOperation,
)
from sandbox.runtime.process.passwd import Account
from sandbox.runtime.rootfs import name_files, volumes
from sandbox.runtime.rootfs.direct_bind import ROOT
from unionfs._stdlib.dataclasses import dataclass, field

#: Directories of the host to mount a tmpfs on while the new root is built. Every root has one of them.
_STAGING = ("/tmp", "/run", "/mnt", "/var", "/usr")
_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class StepError(Exception):
    """A step of the setup failed: its name, the operation, and the OSError that caused it."""

    def __init__(self, step: str, operation: str, error: OSError, hint: str = "") -> None:
        """Store the step, and the operation, which is a key of the advice table of sandbox.errors."""
        super().__init__(step)
        self.step = step
        self.operation = operation
        self.error = error
        self.hint = hint


@dataclass(slots=True)
class Workspace:
    """The state that the operations of one plan share: descriptors, mounts made so far, and callbacks to init.

    Init creates it. The operation PivotRoot closes its descriptors, except for `root_fd`.
    """

    #: /dev/fuse, opened in this user namespace; -1 for a direct bind of the root.
    fuse_fd: int
    #: The sources of bind volumes and devices by path: O_PATH descriptors, opened in this mount namespace.
    source_fds: Mapping[str, int]
    #: Sends the mounted FUSE connection to the server, and closes the descriptor.
    serve: Callable[[int], None]
    #: Reports that the root is a direct bind and needs no server.
    report_direct_bind: Callable[[], None]
    #: Sends the descriptor of the shown /etc/hosts to the supervisor, which adds the names of members.
    send_hosts: Callable[[int], None]
    #: Looks up the program's account in the new root, whose descriptor it receives. Raises StepError.
    find_account: Callable[[int], Account]
    #: The source of the root in the mount table.
    label: str = "unionfs"
    #: The layer trees that direct binds are made from, by target: O_PATH descriptors, opened in this mount namespace.
    direct_bind_fds: Mapping[str, int] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)
    sys_fd: int = -1
    proc_fd: int = -1
    root_fd: int = -1
    #: A directory of a tmpfs that no program can reach, to mount in. It is detached together with the host's root.
    staging_fd: int = -1
    #: Detached copies of the mounts at the sources of bind volumes, by target.
    copies: dict[str, int] = field(default_factory=dict)
    #: The roots of the mounted volumes and direct binds, by target.
    #: Of these and the root, `sealed` are read-only in the end, and `sealed_later` become read-only once all are mounted.
    mounted: dict[str, int] = field(default_factory=dict)
    sealed: list[int] = field(default_factory=list)
    sealed_later: list[int] = field(default_factory=list)
    #: The targets of named volumes that were empty and belonged to user 0 when they were mounted.
    unused: set[str] = field(default_factory=set)
    #: Writable descriptors of the in-memory files that are shown as volumes, by target.
    contents: dict[str, int] = field(default_factory=dict)
    #: The ids of the mounts of directories on themselves, made by mounts.pin_ancestors.
    held: set[int] = field(default_factory=set)
    _account: Account | None = None

    def own_mounts(self) -> tuple[int, ...]:
        """Return the ids of the mounts of the root, of direct binds and of volumes."""
        return tuple(map(open_paths.mount_id, (self.root_fd, *self.mounted.values())))

    def account(self) -> Account:
        """Return the program's account, looked up once: the owner of volumes and the program's user must be the same.

        Raises:
            StepError: there is no such account.
        """
        if self._account is None:
            self._account = self.find_account(self.root_fd)
        return self._account


def prepare_mounts(workspace: Workspace, operations: Iterable[Operation] = ()) -> None:
    """Open what the operations need of the host, and stop mount propagation, except for volumes that ask for it."""
    # Before any other mount: a recursive copy of a host directory would contain what is mounted over it.
    binds = [operation for operation in operations if isinstance(operation, BindVolume)]
    _copy_sources(workspace, [operation for operation in binds if operation.slave])
    try:
        mounts.make_private()
    except OSError as error:
        raise StepError("mount namespace", "mount", error) from None
    _copy_sources(workspace, [operation for operation in binds if not operation.slave])
    try:
        workspace.devices = devices.open_nodes()
    except OSError as error:
        raise StepError("open devices", "open", error) from None
    try:
        workspace.sys_fd = os.open("/sys", _OPEN_DIR)
    except OSError as error:
        raise StepError("open /sys", "open", error) from None
    try:
        workspace.proc_fd = os.open("/proc", _OPEN_DIR)
    except OSError as error:
        raise StepError("open /proc", "open", error) from None


def _copy_sources(workspace: Workspace, operations: Iterable[BindVolume]) -> None:
    for operation in operations:
        try:
            copy = mounts.copy_tree(workspace.source_fds[operation.source])
        except OSError as error:
            raise StepError(operation.describe(), "mount", error) from None
        workspace.copies[operation.target] = copy


def execute(operation: Operation, workspace: Workspace) -> None:
    """Execute one operation.

    Raises:
        StepError: it failed.
    """
    what, action = _ACTIONS[type(operation)]
    try:
        action(operation, workspace)
    except OSError as error:
        raise StepError(operation.describe(), what, error, _hint(operation, error)) from None


def _mount_root(operation: MountRoot, workspace: Workspace) -> None:
    target = _make_root_place(workspace)
    try:
        workspace.root_fd = filesystems.mount_fuse(
            workspace.fuse_fd,
            target,
            source=workspace.label,
            nosuid=operation.nosuid,
            read_only=operation.read_only,
        )
    finally:
        os.close(target)
    fd, workspace.fuse_fd = workspace.fuse_fd, -1
    workspace.serve(fd)


def _bind_root(operation: BindRoot, workspace: Workspace) -> None:
    target = _make_root_place(workspace)
    try:
        # Not recursive: mounts below the layer's tree in the store are not part of the layer.
        workspace.root_fd = mounts.copy_tree(workspace.direct_bind_fds[ROOT], recursive=False)
        flags = MountFlags(read_only=True, nosuid=operation.nosuid, nodev=True)
        mounts.attach_tree(workspace.root_fd, target, flags, source="the layer")
    finally:
        os.close(target)
    workspace.sealed.append(workspace.root_fd)
    workspace.report_direct_bind()


def _make_root_place(workspace: Workspace) -> int:
    workspace.staging_fd = _stage()
    os.mkdir("root", 0o755, dir_fd=workspace.staging_fd)
    return os.open("root", _OPEN_DIR, dir_fd=workspace.staging_fd)


def _stage() -> int:
    """Mount a small tmpfs that exists in this mount namespace only, and return its root."""
    for path in _STAGING:
        try:
            place = os.open(path, _OPEN_DIR)
        except FileNotFoundError:
            continue
        try:
            filesystems.mount_tmpfs(place, size=65536, mode=0o700)
        finally:
            os.close(place)
        return os.open(path, _OPEN_DIR)
    raise OSError(errno.ENOENT, "no directory in which the root can be built", " ".join(_STAGING))


def _mount_proc(operation: MountProc, workspace: Workspace) -> None:
    with _Target(workspace.root_fd, "/proc") as target:
        if operation.of_host:
            mounts.bind(workspace.proc_fd, target, nosuid=True, nodev=True, noexec=True)
        else:
            filesystems.mount_proc(target)


def _mount_sys(operation: MountSys, workspace: Workspace) -> None:
    with _Target(workspace.root_fd, "/sys") as target:
        if operation.of_host:
            mounts.bind(workspace.sys_fd, target, read_only=True, nosuid=True, nodev=True, noexec=True)
        else:
            filesystems.mount_sysfs(target)


def _build_dev(operation: BuildDev, workspace: Workspace) -> None:
    with _Target(workspace.root_fd, "/dev") as target:
        devices.build(target, workspace.devices, tty_gid=operation.tty_gid, mqueue=operation.mqueue)


def _mask(operation: MaskPaths, workspace: Workspace) -> None:
    # First: the masked paths may include /etc/passwd and /etc/group, which must be hidden from the program only.
    workspace.account()
    masked_paths.mask(
        workspace.root_fd, operation.paths, workspace.devices["null"], own=workspace.own_mounts()
    )


def _make_read_only(operation: ReadOnlyPaths, workspace: Workspace) -> None:
    masked_paths.make_read_only(workspace.root_fd, operation.paths, own=workspace.own_mounts())


def _pivot(_operation: PivotRoot, workspace: Workspace) -> None:
    mounts.pivot(workspace.root_fd)
    # Each of these descriptors still leads to the host, or below a mount that covers part of a volume.
    held = (
        workspace.devices,
        workspace.source_fds,
        workspace.direct_bind_fds,
        workspace.copies,
        workspace.mounted,
        workspace.contents,
    )
    alone = (workspace.sys_fd, workspace.proc_fd, workspace.staging_fd)
    for fd in (*(fd for fds in held for fd in fds.values()), *alone):
        os.close(fd)
    workspace.devices, workspace.source_fds, workspace.copies = {}, {}, {}
    workspace.mounted, workspace.contents, workspace.direct_bind_fds = {}, {}, {}
    workspace.sys_fd = workspace.proc_fd = workspace.staging_fd = -1


def _show_hosts(operation: ShowHosts, workspace: Workspace) -> None:
    shown = name_files.show_hosts(operation, workspace.root_fd, workspace.staging_fd)
    if shown is None:
        return
    tree, file = shown
    workspace.mounted[HOSTS] = tree
    if operation.members:
        workspace.send_hosts(file)
    os.close(file)


def _show_resolver(operation: ShowResolver, workspace: Workspace) -> None:
    tree = name_files.show_resolver(operation, workspace.root_fd, workspace.staging_fd)
    if tree >= 0:
        workspace.mounted[RESOLV_CONF] = tree


def _set_hostname(operation: SetHostname, _workspace: Workspace) -> None:
    socket.sethostname(operation.name)


def _loopback_up(_operation: LoopbackUp, _workspace: Workspace) -> None:
    network.loopback_up()


class _Target:
    """A directory of the new root, open while something is mounted on it."""

    def __init__(self, root_fd: int, path: str) -> None:
        self._root_fd, self._path = root_fd, path

    def __enter__(self) -> int:
        # Following a link of a layer would place the mount where the program could replace it.
        self._fd = open_paths.open_in_root(self._root_fd, self._path, directory=True, links=False)
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _hint(operation: Operation, error: OSError) -> str:
    """Return a hint that depends on the operation, "" for none. Hints that depend on the errno alone are in sandbox.errors."""
    if isinstance(operation, VolumeOperation):
        if operation.within is not None and error.errno == errno.ENOENT:
            return f"create it in the source of {operation.within} first: sandbox creates nothing in a directory of the host"
        if operation.within is not None and error.errno in (errno.EXDEV, errno.ELOOP):
            return (
                f"a symbolic link in {operation.within} leads out of it: remove it, or choose another target"
            )
        if error.errno in (errno.EXDEV, errno.ELOOP):
            return f"the path {operation.target} contains a symbolic link of a layer: name the path to which it leads"
        if error.errno == errno.ENOENT:
            return f"an earlier run removed a directory of the path {operation.target}, or the path contains a dangling symbolic link: name another target"
        if operation.within is not None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"no space left in {operation.within} for the mount point, or too many mounts: free some space, or as root raise fs.mount-max with sysctl"
        if error.errno == errno.ENOTDIR:
            return (
                f"{operation.target} in the layers and the source must both be directories or both be files"
            )
    if isinstance(operation, HideDirectory):
        return f"the program could read it there: set {operation.variable} to a directory outside of the source of {operation.volume}, or name another source"
    if isinstance(operation, ChownVolumes) and error.errno in (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP):
        return "the file system of the state directory does not store owners: move the state directory to another one (SANDBOX_STATE_DIR)"
    if isinstance(operation, CheckVolumes):
        return "a target contains symbolic links of layers or volumes: name the path to which they lead"
    if isinstance(operation, MountProc | MountSys | BuildDev) and error.errno in (
        errno.ENOTDIR,
        errno.ENOENT,
        errno.ELOOP,
    ):
        return "the layers have a file there, not a directory: remove that layer"
    return ""


_ACTIONS: Mapping[type[Operation], tuple[str, Callable[..., None]]] = {
    MountRoot: ("mount fuse", _mount_root),
    BindRoot: ("mount", _bind_root),
    BindDevice: ("mount", volumes.device),
    DirectBind: ("mount", volumes.direct_bind),
    BindVolume: ("mount", volumes.bind),
    TmpfsVolume: ("mount", volumes.tmpfs),
    FileVolume: ("mount", volumes.file),
    ShowHosts: ("mount", _show_hosts),
    ShowResolver: ("mount", _show_resolver),
    HideDirectory: ("mount tmpfs", volumes.hide),
    ChownVolumes: ("chown", volumes.change_owner),
    CheckVolumes: ("mount", volumes.check),
    MountProc: ("mount proc", _mount_proc),
    MountSys: ("mount sysfs", _mount_sys),
    BuildDev: ("mount", _build_dev),
    MaskPaths: ("mount", _mask),
    ReadOnlyPaths: ("mount", _make_read_only),
    PivotRoot: ("pivot_root", _pivot),
    SetHostname: ("sethostname", _set_hostname),
    LoopbackUp: ("loopback", _loopback_up),
}

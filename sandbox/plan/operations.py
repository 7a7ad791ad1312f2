"""Define the operations that set up a sandbox inside its namespaces, as values that can be printed and compared.

mount_order puts them in order, and the executor (sandbox/runtime/rootfs/executor.py) executes each. ``--debug`` prints
``describe()``. Targets are paths in the sandbox.
"""

from __future__ import annotations

from unionfs._stdlib.dataclasses import dataclass, field

HOSTS, RESOLV_CONF = "/etc/hosts", "/etc/resolv.conf"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRoot:
    """Mount the union of the layers as the future root."""

    read_only: bool = False
    nosuid: bool = True

    def describe(self) -> str:
        """Return the operation as one line."""
        flags = [flag for flag, on in (("read-only", self.read_only), ("nosuid", self.nosuid)) if on]
        return f"mount unionfs on / [{' '.join([*flags, 'nodev'])}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindRoot:
    """Bind-mount the only layer as the future root, read-only and without the file system server."""

    nosuid: bool = True
    #: What to do if the layer cannot be the root by itself: "serve" it, serve it and "warn", or "refuse" to start.
    otherwise: str = "serve"

    def describe(self) -> str:
        """Return the operation as one line."""
        flags = " ".join(["read-only", *(["nosuid"] if self.nosuid else []), "nodev"])
        if self.otherwise == "refuse":
            return f"bind the only layer on / [{flags}]"
        return f"bind the only layer on / [{flags}], or mount unionfs if the layer needs the server"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectBind:
    """Bind-mount a directory from the one layer that has it, read-only and without the union."""

    target: str
    nosuid: bool = True
    #: The setting that asks for it.
    key: str = ""
    #: Whether to warn instead of failing if the bind is impossible; the union then serves the directory.
    optional: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        flags = " ".join(["read-only", *(["nosuid"] if self.nosuid else []), "nodev"])
        return f"bind {self.target} from the only layer that has it [{flags}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindVolume:
    """Bind-mount a file or directory of the host, which was opened before the host's root was detached."""

    source: str
    target: str
    read_only: bool = False
    nosuid: bool = True
    nodev: bool = True
    noexec: bool = False
    #: Whether later mounts of the host below the source propagate into the sandbox (MS_SLAVE).
    slave: bool = False
    #: The name of the named volume in the state directory, if the source is its directory.
    name: str | None = None
    #: The volume around the target; symbolic links on the way to the target must not lead out of it.
    within: str | None = None
    #: Whether to create a missing target: it lies in a volume of this sandbox's own, not in the layers.
    create: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        source = self.source if self.name is None else f"volume {self.name}, {self.source},"
        slave = " slave" if self.slave else ""
        return f"bind {source} on {self.target} [{_flags(self)}{slave}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsVolume:
    """Mount an empty tmpfs; *size* in bytes, None for half of the machine's memory."""

    target: str
    size: int | None = None
    mode: int = 0o755
    read_only: bool = False
    nosuid: bool = True
    nodev: bool = True
    noexec: bool = False
    within: str | None = None
    create: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        size = "" if self.size is None else f" size={self.size}"
        return f"mount tmpfs on {self.target} [{_flags(self)} mode={self.mode:04o}{size}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileVolume:
    """Create a file in memory and bind-mount it read-only."""

    target: str
    #: The content of the file, which may be secret.
    content: bytes = field(repr=False)
    mode: int = 0o644
    read_only: bool = True
    nosuid: bool = True
    nodev: bool = True
    noexec: bool = False
    within: str | None = None
    create: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        return (
            f"show a file of {len(self.content)} bytes on {self.target} [{_flags(self)} mode={self.mode:04o}]"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowHosts:
    """Mount a read-only copy of the root's /etc/hosts with added lines: one for the host name *name*, one for each of *entries*.

    *name* is None if the sandbox has the host's name. *entries* are pairs of an address and a name. With *members*, the
    supervisor adds the members of networks, including the sandbox itself, while it runs.
    """

    name: str | None
    entries: tuple[tuple[str, str], ...] = ()
    members: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        names = [*([] if self.name is None else [self.name]), *(name for _, name in self.entries)]
        shown = f"the names {' '.join(names)}" if names else ""
        parts = [*([shown] if shown else []), *(["the members of networks"] if self.members else [])]
        return f"show /etc/hosts with {' and '.join(parts)} [read-only nosuid nodev noexec]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowResolver:
    """Mount a read-only file with the content *content* on /etc/resolv.conf."""

    content: bytes

    def describe(self) -> str:
        """Return the operation as one line."""
        servers = [line[11:] for line in self.content.decode().splitlines() if line.startswith("nameserver ")]
        shown = " ".join(servers) or "no name server"
        return f"show /etc/resolv.conf with {shown} [read-only nosuid nodev noexec]"


@dataclass(frozen=True, slots=True, kw_only=True)
class HideDirectory:
    """Mount an empty directory over a private directory of the launcher, in a volume that contains it."""

    #: The directory's name in messages, its path on the host, and the environment variable that moves it.
    name: str
    source: str
    variable: str
    #: The target of the volume, and the directory's path relative to the volume.
    volume: str
    path: str
    #: Device and inode of the directory; None if it did not exist.
    identity: tuple[int, int] | None
    #: Whether the directory's mode lets no id of the sandbox enter it. Then a failure to hide it is no error if the sandbox's
    #: root cannot reach it.
    closed: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"hide the {self.name} at {self.volume.rstrip('/')}/{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChownVolumes:
    """Change the owner of the sandbox's own volumes to the user of the program. Otherwise that user could not use them.

    User and group are numbers, or names in the sandbox's /etc/passwd and /etc/group. A *group* of None is the user's own.
    """

    user: int | str
    group: int | str | None = None
    #: The targets of volumes that are made anew at every start.
    made: tuple[str, ...] = ()
    #: The targets of named volumes; their owner changes only if no sandbox has used them yet.
    named: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the operation as one line."""
        group = "" if self.group is None else f":{self.group}"
        named = [f"{' '.join(self.named)} (if new)"] if self.named else []
        return f"change the owner of {' '.join([*self.made, *named])} to user {self.user}{group}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckVolumes:
    """Check that each target leads to its own volume, and that no symbolic link caused another volume to cover it."""

    targets: tuple[str, ...]

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"check that no volume covers another: {' '.join(self.targets)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindDevice:
    """Bind-mount a device node of the host, if it is still the node that was planned."""

    source: str
    target: str
    #: "c" or "b"; the device numbers follow.
    kind: str
    major: int
    minor: int

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"bind the device {self.source} ({self.kind} {self.major}:{self.minor}) on {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountProc:
    """Mount proc for the sandbox's own pid namespace, or bind-mount the host's /proc if it has none."""

    of_host: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        return "bind the host's /proc on /proc" if self.of_host else "mount proc on /proc"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSys:
    """Mount /sys read-only: a new sysfs if the sandbox owns its network namespace, otherwise the host's."""

    of_host: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        return (
            "bind the host's /sys on /sys [read-only]" if self.of_host else "mount sysfs on /sys [read-only]"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildDev:
    """Build a minimal /dev: harmless devices, new pseudo-terminals, shared memory, message queues."""

    tty_gid: int | None = None
    mqueue: bool = True

    def describe(self) -> str:
        """Return the operation as one line."""
        return "build /dev: null zero full random urandom tty ptmx pts shm" + (
            " mqueue" if self.mqueue else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskPaths:
    """Hide paths of /proc and /sys that show the host, and those that the file adds."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"mask {' '.join(self.paths)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOnlyPaths:
    """Make read-only the paths of /proc and /sys that root could change, and those that the file adds."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"make read-only {' '.join(self.paths)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotRoot:
    """Make the future root the root (pivot_root(2)) and detach the host's root."""

    def describe(self) -> str:
        """Return the operation as one line."""
        return "pivot_root; detach the host's root"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHostname:
    """Set the host name of the sandbox's own UTS namespace."""

    name: str

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"set the host name {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackUp:
    """Bring up the loopback interface, the only interface of a new network namespace."""

    def describe(self) -> str:
        """Return the operation as one line."""
        return "bring lo up"


VolumeOperation = BindVolume | TmpfsVolume | FileVolume

Operation = (
    MountRoot
    | BindRoot
    | DirectBind
    | BindVolume
    | TmpfsVolume
    | FileVolume
    | ShowHosts
    | ShowResolver
    | HideDirectory
    | ChownVolumes
    | CheckVolumes
    | BindDevice
    | MountProc
    | MountSys
    | BuildDev
    | MaskPaths
    | ReadOnlyPaths
    | PivotRoot
    | SetHostname
    | LoopbackUp
)


def _flags(volume: VolumeOperation) -> str:
    names = ("read_only", "nosuid", "nodev", "noexec")
    return " ".join(name.replace("_", "-") for name in names if getattr(volume, name)) or "read-write"

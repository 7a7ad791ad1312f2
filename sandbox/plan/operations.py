"""The operations that bring a sandbox up inside its namespaces: values that can be printed, compared and
carried out.

The plan orders them; the executor carries each out; ``describe()`` is what ``--debug`` shows.
Targets are paths in the sandbox.
"""

from __future__ import annotations

from unionfs._stdlib.dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRoot:
    """Mount the union of the layers as what will be the root."""

    read_only: bool = False
    nosuid: bool = True

    def describe(self) -> str:
        """Return the operation as one line."""
        flags = [flag for flag, on in (("read-only", self.read_only), ("nosuid", self.nosuid)) if on]
        return f"mount unionfs on / [{' '.join([*flags, 'nodev'])}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindRoot:
    """Show the one layer as what will be the root, read-only: nobody serves it."""

    nosuid: bool = True
    #: What to do where it is no root by itself: "serve" it, serve it and "warn", or "refuse" to start.
    otherwise: str = "serve"

    def describe(self) -> str:
        """Return the operation as one line."""
        flags = " ".join(["read-only", *(["nosuid"] if self.nosuid else []), "nodev"])
        if self.otherwise == "refuse":
            return f"bind the one layer on / [{flags}]"
        return f"bind the one layer on / [{flags}], or mount unionfs where that shows more than a bind"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectBind:
    """Show a directory of the one layer that has it, read-only and without the union."""

    target: str
    nosuid: bool = True
    #: The setting that asks for it.
    key: str = ""
    #: Where it cannot be had, the union shows it, with a warning.
    optional: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        flags = " ".join(["read-only", *(["nosuid"] if self.nosuid else []), "nodev"])
        return f"bind {self.target} from the one layer that has it [{flags}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindVolume:
    """Show a file or directory of the host; it was opened before the host went out of sight."""

    source: str
    target: str
    read_only: bool = False
    nosuid: bool = True
    nodev: bool = True
    noexec: bool = False
    #: Show what the host mounts below the source later, too.
    slave: bool = False
    #: The name of the volume that is kept in the state directory, whose directory the source is.
    name: str | None = None
    #: The volume around the target, which symbolic links on the way to it must not lead out of.
    within: str | None = None
    #: Make the target where it is missing: it lies in a volume of this sandbox's own, not in the layers.
    create: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        source = self.source if self.name is None else f"volume {self.name}, {self.source},"
        slave = " slave" if self.slave else ""
        return f"bind {source} on {self.target} [{_flags(self)}{slave}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsVolume:
    """Mount an empty file system in memory; *size* in bytes, None for half of the machine's."""

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
    """Show a file that is made in memory, read-only."""

    target: str
    #: What it holds; it may be secret.
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
    """Show /etc/hosts of the root with a line for the host name *name*, read-only."""

    name: str

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"show /etc/hosts with the name {self.name} [read-only nosuid nodev noexec]"


@dataclass(frozen=True, slots=True, kw_only=True)
class HideDirectory:
    """Cover a private directory of the launcher in the volume that holds it by an empty one."""

    #: What messages call the directory, its path on the host, and the environment variable that puts it elsewhere.
    name: str
    source: str
    variable: str
    #: The target of the volume, and the directory's path in there.
    volume: str
    path: str
    #: Device and inode of the directory; None where it did not exist.
    identity: tuple[int, int] | None
    #: Whether its mode lets no id of the sandbox enter it. Then it need not be hidden where the sandbox's root cannot reach it.
    closed: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"hide the {self.name} at {self.volume.rstrip('/')}/{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveVolumes:
    """Give volumes of the sandbox's own to whom the program runs as, who could not use them otherwise.

    User and group are numbers, or names of the sandbox's own /etc/passwd and /etc/group; a *group* of None is the user's.
    """

    user: int | str
    group: int | str | None = None
    #: Those that are made anew at every start.
    made: tuple[str, ...] = ()
    #: Those that are kept: given only where nobody has used them yet.
    kept: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the operation as one line."""
        group = "" if self.group is None else f":{self.group}"
        kept = [f"{' '.join(self.kept)} (where new)"] if self.kept else []
        return f"give {' '.join([*self.made, *kept])} to user {self.user}{group}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckVolumes:
    """See that each volume is what its target leads to: that no symbolic link has put another one over it."""

    targets: tuple[str, ...]

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"see that no volume covers another: {' '.join(self.targets)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindDevice:
    """Show a device node of the host in /dev, if it is still the one that was planned with."""

    source: str
    target: str
    #: "c" or "b", and the numbers.
    kind: str
    major: int
    minor: int

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"bind the device {self.source} ({self.kind} {self.major}:{self.minor}) on {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountProc:
    """Mount the /proc of the sandbox's own processes, or show the host's, where it has none of its own."""

    of_host: bool = False

    def describe(self) -> str:
        """Return the operation as one line."""
        return "bind the host's /proc on /proc" if self.of_host else "mount proc on /proc"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSys:
    """Mount /sys read-only: a new one for a network namespace of our own, else the host's."""

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
    """Hide what /proc and /sys show of the host."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"mask {' '.join(self.paths)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOnlyPaths:
    """Make what /proc and /sys let root change read-only."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"make read-only {' '.join(self.paths)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotRoot:
    """Make the union the root and let go of the host's."""

    def describe(self) -> str:
        """Return the operation as one line."""
        return "pivot_root; detach the host's root"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHostname:
    """Set the host name of the sandbox's own uts namespace."""

    name: str

    def describe(self) -> str:
        """Return the operation as one line."""
        return f"set the host name {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackUp:
    """Bring up the loopback interface, the only one of a new network namespace."""

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
    | HideDirectory
    | GiveVolumes
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

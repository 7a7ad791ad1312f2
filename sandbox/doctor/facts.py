"""The results of the probes, as values. Together with `sandbox.host.facts.HostFacts` they are the input of the checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from unionfs._stdlib.dataclasses import dataclass, field

Place = Literal["systemd", "container", "plain"]
"""The environment that manages this machine: systemd, a container engine, or neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a step failed: the errno (0 if there is none) and its text."""

    errno: int
    text: str


Attempts = Mapping[str, Failure | None]
"""The result of each step: None for success. A step that was not reached is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The results of one probe. *problem* is set if the probe ended early (it took too long, it was killed)."""

    attempts: Attempts = field(default_factory=dict)
    problem: str | None = None

    def failure(self, *steps: str) -> tuple[str, Failure] | None:
        """Return the first of *steps* that failed, with its failure, or None if none failed."""
        for step in steps:
            failure = self.attempts.get(step)
            if failure is not None:
                return step, failure
        return None

    def did(self, step: str) -> bool:
        """Return whether *step* was reached and succeeded."""
        return step in self.attempts and self.attempts[step] is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """The reason why user namespaces do not work here, and its remedy ("" if none is known)."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceFacts:
    """The results of a start without layers, under each id map that this user should be able to have."""

    single: Probe
    #: None if the user has no range of ids to map.
    whole: Probe | None
    #: Determined only if user namespaces failed.
    obstacle: Obstacle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupFacts:
    """The results of making a cgroup with a limit of each controller, as for a sandbox."""

    #: The mounted versions: "v1", "v2", "hybrid" or "none".
    mode: str
    #: Controller -> None if a limit was set and read back, else the reason.
    controllers: Mapping[str, str | None]
    #: Another problem: a process could not be moved into the cgroup, or a cgroup could not be removed.
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """The systemd session of this user, which delegates cgroups and lets sandboxes outlast a login."""

    place: Place
    debian: bool
    #: None if the user's service manager is reachable (for root: that of the machine), else the reason.
    manager: str | None
    #: None if systemd is not running.
    lingers: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityFacts:
    """Which filters a program can have."""

    seccomp: Failure | None
    libseccomp: bool
    #: The version of Landlock's ABI; 0 if the kernel has none or it is disabled.
    landlock: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFacts:
    """One program: its path, and the output of --version or the reason why it cannot be run."""

    path: str | None
    version: str | None = None
    problem: str | None = None
    #: For the server: the reason why the variant with pyfuse3 cannot be started.
    lacks: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFacts:
    """The state directory, and the abilities of its file system, probed in a temporary subdirectory."""

    path: str
    exists: bool
    #: Why the directory is not trusted, although it could be used ("belongs to another user"); see sandbox.state.trusted_files.
    untrusted: str | None = None
    #: Steps: make, lock, write, link, rename, attribute, mark, whiteout.
    probe: Probe = field(default_factory=Probe)
    fstype: str = "unknown"
    mount_options: tuple[str, ...] = ()
    free_bytes: int | None = None
    free_inodes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What ended sandboxes have left behind. *problem* is the reason if that is unknown."""

    running: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    #: Runs on other machines that share the state directory.
    elsewhere: tuple[str, ...] = ()
    #: Runs for which this machine cannot find out whether they have ended.
    unknown: tuple[str, ...] = ()
    #: Existing cgroups that the dead runs recorded.
    cgroups: tuple[str, ...] = ()
    #: FUSE mounts whose server has ended.
    mounts: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """The results of all probes."""

    namespaces: NamespaceFacts
    cgroups: CgroupFacts
    session: SessionFacts
    security: SecurityFacts
    #: The program that connects private networks; its problem is that of a trial.
    pasta: ProgramFacts
    #: The program that does so where pasta is not installed; None if pasta works, and this one was not tried.
    slirp4netns: ProgramFacts | None
    #: The path of nft(8), None if it is not installed.
    nft: str | None
    #: The interpreter that can import the modules of the file system server.
    server: ProgramFacts
    #: The state directory, or the reason why there can be none, with the remedy.
    state: StateFacts | Obstacle
    leftovers: Leftovers
    #: Whether /etc/mtab exists. fusermount3 reads the owner of a mount there before it unmounts it.
    mtab: bool
    #: The run directory, probed in the same way.
    run: StateFacts
    #: The first subordinate id that is assigned to no user, for the command in a remedy.
    free_subid: int

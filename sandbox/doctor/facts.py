"""What was tried and how it went, as values: all that judgement looks at beside `sandbox.host.facts.HostFacts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from unionfs._stdlib.dataclasses import dataclass, field

Place = Literal["systemd", "container", "plain"]
"""Who set this machine up: systemd runs it, a container engine does, or neither shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a step failed: the errno (0 for none) and the words for it."""

    errno: int
    text: str


Attempts = Mapping[str, Failure | None]
"""A step and how it went, None for well. A step that is missing was not reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One probe: its steps, and *problem* where it ended before the end (it took too long, it was killed)."""

    attempts: Attempts = field(default_factory=dict)
    problem: str | None = None

    def failure(self, *steps: str) -> tuple[str, Failure] | None:
        """Return the first of *steps* that failed, with the reason; None if none did."""
        for step in steps:
            failure = self.attempts.get(step)
            if failure is not None:
                return step, failure
        return None

    def did(self, step: str) -> bool:
        """Tell whether *step* was reached and went well."""
        return step in self.attempts and self.attempts[step] is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """What stands against user namespaces here, and what would remove it ("" where nothing is known to)."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceFacts:
    """Coming up as far as it goes without layers, under each id map that this account should be able to have."""

    single: Probe
    #: None where the account has no range of ids to map.
    whole: Probe | None
    #: Looked for only after user namespaces failed.
    obstacle: Obstacle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupFacts:
    """Making a cgroup with a limit of each controller, as a sandbox's would be made."""

    #: "v1", "v2", "hybrid" or "none": which versions are mounted.
    mode: str
    #: Controller -> None if a limit was set and read back, else why not.
    controllers: Mapping[str, str | None]
    #: What else went wrong: a process could not be put in, or something stayed behind.
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """The systemd session of this account, for delegated cgroups and for sandboxes that outlast a login."""

    place: Place
    debian: bool
    #: None where the account's service manager answers (root's is that of the machine), else why it does not.
    manager: str | None
    #: None where no systemd runs.
    lingers: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityFacts:
    """Filters that a program could be given."""

    seccomp: Failure | None
    libseccomp: bool
    #: The version of Landlock's interface; 0 where the kernel has none or it is switched off.
    landlock: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFacts:
    """One program: where it is, and what its --version said or why it could not be run."""

    path: str | None
    version: str | None = None
    problem: str | None = None
    #: Of the server: why the one over pyfuse3 cannot be started.
    lacks: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFacts:
    """The state directory, and what its file system can hold, tried in a directory of its own that is removed."""

    path: str
    exists: bool
    #: Why it may not be used although it could be ("is another user's"); see sandbox.state.directory.
    untrusted: str | None = None
    #: Steps: make, lock, write, link, rename, attribute, mark, whiteout.
    probe: Probe = field(default_factory=Probe)
    fstype: str = "unknown"
    mount_options: tuple[str, ...] = ()
    free_bytes: int | None = None
    free_inodes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What sandboxes that are no more have left; *problem* says why it is not known."""

    running: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    #: Runs of other machines that share the state directory.
    elsewhere: tuple[str, ...] = ()
    #: Runs of which this machine cannot tell whether they have ended.
    unknown: tuple[str, ...] = ()
    #: Cgroups that the dead ones recorded and that still exist.
    cgroups: tuple[str, ...] = ()
    #: FUSE mounts whose server is gone.
    mounts: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """Everything that was tried."""

    namespaces: NamespaceFacts
    cgroups: CgroupFacts
    session: SessionFacts
    security: SecurityFacts
    programs: Mapping[str, ProgramFacts]
    #: The interpreter with the modules of the file system's server.
    server: ProgramFacts
    #: The state directory, or why there can be none, with the remedy.
    state: StateFacts | Obstacle
    leftovers: Leftovers
    #: Whether /etc/mtab is there, in which fusermount3 looks for the owner of what it is to unmount.
    mtab: bool
    #: The run directory, tried likewise.
    run: StateFacts
    #: The first subordinate id that nobody has, for the command that gives some.
    free_subid: int

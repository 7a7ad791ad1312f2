"""Collect what this machine and this account can do, as values. Gathering reads a few small files and starts no program.

The facts do not include whether user namespaces work: only creating one can show that. :func:`explain_userns_failure` finds
the reason after that has failed. A file that does not exist, or is closed to this account, counts as empty.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Mapping, Sequence

from sandbox.errors import SetupError
from sandbox.kernel import cgroups, filters, job_control, rlimits, seccomp
from sandbox.kernel.cgroups import Hierarchy, NoHierarchy
from sandbox.kernel.idmaps import (
    MAP_SIZE,
    ROOT_RANGE_START,
    IdMap,
    SubidRange,
    auto_map,
    covers,
    keep_id_map,
    not_subordinate,
    parse_map,
    parse_subid,
    root_map,
    single_map,
)
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Literal

FuseState = Literal["ok", "missing", "not accessible"]
CgroupLevel = Literal["delegated", "scope", "v1", "none"]
"""Where cgroups are created: version 2, delegated to this process or in a scope of the service manager; version 1; nowhere."""

_HELPER_PATH = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")
_NO_SCOPES = NoHierarchy(reason="systemd does not run here")
_INITIAL_MAP = (IdMap(inside=0, outside=0, count=2**32 - 1),)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdHelper:
    """newuidmap or newgidmap: its path, and the reason why it would not work (None if it should work)."""

    path: str | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The facts that a plan depends on. The ids are the effective ones of this process."""

    uid: int
    gid: int
    user_name: str | None
    groups: tuple[int, ...]
    uid_ranges: tuple[SubidRange, ...]
    gid_ranges: tuple[SubidRange, ...]
    own_uid_map: tuple[IdMap, ...]
    own_gid_map: tuple[IdMap, ...]
    newuidmap: IdHelper
    newgidmap: IdHelper
    fuse: FuseState
    cgroups: cgroups.Hierarchy
    kernel_version: tuple[int, int]
    terminal: bool
    hard_limits: Mapping[str, int]
    #: The cgroups that the service manager of this account would create, each in its own transient scope.
    scopes: Hierarchy = _NO_SCOPES
    #: Whether this process has CAP_SYS_RESOURCE in the initial user namespace; root of a container mostly lacks it.
    sys_resource: bool = False
    #: Whether standard input is a terminal with another foreground process group: the launcher was started in the background.
    background: bool = False
    #: Whether standard input and output are a terminal, and a shell with job control can resume the launcher after SIGTSTP.
    suspendable: bool = False
    #: Whether systemd manages this machine (sd_booted(3)).
    systemd: bool = False
    #: The machine hardware name, as uname(2) returns it.
    machine: str = "x86_64"
    #: The actions of seccomp filters that the kernel supports, by seccomp(2)'s names ("errno"); empty without filters.
    seccomp_actions: frozenset[str] = frozenset()
    #: The version of libseccomp, which compiles filters; None if it is not installed.
    libseccomp: str | None = None
    #: The version of the Landlock ABI; 0 if the kernel has no Landlock.
    landlock: int = 0
    #: Whether setgroups(2) is allowed in the current user namespace, and so in those below it.
    setgroups: bool = True
    #: Whether the kernel has time namespaces.
    time_namespaces: bool = True
    #: The directories that contain only the launcher's own code, and other paths that the next start executes or imports.
    launcher_trees: tuple[str, ...] = ()
    launcher_paths: tuple[str, ...] = ()

    @property
    def cgroup_levels(self) -> tuple[tuple[CgroupLevel, Hierarchy], ...]:
        """The hierarchies where cgroups can be created, in the order in which they are tried; only "none" if there is none.

        Delegated cgroups come first. Cgroups that are available only because this process is root come last. In version 2
        that is the root of the hierarchy, which systemd expects to manage alone.
        """
        own = self.cgroups
        scopes: tuple[tuple[CgroupLevel, Hierarchy], ...] = (
            (("scope", self.scopes),) if self.scopes.version else ()
        )
        if own.version == 0:
            return scopes or (("none", own),)
        if own.version == 1:
            return (*scopes, ("v1", own))
        found: tuple[CgroupLevel, Hierarchy] = ("delegated", own)
        return (*scopes, found) if getattr(own, "of_machine", False) else (found, *scopes)

    @property
    def can_report_denials(self) -> bool:
        """Whether system calls that a filter denies can be reported on this machine."""
        return "user_notif" in self.seccomp_actions and seccomp.can_listen(self.machine)

    def cgroup_level(self, level: CgroupLevel) -> Hierarchy:
        """Return the hierarchy where cgroups of *level* are created."""
        return dict(self.cgroup_levels)[level]

    @property
    def is_real_root(self) -> bool:
        """Whether this process is root in the initial user namespace."""
        return self.uid == 0 and self.own_uid_map == _INITIAL_MAP

    @property
    def id_map_problem(self) -> str | None:
        """The reason why only a single id can be mapped; None if a whole range can."""
        if self.is_real_root:
            return None
        if not self.uid_ranges or not self.gid_ranges:
            lacking = "/etc/subuid" if not self.uid_ranges else "/etc/subgid"
            return f"{lacking} has no range for {self.user_name or self.uid}"
        if self.uid == 0:
            # Root of a container needs no helper, but the ids must exist in the container.
            uids, gids = auto_map(self.uid, self.uid_ranges), auto_map(self.gid, self.gid_ranges)
            if covers(self.own_uid_map, uids) and covers(self.own_gid_map, gids):
                return None
            return "the ranges of /etc/subuid and /etc/subgid are outside of this user namespace"
        return self.newuidmap.problem or self.newgidmap.problem

    def whole_maps(self) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]] | None:
        """Return the uid and gid map of up to 65536 ids; None if :attr:`id_map_problem` is set."""
        if self.id_map_problem is not None:
            return None
        if self.is_real_root:
            return root_map(), root_map()
        return auto_map(self.uid, self.uid_ranges, MAP_SIZE), auto_map(self.gid, self.gid_ranges, MAP_SIZE)

    def single_maps(self) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]]:
        """Return the uid and gid map of one id: the id of this process or, for real root, an unused id."""
        if self.is_real_root:
            return single_map(ROOT_RANGE_START), single_map(ROOT_RANGE_START)
        return single_map(self.uid), single_map(self.gid)

    def keep_id_maps(self) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]] | None:
        """Return maps under which this process keeps its ids inside; None for real root, or if :attr:`id_map_problem` is set."""
        if self.id_map_problem is not None or self.is_real_root:
            return None
        return keep_id_map(self.uid, self.uid_ranges), keep_id_map(self.gid, self.gid_ranges)

    def unmappable(self, id_map: Sequence[IdMap], *, groups: bool) -> list[int]:
        """Return the positions of the entries of *id_map* whose outside ids this account may not map."""
        if self.uid == 0:
            own_map = self.own_gid_map if groups else self.own_uid_map
            return [number for number, entry in enumerate(id_map) if not covers(own_map, (entry,))]
        own_id, ranges = (self.gid, self.gid_ranges) if groups else (self.uid, self.uid_ranges)
        return not_subordinate(id_map, own_id, ranges)

    @property
    def map_helpers(self) -> tuple[str, str] | None:
        """The paths of newuidmap and newgidmap; None if this process writes the maps itself, or a helper is missing."""
        if self.uid == 0 or self.newuidmap.path is None or self.newgidmap.path is None:
            return None
        return self.newuidmap.path, self.newgidmap.path


def gather(
    *,
    proc_root: str = "/proc",
    etc_root: str = "/etc",
    fuse_device: str = "/dev/fuse",
    helper_path: Sequence[str] = _HELPER_PATH,
    cgroup_files: cgroups.CgroupFiles | None = None,
    run_root: str = "/run",
    scopes: bool = True,
) -> HostFacts:
    """Collect the facts of this machine, with *scopes* also those of the service manager; the other arguments are for tests."""
    uid, gid = os.geteuid(), os.getegid()
    name = _user_name(uid)
    terminal = os.isatty(0) and os.isatty(1)
    status = _read(f"{proc_root}/self/status")
    mountinfo, own_uid_map = (
        _read(f"{proc_root}/self/mountinfo"),
        parse_map(_read(f"{proc_root}/self/uid_map")),
    )
    systemd = os.path.isdir(f"{run_root}/systemd/system")
    found_scopes: Hierarchy = _NO_SCOPES
    if scopes and systemd:
        from sandbox.kernel.cgroups import scope

        found_scopes = scope.look(
            mountinfo, uid=uid, real_root=uid == 0 and own_uid_map == _INITIAL_MAP, environ=os.environ
        )
    return HostFacts(
        uid=uid,
        gid=gid,
        user_name=name,
        groups=tuple(os.getgroups()),
        uid_ranges=tuple(parse_subid(_read(f"{etc_root}/subuid"), uid, name)),
        gid_ranges=tuple(parse_subid(_read(f"{etc_root}/subgid"), uid, name)),
        own_uid_map=own_uid_map,
        own_gid_map=parse_map(_read(f"{proc_root}/self/gid_map")),
        newuidmap=find_helper("newuidmap", helper_path, status),
        newgidmap=find_helper("newgidmap", helper_path, status),
        fuse=fuse_state(fuse_device),
        cgroups=cgroups.detect(mountinfo, _read(f"{proc_root}/self/cgroup"), files=cgroup_files),
        kernel_version=parse_kernel_version(os.uname().release),
        terminal=terminal,
        background=job_control.in_background(0),
        suspendable=terminal and job_control.can_be_suspended(),
        hard_limits=rlimits.current_hard_limits(),
        setgroups=_read(f"{proc_root}/self/setgroups").strip() != "deny",
        time_namespaces=os.path.lexists(f"{proc_root}/self/ns/time"),
        machine=os.uname().machine,
        seccomp_actions=frozenset(_read(f"{proc_root}/sys/kernel/seccomp/actions_avail").split()),
        libseccomp=seccomp.library_version(),
        landlock=_landlock_version(),
        scopes=found_scopes,
        sys_resource=own_uid_map == _INITIAL_MAP
        and bool(int(_status_field(status, "CapEff") or "0", 16) >> 24 & 1),
        systemd=systemd,
        launcher_trees=launcher_trees(),
        launcher_paths=launcher_paths(),
    )


def launcher_trees() -> tuple[str, ...]:
    """Return the directories of the launcher's code: its packages, a virtual environment, the standard library."""
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    own = [os.path.join(top, name) for name in ("sandbox", "unionfs")]
    environment = [sys.prefix] if sys.prefix != sys.base_prefix else []
    return tuple(dict.fromkeys([*own, *environment, os.path.dirname(os.path.abspath(os.__file__))]))


def launcher_paths() -> tuple[str, ...]:
    """Return the paths of the interpreter and the script, and sys.path: a program that replaces one runs code as the launcher."""
    script = [os.path.abspath(sys.argv[0])] if os.path.isfile(sys.argv[0] if sys.argv else "") else []
    found = [sys.executable, *script, *sys.path]
    return tuple(dict.fromkeys(path for path in found if path.startswith("/") and os.path.lexists(path)))


def _landlock_version() -> int:
    try:
        return filters.landlock_version()
    except OSError:
        return 0


#: Errors that mean: the file does not exist on this machine, or is closed to this account.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EINVAL)


def _read(path: str) -> str:
    """Return the content of *path*, "" if it does not exist or is closed to this account.

    Raises:
        SetupError: another error. Treating it as absence would change the sandbox, for example to a single id.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        if error.errno in _ABSENT:
            return ""
        raise SetupError.from_os_error("facts of this machine", "open", error) from None


def _user_name(uid: int) -> str | None:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def parse_kernel_version(release: str) -> tuple[int, int]:
    """Return the first two numbers of a kernel release such as ``6.12.3-amd64``; a part without a number counts as 0."""
    numbers = []
    for part in release.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits) if digits else 0)
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (numbers[0], 0)


def fuse_state(device: str = "/dev/fuse") -> FuseState:
    """Return whether this account can open the FUSE device. It is not opened, because that would load a module."""
    try:
        if not stat.S_ISCHR(os.stat(device).st_mode):
            return "missing"
    except PermissionError:
        return "not accessible"
    except OSError:
        return "missing"
    return "ok" if os.access(device, os.R_OK | os.W_OK, effective_ids=True) else "not accessible"


def find_helper(name: str, directories: Sequence[str], own_status: str) -> IdHelper:
    """Find newuidmap or newgidmap in *directories*, and the reason why it would not gain the privilege that it needs.

    The helper needs the set-user-id bit of root or a file capability, a mount without nosuid, and a caller without
    no_new_privs. *own_status* is the text of /proc/self/status, which has that flag.
    """
    for directory in directories:
        path = f"{directory}/{name}"
        try:
            status = os.stat(path)
        except OSError:
            continue
        if not os.access(path, os.X_OK, effective_ids=True):
            return IdHelper(path=path, problem=f"this account may not execute {path}")
        if not (status.st_mode & stat.S_ISUID and status.st_uid == 0) and not _has_file_capabilities(path):
            return IdHelper(
                path=path, problem=f"{path} has neither the set-user-id bit of root nor file capabilities"
            )
        if os.statvfs(path).f_flag & os.ST_NOSUID:
            return IdHelper(path=path, problem=f"{path} is on a file system mounted nosuid")
        if _status_field(own_status, "NoNewPrivs") == "1":
            return IdHelper(
                path=path, problem=f"{path} gains no privileges: this process has no_new_privs set"
            )
        return IdHelper(path=path, problem=None)
    return IdHelper(path=None, problem=f"{name} is not installed (Debian: uidmap, Fedora: shadow-utils)")


def _has_file_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _status_field(status: str, key: str) -> str | None:
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return value.strip()
    return None


def explain_userns_failure(number: int, *, proc_root: str = "/proc") -> str:
    """Return why creating a user namespace failed with errno *number*, and the remedy; see :func:`userns_obstacle`."""
    reason, remedy = userns_obstacle(number, proc_root=proc_root)
    return f"{reason}: {remedy}" if remedy else reason


def userns_obstacle(number: int, *, proc_root: str = "/proc") -> tuple[str, str]:
    """Return why creating a user namespace failed with errno *number*, and the remedy; "" if no remedy is known.

    Also explains a failure shortly afterwards. Where AppArmor restricts user namespaces, Ubuntu lets an unconfined program
    create one without any capability in it, so that the id map or the first mount fails.
    """
    if not os.path.lexists(f"{proc_root}/self/ns/user"):
        return "this kernel has no user namespaces (CONFIG_USER_NS)", ""
    limit = _read(f"{proc_root}/sys/user/max_user_namespaces").strip() or "unknown"
    if limit == "0":
        return "user namespaces are disabled", "as root, sysctl user.max_user_namespaces=15000"
    if number == errno.ENOSPC:
        reason = f"too many user namespaces: the limit user.max_user_namespaces is {limit}, and at most 32 can be nested"
        return reason, "as root, raise that limit with sysctl, or nest fewer sandboxes"
    if _read(f"{proc_root}/sys/kernel/unprivileged_userns_clone").strip() == "0" and os.geteuid() != 0:
        return (
            "only root may create user namespaces on this machine",
            "as root, sysctl kernel.unprivileged_userns_clone=1",
        )
    if _read(f"{proc_root}/sys/kernel/apparmor_restrict_unprivileged_userns").strip() == "1":
        remedy = (
            "as root, give this Python interpreter a profile with the "
            "rule `userns,`, or sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
        return "AppArmor restricts user namespaces on this machine", remedy
    if _status_field(_read(f"{proc_root}/self/status"), "Seccomp") == "2":
        remedy = (
            "run the outer container "
            "with a profile that allows unshare and mount (podman, docker: --security-opt seccomp=unconfined)"
        )
        return "a seccomp filter of this process forbids it, as container engines do by default", remedy
    if number == errno.EPERM:
        return (
            "the kernel refuses it to this process, possibly because it runs in a chroot",
            "",
        )
    return f"the kernel refuses it: {os.strerror(number)}", ""

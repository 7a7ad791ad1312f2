"""Use cgroups version 2 in a transient systemd scope, one for each sandbox.

The supervisor moves into the scope with its present children, as `systemd-run --scope` does. After that, everything works as
in a scope in which another program has started the supervisor (v2.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping

from sandbox.kernel import service_manager
from sandbox.kernel.cgroups import NoHierarchy, base, detect, v2
from sandbox.kernel.cgroups.base import NO_LIMITS, Cgroup, CgroupFiles, CgroupLimits, Hierarchy
from sandbox.kernel.mountinfo import parse_mountinfo
from unionfs._stdlib.dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeHierarchy:
    """The scopes of the service manager that listens on the socket *bus* and manages the cgroup *directory*."""

    bus: str
    directory: str
    #: The slice in which it makes scopes.
    slice: str
    controllers: frozenset[str]
    has_swap: bool = True
    processors: str = ""
    files: CgroupFiles = field(default_factory=CgroupFiles, repr=False, compare=False)

    @property
    def version(self) -> int:
        """Return 2."""
        return 2

    @property
    def delegable(self) -> bool:
        """Return True."""
        return True

    def unenforceable(self, limits: CgroupLimits) -> dict[str, str]:
        """See :class:`base.Hierarchy`."""
        return v2.unenforceable(
            limits, self.controllers, self.directory, has_swap=self.has_swap, usable=self.processors
        )

    def paths_of(self, name: str) -> tuple[str, ...]:
        """See :class:`base.Hierarchy`."""
        directory = base.directory_of(name)
        return (f"{self.directory}/{self.slice}/{service_manager.scope_name(directory)}/{directory}",)

    def file_of(self, name: str, limit: str) -> str:
        """See :class:`base.Hierarchy`."""
        return f"{self.paths_of(name)[0]}/{v2.FILES[limit]}"

    def create(self, name: str, limits: CgroupLimits, server: CgroupLimits = NO_LIMITS) -> Cgroup:
        """See :class:`base.Hierarchy`. This process and its descendants move into the scope for good.

        Raises:
            OSError: the service manager refused, or what :meth:`v2.V2Hierarchy.create` raises.
        """
        return self.enter(name, cpu_weight=limits.cpu_weight).create(name, limits, server)

    def enter(
        self,
        name: str,
        *,
        cpu_weight: int | None = None,
        timeout: float = service_manager.TIMEOUT,
        here: Callable[[], Hierarchy] | None = None,
    ) -> Hierarchy:
        """Move this process and its descendants into a scope for sandbox *name*, and return the hierarchy in it.

        The scope also gets *cpu_weight*, because the sandbox competes for processors with the units beside the scope.

        Raises:
            OSError: the service manager refused, or the scope is unusable.
        """
        unit = service_manager.scope_name(base.directory_of(name))
        pids = descendants(self.files)
        service_manager.start_scope(
            self.bus, unit, pids, description=f"sandbox {name}", cpu_weight=cpu_weight, timeout=timeout
        )
        found = (here or _here)()
        if not isinstance(found, v2.V2Hierarchy) or unit not in found.directory:
            reason = found.reason if isinstance(found, NoHierarchy) else "this process is not in it"
            raise OSError(errno.EPROTO, f"the scope {unit} of the service manager cannot be used: {reason}")
        return found


def _here() -> Hierarchy:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mountinfo:
        text = mountinfo.read()
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as membership:
        return detect(text, membership.read())


def descendants(files: CgroupFiles) -> list[int]:
    """Return the pids of this process and all its descendants."""
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    own = os.getpid()
    return [own, *(pid for pid in pids if pid != own and v2.is_ours(files, pid))]


def look(
    mountinfo_text: str,
    *,
    uid: int,
    real_root: bool,
    environ: Mapping[str, str],
    root: str = "",
    files: CgroupFiles | None = None,
) -> Hierarchy:
    """Return the scopes that the service manager of this user can give, or why there are none. This connects to nothing.

    *root* is put before every path, for tests.
    """
    files = files or CgroupFiles()
    if not os.path.isdir(f"{root}/run/systemd/system"):
        return NoHierarchy(reason="systemd does not run here")
    if uid == 0 and not real_root:
        return NoHierarchy(reason="root of a user namespace has no service manager")
    mounts = [
        entry for entry in parse_mountinfo(mountinfo_text) if entry.fstype == "cgroup2" and entry.root == "/"
    ]
    if not mounts:
        return NoHierarchy(reason="cgroups of version 2, which systemd delegates, are not mounted")
    top = root + mounts[0].mount_point.rstrip("/")
    if real_root:
        bus, directory, where = "/run/dbus/system_bus_socket", top, "system.slice"
    else:
        runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
        bus, where = f"{runtime}/bus", "app.slice"
        directory = f"{top}/user.slice/user-{uid}.slice/user@{uid}.service"
    problem = service_manager.socket_problem(root + bus)
    if problem is None and not files.exists(f"{directory}/cgroup.controllers"):
        problem = f"{directory} does not exist"
    if problem is not None:
        return NoHierarchy(
            reason=f"the service manager of this account cannot be reached: {problem}", delegable=True
        )
    words = (base.read_optional(files, f"{directory}/cgroup.controllers") or "").split()
    return ScopeHierarchy(
        bus=root + bus,
        directory=directory,
        slice=where,
        controllers=frozenset(words) & set(v2.CONTROLLERS),
        has_swap=v2.accounts_swap(files, directory),
        processors=(base.read_optional(files, f"{directory}/cpuset.cpus.effective") or "").strip(),
        files=files,
    )

"""From a spec and the facts of this machine to a plan: what will be done, in order, all of it values. Pure.

Every refusal is made here, before anything is touched, and points at its place in the file. Nothing that was
asked for is dropped: it is in the plan, or it is an error, or, where the file lists it as optional, a
warning.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sandbox.errors import HostError, SpecError
from sandbox.host import HostFacts
from sandbox.kernel import capabilities, rlimits
from sandbox.kernel.cgroups import CgroupLimits
from sandbox.kernel.idmaps import IdMap, lookup, single_map
from sandbox.kernel.mounts import MASKED_PATHS, READONLY_PATHS
from sandbox.ops import (
    BindVolume,
    BuildDev,
    LoopbackUp,
    MaskPaths,
    MountProc,
    MountRoot,
    MountSys,
    Operation,
    PivotRoot,
    ReadOnlyPaths,
    SetHostname,
    TmpfsVolume,
)
from sandbox.sources import PathFact
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.model import Spec
from sandbox.spec.tables import Volume
from sandbox.spec.values import User

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_COMMAND = ("/bin/sh",)
#: Directories that every root has, whatever the layers hold; they are what the sandbox mounts on.
STANDARD_DIRECTORIES = ("/proc", "/sys", "/dev")
_TTY_GID = (
    5  # group "tty" of Debian and of most others; devpts takes it only where it is mapped (Corrections 18)
)
_ALWAYS = frozenset(("user", "mount", "pid"))
_RLIMITS = tuple(rlimits.RESOURCES)
_CGROUP_LIMITS = ("memory", "swap", "cpus", "cpu_weight", "pids")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdPlan:
    """The ids of the sandbox: its maps, and the programs that write them where we may not."""

    uid_map: tuple[IdMap, ...]
    gid_map: tuple[IdMap, ...]
    helpers: tuple[str, str] | None
    #: Only id 0 exists.
    single: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One layer, bottom first in the plan: a directory to serve, or an archive to unpack into the store
    first.
    """

    kind: str
    path: str
    cross: tuple[str, ...] = ()
    #: Permission bits that the root shows if this layer is the topmost.
    mode: int = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPoint:
    """A path that must exist to be mounted on; it comes from a generated layer below all others (Corrections
    22).
    """

    path: str
    is_directory: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """The program and what it starts with."""

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    user: User
    groups: tuple[int, ...]
    umask: int
    terminal: bool
    stop_signal: str
    stop_timeout: float
    capabilities: frozenset[str]
    #: Those of them that the file asked for by name: a user other than root gets these only.
    added_capabilities: frozenset[str]
    no_new_privileges: bool
    rlimits: Mapping[str, int | str]
    oom_score_adj: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that will be done."""

    name: str
    file: str
    ids: IdPlan
    layers: tuple[LayerPlan, ...]
    writable: str
    #: Bytes and objects that the writable layer may hold; None for as many as fit.
    size: int | None
    inodes: int | None
    skeleton: tuple[MountPoint, ...]
    namespaces: frozenset[str]
    operations: tuple[Operation, ...]
    process: ProcessPlan
    cgroup: CgroupLimits
    wall_time: float | None
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Problems:
    """Collects what is wrong, so that the user sees all of it at once."""

    spec: Spec
    found: list[Diagnostic] = field(default_factory=list)

    def add(self, key: str, message: str, hint: str | None = None) -> None:
        self.found.append(self.spec.diagnose(key, message, hint))


def host_paths(spec: Spec) -> list[str]:
    """Return every path of the host that *spec* names, for :func:`sandbox.sources.inspect_all`."""
    paths = [layer.path for layer in spec.root.layers]
    return paths + [volume.source for volume in spec.volumes if volume.source is not None]


def make_plan(
    spec: Spec,
    facts: HostFacts,
    paths: Mapping[str, PathFact],
    *,
    environ: Mapping[str, str],
    state_directory: str,
    command: tuple[str, ...] | None = None,
) -> Plan:
    """Plan the sandbox that *spec* describes on the machine that *facts* describe.

    Args:
        spec: the environment file.
        facts: what this machine and account can do.
        paths: facts of :func:`host_paths`.
        environ: where ``inherit_env`` takes values from.
        state_directory: no layer may be inside it.
        command: replaces command and arguments of the file.

    Raises:
        SpecError: with every setting that cannot be had here, each at its place.
        HostError: the machine lacks what every sandbox needs.
    """
    _require_host(facts)
    problems = _Problems(spec)
    warnings: list[str] = []
    ids = _plan_ids(spec, facts, problems, warnings)
    layers = _plan_layers(spec, paths, state_directory, problems)
    volumes = _plan_volumes(spec, paths, problems)
    private = _private_namespaces(spec)
    cgroup = _plan_cgroup(spec, facts, problems, warnings)
    limits = _plan_rlimits(spec, facts.hard_limits, problems, warnings)
    process = _plan_process(spec, facts, ids, environ, command, limits, problems)
    if problems.found:
        problems.found.sort(key=Diagnostic.sort_key)
        raise SpecError(problems.found)
    name = spec.sandbox.name or default_name(spec.file)
    return Plan(
        name=name,
        file=spec.file,
        ids=ids,
        layers=layers,
        writable=spec.root.writable,
        size=spec.root.size,
        inodes=spec.root.inodes,
        skeleton=_plan_skeleton(volumes, paths),
        namespaces=private,
        operations=_plan_operations(spec, ids, private, volumes, name),
        process=process,
        cgroup=cgroup,
        wall_time=spec.limits.wall_time,
        warnings=tuple(warnings),
    )


def default_name(file: str) -> str:
    """Name a sandbox after its file: the stem, and enough of a digest of the whole path that two ``dev.toml``
    do not meet.
    """
    stem = (
        re.sub(r"[^a-z0-9_.-]+", "-", os.path.splitext(os.path.basename(file))[0].lower()).strip("-.")
        or "sandbox"
    )
    return f"{stem[:40]}-{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"


def _require_host(facts: HostFacts) -> None:
    if facts.fuse == "missing":
        raise HostError(
            "/dev/fuse is missing: the root file system is served through it",
            hint="as root: modprobe fuse; in a container: start it with --device /dev/fuse",
        )
    if facts.fuse != "ok":
        raise HostError(
            "/dev/fuse cannot be opened by this account",
            hint="as root: chmod 666 /dev/fuse (udev has it so); in a container: --device /dev/fuse",
        )


def _plan_ids(spec: Spec, facts: HostFacts, problems: _Problems, warnings: list[str]) -> IdPlan:
    whole = facts.whole_maps() if spec.ids.map == "auto" else None
    if whole is not None:
        return IdPlan(uid_map=whole[0], gid_map=whole[1], helpers=facts.map_helpers, single=False)
    if spec.ids.map == "auto":
        reason = facts.id_map_problem
        if spec.is_set("ids.map"):
            warnings.append(f'ids.map = "auto" maps a single id here: {reason}')
        if spec.process.user.user not in (0, "root"):
            problems.add("process.user", f"only user 0 exists here: {reason}", _SUBID_HINT)
        if spec.process.groups:
            problems.add("process.groups", f"only group 0 exists here: {reason}", _SUBID_HINT)
    return IdPlan(uid_map=single_map(facts.uid), gid_map=single_map(facts.gid), helpers=None, single=True)


_SUBID_HINT = (
    "install uidmap and, as root, give yourself subordinate ids: "
    "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"
)


def _plan_layers(
    spec: Spec, paths: Mapping[str, PathFact], state_directory: str, problems: _Problems
) -> tuple[LayerPlan, ...]:
    planned = []
    for number, layer in enumerate(spec.root.layers):
        key = f"root.layers[{number}]"
        fact = paths[layer.path]
        wanted = "directory" if layer.kind == "dir" else "file"
        if fact.kind == "missing":
            problems.add(key, f"{layer.path}: {fact.reason}", _layer_hint(layer.path))
        elif fact.kind == "refused":
            problems.add(
                key,
                f"{layer.path}: {fact.reason}",
                "a layer must be readable by the user who starts the sandbox",
            )
        elif fact.kind != wanted:
            other = "tar" if fact.kind == "file" else "dir"
            problems.add(
                key, f"{layer.path} is a {fact.kind}, not a {wanted}", f'write "{other}:{layer.path}"'
            )
        elif _inside(fact.real, state_directory):
            problems.add(
                key,
                f"{layer.path} is in the sandboxes' own state directory",
                "copy it elsewhere and name the copy",
            )
        mode = fact.mode if layer.kind == "dir" else 0o755
        planned.append(LayerPlan(kind=layer.kind, path=fact.real, cross=layer.cross, mode=mode))
    return tuple(planned)


def _layer_hint(path: str) -> str:
    if os.path.basename(path).startswith("debian"):
        return f"make one: scripts/mkrootfs {path}"
    return "name an existing directory or archive; relative paths start at the file's directory"


def _inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _plan_volumes(
    spec: Spec, paths: Mapping[str, PathFact], problems: _Problems
) -> tuple[BindVolume | TmpfsVolume, ...]:
    planned: list[BindVolume | TmpfsVolume] = []
    for number, volume in enumerate(spec.volumes):
        if volume.source is not None:
            fact = paths[volume.source]
            if fact.kind in ("missing", "refused"):
                hint = "make it first, or name an existing file or directory"
                problems.add(f"volumes[{number}].source", f"{volume.source}: {fact.reason}", hint)
        planned.append(_plan_volume(volume, paths))
    # A volume on a path of another one is mounted after it, whatever their order in the file.
    planned.sort(key=lambda volume: volume.target.split("/"))
    return tuple(_created_in_tmpfs(volume, planned) for volume in planned)


def _plan_volume(volume: Volume, paths: Mapping[str, PathFact]) -> BindVolume | TmpfsVolume:
    options = set(volume.options)
    if volume.type == "tmpfs":
        return TmpfsVolume(
            target=volume.target,
            size=volume.size,
            mode=0o1777 if volume.mode is None else volume.mode,
            read_only=volume.read_only,
            noexec="noexec" in options,
        )
    assert volume.source is not None
    return BindVolume(
        source=paths[volume.source].real,
        target=volume.target,
        read_only=volume.read_only,
        noexec="noexec" in options,
    )


def _created_in_tmpfs(
    volume: BindVolume | TmpfsVolume, all_volumes: list[BindVolume | TmpfsVolume]
) -> BindVolume | TmpfsVolume:
    around = [other for other in all_volumes if other is not volume and _inside(volume.target, other.target)]
    if not around or not isinstance(around[-1], TmpfsVolume):
        return volume
    return replace(volume, create=True)


def _plan_skeleton(
    volumes: tuple[BindVolume | TmpfsVolume, ...], paths: Mapping[str, PathFact]
) -> tuple[MountPoint, ...]:
    points = [MountPoint(path=path) for path in STANDARD_DIRECTORIES]
    files = {fact.real for fact in paths.values() if fact.kind == "file"}
    for volume in volumes:
        is_directory = isinstance(volume, TmpfsVolume) or volume.source not in files
        points.append(MountPoint(path=volume.target, is_directory=is_directory))
    return tuple(points)


def _private_namespaces(spec: Spec) -> frozenset[str]:
    names = ("net", "ipc", "uts", "cgroup")
    return _ALWAYS | {name for name in names if getattr(spec.namespaces, name) == "private"}


def _plan_operations(
    spec: Spec, ids: IdPlan, private: frozenset[str], volumes: tuple[BindVolume | TmpfsVolume, ...], name: str
) -> tuple[Operation, ...]:
    read_only = spec.root.writable == "none"
    tty_gid = _TTY_GID if lookup(ids.gid_map, _TTY_GID) is not None else None
    operations: list[Operation] = [
        MountRoot(read_only=read_only, nosuid=spec.security.no_new_privileges),
        # While the host's are still attached: the kernel wants a fully visible one to compare with.
        MountProc(),
        MountSys(of_host="net" not in private),
        BuildDev(tty_gid=tty_gid, mqueue="ipc" in private),
        *volumes,
        ReadOnlyPaths(paths=READONLY_PATHS),
        MaskPaths(paths=MASKED_PATHS),
        PivotRoot(),
    ]
    if "uts" in private:
        operations.append(SetHostname(name=spec.sandbox.hostname or _hostname(name)))
    if "net" in private:
        operations.append(LoopbackUp())
    return tuple(operations)


def _hostname(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name)[:63].strip("-") or "sandbox"


def _plan_cgroup(spec: Spec, facts: HostFacts, problems: _Problems, warnings: list[str]) -> CgroupLimits:
    wanted = {name: getattr(spec.limits, name) for name in _CGROUP_LIMITS}
    allowed: dict[str, list[str]] = {}
    for name, reason in facts.cgroups.unenforceable(CgroupLimits(**wanted)).items():
        if name in spec.limits.optional:
            allowed.setdefault(reason, []).append(f"limits.{name}")
            wanted[name] = None
        else:
            hint = f'remove it, or allow the sandbox to run without it: optional = ["{name}"]'
            problems.add(f"limits.{name}", f"cannot be enforced here: {reason}", hint)
    warnings += [f"not enforced: {', '.join(names)}: {reason}" for reason, names in allowed.items()]
    return CgroupLimits(**wanted)


def _plan_rlimits(
    spec: Spec, hard_limits: Mapping[str, int], problems: _Problems, warnings: list[str]
) -> Mapping[str, int | str]:
    wanted: dict[str, int | str] = {}
    for name in _RLIMITS:
        value = getattr(spec.limits, name)
        if value is None:
            continue
        try:
            rlimits.check({name: value}, hard_limits)
            wanted[name] = value
        except ValueError as error:
            if name in spec.limits.optional:
                warnings.append(f"limits.{error}")
            else:
                problems.add(f"limits.{name}", str(error).removeprefix(f"{name}: "))
    return wanted


def _plan_process(
    spec: Spec,
    facts: HostFacts,
    ids: IdPlan,
    environ: Mapping[str, str],
    command: tuple[str, ...] | None,
    limits: Mapping[str, int | str],
    problems: _Problems,
) -> ProcessPlan:
    process = spec.process
    terminal = facts.terminal if process.terminal == "auto" else bool(process.terminal)
    env = {"PATH": DEFAULT_PATH, "container": "sandbox"}
    if terminal:
        env["TERM"] = environ.get("TERM", "xterm")
    env.update({name: environ[name] for name in process.inherit_env if name in environ})
    env.update(process.env)
    security = spec.security
    try:
        allowed = capabilities.effective_set(
            capabilities.DEFAULT, security.capabilities.drop, security.capabilities.add
        )
        added = capabilities.effective_set(frozenset(), (), security.capabilities.add)
    except ValueError as error:
        problems.add("security.capabilities", str(error))
        allowed = added = frozenset()
    for number, group in enumerate(process.groups):
        if not ids.single and lookup(ids.gid_map, group) is None:
            problems.add(
                f"process.groups[{number}]",
                f"group {group} does not exist in the sandbox",
                "use ids up to 65535",
            )
    if (
        isinstance(process.user.user, int)
        and not ids.single
        and lookup(ids.uid_map, process.user.user) is None
    ):
        problems.add(
            "process.user", f"user {process.user.user} does not exist in the sandbox", "use ids up to 65535"
        )
    argv = command or (process.command or DEFAULT_COMMAND) + process.args
    return ProcessPlan(
        argv=argv,
        cwd=process.cwd,
        env=env,
        user=process.user,
        groups=process.groups,
        umask=process.umask,
        terminal=terminal,
        stop_signal=process.stop_signal,
        stop_timeout=process.stop_timeout,
        capabilities=allowed,
        added_capabilities=added,
        no_new_privileges=security.no_new_privileges,
        rlimits=limits,
        oom_score_adj=spec.limits.oom_score_adj,
    )


def describe(plan: Plan) -> list[str]:
    """Return the plan as lines, in the order in which it will be carried out."""
    ids = plan.ids
    lines = [f"sandbox {plan.name}"]
    lines += [f"layer {layer.kind}:{layer.path}" for layer in plan.layers]
    bounds = [
        f"{count} {unit}"
        for count, unit in ((plan.size, "bytes"), (plan.inodes, "objects"))
        if count is not None
    ]
    lines.append(f"writable layer: {plan.writable}" + (f", at most {' and '.join(bounds)}" if bounds else ""))
    lines.append(
        "uid map " + ", ".join(map(str, ids.uid_map)) + "; gid map " + ", ".join(map(str, ids.gid_map))
    )
    lines.append("new namespaces: " + " ".join(sorted(plan.namespaces)))
    lines += [operation.describe() for operation in plan.operations]
    lines += [f"limit {name} {getattr(plan.cgroup, name)} (cgroup)" for name in plan.cgroup.given()]
    lines += [f"limit {name} {value} (rlimit)" for name, value in plan.process.rlimits.items()]
    lines.append("capabilities " + (" ".join(sorted(plan.process.capabilities)) or "none"))
    lines.append("exec " + " ".join(plan.process.argv))
    return lines

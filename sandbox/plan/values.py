"""Define the plan and its parts: frozen values that can be printed and compared, and that the runtime executes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping

from sandbox.host.facts import CgroupLevel
from sandbox.host.private_directories import PrivateDirectory
from sandbox.kernel.cgroups import CgroupLimits
from sandbox.kernel.idmaps import IdMap, lookup
from sandbox.kernel.landlock import Rules
from sandbox.kernel.namespaces import Identity
from sandbox.plan.image_values import ImageLayer
from sandbox.plan.network_values import NetworkPlan
from sandbox.plan.operations import BindRoot, Operation
from sandbox.seccomp.values import Filter
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.notation import quote, visible
from sandbox.spec.values import User
from unionfs._stdlib.dataclasses import dataclass, field, fields, replace
from unionfs._stdlib.hashlib import sha256
from unionfs._stdlib.typing import Any

CGROUP_LEVELS: Mapping[CgroupLevel, str] = {
    "delegated": "cgroup version 2, delegated",
    "scope": "cgroup version 2, in a transient scope of systemd",
    "v1": "cgroup version 1",
    "none": "no cgroup",
}
"""The mechanism that limits all processes together, in words for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """A setting that this machine fulfills otherwise than the file asks, or not at all, and the reason.

    *asked* is the setting as TOML. *value* is a limit as the plan would have it. *effective* completes
    "`ids.map = "auto"` ... here"; None means that the setting is not enforced.
    """

    key: str
    asked: str
    effective: str | None
    reason: str
    #: Whether `up` prints a warning: not if only a default asked for it, or the file asked for it only if present.
    warned: bool = True
    value: object = field(default=None, repr=False)


def warnings_of(differences: Iterable[Degradation]) -> tuple[str, ...]:
    """Return the warnings that `up` prints; settings that are not enforced for the same reason share one warning."""
    lines = []
    unenforced: dict[str, list[str]] = {}
    for difference in differences:
        if not difference.warned:
            continue
        if difference.effective is None:
            unenforced.setdefault(difference.reason, []).append(difference.key)
        else:
            line = f"{difference.key} = {difference.asked} {difference.effective} here: {difference.reason}"
            lines.append(line)
    lines += [f"not enforced: {', '.join(keys)}: {reason}" for reason, keys in unenforced.items()]
    return tuple(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdPlan:
    """The uid and gid maps of the sandbox, and the helper programs that write them if the launcher may not."""

    uid_map: tuple[IdMap, ...]
    gid_map: tuple[IdMap, ...]
    helpers: tuple[str, str] | None
    #: Only id 0 exists.
    single: bool
    #: Whether setgroups(2) works. It is denied if an ordinary user maps only its own group; the program then keeps its groups.
    setgroups: bool = True

    @property
    def root(self) -> tuple[int, int]:
        """The ids of user and group 0 of the sandbox outside it."""
        uid, gid = lookup(self.uid_map, 0), lookup(self.gid_map, 0)
        assert uid is not None
        assert gid is not None
        return uid, gid


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A namespace to join: its kind, the setting of the file, its path, and its identity when it was inspected."""

    kind: str
    asked: str
    path: str
    identity: Identity
    #: The user namespace that owns it; of a user namespace, itself. None if that is not below the launcher's.
    owner: Identity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One layer, bottom first in the plan: a directory to serve, or an archive or a layer of an image, which is unpacked first."""

    #: "dir", "tar" or "image".
    kind: str
    #: The real path of the directory or archive; of an image, its name and the digest of its manifest.
    path: str
    cross: tuple[str, ...] = ()
    #: Device and inode of the object at the path.
    identity: tuple[int, int] | None = None
    #: Permission bits of the root directory if this layer is the topmost.
    mode: int = 0o755
    #: Whether the layer does not change while it is used: it is unpacked into the layer store, or the file declares it so.
    immutable: bool = False
    #: Which layer of the image it is; None for another kind.
    image: ImageLayer | None = None
    #: Whether the archive or the layer of an image is mounted instead of unpacked.
    mount: bool = False
    #: The image of a registry, "docker://HOST/NAME", from which the layer is fetched while it is read; "" if it is complete.
    lazy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """The record of the file and the lower layers that a persistent layer was made for.

    *file* is the environment file, "<stdin>" for standard input. *layers* are the layers of the file, bottom first: kind, real
    path (of an image: its name and the digest of its manifest) and, of an archive, size and modification time. *layers* is None if the persistent layer was made by a version that did not
    record them. *digests* are pairs of the real path of an archive and the SHA-256 of its content in hexadecimal digits, as
    far as it is known.
    """

    file: str | None
    layers: tuple[tuple[str, str, tuple[int, int] | None], ...] | None
    digests: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, state: object) -> LayerRecord:
        """Return the record in *state*, the parsed content of a state.json.

        Raises:
            ValueError: *state* has another form.
        """
        try:
            known: Any = {**state}  # type: ignore[dict-item]
            file, layers = known.get("file"), known.get("layers")
            found = [(str(layer["kind"]), str(layer["path"]), layer["version"]) for layer in layers or ()]
            versions = [
                None if version is None else (int(version[0]), int(version[1])) for *_, version in found
            ]
            digests = {str(path): str(digest) for path, digest in (known.get("digests") or {}).items()}
        except (TypeError, KeyError, IndexError, ValueError, AttributeError):
            raise ValueError("no record of a layer") from None
        made = tuple((kind, path, version) for (kind, path, _), version in zip(found, versions, strict=True))
        return cls(
            file=None if file is None else str(file),
            layers=None if layers is None else made,
            digests=tuple(digests.items()),
        )

    def as_json(self) -> dict[str, object]:
        """Return the record in the form that :meth:`read` takes."""
        layers = None
        if self.layers is not None:
            layers = [
                {"kind": kind, "path": path, "version": None if version is None else list(version)}
                for kind, path, version in self.layers
            ]
        return {"file": self.file, "layers": layers, "digests": dict(self.digests)}

    def with_digests(self, digests: Mapping[str, str]) -> LayerRecord:
        """Return the record with the non-empty ones of *digests*, which are given by path."""
        return replace(self, digests=tuple(item for item in digests.items() if item[1]))

    def has_layers_of(self, other: LayerRecord, unchanged: Collection[str] = ()) -> bool:
        """Tell whether both records have the same layers; the versions of the archives *unchanged* are not compared."""

        def compared(record: LayerRecord) -> list[object]:
            return [
                (kind, path, None if path in unchanged else version)
                for kind, path, version in record.layers or ()
            ]

        return (self.layers is None) == (other.layers is None) and compared(self) == compared(other)

    def shown(self) -> str:
        """Return the layers in the notation of the environment file."""
        return (
            ", ".join(f"{kind}:{path}" for kind, path, _ in self.layers or ())
            or "layers that are not recorded"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPoint:
    """A mount point that must exist in the root; a generated layer below all others provides it."""

    path: str
    is_directory: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SeccompPlan:
    """The seccomp filter of the program."""

    #: "default", or the path of a JSON profile.
    profile: str
    filter: Filter
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    #: Whether calls that the filter would deny are allowed and logged.
    log: bool = False

    def describe(self) -> str:
        """Return the filter as one line."""
        changes = [
            f"{word} {' '.join(names)}"
            for word, names in (("allow", self.allow), ("deny", self.deny))
            if names
        ]
        changes += ["log only"] if self.log else []
        return ", ".join([f"seccomp profile {self.profile}", *changes])


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedVolume:
    """A volume that is kept under a name in the state directory, and the mode with which its directory is created."""

    name: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """The command of the program, and the attributes of its process."""

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    user: User
    #: Supplementary groups: numbers, or names in the sandbox's /etc/group; None for the groups in which that lists the user.
    groups: tuple[int | str, ...] | None
    umask: int
    terminal: bool
    stop_signal: str
    stop_timeout: float
    capabilities: frozenset[str]
    #: The capabilities that the file adds by name; a user other than root gets only these.
    added_capabilities: frozenset[str]
    no_new_privileges: bool
    rlimits: Mapping[str, int | str]
    oom_score_adj: int | None
    #: Whether standard input is /dev/null, because a program in the background would read input meant for the user's shell.
    empty_input: bool = False
    #: The seccomp filter; None for no filter.
    seccomp: SeccompPlan | None = None
    landlock: Rules | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole sandbox, planned: :func:`sandbox.plan.make.draft` creates it, and the runtime executes it."""

    name: str
    file: str
    ids: IdPlan
    layers: tuple[LayerPlan, ...]
    writable: str
    #: The record to write for a persistent layer, and the record that the layer had when the plan was made.
    record: LayerRecord = LayerRecord(file=None, layers=None)
    record_before: LayerRecord | None = None
    #: The server: "auto", "direct", "pyfuse3" or "none". With "auto" no server runs if the root can be bound.
    server: str = "auto"
    #: Whether the kernel sends FUSE_OPEN requests to the server, which are unnecessary if no layer changes.
    open_requests: bool = True
    #: The most bytes and objects in the writable layer; None for no limit.
    size: int | None
    inodes: int | None
    skeleton: tuple[MountPoint, ...]
    #: The kinds of the sandbox's own namespaces. Those neither listed here nor joined are the host's.
    namespaces: frozenset[str]
    joins: tuple[Join, ...] = ()
    #: The kind of the one of *joins* whose user namespace is entered first; None if there is none.
    through: str | None = None
    #: The maps of the sandbox's own user namespace relative to that one; a process within that one has to write them.
    inner_maps: tuple[tuple[IdMap, ...], tuple[IdMap, ...]] | None = None
    clocks: tuple[tuple[str, int], ...] = ()
    #: The private network; None for another network.
    network: NetworkPlan | None = None
    operations: tuple[Operation, ...]
    #: Named volumes whose directories some of the operations need.
    volumes: tuple[NamedVolume, ...]
    #: The directories that appear empty in every layer.
    private: tuple[PrivateDirectory, ...]
    process: ProcessPlan
    cgroup: CgroupLimits
    #: The limits of the file system server, which works for the program but needs a minimum of its own.
    server_cgroup: CgroupLimits
    #: The kind of cgroup that is available; a cgroup is created only for limits, or to report resource usage.
    cgroup_level: CgroupLevel
    wall_time: float | None
    differences: tuple[Degradation, ...] = ()
    #: Warnings with their places, printed before all others.
    cautions: tuple[Diagnostic, ...] = ()
    #: "FILE:LINE:COLUMN" of settings whose mistakes show only in the running sandbox, by key.
    places: Mapping[str, str]

    @property
    def bound(self) -> BindRoot | None:
        """The direct bind of the root; None if the root is certainly served."""
        root = self.operations[0]
        return root if isinstance(root, BindRoot) else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings to print before the sandbox is started."""
        return warnings_of(self.differences)


def default_name(file: str) -> str:
    """Return the default name of a sandbox: the stem of its file, and a part of the digest of the whole path.

    The digest distinguishes two files of the same name, such as ``dev.toml``.
    """
    stem = (
        re.sub(r"[^a-z0-9_.-]+", "-", os.path.splitext(os.path.basename(file))[0].lower()).strip("-.")
        or "sandbox"
    )
    return f"{stem[:40]}-{sha256(os.fsencode(file)).hexdigest()[:8]}"


def describe(plan: Plan) -> list[str]:
    """Return the plan as lines, in the order of execution.

    Only the names of environment variables are included. Characters that a terminal would not show are escaped as in TOML.
    """
    ids, process = plan.ids, plan.process
    lines = [f"sandbox {plan.name}"]
    lines += [
        f"layer {layer.kind}:{layer.path}"
        + (f" {layer.image.diff_id}" if layer.image is not None else "")
        + (", fetched while it is read" if layer.lazy else ", mounted" if layer.mount else "")
        for layer in plan.layers
    ]
    bounds = [
        f"{count} {unit}"
        for count, unit in ((plan.size, "bytes"), (plan.inodes, "objects"))
        if count is not None
    ]
    lines.append(f"writable layer: {plan.writable}" + (f", at most {' and '.join(bounds)}" if bounds else ""))
    bound = plan.bound is not None
    requests = "" if plan.open_requests else ", no FUSE_OPEN requests: no layer changes"
    lines.append(f"server: {plan.server}{'' if bound else requests}")
    lines.append(
        "uid map " + ", ".join(map(str, ids.uid_map)) + "; gid map " + ", ".join(map(str, ids.gid_map))
    )
    lines.append("new namespaces: " + " ".join(sorted(plan.namespaces)))
    lines += [f"join the {join.kind} namespace {join.asked}" for join in plan.joins]
    if shared := _shared(plan):
        lines.append("namespaces of the host: " + " ".join(shared))
    lines += [] if plan.network is None else plan.network.describe()
    lines += [f"clock {name} {value / 10**9:+g} seconds" for name, value in plan.clocks]
    lines += [
        f"volume {volume.name}, created with mode {volume.mode:04o} if missing" for volume in plan.volumes
    ]
    lines += [operation.describe() for operation in plan.operations]
    server = " of the server, if there is one," if bound else " of the server"
    for limits, whose in ((plan.cgroup, ""), (plan.server_cgroup, server)):
        lines += [
            f"limit{whose} {name} {_limit(getattr(limits, name))} ({CGROUP_LEVELS[plan.cgroup_level]})"
            for name in limits.given()
        ]
    if plan.wall_time is not None:
        lines.append(f"limit wall_time {plan.wall_time:g} seconds (timer of the supervisor)")
    lines += [f"limit {name} {value} (rlimit)" for name, value in process.rlimits.items()]
    if process.oom_score_adj is not None:
        lines.append(f"oom_score_adj {process.oom_score_adj}")
    lines.append("environment " + " ".join(process.env))
    group = "" if process.user.group is None else f":{process.user.group}"
    groups = f" with groups {' '.join(map(str, process.groups))}" if process.groups else ""
    groups = " with the groups that /etc/group lists" if process.groups is None else groups
    lines.append(f"user {process.user.user}{group}{groups}, umask {process.umask:04o}, in {process.cwd}")
    lines.append("capabilities " + (" ".join(sorted(process.capabilities)) or "none"))
    lines.append("no_new_privileges " + ("on" if process.no_new_privileges else "off"))
    if process.landlock is not None:
        lines += _describe_landlock(process.landlock)
    lines.append("no seccomp filter" if process.seccomp is None else process.seccomp.describe())
    lines.append("terminal of its own" if process.terminal else "no terminal of its own")
    if process.empty_input:
        lines.append("standard input /dev/null")
    lines.append("exec " + " ".join(map(_word, process.argv)))
    return ["".join(map(visible, line)) for line in lines]


def _describe_landlock(rules: Rules) -> list[str]:
    lines = [
        f"landlock {kind} {' '.join(map(str, getattr(rules, kind))) or 'nothing'}" for kind in rules.kinds()
    ]
    return lines + (
        ["landlock scoped: no signals and no connections to abstract sockets outside"] if rules.scoped else []
    )


def _shared(plan: Plan) -> list[str]:
    """Return the kinds of namespaces that are the host's, without "time", for which that is the default."""
    joined = {join.kind for join in plan.joins}
    return [kind for kind in ("pid", "net", "ipc", "uts", "cgroup") if kind not in plan.namespaces | joined]


def _limit(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _word(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", word) else quote(word)


def as_dict(plan: Plan) -> dict[str, object]:
    """Return the plan for JSON: every field by its name, but for display only, without values of variables or file content.

    An operation is an object with its fields, "operation" (the name of its class) and "description".
    """
    process, ids = plan.process, plan.ids
    return {
        "name": plan.name,
        "file": plan.file,
        "ids": {
            "uid_map": [_fields(entry) for entry in ids.uid_map],
            "gid_map": [_fields(entry) for entry in ids.gid_map],
            "helpers": None if ids.helpers is None else list(ids.helpers),
            "single": ids.single,
            "setgroups": ids.setgroups,
        },
        "layers": [_fields(layer) for layer in plan.layers],
        "writable": plan.writable,
        "server": plan.server,
        "open_requests": plan.open_requests,
        "size": plan.size,
        "inodes": plan.inodes,
        "namespaces": sorted(plan.namespaces),
        "joins": [_fields(join) for join in plan.joins],
        "clocks": dict(plan.clocks),
        "operations": [
            {"operation": type(step).__name__, "description": step.describe()} | _fields(step)
            for step in plan.operations
        ],
        "volumes": [_fields(volume) for volume in plan.volumes],
        "private": [_fields(directory) for directory in plan.private],
        "process": _fields(process)
        | {
            "env": list(process.env),
            "user": {"user": process.user.user, "group": process.user.group},
            "capabilities": sorted(process.capabilities),
            "added_capabilities": sorted(process.added_capabilities),
            "rlimits": dict(process.rlimits),
            "seccomp": _seccomp_as_dict(process.seccomp),
            "landlock": None if process.landlock is None else _fields(process.landlock),
        },
        "cgroup": _limits(plan.cgroup),
        "server_cgroup": _limits(plan.server_cgroup),
        "cgroup_level": plan.cgroup_level,
        "wall_time": plan.wall_time,
        "differences": [_fields(difference) for difference in plan.differences],
    }


def _seccomp_as_dict(plan: SeccompPlan | None) -> dict[str, object] | None:
    """Return the settings and the digest of the filter; its rules for each system call would take a thousand lines."""
    return None if plan is None else _fields(plan) | {"filter": plan.filter.digest()}


def _limits(limits: CgroupLimits) -> dict[str, object]:
    found = {name: getattr(limits, name) for name in limits.given()}
    return found | {"io": [_fields(rates) for rates in limits.io]} if limits.io else found


def _fields(value: Any) -> dict[str, object]:
    """Return the fields of a dataclass, tuples as lists. Fields that its repr() leaves out may be secret and are omitted."""
    found = {item.name: getattr(value, item.name) for item in fields(value) if item.repr}
    return {name: list(item) if isinstance(item, tuple) else item for name, item in found.items()}

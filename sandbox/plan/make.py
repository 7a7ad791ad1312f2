"""Make the whole plan from a spec and the facts of this machine."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.errors import HostError, SpecError
from sandbox.host.facts import HostFacts
from sandbox.host.network_facts import NOT_EXAMINED, NetworkFacts
from sandbox.host.paths import PathFact
from sandbox.host.private_directories import PrivateFacts
from sandbox.kernel.cgroups import CgroupLimits
from sandbox.kernel.namespaces import NamespaceFact
from sandbox.plan.direct_bind import plan_direct_binds
from sandbox.plan.exposure import exposures, refuse_redirectable_paths, watched_paths
from sandbox.plan.filters import plan_landlock, plan_seccomp, seccomp_profile
from sandbox.plan.findings import Findings
from sandbox.plan.ids import inner_maps, plan_ids, program_groups, program_user
from sandbox.plan.image_values import NO_IMAGES, StoredImage
from sandbox.plan.limits import plan_cgroup, plan_process_limits, plan_server_cgroup
from sandbox.plan.mount_order import plan_operations
from sandbox.plan.namespaces import KINDS, plan_namespaces
from sandbox.plan.network import plan_network, resolver_configuration
from sandbox.plan.operations import BindRoot
from sandbox.plan.persistent_state import (
    NO_PERSISTENT_STATE,
    PersistentState,
    check_persistent_layer,
    make_record,
    orphan_warnings,
)
from sandbox.plan.process import plan_process
from sandbox.plan.root import plan_root
from sandbox.plan.storage import PATH_KINDS, needs_open_requests, plan_layers, plan_skeleton
from sandbox.plan.values import Plan, default_name
from sandbox.plan.volumes import (
    plan_devices,
    plan_named_volumes,
    plan_volumes,
    with_hidden,
    with_root_capabilities,
)
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.model import Spec
from unionfs._stdlib.dataclasses import dataclass, replace

#: Settings whose mistakes may show only in the running sandbox; the plan records their places in the file for its messages.
_CHECKED_AT_RUN_TIME = (
    "root.server",
    "process.user",
    "process.groups",
    "process.cwd",
    "limits.oom_score_adj",
    *(f"namespaces.{kind}" for kind in KINDS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A plan as far as it can be made, and what prevents it. A plan with a refusal or host error must not be executed."""

    #: The plan without the refused settings.
    plan: Plan
    #: The settings that are refused on this machine, in the order of the file.
    refusals: tuple[Diagnostic, ...]
    #: What every sandbox needs and this machine lacks; None if it lacks nothing.
    host: HostError | None

    def accepted(self) -> Plan:
        """Return the plan if it can be executed.

        Raises:
            SpecError: with every refused setting, each at its place in the file.
            HostError: the machine lacks what every sandbox needs.
        """
        if self.refusals:
            raise SpecError(self.diagnostics())
        if self.host is not None:
            raise self.host
        return self.plan

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Return all that prevents the plan: what the machine lacks, then the refusals in the order of the file."""
        if self.host is None:
            return self.refusals
        return (
            Diagnostic(file=self.plan.file, message=self.host.message, hint=self.host.hint),
            *self.refusals,
        )


def host_paths(spec: Spec, facts: HostFacts | None = None) -> list[str]:
    """Return every path of the host that *spec* names, for :func:`sandbox.host.paths.inspect_all`.

    If the program may write to a bind volume, these include the files that *spec* was read from, and the launcher's own, which
    *facts* names.
    """
    layers = [layer.path for layer in spec.root.layers if layer.kind in PATH_KINDS]
    sources = [
        volume.source for volume in spec.volumes if volume.type == "bind" and volume.source is not None
    ]
    found = layers + sources + [device.path for device in spec.devices] + host_files(spec)
    return found + _watched(spec, facts)[0]


def _watched(spec: Spec, facts: HostFacts | None) -> tuple[list[str], list[str]]:
    trees, others = ((), ()) if facts is None else (facts.launcher_trees, facts.launcher_paths)
    return watched_paths(spec, trees=trees, others=others)


def host_files(spec: Spec) -> list[str]:
    """Return those of :func:`host_paths` whose content the plan needs."""
    return [path for path in (spec.process.env_file, seccomp_profile(spec)) if path is not None]


def host_details(spec: Spec, facts: HostFacts | None = None) -> Mapping[str, list[str]]:
    """Return, as arguments of `inspect_all`, the host paths about which the plan needs further facts.

    These are devices, bind sources, sources with mount propagation, paths whose disk is limited, archives, directories that
    become the root, and sources whose mounts below have to be known.
    """
    slaves = [volume.source for volume in spec.volumes if volume.propagation == "slave"]
    binds = [volume.source for volume in spec.volumes if volume.type == "bind"]
    devices = [device.path for device in spec.devices]
    return {
        "devices": devices,
        "bound": [*devices, *(source for source in binds if source is not None)],
        "mounts": [source for source in slaves if source is not None],
        "disks": [limit.path for limit in spec.limits.io],
        "archives": [layer.path for layer in spec.root.layers if layer.kind == "tar"],
        "roots": [layer.path for layer in spec.root.layers if layer.kind == "dir"],
        "shown": _watched(spec, facts)[1],
    }


def make_plan(
    spec: Spec,
    facts: HostFacts,
    paths: Mapping[str, PathFact],
    *,
    environ: Mapping[str, str],
    state_directory: str,
    private: PrivateFacts,
    joined: Mapping[str, NamespaceFact] | None = None,
    command: tuple[str, ...] | None = None,
    persistent: PersistentState = NO_PERSISTENT_STATE,
    images: Mapping[int, StoredImage] = NO_IMAGES,
    network: NetworkFacts = NOT_EXAMINED,
    accept_layers: bool = False,
) -> Plan:
    """Plan the sandbox that *spec* describes on the machine that *facts* describe; see :func:`draft`.

    Raises:
        SpecError: with every refused setting, each at its place in the file.
        HostError: the machine lacks what every sandbox needs.
    """
    made = draft(
        spec,
        facts,
        paths,
        environ=environ,
        state_directory=state_directory,
        private=private,
        joined=joined,
        command=command,
        persistent=persistent,
        images=images,
        network=network,
        accept_layers=accept_layers,
    )
    return made.accepted()


def draft(
    spec: Spec,
    facts: HostFacts,
    paths: Mapping[str, PathFact],
    *,
    environ: Mapping[str, str],
    state_directory: str,
    private: PrivateFacts,
    joined: Mapping[str, NamespaceFact] | None = None,
    command: tuple[str, ...] | None = None,
    persistent: PersistentState = NO_PERSISTENT_STATE,
    images: Mapping[int, StoredImage] = NO_IMAGES,
    network: NetworkFacts = NOT_EXAMINED,
    accept_layers: bool = False,
) -> Draft:
    """Plan the sandbox that *spec* describes on the machine that *facts* describe, and record refusals instead of raising them.

    Args:
        spec: the environment file; settings that this version does not enforce are refused, too.
        facts: what this machine and account can do.
        paths: facts of :func:`host_paths`.
        environ: the variables from which ``inherit_env`` takes values.
        state_directory: the directory of named volumes; empty if there is none.
        private: the directories that no program may reach.
        joined: facts of :func:`sandbox.state.joined_namespaces.inspect`, if *spec* joins a namespace.
        command: replaces command and arguments of the file.
        persistent: facts of :func:`sandbox.state.layer_records.look`.
        images: the images in the store, by the number of their layer in the file.
        network: facts of :func:`sandbox.host.network_facts.look`, if *spec* has a network.
        accept_layers: accept a persistent layer that was made over other layers.
    """
    findings = Findings.of(spec)
    found = paths
    paths = refuse_redirectable_paths(spec, paths, joined or {}, findings)
    namespaces = plan_namespaces(spec, facts, joined or {}, findings)
    own_user = "user" in namespaces.private
    ids = plan_ids(spec, facts, findings, namespaces.user, joined=not own_user)
    paths = with_root_capabilities(paths, ids)
    layers = plan_layers(spec, paths, images, private, findings)
    record = make_record(spec, layers, found)
    check_persistent_layer(spec, persistent, record, findings, accept_layers=accept_layers)
    volumes = plan_volumes(spec, paths, state_directory, private, findings)
    devices = plan_devices(spec, paths, findings)
    cgroup, level = plan_cgroup(spec, facts, paths, findings)
    limits = plan_process_limits(spec, facts, findings)
    user = program_user(spec, facts, ids)
    groups = program_groups(spec, user, ids)
    process = plan_process(spec, facts, paths, environ, command, limits, findings, user=user, groups=groups)
    direct_binds = plan_direct_binds(spec, process.capabilities, findings, own_user=own_user)
    root = plan_root(spec, process.capabilities, namespaces.private, findings)
    bound = isinstance(root, BindRoot)
    unserved = isinstance(root, BindRoot) and root.otherwise == "refuse"
    process = replace(
        process,
        seccomp=plan_seccomp(spec, facts, paths, process.capabilities, findings),
        landlock=plan_landlock(spec, facts, findings),
    )
    name = spec.sandbox.name or default_name(spec.file)
    private_network = plan_network(spec, facts, network, findings, name)
    plan = Plan(
        name=name,
        file=spec.file,
        ids=ids,
        layers=layers,
        writable=spec.root.writable,
        record=record,
        record_before=None if persistent.own is None else persistent.own.record,
        # If "none" is impossible, it was refused above, or the file makes it optional and "auto" applies.
        server="auto" if spec.root.server == "none" and not bound else spec.root.server,
        open_requests=needs_open_requests(spec.root.server, layers),
        size=spec.root.size,
        inodes=spec.root.inodes,
        skeleton=plan_skeleton(spec, volumes, paths),
        namespaces=namespaces.private,
        joins=namespaces.joins,
        through=namespaces.through,
        inner_maps=inner_maps(ids, namespaces.user) if namespaces.user is not None and own_user else None,
        clocks=namespaces.clocks,
        network=private_network,
        operations=plan_operations(
            spec,
            ids,
            namespaces,
            root,
            direct_binds,
            devices,
            with_hidden(volumes, private, ids.uid_map if own_user else None),
            name,
            user,
            resolver_configuration(spec, network, private_network),
        ),
        volumes=plan_named_volumes(spec),
        private=private.directories,
        process=process,
        cgroup=cgroup,
        server_cgroup=CgroupLimits() if unserved else plan_server_cgroup(cgroup),
        cgroup_level=level,
        wall_time=spec.limits.wall_time,
        differences=tuple(findings.differences),
        cautions=(
            *exposures(spec, found, trees=facts.launcher_trees, others=facts.launcher_paths),
            *orphan_warnings(spec, persistent, record),
        ),
        places=_places(spec),
    )
    refusals = sorted(findings.refusals, key=Diagnostic.sort_key)
    # Whether a root that may be bound needs the server after all is known once its layer is unpacked.
    return Draft(plan=plan, refusals=tuple(refusals), host=None if bound else fuse_problem(facts))


def _places(spec: Spec) -> Mapping[str, str]:
    landlock = [
        f"security.landlock.{kind}[{number}]"
        for kind in ("read", "write", "execute")
        for number, _ in enumerate(getattr(spec.security.landlock, kind, None) or ())
    ]
    groups = [f"process.groups[{number}]" for number, _ in enumerate(spec.process.groups or ())]
    native = [f"root.native[{number}]" for number, _ in enumerate(spec.root.native)]
    found = {key: spec.origin(key) for key in (*_CHECKED_AT_RUN_TIME, *groups, *landlock, *native)}
    return {key: f"{place.file}:{place.line}:{place.column}" for key, place in found.items() if place}


def fuse_problem(facts: HostFacts) -> HostError | None:
    """Return the error why this machine cannot serve a root through FUSE; None if it can."""
    if facts.fuse == "missing":
        return HostError(
            "/dev/fuse is missing: the root file system is served through it",
            hint="as root: modprobe fuse; in a container: start it with --device /dev/fuse",
        )
    if facts.fuse != "ok":
        return HostError(
            "/dev/fuse cannot be opened by this account",
            hint="as root: chmod 666 /dev/fuse (udev has it so); in a container: --device /dev/fuse",
        )
    return None

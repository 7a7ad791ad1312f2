"""Make the sections about the layers of the root file system and about mounts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sandbox.explain.case import Case
from sandbox.explain.name_files import name_file
from sandbox.explain.report import DEFAULT, Fact
from sandbox.host.paths import PathFact
from sandbox.plan import LayerPlan, fuse_problem
from sandbox.plan.operations import (
    BindDevice,
    BindRoot,
    BindVolume,
    BuildDev,
    ChownVolumes,
    DirectBind,
    FileVolume,
    HideDirectory,
    MountProc,
    MountRoot,
    MountSys,
    Operation,
    ShowHosts,
    ShowResolver,
    TmpfsVolume,
    VolumeOperation,
)
from sandbox.plan.storage import inside
from sandbox.spec.units import format_size
from sandbox.spec.values import Layer
from sandbox.spec.values.layers import IMAGE_KINDS
from sandbox.spec.values.volumes import MANAGED
from unionfs._stdlib.dataclasses import replace


def trust_problem(fact: PathFact, own: int) -> str | None:
    """Return a text about the accounts other than root and *own* that can change the path of *fact*; None without any."""
    # The sticky bit prevents the replacement of names, but not new names.
    if fact.mode & 0o002:
        return "every user of this machine can change it"
    if fact.owner not in (None, 0, own):
        return f"belongs to user {fact.owner}, who can change it"
    return "its group can change it" if fact.mode & 0o020 else None


def hidden_mounts(layer: Layer, real: str, case: Case) -> list[str]:
    """Return the mount points of the host in a directory layer that appear empty, as paths in the sandbox.

    The server shows the content of a mount only if the layer's `cross` names it (unionfs/layer/directory.py). Mount points
    below another one in the result, and those that mounts of the sandbox cover, are left out.
    """
    own = [*MANAGED, *(volume.target for volume in case.spec.volumes)]
    found: list[str] = []
    for mount in case.surroundings.mounts:  # sorted, so that a mount point precedes those below it
        if mount == real or not inside(mount, real):
            continue
        path = "/" + mount[len(real.rstrip("/")) :].lstrip("/")
        if path in layer.cross or any(inside(path, other) for other in (*found, *own)):
            continue
        found.append(path)
    return found


def root_section(case: Case) -> Iterator[Fact]:
    """Yield facts about the layers, bottom first, the writable layer, and the server."""
    points = [point.path for point in case.plan.skeleton]
    bound = case.plan.bound
    made = f"generated: empty directories and files to mount on: {' '.join(points)}"
    if bound is not None:
        made = f"generated if layer 1 is served, else absent: {' '.join(points)}"
    if bound is None or bound.otherwise != "refuse":
        yield Fact(label="layer 0", text=made, value={"kind": "generated", "paths": points}, origin=DEFAULT)
    for number, layer in enumerate(case.spec.root.layers):
        yield _layer(number, layer, case)
    yield from _writable(case)
    joined = "unionfs: an unprivileged server merges the layers through /dev/fuse"
    if bound is not None:
        joined = "none: there is one layer"
    yield Fact(
        label="joined by",
        text=joined,
        value=case.spec.root.driver,
        origin=case.origin("root.driver"),
        keys=("root.driver",),
    )
    yield _server(case)


def _server(case: Case) -> Fact:
    server = case.plan.server
    auto = "the direct server of unionfs"
    texts = {
        "auto": auto,
        "direct": "the direct server of unionfs only",
        "pyfuse3": "the pyfuse3 server of unionfs, over libfuse",
        "none": "no server: a read-only direct bind of the layer",
    }
    notes = []
    bound = case.plan.bound
    if bound is not None:
        texts["auto"] = f"no server, a direct bind of the layer; if it does not qualify, {auto}"
        otherwise = {"serve": "it is served", "warn": "it is served, with a warning"}
        notes = [
            "if the layer lacks a place for a mount, or has whiteouts or other marks, FIFOs or sockets, "
            + otherwise.get(bound.otherwise, "the start is refused"),
            "your other sandboxes with the same layer share its files, and can observe that they are opened",
        ]
        if bound.otherwise != "refuse" and (problem := fuse_problem(case.facts)) is not None:
            notes.append(f"it cannot be served here: {problem.message}")
    elif not case.plan.open_requests:
        notes = ["no layer changes, so the kernel opens files and caches listings without requests to it"]
    refused = case.refused("root.server")
    return Fact(
        label="served by",
        text=f"{server}: {texts[server]}" if refused is None else f"refused: {refused}",
        value=server,
        origin=case.effective("root.server"),
        keys=("root.server",),
        notes=tuple(notes),
    )


def _layer(number: int, layer: Layer, case: Case) -> Fact:
    key = f"root.layers[{number}]"
    refused = next((item for item in case.draft.refusals if item.key.startswith(key)), None)
    fact = case.paths.get(layer.path)
    known = fact is not None or layer.kind in ("image", "docker")
    usable = known and refused is None and case.differs(key) is None
    hidden = hidden_mounts(layer, fact.real, case) if usable and fact and layer.kind == "dir" else []
    problem = trust_problem(fact, case.facts.uid) if usable and fact else None
    notes = list(_layer_notes(layer, fact, hidden, problem)) if usable and fact else []
    if refused is not None:
        notes.append(f"refused: {refused.message}")
    return Fact(
        label=f"layer {number + 1}",
        text=f"{layer.shown()}: {_reading(layer, case) if usable else 'not used'}",
        value={
            "kind": layer.kind,
            "path": layer.path,
            "real_path": fact.real if fact else None,
            "usable": usable,
            "changed_by_others": problem,
            "cross": list(layer.cross),
            "mount": layer.mount,
            "lazy": [one.image.digest for one in _lazy_layers(layer, case) if one.image is not None],
            "hidden_mounts": hidden,
        },
        origin=case.origin(key),
        keys=(key,),
        notes=tuple(notes),
    )


def _reading(layer: Layer, case: Case) -> str:
    if layer.kind in IMAGE_KINDS:
        if lazy := _lazy_layers(layer, case):
            if len(lazy) == (count := len(_parts(layer, case))):
                return "an image, whose layers are fetched from the registry while they are read"
            rest = "mounted" if layer.mount else "unpacked"
            return f"an image; {len(lazy)} of its {count} layers are fetched from the registry while they are read, the others are {rest}"
        if layer.mount:
            return "an image, whose layers are mounted, not unpacked: files are read from their blobs while the program runs"
        return "an image, whose layers are unpacked once into the image store under the ids of this sandbox"
    if layer.mount:
        return "an archive, mounted, not unpacked: files are read from it while the program runs"
    if layer.kind == "tar":
        return "an archive, unpacked once into the layer store under the ids of this sandbox"
    who = "any user" if case.uses_unowned_ids else "you"
    return f"a directory of this machine; the program can read what {who} can read, and cannot change it"


def _parts(layer: Layer, case: Case) -> list[LayerPlan]:
    """Return the layers of the image that *layer* names."""
    name = layer.path if layer.kind in ("image", "docker") else layer.shown()
    return [one for one in case.plan.layers if one.image is not None and one.path.rpartition("@")[0] == name]


def _lazy_layers(layer: Layer, case: Case) -> list[LayerPlan]:
    return [one for one in _parts(layer, case) if one.lazy]


def _layer_notes(layer: Layer, fact: PathFact, hidden: list[str], problem: str | None) -> Iterator[str]:
    if fact.real != fact.path:
        yield f"is really {fact.real}"
    if problem is not None:
        yield f"trust: {problem}, also while the program runs"
    if layer.cross:
        yield f"mounts of this machine in it that are shown: {' '.join(layer.cross)}"
    if hidden:
        yield f"mounts of this machine in it that appear empty: {' '.join(hidden)}"
    if layer.immutable:
        yield "declared as immutable: it does not change while it is used"


def _run_directory(case: Case) -> str | None:
    """Return the path of the run directory. Return None if it exists and is not private to the user (state/run_directory.py)."""
    for directory in case.plan.private:
        missing = directory.identity is None  # it is created at the start then
        if directory.name == "run directory" and (missing or directory.only_for == case.facts.uid):
            return directory.path
    return None


def _writable(case: Case) -> Iterator[Fact]:
    plan = case.plan
    state = case.state_directory or "the state directory"
    ephemeral = f"{_run_directory(case) or state}/run/{plan.name}-*/upper"
    texts = {
        "ephemeral": f"changes are stored in {ephemeral}, which is removed when the program ends",
        "persistent": f"changes are kept in {state}/sandboxes/{plan.name} for the next start",
        "none": "nothing can be changed: the root is mounted read-only",
    }
    places = {
        "ephemeral": ephemeral,
        "persistent": f"{state}/sandboxes/{plan.name}",
    }
    *others, last = [directory.name for directory in case.plan.private] or [""]
    private = f"{', the '.join(others)} and the {last}" if others else last
    appears = "appear" if len(case.plan.private) > 1 else "appears"
    notes = [f"the {private} {appears} empty in every layer"] if private else []
    if plan.writable == "persistent":
        notes.append("files that an earlier run left there hide those of the layers below")
        own = case.persistent.own
        notes.append("nothing is kept there yet" if own is None else own.shown())
        if own is not None and own.earlier:
            notes.append(
                f"{own.earlier} earlier layer{'s' * (own.earlier > 1)}, of snapshots or of the sandbox that this is a fork of"
            )
    yield Fact(
        label="writable layer",
        text=f"{plan.writable}: {texts[plan.writable]}",
        value={"kind": plan.writable, "path": places.get(plan.writable)},
        origin=case.origin("root.writable"),
        keys=("root.writable",),
        notes=tuple(notes),
    )
    if plan.writable == "none":
        return
    for key, count, unit in (("size", plan.size, "bytes"), ("inodes", plan.inodes, "objects")):
        amount = format_size(count) if count is not None and unit == "bytes" else f"{count} {unit}"
        yield Fact(
            label=f"its {key}",
            text="limited only by the space on the file system there"
            if count is None
            else f"at most {amount}, counted by the server of the root file system",
            value=count,
            origin=case.origin(f"root.{key}"),
            keys=(f"root.{key}",),
        )


def mounts_section(case: Case) -> Iterator[Fact]:
    """Yield facts about the mounts, in order, and about volumes and devices that are refused."""
    for operation in case.plan.operations:
        fact = _mount(operation, case)
        if fact is not None:
            yield fact
    yield from _refused_direct_binds(case)
    planned = {step.target for step in case.plan.operations if isinstance(step, VolumeOperation)}
    for number, volume in enumerate(case.spec.volumes):
        if volume.target not in planned:
            yield Fact(
                label=volume.target,
                text=f"{volume.type} volume: refused, not mounted",
                value={"type": volume.type, "source": volume.source, "mounted": False},
                origin=case.origin(f"volumes[{number}]"),
                keys=(f"volumes[{number}]",),
            )
    for number, device in enumerate(case.spec.devices):
        if not case.paths[device.path].devices:
            yield Fact(
                label=device.target or device.path,
                text="device: refused, does not exist",
                value={"type": "device", "source": device.path, "mounted": False},
                origin=case.origin(f"devices[{number}]"),
                keys=(f"devices[{number}]",),
            )


def _mount(operation: Operation, case: Case) -> Fact | None:
    match operation:
        case MountRoot():
            options = [
                "ro" if operation.read_only else "rw",
                *(["nosuid"] if operation.nosuid else []),
                "nodev",
            ]
            keys = ("root.writable", "security.no_new_privileges")
            return _own_mount("/", "fuse", "the layers", options, case, *keys)
        case BindRoot():
            options = ["ro", *(["nosuid"] if operation.nosuid else []), "nodev"]
            source = "the layer" if operation.otherwise == "refuse" else "the layer, or fuse if it is served"
            keys = ("root.writable", "security.no_new_privileges")
            return _own_mount("/", "bind", source, options, case, *keys)
        case MountProc():
            options = ["rw", "nosuid", "nodev", "noexec"]
            if operation.of_host:
                return _own_mount(
                    "/proc", "bind", "the /proc of this machine", options, case, "namespaces.pid"
                )
            pid = next((join.asked for join in case.plan.joins if join.kind == "pid"), None)
            source = f"the processes of {pid}" if pid else "the sandbox's own processes"
            return _own_mount("/proc", "proc", source, options, case, *(("namespaces.pid",) if pid else ()))
        case MountSys():
            kind = "bind" if operation.of_host else "sysfs"
            source = "the /sys of this machine" if operation.of_host else "the sandbox's own network devices"
            options = ["ro", "nosuid", "nodev", "noexec"]
            return _own_mount("/sys", kind, source, options, case, "network.mode", "namespaces.net")
        case BuildDev():
            queues = " mqueue" if operation.mqueue else ""
            named = any(isinstance(step, BindDevice) for step in case.plan.operations)
            other = "and the devices that the file names" if named else "no other device"
            source = f"null zero full random urandom tty, new pts shm{queues}; {other}"
            fact = _own_mount("/dev", "tmpfs", source, ["rw", "nosuid", "nodev", "noexec"], case)
            return fact if case.spec.devices else replace(fact, keys=("devices",))
        case ShowHosts() | ShowResolver():
            target, source, shown, of = name_file(operation)
            options = ["ro", "nosuid", "nodev", "noexec"]
            return replace(_own_mount(target, "tmpfs", source, options, case, *shown, of), keys=shown)
        case BindDevice():
            return _device(operation, case)
        case DirectBind():
            return _direct_bind(operation, case)
        case BindVolume() | TmpfsVolume() | FileVolume():
            return _volume(operation, case)
        case _:
            return None


def _own_mount(target: str, kind: str, source: str, options: list[str], case: Case, *keys: str) -> Fact:
    return Fact(
        label=target,
        text=f"{kind}: {source} ({' '.join(options)})",
        value={"type": kind, "source": None, "target": target, "options": options, "mounted": True},
        origin=case.origin(*keys),
    )


def _direct_bind(operation: DirectBind, case: Case) -> Fact:
    options = ["ro", *(["nosuid"] if operation.nosuid else []), "nodev"]
    otherwise = "the server shows it, with a warning" if operation.optional else "the start is refused"
    return Fact(
        label=operation.target,
        text=f"direct bind: the directory of the only archive that has it, without the server ({' '.join(options)})",
        value={
            "type": "native",
            "source": None,
            "target": operation.target,
            "options": options,
            "optional": operation.optional,
            "mounted": True,
        },
        origin=case.origin(operation.key, "root.native"),
        keys=(operation.key,),
        notes=(
            f"if more than one layer has it, or it contains marks, sockets or FIFOs, {otherwise}",
            "your other sandboxes with the same layer share its files, and can observe that they are opened",
        ),
    )


def _refused_direct_binds(case: Case) -> Iterator[Fact]:
    planned = {step.key for step in case.plan.operations if isinstance(step, DirectBind)}
    for number, path in enumerate(case.spec.root.native):
        key = f"root.native[{number}]"
        if key in planned:
            continue
        unenforced = case.differs("root.native") is not None
        yield Fact(
            label=path,
            text="direct bind: not enforced, the server shows it"
            if unenforced
            else "direct bind: refused, not mounted",
            value={"type": "native", "source": None, "target": path, "mounted": False},
            origin=case.effective("root.native"),
            keys=(key,),
        )


def _device(operation: BindDevice, case: Case) -> Fact:
    number = next(
        number
        for number, device in enumerate(case.spec.devices)
        if inside(operation.target, device.target or device.path)
    )
    kind = "character" if operation.kind == "c" else "block"
    access = case.surroundings.devices.get(operation.source)
    phrases = {"": "cannot open it", "r": "can open it to read", "w": "can open it to write"}
    notes = (
        ()
        if access is None
        else (f"user 0 of the sandbox {phrases.get(access, 'can open it to read and write')}",)
    )
    return Fact(
        label=operation.target,
        text=f"device: {operation.source} of this machine, {kind} {operation.major}:{operation.minor}; "
        "who may open it is as on the host",
        value={
            "type": "device",
            "source": operation.source,
            "target": operation.target,
            "kind": operation.kind,
            "numbers": [operation.major, operation.minor],
            "access": access,
            "mounted": True,
        },
        origin=case.origin(f"devices[{number}]"),
        keys=(f"devices[{number}]",),
        notes=notes,
    )


def _volume(operation: VolumeOperation, case: Case) -> Fact:
    number, volume = next(
        (number, volume)
        for number, volume in enumerate(case.spec.volumes)
        if volume.target == operation.target
    )
    key = f"volumes[{number}]"
    options = ["ro" if operation.read_only else "rw"]
    options += [name for name in ("nosuid", "nodev", "noexec") if getattr(operation, name)]
    notes = list(_fields_of_other_files(key, case))
    value: dict[str, object] = {
        "type": volume.type,
        "target": operation.target,
        "options": options,
        "mounted": True,
    }
    if isinstance(operation, BindVolume) and operation.name is not None:
        text = f"named: {operation.name}, kept in {operation.source} ({' '.join(options)})"
        value |= {"source": operation.source, "name": operation.name}
        notes.append("other sandboxes that use this name share its files, also at the same time")
        if operation.name in case.persistent.volumes:
            notes.append("it exists already, with the files that other sandboxes left in it")
    elif isinstance(operation, FileVolume):
        text = f"file: {len(operation.content)} bytes of the environment file, mode {operation.mode:04o} ({' '.join(options)})"
        value |= {"source": None, "size": len(operation.content), "mode": f"{operation.mode:04o}"}
    elif isinstance(operation, BindVolume):
        sockets = sockets_below(operation.source, case)
        text = f"bind: {operation.source} of this machine, including mounts in it ({' '.join(options)})"
        value |= {"source": operation.source, "sockets": sockets}
        if volume.source != operation.source:
            notes.append(f"{volume.source} is really {operation.source}")
        if sockets:
            notes.append(f"sockets in it, to which the program can connect: {' '.join(sockets)}")
        notes += [
            f"the {step.name} of sandboxes, which is in it, appears empty"
            for step in case.plan.operations
            if isinstance(step, HideDirectory) and step.volume == operation.target
        ]
        if operation.slave:
            notes.append("later mounts of this machine in it appear, with their flags of the host")
        value |= {"propagation": "slave" if operation.slave else "private"}
    else:
        size = "half of the memory" if operation.size is None else format_size(operation.size)
        text = f"tmpfs: empty, at most {size}, mode {operation.mode:04o} ({' '.join(options)})"
        value |= {"source": None, "size": operation.size, "mode": f"{operation.mode:04o}"}
    notes += _owner(operation.target, case)
    return Fact(
        label=operation.target,
        text=text,
        value=value,
        origin=case.origin(key, f"{key}.target"),
        keys=(key,),
        notes=tuple(notes),
    )


def _owner(target: str, case: Case) -> list[str]:
    """Return a note about the owner of the volume on *target*, if the start gives it to process.user; else an empty list."""
    for step in case.plan.operations:
        if isinstance(step, ChownVolumes) and target in step.made + step.named:
            group = "" if step.group is None else f":{step.group}"
            if target in step.named:
                return [
                    f"given to process.user, {step.user}{group}, if it is empty and belongs to user 0 at the start"
                ]
            return [f"belongs to process.user, {step.user}{group}"]
    return []


def _fields_of_other_files(key: str, case: Case) -> Iterator[str]:
    """Yield a note for each field of a volume that is set in a file other than the one that sets its target."""
    target = case.origin(f"{key}.target")
    for name in ("type", "source", "read_only", "size", "mode", "options", "propagation", "content"):
        origin = case.origin(f"{key}.{name}")
        if origin.file not in (None, target.file):
            yield f"{name} comes from {origin.text()}"


def sockets_below(path: str, case: Case) -> list[str]:
    """Return the listening unix sockets of this machine at *path* or below it."""
    return [socket for socket in case.surroundings.sockets if inside(socket, path)]


def binds(operations: Iterable[Operation]) -> list[BindVolume]:
    """Return the bind volumes of host paths among *operations*, without named volumes."""
    return [step for step in operations if isinstance(step, BindVolume) and step.name is None]

"""List what a file requests from the user who starts it: paths, variables, ports and privileges of this machine. Pure.

The list is computed from the specification alone. So it is the same on every machine, and shows what a file from another
person requests before any of it is done. `sandbox explain` adds what the requests mean on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sandbox.spec.model import Spec
from sandbox.spec.notation import quote
from sandbox.spec.origin import Place
from sandbox.spec.tables import Seccomp
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Literal

Kind = Literal["path", "registry", "variable", "port", "privilege"]
KINDS: tuple[Kind, ...] = ("path", "registry", "variable", "port", "privilege")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One requested thing: *what* is the path, the variable, the port or the setting; *text* describes its use.

    *profile* is the profile that requests it; None if the file alone does.
    """

    kind: Kind
    what: str
    text: str
    key: str
    place: Place | None
    profile: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the request for JSON."""
        place = self.place
        return {
            "kind": self.kind,
            "what": self.what,
            "text": self.text,
            "key": self.key,
            "file": None if place is None else place.file,
            "line": None if place is None else place.line,
            "column": None if place is None else place.column,
            "profile": self.profile,
        }


def requests(spec: Spec) -> tuple[Request, ...]:
    """Return all requests of *spec*, sorted by kind, then in the order of the rules."""
    found = [
        Request(kind=kind, what=what, text=text, key=key, place=spec.origin(key))
        for rule in _RULES
        for kind, what, text, key in rule(spec)
    ]
    return tuple(dict.fromkeys(sorted(found, key=lambda request: KINDS.index(request.kind))))


_Found = Iterator[tuple[Kind, str, str, str]]


def _extends(spec: Spec) -> _Found:
    for path in spec.files[:-1]:
        yield "path", path, "read as part of the environment file", "extends"


def _references(spec: Spec) -> _Found:
    for name, key in spec.variables.items():
        yield "variable", name, f"its value becomes part of {key}", key


def _layers(spec: Spec) -> _Found:
    for number, layer in enumerate(spec.root.layers):
        key = f"root.layers[{number}]"
        if layer.kind == "dir":
            yield "path", layer.path, "a layer: the program can read every file in it that you can read", key
            for path in layer.cross:
                yield (
                    "path",
                    f"{layer.path.rstrip('/')}{path}",
                    "read, including the file system that is mounted there",
                    key,
                )
        elif layer.kind == "image":
            yield "path", layer.path, "an image of your store", key
        elif layer.kind == "docker":
            yield "registry", layer.path, "fetched with your credentials for that registry", key
        else:
            yield "path", layer.path, "read as the content of a layer", key
    if spec.root.lazy:
        text = "layers are fetched while the program runs: by the files that it reads, it can tell a registry something, also without a network"
        yield "privilege", "root.lazy = true", text, "root.lazy"
    if spec.root.writable == "persistent":
        text = "changes to the root are kept on your disk for the next start"
        yield "privilege", 'root.writable = "persistent"', text, "root.writable"


def _environment(spec: Spec) -> _Found:
    for number, name in enumerate(spec.process.inherit_env):
        yield "variable", name, "passed to the program", f"process.inherit_env[{number}]"
    if spec.process.env_file is not None:
        yield "path", spec.process.env_file, "read for variables of the program", "process.env_file"


def _volumes(spec: Spec) -> _Found:
    for number, volume in enumerate(spec.volumes):
        key = f"volumes[{number}]"
        does = "can be read, and its sockets connected to" if volume.read_only else "can be read and changed"
        if volume.type == "bind" and volume.source is not None:
            if volume.propagation == "slave":
                does += ", including later mounts there"
            yield "path", volume.source, f"{does}, at {volume.target} in the sandbox", key
        elif volume.type == "named" and volume.source is not None:
            yield "privilege", f"volume {volume.source}", f"{does}; your other sandboxes share it", key
    for number, device in enumerate(spec.devices):
        yield "path", device.path, "a device of this machine", f"devices[{number}]"


def _namespaces(spec: Spec) -> _Found:
    for name in ("user", "mount", "pid", "net", "ipc", "uts", "cgroup", "time"):
        value = getattr(spec.namespaces, name)
        key = f"namespaces.{name}"
        if not isinstance(value, str) or value == "private" or (name == "time" and value == "host"):
            continue  # the program cannot set the host's clocks, and reading them reveals nothing new
        if name == "net" and value == "host" and spec.network.mode == "host":
            continue  # reported as network.mode, which sets it
        kind, _, what = value.partition(":")
        if kind == "path":
            yield "path", what, f"joined: the {name} namespace of another process", key
        else:
            whose = "this machine" if kind == "host" else f"the sandbox {what}"
            yield "privilege", f"{key} = {quote(value)}", f"shares the {name} namespace of {whose}", key


def _ids(spec: Spec) -> _Found:
    if spec.ids.map == "keep-id":
        yield "privilege", 'ids.map = "keep-id"', "the program has your own user id", "ids.map"
    for name in ("uid_map", "gid_map"):
        for number, entry in enumerate(getattr(spec.ids, name)):
            last = entry.outside + entry.count - 1
            what = f"{name[0]}ids {entry.outside} to {last}" if entry.count > 1 else f"{name[0]}id {last}"
            yield "privilege", what, "host ids that are mapped into the sandbox", f"ids.{name}[{number}]"


def _network(spec: Spec) -> _Found:
    network = spec.network
    if network.mode == "host":
        text = "reaches everything that this machine reaches, including its own services, and can listen on its ports"
        yield "privilege", 'network.mode = "host"', text, "network.mode"
    elif network.mode == "private" and network.egress is None and not network.networks:
        yield "privilege", 'network.mode = "private"', "reaches other machines", "network.mode"
    for number, service in enumerate(network.host_access):
        key = f"network.host_access[{number}]"
        yield "port", str(service), "a service of this machine that the program can connect to", key
    for number, port in enumerate(network.ports):
        everybody = "" if port.address in ("127.0.0.1", "::1") else ", open to other machines"
        yield (
            "port",
            str(port),
            f"forwarded to the sandbox{everybody}",
            f"network.ports[{number}]",
        )
    for number, destination in enumerate(() if network.egress is None else network.egress.allow):
        key = f"network.egress.allow[{number}]"
        yield "privilege", f"destination {destination}", "the program can connect to it, and send data", key
    for number, name in enumerate(network.networks):
        text = "the program and the other sandboxes there can connect to each other, at every port"
        if network.egress is None and not spec.networks[name].internal:
            text += "; reaches other machines"
        yield "privilege", f"network {name}", text, f"network.networks[{number}]"
    for number, name in enumerate(network.aliases):
        text = "a name for other sandboxes in its networks, which find the program by it"
        yield "privilege", f"alias {name}", text, f"network.aliases[{number}]"
    for number, address in enumerate(network.dns):
        yield (
            "privilege",
            f"name server {address}",
            "receives the names that the program looks up",
            f"network.dns[{number}]",
        )


def _privileges(spec: Spec) -> _Found:
    security = spec.security
    for number, name in enumerate(security.capabilities.add):
        key = f"security.capabilities.add[{number}]"
        yield "privilege", f"capability {name}", "valid in its own namespaces", key
    if not security.no_new_privileges:
        text = "set-user-id programs of its layers work"
        yield "privilege", "security.no_new_privileges = false", text, "security.no_new_privileges"
    seccomp = security.seccomp
    if isinstance(seccomp, Seccomp):
        for number, call in enumerate(seccomp.allow):
            key = f"security.seccomp.allow[{number}]"
            yield "privilege", f"system call {call}", "allowed regardless of the profile", key
        if seccomp.log:
            yield (
                "privilege",
                "security.seccomp.log = true",
                "no system call is refused",
                "security.seccomp.log",
            )
    profile, key = (
        (seccomp.profile, "security.seccomp.profile")
        if isinstance(seccomp, Seccomp)
        else (seccomp, "security.seccomp")
    )
    if "/" in profile:
        yield "path", profile, "read as the seccomp profile", key
    elif profile == "unconfined" and spec.is_set(key):
        yield "privilege", f'{key} = "unconfined"', "no system call is refused", key


def _limits(spec: Spec) -> _Found:
    for number, limit in enumerate(spec.limits.io):
        yield "path", limit.path, "examined to find the disk that is limited", f"limits.io[{number}].path"


def _optional(spec: Spec) -> _Found:
    for table in ("root", "namespaces", "ids", "network", "limits", "security"):
        for number, name in enumerate(getattr(spec, table).optional):
            key = f"{table}.optional[{number}]"
            yield (
                "privilege",
                f"{table}.{name} is optional",
                "the sandbox starts without it where it cannot be enforced",
                key,
            )


def _others(spec: Spec) -> _Found:
    for name, member in spec.sandboxes.items():
        yield (
            "path",
            member.file,
            "another environment file, which is read and started",
            f"sandboxes.{name}.file",
        )
    for number, step in enumerate(spec.build):
        if step.copy is not None and step.copy.from_ is None:
            text = "copied into an image, from the build context"
            yield "path", step.copy.source, text, f"build[{number}].copy.source"
        elif step.copy is not None and step.copy.from_ is not None:
            text = "an image whose files are copied into another one"
            yield "path", step.copy.from_, text, f"build[{number}].copy.from"
        if step.network:
            text = "build commands reach everything that this machine reaches"
            yield "privilege", "build network", text, f"build[{number}].network"


_RULES: tuple[Callable[[Spec], _Found], ...] = (
    _extends,
    _layers,
    _volumes,
    _environment,
    _others,
    _references,
    _network,
    _namespaces,
    _ids,
    _privileges,
    _limits,
    _optional,
)

#: The settings that the rules above read. All other settings of the language expose nothing of the machine. A test fails for a
#: new setting until its author has decided which kind it is.
REQUESTING_KEYS = frozenset(
    "extends root.layers root.layers[].dir root.layers[].tar root.layers[].oci root.layers[].docker_archive root.layers[].image root.layers[].docker root.layers[].cross "
    "root.lazy root.writable root.optional process.inherit_env process.env_file volumes[].type volumes[].source volumes[].target "
    "volumes[].read_only volumes[].propagation devices[].path namespaces.user namespaces.mount namespaces.pid namespaces.net namespaces.ipc "
    "namespaces.uts namespaces.cgroup namespaces.time namespaces.optional ids.map ids.uid_map[].outside "
    "ids.uid_map[].count ids.gid_map[].outside ids.gid_map[].count ids.optional network.mode network.ports network.networks network.aliases network.egress.allow "
    "network.dns network.host_access network.optional limits.io[].path limits.optional security.capabilities.add "
    "security.no_new_privileges security.seccomp security.seccomp.profile security.seccomp.allow security.seccomp.log "
    "security.optional sandboxes.NAME.file build[].copy.source build[].copy.from build[].network".split()
)

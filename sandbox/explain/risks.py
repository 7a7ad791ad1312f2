"""Make the summary: the risks that a reviewer should look at first, one sentence each, the worst first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from sandbox.explain.case import Case
from sandbox.explain.report import Level, Risk
from sandbox.explain.storage import binds, sockets_below, trust_problem
from sandbox.kernel import capabilities
from sandbox.plan.operations import BindDevice
from sandbox.plan.storage import inside

_LEVELS: tuple[Level, ...] = ("danger", "caution", "note")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|PRIVATE|(^|_)KEY|AUTH_SOCK", re.IGNORECASE)
#: Capabilities that open large parts of the kernel to the program, even over namespaces of its own.
_WIDE = frozenset(
    {"SYS_ADMIN", "NET_ADMIN", "SYS_MODULE", "SYS_RAWIO", "BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"}
)


def risks(case: Case) -> tuple[Risk, ...]:
    """Return the risks, the worst first."""
    found = [risk for rule in _RULES for risk in rule(case)]
    return tuple(sorted(found, key=lambda risk: _LEVELS.index(risk.level)))


def _risk(case: Case, level: Level, text: str, *keys: str) -> Risk:
    origins = tuple(dict.fromkeys(case.origin(key) for key in keys if case.spec.is_set(key)))
    return Risk(level=level, text=text, keys=keys, origins=origins)


def _exposures(case: Case) -> Iterator[Risk]:
    for caution in case.plan.cautions:
        text = f"{caution.message[:1].upper()}{caution.message[1:]}. Remedy: {caution.hint}."
        yield _risk(case, "danger", text, caution.key)


def _volumes(case: Case) -> Iterator[Risk]:
    bound = binds(case.plan.operations)
    keys = {volume.target: f"volumes[{number}]" for number, volume in enumerate(case.spec.volumes)}
    home = case.environ.get("HOME", "")
    for bind in bound:
        key = keys[bind.target]
        whole = ""
        if bind.source == "/":
            whole = ", which is the whole file system"
        elif home.startswith("/") and inside(home, bind.source):
            is_home = home.rstrip("/") == bind.source
            whole = ", which is your home directory" if is_home else ", where your home directory is"
        # If root starts the sandbox, its ids belong to no user of the host, and others' rights on files apply to its program.
        may = "what any user may {} of " if case.uses_unowned_ids else ""
        if not bind.read_only:
            what = may.format("change") + bind.source
            yield _risk(case, "danger", f"The program can change {what} on this machine{whole}.", key)
        elif whole:
            what = may.format("read") + bind.source
            yield _risk(case, "caution", f"The program can read {what} on this machine{whole}.", key)
    shared = {bind.target: sockets_below(bind.source, case) for bind in bound}
    sockets = sorted({socket for found in shared.values() for socket in found})
    if sockets:
        shown = ", ".join(sockets[:3]) + (f" and {len(sockets) - 3} more" if len(sockets) > 3 else "")
        text = f"The program can connect to {shown}: a read-only volume does not prevent that."
        yield _risk(case, "danger", text, *(keys[target] for target, found in shared.items() if found))
    readable = [bind for bind in bound if bind.read_only]
    if readable:
        sources = ", ".join(bind.source for bind in readable)
        text = f"The program can read {sources} on this machine, and connect to sockets there."
        yield _risk(case, "note", text, *(keys[bind.target] for bind in readable))


def _devices(case: Case) -> Iterator[Risk]:
    found = [step for step in case.plan.operations if isinstance(step, BindDevice)]
    if blocks := [step.source for step in found if step.kind == "b"]:
        text = f"The program reaches the block device {', '.join(blocks)}: all data on it, regardless of file permissions."
        yield _risk(case, "danger", text, "devices")
    if others := [step.source for step in found if step.kind != "b"]:
        text = f"The program reaches {', '.join(others)}, and with it a driver of this machine's kernel."
        yield _risk(case, "caution", text, "devices")


def _later_mounts(case: Case) -> Iterator[Risk]:
    for bind in binds(case.plan.operations):
        if bind.slave:
            key = next(
                f"volumes[{number}].propagation"
                for number, volume in enumerate(case.spec.volumes)
                if volume.target == bind.target
            )
            text = f"Later mounts of this machine in {bind.source} appear in the sandbox, and are writable if they are writable here."
            yield _risk(case, "caution", text, key)


def _layers(case: Case) -> Iterator[Risk]:
    if any(layer.lazy for layer in case.plan.layers):
        text = "By the files that it reads, the program can tell the registry something that its layers are fetched from, also without a network."
        yield _risk(case, "note", text, "root.lazy")
    home = case.environ.get("HOME", "")
    for number, layer in enumerate(case.spec.root.layers):
        fact = case.paths.get(layer.path)
        key = f"root.layers[{number}]"
        if fact is None or fact.kind not in ("directory", "file"):
            continue
        if layer.kind == "dir" and fact.real == "/":
            if case.uses_unowned_ids:
                text = "The program can read every file of this machine that any user may read (dir:/)."
            else:
                text = (
                    "The program can read every file that you can read, including keys and passwords (dir:/)."
                )
            yield _risk(case, "caution", text, key)
        elif layer.kind == "dir" and home.startswith("/") and inside(home, fact.real):
            who = "any user" if case.uses_unowned_ids else "you"
            text = f"The program can read what {who} can read of {layer.path}, where your home directory is."
            yield _risk(case, "caution", text, key)
        problem = trust_problem(fact, case.facts.uid)
        if problem is not None:
            text = f"Other users can change a layer that the program runs on: {layer.path}: {problem}."
            yield _risk(case, "caution", text, key)


def _network(case: Case) -> Iterator[Risk]:
    joined = {join.kind: join.asked for join in case.plan.joins}
    if "net" in joined:
        text = f"The network is that of {joined['net']}: the program reaches everything that {joined['net']} reaches, and its services."
        yield _risk(case, "caution", text, "namespaces.net")
    elif "net" not in case.plan.namespaces:
        text = (
            "The network is this machine's: the program reaches everything that this machine reaches, services on its loopback "
            "interface and abstract unix sockets, and can send all data that it reads to other machines."
        )
        yield _risk(case, "danger", text, "network.mode", "namespaces.net")
    elif case.plan.network is not None:
        raw = sorted(case.plan.process.capabilities & {"NET_ADMIN", "NET_RAW"})
        # A bridge closes the machine outside of the sandbox.
        if raw and {one.kind for one in case.plan.network.uplinks} != {"bridge"}:
            text = (
                f"With {' and '.join(raw)} the program can reach addresses of this machine in spite of the private network: "
                "it can remove what closes them, or send packets past it."
            )
            yield _risk(case, "danger", text, "security.capabilities.add", "network.mode")
        egress = case.plan.network.egress
        if egress is None:
            text = "The program reaches other machines, and can send all data that it reads to them."
            yield _risk(case, "caution", text, "network.mode", "network.networks")
        elif egress.allow:
            text = f"The program can send all data that it reads to {' '.join(egress.allow)}."
            yield _risk(case, "caution", text, "network.egress.allow")
        if networks := [one.network for one in case.plan.network.memberships]:
            where = f"the network{'s' if networks[1:] else ''} {' and '.join(networks)}"
            text = f"The program and the other sandboxes in {where} can connect to each other, at every port."
            yield _risk(case, "caution", text, "network.networks")
        if services := " ".join(map(str, case.plan.network.host_access)):
            yield _risk(
                case,
                "caution",
                f"The program can connect to services of this machine: {services}.",
                "network.host_access",
            )
        if open_ports := [
            str(port) for port in case.plan.network.ports if port.address not in ("127.0.0.1", "::1")
        ]:
            text = f"Other machines can connect to the program: {' '.join(open_ports)}."
            yield _risk(case, "caution", text, "network.ports")


def _privileges(case: Case) -> Iterator[Risk]:
    process = case.plan.process
    extra = process.capabilities - capabilities.DEFAULT
    keys = ["security.capabilities.add"]
    if extra:
        names = (
            " ".join(sorted(extra)) if len(extra) <= 8 else f"all {len(process.capabilities)} capabilities"
        )
        level: Level = "danger" if extra & _WIDE else "caution"
        text = f"The program gets capabilities in addition to the default ones: {names}; valid in its own namespaces only."
        yield _risk(case, level, text, *keys)
    if "SYS_ADMIN" in process.capabilities:
        text = "With SYS_ADMIN the program can unmount the mounts that hide paths, and make read-only volumes writable."
        yield _risk(case, "danger", text, *keys)
    if not process.no_new_privileges:
        text = "Set-user-id programs and file capabilities in the layers work (no_new_privileges is off)."
        yield _risk(case, "caution", text, "security.no_new_privileges")


def _shared_namespaces(case: Case) -> Iterator[Risk]:
    texts = {
        "ipc": "System V IPC and POSIX message queues are shared with this machine.",
        "uts": "The host name is this machine's.",
        "cgroup": "The program sees its place in the cgroup tree of this machine.",
    }
    joined = {join.kind: join.asked for join in case.plan.joins}
    for name, text in texts.items():
        if name not in case.plan.namespaces and name not in joined:
            yield _risk(case, "caution" if name == "ipc" else "note", text, f"namespaces.{name}")
    if "pid" not in case.plan.namespaces and "pid" not in joined:
        whose = (
            ""
            if case.uses_unowned_ids
            else ", and can signal and kill yours, including the supervisor of the sandbox"
        )
        text = (
            f"The program sees every process of this machine with its command line{whose}. "
            "Only the supervisor and the init of the sandbox end processes that it leaves running."
        )
        yield _risk(case, "danger", text, "namespaces.pid")
    if "user" in joined:
        text = f"The program has the rights of a user of {joined['user']}; as root there, it has rights over everything that belongs to it."
        yield _risk(case, "danger", text, "namespaces.user")
    others = [kind for kind in joined if kind not in ("user", "net")]
    if others:
        text = f"The program shares {', '.join(others)} with {' and '.join(dict.fromkeys(joined[kind] for kind in others))}."
        yield _risk(case, "caution", text, *(f"namespaces.{kind}" for kind in others))


def _environment(case: Case) -> Iterator[Risk]:
    own, from_file = case.spec.process, case.variables()
    passed = [
        (name, f"process.inherit_env[{number}]")
        for number, name in enumerate(own.inherit_env)
        if name in case.environ and name not in own.env and name not in from_file
    ]
    if names := ", ".join(name for name in from_file if name not in own.env):
        yield _risk(
            case, "note", f"The program gets the variables of {own.env_file}: {names}.", "process.env_file"
        )
    secret = [(name, key) for name, key in passed if _SECRET.search(name)]
    plain = [(name, key) for name, key in passed if not _SECRET.search(name)]
    if secret:
        text = f"The program gets variables whose names suggest secrets: {', '.join(name for name, _ in secret)}."
        yield _risk(case, "danger", text, *(key for _, key in secret))
    if plain:
        names = ", ".join(name for name, _ in plain)
        text = f"The program gets variables from the environment of `up`: {names}."
        yield _risk(case, "note", text, *(key for _, key in plain))


def _ids(case: Case) -> Iterator[Risk]:
    maps = (("user", case.plan.ids.uid_map, "ids.uid_map"), ("group", case.plan.ids.gid_map, "ids.gid_map"))
    for what, id_map, key in maps:
        if case.facts.is_real_root and any(entry.outside == 0 for entry in id_map):
            text = (
                f"A {what} of the sandbox is root of this machine outside: the permissions of root's files do not restrict the "
                "program, and an escape from its namespaces makes it root here."
            )
            yield _risk(case, "danger", text, key)
    if case.plan.ids.single and any(not bind.read_only for bind in binds(case.plan.operations)):
        who = "one id that no user has" if case.facts.is_real_root else "you"
        text = f"All users of the sandbox are {who} outside: only a single id is mapped."
        yield _risk(case, "note", text, "ids.map")


def _limits(case: Case) -> Iterator[Risk]:
    names = {
        "memory": "memory",
        "pids": "the number of processes",
        "cpus": "processor time",
        "wall_time": "the time it may run",
    }
    cgroup = case.plan.cgroup
    values = {
        "wall_time": case.plan.wall_time,
        **{name: getattr(cgroup, name) for name in ("memory", "pids", "cpus")},
    }
    free = [names[name] for name in names if values[name] is None]
    if free:
        text = f"Not limited: {', '.join(free)}."
        yield _risk(case, "note", text, *(f"limits.{name}" for name in names if values[name] is None))


def _persistent_changes(case: Case) -> Iterator[Risk]:
    if case.plan.writable == "persistent":
        text = "Changes to the root file system are kept for the next start."
        yield _risk(case, "note", text, "root.writable")


def _seccomp(case: Case) -> Iterator[Risk]:
    key, plan = "security.seccomp", case.plan.process.seccomp
    if plan is None:
        text = "There is no seccomp filter: the program can use every system call, and exploit bugs in any of them."
        yield _risk(case, "caution", text, key)
        return
    if plan.log:
        text = "The seccomp filter denies no system call: it only logs."
        yield _risk(case, "caution", text, f"{key}.log")
    if plan.allow:
        text = f"The seccomp filter allows system calls that the profile may deny: {', '.join(plan.allow)}."
        yield _risk(case, "caution", text, f"{key}.allow")
    if plan.profile not in ("default", "unconfined"):
        text = f"The profile {plan.profile} decides which system calls are denied."
        yield _risk(case, "note", text, key)
    elif plan.profile == "unconfined":
        text = f"The seccomp filter denies only {', '.join(plan.deny)}."
        yield _risk(case, "caution", text, key)


_RULES: tuple[Callable[[Case], Iterator[Risk]], ...] = (
    _exposures,
    _volumes,
    _later_mounts,
    _devices,
    _network,
    _layers,
    _privileges,
    _shared_namespaces,
    _environment,
    _ids,
    _persistent_changes,
    _limits,
    _seccomp,
)

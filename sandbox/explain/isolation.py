"""Make the sections about isolation: ids, namespaces, the network, capabilities, and other confinement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sandbox.explain.case import Case
from sandbox.explain.filters import landlock_facts, seccomp_facts
from sandbox.explain.report import DEFAULT, Fact, Origin
from sandbox.kernel import capabilities
from sandbox.kernel.idmaps import IdMap, lookup
from sandbox.plan.operations import MaskPaths, ReadOnlyPaths, SetHostname
from sandbox.spec.units import format_duration

#: For each kind of namespace the text if it is private, if it is the host's, and if it is joined from "{}".
_NAMESPACES = {
    "user": (
        "ids and capabilities are the sandbox's own, and have no effect outside",
        "",
        "ids and capabilities are those of {}, and apply to everything that belongs to it",
    ),
    "mount": ("the tree of mounts is the sandbox's own; its mounts do not appear outside", "", ""),
    "pid": (
        "sees and signals its own processes only",
        "sees every process of this machine with its command line, and can signal those of its own ids",
        "sees the processes of {}, is seen by them, and can signal them",
    ),
    "net": (
        "network devices, ports and abstract sockets are its own",
        "network devices, ports and abstract sockets are this machine's",
        "network devices, ports and abstract sockets are those of {}",
    ),
    "ipc": (
        "System V IPC and POSIX message queues are its own",
        "System V IPC and POSIX message queues are this machine's",
        "System V IPC and POSIX message queues are those of {}",
    ),
    "uts": (
        "has a host name of its own",
        "has the host name of this machine, and cannot change it",
        "has the host name of {}",
    ),
    "cgroup": (
        "sees its own cgroup as the root of the cgroup tree",
        "sees its place in the cgroup tree of this machine",
        "sees the cgroup of {} as the root of the cgroup tree",
    ),
    "time": (
        "the monotonic and boot-time clocks are its own",
        "clocks are those of this machine",
        "clocks are those of {}",
    ),
}

_CAPABILITIES = {
    "CHOWN": "give files of its own ids to another id of the sandbox",
    "DAC_OVERRIDE": "bypass permission checks on files whose ids are the sandbox's",
    "FOWNER": "act as the owner of such files",
    "FSETID": "keep set-id bits when changing such files",
    "KILL": "signal processes of other users of the sandbox",
    "NET_BIND_SERVICE": "listen on ports below 1024 of a network of the sandbox's own",
    "SETFCAP": "set file capabilities, which apply in the sandbox only",
    "SETGID": "become another group of the sandbox",
    "SETPCAP": "drop capabilities permanently",
    "SETUID": "become another user of the sandbox",
    "SYS_CHROOT": "call chroot(2)",
}


def map_text(id_map: Sequence[IdMap]) -> str:
    """Return an id map in words: "0 is 1000, 1-65535 are 100000-165534"."""
    return ", ".join(
        f"{_span(entry.inside, entry.count)} {'is' if entry.count == 1 else 'are'} {_span(entry.outside, entry.count)}"
        for entry in id_map
    )


def _span(start: int, count: int) -> str:
    return str(start) if count == 1 else f"{start}-{start + count - 1}"


def ids_section(case: Case) -> Iterator[Fact]:
    """Yield facts about the id maps, and about the host id of the sandbox's root."""
    ids, facts = case.plan.ids, case.facts
    reason = case.differs("ids.map")
    given = _is_given(case)
    origin = case.decided_here(reason, "ids.map") if reason else _map_origin(case)
    origin = case.origin("ids.uid_map") if given else origin
    for label, id_map, key in (
        ("user ids", ids.uid_map, "ids.uid_map"),
        ("group ids", ids.gid_map, "ids.gid_map"),
    ):
        value = [[entry.inside, entry.outside, entry.count] for entry in id_map]
        text = f"{map_text(id_map)} outside"
        where = case.origin(key) if given else origin
        yield Fact(label=label, text=text, value=value, origin=where, keys=(key,) if given else ("ids.map",))
    outside, _ = ids.root
    you = f"you, {facts.user_name or 'user'} (uid {facts.uid})"
    yield Fact(
        label="uid 0 inside",
        text=_host_user_text(case, outside, you),
        value=outside,
        origin=origin,
    )
    if (own := _inside(ids.uid_map, facts.uid)) not in (None, 0):
        text = f"is {you}: files of yours in volumes are its own"
        yield Fact(label=f"uid {own} inside", text=text, value=facts.uid, origin=origin)
    writers = list(ids.helpers or ()) if case.plan.inner_maps is None else []
    if "user" in case.plan.namespaces:
        text = " and ".join(writers) or "the launcher itself"
        yield Fact(label="written by", text=text, value=writers, origin=origin)
    kept = [] if ids.setgroups else [group for group in facts.groups if group != facts.gid]
    if kept:
        groups = " ".join(map(str, kept))
        yield Fact(
            label="groups of yours",
            text=f"{groups} remain, with their access to files: setgroups(2) is denied",
            value=kept,
            origin=origin,
        )


def _is_given(case: Case) -> bool:
    """Tell whether the maps of ids.uid_map and ids.gid_map are in effect. They are not if they go unenforced."""
    return bool(case.spec.ids.uid_map) and not (case.differs("ids.uid_map") or case.differs("ids.gid_map"))


def _inside(id_map: Sequence[IdMap], outside: int) -> int | None:
    return lookup(
        (IdMap(inside=item.outside, outside=item.inside, count=item.count) for item in id_map), outside
    )


def _host_user_text(case: Case, outside: int, you: str) -> str:
    """Return the text about the host id of user 0 of the sandbox."""
    if outside == 0 and case.facts.is_real_root:
        return (
            "is root of this machine: only the namespaces restrict its access to files and processes outside"
        )
    if outside == case.facts.uid:
        return f"is {you}: files of yours in volumes are its own"
    if case.facts.is_real_root and _is_given(case):
        return f"is uid {outside}: files of that user in volumes are its own"
    return f"is uid {outside}, which no other user has"


def _map_origin(case: Case) -> Origin:
    if "user" not in case.plan.namespaces:
        return case.origin("namespaces.user")
    if case.facts.is_real_root:
        return case.decided_here("root maps ids that no user has", "ids.map")
    if case.spec.ids.map == "single":
        return case.origin("ids.map")
    name = case.facts.user_name or case.facts.uid
    return case.decided_here(f"/etc/subuid and /etc/subgid give {name} these ids", "ids.map")


def namespaces_section(case: Case) -> Iterator[Fact]:
    """Yield a fact for each kind of namespace, private or not, and for the host name."""
    joins = {join.kind: join for join in case.plan.joins}
    for name, (private, shared, joined) in _NAMESPACES.items():
        if name in joins:
            value, text = joins[name].asked, f"joined: {joined.format(joins[name].asked)}"
        elif name in case.plan.namespaces:
            value, text = "private", f"private: {private}"
        else:
            value, text = "host", f"the host's: {shared}"
        notes = [f"{name} is {format_duration(value / 10**9)} ahead" for name, value in case.plan.clocks]
        keys = ("namespaces.net", "network.mode") if name == "net" else (f"namespaces.{name}",)
        yield Fact(
            label=name,
            text=text,
            value=value,
            origin=case.effective(*keys),
            keys=keys[:1],
            notes=tuple(notes) if name == "time" else (),
        )
    for operation in case.plan.operations:
        if isinstance(operation, SetHostname):
            keys = ("sandbox.hostname", "sandbox.name")
            origin = case.origin(*keys)
            yield Fact(
                label="host name", text=operation.name, value=operation.name, origin=origin, keys=keys[:1]
            )


def security_section(case: Case) -> Iterator[Fact]:
    """Yield facts about each capability with its reason, and about no_new_privs, seccomp, Landlock and covered paths."""
    process = case.plan.process
    yield _capability_sets(case)
    order = sorted(process.capabilities, key=lambda name: capabilities.NUMBERS[name])
    for name in order:
        why = _CAPABILITIES.get(name, "requested by the file; see capabilities(7)")
        key = _capability_key(case, "add", name)
        yield Fact(
            label=name,
            text=why if key is None else f"added: {_CAPABILITIES.get(name, 'see capabilities(7)')}",
            value=name,
            origin=DEFAULT if key is None else case.origin(key, "security.capabilities.add"),
            keys=() if key is None else (key,),
        )
    for number, word in enumerate(case.spec.security.capabilities.drop):
        key = f"security.capabilities.drop[{number}]"
        name = capabilities.parse(word)
        yield Fact(label=f"without {name}", text="dropped", value=name, origin=case.origin(key), keys=(key,))
    key = "security.no_new_privileges"
    yield Fact(
        label="no_new_privileges",
        text="on: set-user-id programs and file capabilities have no effect"
        if process.no_new_privileges
        else "off: set-user-id programs and file capabilities in the layers work, within the sandbox's ids",
        value=process.no_new_privileges,
        origin=case.origin(key),
        keys=(key,),
    )
    yield from seccomp_facts(case)
    yield from landlock_facts(case)
    for operation in case.plan.operations:
        if isinstance(operation, MaskPaths):
            yield _covered("masked", operation.paths, case, "security.masked_paths", "appear empty")
        elif isinstance(operation, ReadOnlyPaths):
            yield _covered("read-only", operation.paths, case, "security.readonly_paths", "cannot be written")


def _covered(label: str, paths: Sequence[str], case: Case, key: str, effect: str) -> Fact:
    return Fact(
        label=label,
        text=" ".join(paths),
        value=list(paths),
        origin=case.origin(key),
        keys=(key,),
        notes=(f"paths that exist {effect}",),
    )


def _capability_sets(case: Case) -> Fact:
    """Return the fact about the capabilities that the program starts with, which depend on its user id."""
    process = case.plan.process
    user = process.user.user
    names = sorted(process.capabilities)
    uid = 0 if user in (0, "root") else 1
    sets = capabilities.sets_for(uid, process.capabilities, process.added_capabilities)
    effective = sorted(sets.permitted)
    if uid == 0:
        text = f"{len(effective)}, valid only for the ids and namespaces of the sandbox"
    elif not names:
        text = "none, and the program cannot gain any"
    else:
        had = f"{' '.join(effective)}, which the file adds" if effective else "none"
        text = f"{had}: the program is not root but user {user}; the sandbox's root would have those below"
    notes = []
    if uid and names and isinstance(user, str):
        notes.append(f"if {user} is uid 0 in the sandbox's /etc/passwd, it is root and has those below")
    if uid and names != effective:
        notes.append(
            "it cannot become root to get them: set-user-id programs have no effect (no_new_privileges)"
            if process.no_new_privileges
            else "a set-user-id program of root, or one with file capabilities, in the layers can give it those below"
        )
    return Fact(
        label="capabilities",
        text=text,
        value={"bounding": names, "effective": effective, "ambient": sorted(sets.ambient)},
        origin=case.origin("security.capabilities.add", "security.capabilities.drop", "process.user"),
        notes=tuple(notes),
    )


def _capability_key(case: Case, table: str, name: str) -> str | None:
    """Return the key of the element of security.capabilities.add that adds *name*, or None if it is a default capability."""
    added = case.spec.security.capabilities.add
    words = [capabilities.parse(word) for word in added]
    for wanted in (name, "ALL"):
        if wanted in words and (wanted == name or name not in capabilities.DEFAULT):
            return f"security.capabilities.{table}[{words.index(wanted)}]"
    return None

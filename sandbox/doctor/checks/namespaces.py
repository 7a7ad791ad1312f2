"""Check ids, user namespaces, and the mounts that a sandbox makes in them."""

from __future__ import annotations

import errno
from typing import Any

from sandbox.doctor.check import Check, Level
from sandbox.doctor.checks.needs import ALWAYS, Needs, as_needed
from sandbox.doctor.facts import Failure, MachineFacts, NamespaceFacts, Place, Probe, SessionFacts
from sandbox.errors import describe_errno
from sandbox.host.facts import HostFacts
from sandbox.kernel import devices
from sandbox.kernel.idmaps import MAP_SIZE

NO_START = "no sandbox starts"
KINDS = ("mount", "pid", "net", "ipc", "uts", "cgroup")
_SYSCTL = {"mount": "mnt"}  # /proc/sys/user/max_mnt_namespaces; the other kinds have the same name there
_USERNS_STEPS = ("unshare user", "id map", "unshare mount", "make private", "mount tmpfs")


def check_namespaces(facts: HostFacts, machine: MachineFacts, needs: Needs) -> list[Check]:
    """Return the checks from `userns` to `terminal`."""
    found = machine.namespaces
    probe = found.single if needs.single_id or found.whole is None else found.whole
    return [
        _userns(found, needs, machine.session.place),
        _ids(facts, found.whole, needs, machine.session, machine.free_subid),
        _kinds(probe, needs, machine.session.place),
        as_needed(_fuse(facts, probe, machine.session.place), needs),
        _proc(probe, needs),
        _sysfs(probe, needs),
        _dev(probe),
        _root(probe, needs),
        _terminal(facts, probe, needs),
    ]


def _evidence(failed: tuple[str, Failure] | None) -> dict[str, Any]:
    """Return the failure for JSON."""
    if failed is None:
        return {}
    step, failure = failed
    return {"step": step, "errno": errno.errorcode.get(failure.errno), "error": failure.text}


def _text_of(failure: Failure) -> str:
    return failure.text[:1].lower() + failure.text[1:] if failure.text[1:2].islower() else failure.text


def _not_tried(identity: str, probe: Probe) -> Check:
    """Return the check of a step that was not reached because of an earlier failure, which has a check of its own."""
    because = f": {probe.problem}" if probe.problem else ": an earlier check failed"
    return Check(id=identity, level="failure" if probe.problem else "note", summary=f"not tested{because}")


def _userns(found: NamespaceFacts, needs: Needs, place: Place) -> Check:
    probe, obstacle = found.single, found.obstacle
    failed = probe.failure(*_USERNS_STEPS)
    if failed is None and found.whole is not None and not needs.single_id:
        # The id map has a check of its own.
        failed = found.whole.failure(*(step for step in _USERNS_STEPS if step != "id map"))
    if failed is not None:
        step, failure = failed
        if step == "id map":
            reason, remedy = _text_of(failure), describe_errno("write uid_map", failure.errno) or ""
        else:
            reason, remedy = _text_of(failure), describe_errno("unshare", failure.errno) or ""
        if obstacle is not None:
            reason, remedy = obstacle.reason, lasting(obstacle.remedy, place)
        return Check(
            id="userns",
            level="failure",
            summary=f"user namespaces cannot be used: {reason}",
            cost=NO_START,
            remedy=remedy,
            facts=_evidence(failed),
        )
    if not probe.did("id map"):
        return Check(
            id="userns",
            level="failure",
            summary=f"the probe of user namespaces ended early: {probe.problem or 'unknown reason'}",
            cost=NO_START,
        )
    return Check(id="userns", level="ok", summary="a user namespace with an id map and mounts can be created")


def lasting(remedy: str, place: Place) -> str:
    """Return *remedy*; if it sets a kernel parameter, add on which machine and how to make it permanent."""
    if "sysctl " not in remedy:
        return remedy
    if place == "container":
        return f"on the host of this container: {remedy}"
    return f"{remedy} (permanently: a line in /etc/sysctl.d/sandbox.conf)"


def _ids(
    facts: HostFacts, whole: Probe | None, needs: Needs, session: SessionFacts, free_subid: int
) -> Check:
    maps = facts.whole_maps()
    if whole is None or maps is None:
        problem = facts.id_map_problem or "unknown reason"
        return Check(
            id="ids",
            level="warning",
            summary=f"only a single id can be mapped: {problem}",
            cost=(
                "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails"
            ),
            remedy=_ids_remedy(facts, session, free_subid),
            facts={"ids": 1, "problem": problem},
        )
    failed = whole.failure("id map")
    count = sum(entry.count for entry in maps[0])
    how = "" if facts.map_helpers is None else " by newuidmap and newgidmap"
    if failed is not None:
        operation = "newuidmap" if facts.map_helpers else "write uid_map"
        return Check(
            id="ids",
            level="warning" if needs.single_id else "failure",
            summary=f"a range of ids cannot be mapped{how}: {_text_of(failed[1])}",
            cost='no sandbox starts with ids.map = "auto", the default',
            remedy=describe_errno(operation, failed[1].errno) or "",
            facts=_evidence(failed),
        )
    if not whole.did("id map"):
        return _not_tried("ids", whole)
    if count < MAP_SIZE:
        return Check(
            id="ids",
            level="warning",
            summary=f"{count} ids can be mapped{how}",
            cost=f"ids from {count} upwards do not exist in sandboxes, including nobody (65534)",
            remedy=f"as root: {_usermod(facts, free_subid)}",
            facts={"ids": count},
        )
    return Check(id="ids", level="ok", summary=f"{count} ids can be mapped{how}", facts={"ids": count})


def _usermod(facts: HostFacts, free: int) -> str:
    span = f"{free}-{free + MAP_SIZE - 1}"
    return f"usermod --add-subuids {span} --add-subgids {span} {facts.user_name or facts.uid}"


def _ids_remedy(facts: HostFacts, session: SessionFacts, free_subid: int) -> str:
    """Return the remedy that gives this user a range of ids to map."""
    if facts.uid == 0:
        return _ids_remedy_of_container(facts)
    helpers = (facts.newuidmap, facts.newgidmap)
    install = "apt-get install uidmap" if session.debian else "install newuidmap (Fedora: shadow-utils)"
    steps = []
    if any(helper.path is None for helper in helpers):
        steps.append(install)
    if not facts.uid_ranges or not facts.gid_ranges:
        steps.append(_usermod(facts, free_subid))
    if steps:
        return f"as root: {' && '.join(steps)}"
    problem = facts.id_map_problem or ""
    if "no_new_privs" in problem:
        return "start sandbox outside of the container, service (NoNewPrivileges=) or sandbox that set no_new_privs"
    if "nosuid" in problem:
        path = next(helper.path for helper in helpers if helper.problem is not None)
        return f"as root: mount -o remount,suid $(findmnt -no TARGET -T {path})"
    reinstall = (
        "apt-get install --reinstall uidmap" if session.debian else "reinstall newuidmap and newgidmap"
    )
    return f"as root: {reinstall}"


def _ids_remedy_of_container(facts: HostFacts) -> str:
    """Return the remedy that gives root of a user namespace a range of the ids of that namespace."""
    last = min(
        max((entry.inside + entry.count for entry in own_map), default=1) - 1
        for own_map in (facts.own_uid_map, facts.own_gid_map)
    )
    if last < 1:
        return "start the outer container with more than one id: podman run --userns=auto:size=65536"
    ranges = "" if not facts.uid_ranges and not facts.gid_ranges else ", instead of the present ranges"
    return (
        f"as root: usermod --add-subuids 1-{last} --add-subgids 1-{last} {facts.user_name or 'root'}{ranges}"
    )


def _kinds(probe: Probe, needs: Needs, place: Place) -> Check:
    failed = [(kind, probe.failure(f"unshare {kind}")) for kind in KINDS]
    refused = [(kind, found[1]) for kind, found in failed if found is not None]
    if not refused:
        if not all(probe.did(f"unshare {kind}") for kind in KINDS):
            return _not_tried("namespaces", probe)
        clocks = probe.failure("unshare time", "clock offsets")
        if clocks is not None:
            return Check(
                id="namespaces",
                level="failure" if "time" in needs.namespaces else "warning",
                summary=f"{_listed(KINDS)} namespaces can be created, but no time namespace: {_text_of(clocks[1])}",
                cost='any namespaces.time other than "host" is refused',
                facts={"refused": {"time": clocks[1].text}},
            )
        made = (*KINDS, *(("time",) if probe.did("unshare time") else ()))
        return Check(
            id="namespaces",
            level="ok",
            summary=f"{_listed(made)} namespaces can be created",
            facts={"refused": {}},
        )
    kinds = [kind for kind, _ in refused]
    needed = [kind for kind in kinds if kind in needs.namespaces or kind in ALWAYS]
    failure = refused[0][1]
    if failure.errno == errno.ENOSPC:
        settings = " ".join(f"user.max_{_SYSCTL.get(kind, kind)}_namespaces=15000" for kind in kinds)
        remedy = lasting(f"as root, sysctl {settings}", place)
    else:
        remedy = describe_errno("unshare", failure.errno) or ""
    avoidable = [kind for kind in kinds if kind not in ALWAYS]
    cost = NO_START if set(kinds) & ALWAYS else ""
    if not cost:
        wanted = " and ".join(f'namespaces.{kind} = "host"' for kind in avoidable)
        cost = f"a sandbox starts only with {wanted}"
    return Check(
        id="namespaces",
        level="failure" if needed else "warning",
        summary=f"{_listed(kinds)} namespaces cannot be created: {_text_of(failure)}",
        cost=cost,
        remedy=remedy,
        facts={"refused": {kind: found.text for kind, found in refused}},
    )


def _listed(words: tuple[str, ...] | list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


_FUSE_MISSING: dict[Place, str] = {
    "systemd": "as root: modprobe fuse && echo fuse > /etc/modules-load.d/fuse.conf",
    "container": "start the container with --device /dev/fuse (podman, docker)",
    "plain": "as root: modprobe fuse; [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229",
}
_FUSE_CLOSED: dict[Place, str] = {
    "systemd": (
        'as root: chmod 666 /dev/fuse; permanently: echo \'KERNEL=="fuse", MODE="0666"\' > /etc/udev/rules.d/99-fuse.rules'
    ),
    "container": "as root of the container: chmod 666 /dev/fuse; if that does not help: start it with --device /dev/fuse",
    "plain": "as root: chmod 666 /dev/fuse",
}


def _fuse(facts: HostFacts, probe: Probe, place: Place) -> Check:
    def refuse(summary: str, remedy: str, failed: tuple[str, Failure] | None = None) -> Check:
        cost = f"{NO_START}: the root file system is served through FUSE"
        evidence = {"device": facts.fuse, **_evidence(failed)}
        return Check(id="fuse", level="failure", summary=summary, cost=cost, remedy=remedy, facts=evidence)

    if facts.fuse == "missing":
        return refuse("/dev/fuse is missing", _FUSE_MISSING[place])
    if facts.fuse != "ok":
        return refuse("/dev/fuse cannot be opened by this account", _FUSE_CLOSED[place])
    if (failed := probe.failure("open /dev/fuse")) is not None:
        number = failed[1].errno
        remedy = {errno.ENODEV: _FUSE_MISSING, errno.ENXIO: _FUSE_MISSING}.get(number, _FUSE_CLOSED)[place]
        return refuse(f"/dev/fuse cannot be opened: {_text_of(failed[1])}", remedy, failed)
    if (failed := probe.failure("mount fuse")) is not None:
        remedy = describe_errno("mount fuse", failed[1].errno) or ""
        if failed[1].errno == errno.EINVAL:  # it was opened in the right namespace, so it is another device
            remedy = "as root: rm /dev/fuse && mknod -m 666 /dev/fuse c 10 229"
        return refuse(f"FUSE cannot be mounted: {_text_of(failed[1])}", remedy, failed)
    if not probe.did("mount fuse"):
        return _not_tried("fuse", probe)
    return Check(
        id="fuse",
        level="ok",
        summary="/dev/fuse can be opened and mounted in a user namespace",
        facts={"device": facts.fuse},
    )


def _mounting(
    identity: str,
    probe: Probe,
    steps: tuple[str, ...],
    *,
    ok: str,
    bad: str,
    operations: dict[str, str],
    level: Level = "failure",
    cost: str = NO_START,
) -> Check:
    """Return the check of *steps*: *ok* if all were reached and succeeded; *bad* with the reason if one failed."""
    failed = probe.failure(*steps)
    if failed is not None:
        step, failure = failed
        return Check(
            id=identity,
            level=level,
            summary=f"{bad}: {_text_of(failure)}",
            cost=cost,
            remedy=describe_errno(operations.get(step, step), failure.errno) or "",
            facts=_evidence(failed),
        )
    if not all(map(probe.did, steps)):
        return _not_tried(identity, probe)
    return Check(id=identity, level="ok", summary=ok)


def _proc(probe: Probe, needs: Needs) -> Check:
    return _mounting(
        "proc",
        probe,
        ("mount proc",),
        ok="/proc of a new pid namespace can be mounted",
        bad="/proc cannot be mounted",
        operations={},
        level="failure" if "pid" in needs.namespaces else "warning",
        cost='a sandbox starts only with namespaces.pid = "host"',
    )


def _sysfs(probe: Probe, needs: Needs) -> Check:
    return _mounting(
        "sysfs",
        probe,
        ("mount sysfs",),
        ok="/sys of a new network namespace can be mounted",
        bad="/sys cannot be mounted",
        operations={},
        level="failure" if needs.private_net else "warning",
        cost='a sandbox starts only with namespaces.net = "host"',
    )


def _dev(probe: Probe) -> Check:
    failed = probe.failure("open devices")
    if failed is not None:
        name = failed[1].text.partition(":")[0].removeprefix("/dev/")
        numbers = devices.NODES.get(name)
        again = (
            f"as root: rm -f /dev/{name} && mknod -m 666 /dev/{name} c {numbers[0]} {numbers[1]}"
            if numbers
            else ""
        )
        return Check(
            id="dev",
            level="failure",
            summary=f"/dev cannot be created: {failed[1].text}",
            cost=NO_START,
            # If the errno means that a resource is exhausted, the device itself is fine.
            remedy=describe_errno("", failed[1].errno) or again,
            facts=_evidence(failed),
        )
    return _mounting(
        "dev",
        probe,
        ("open devices", "build dev"),
        ok="a /dev with its own terminals can be created",
        bad="/dev cannot be created",
        operations={"build dev": "mount"},
    )


def _root(probe: Probe, needs: Needs) -> Check:
    steps = ["read-only paths", "masked paths", "pivot_root"]
    steps += ["sethostname"] if "uts" in needs.namespaces else []
    steps += ["loopback"] if needs.private_net else []
    return _mounting(
        "root",
        probe,
        tuple(steps),
        ok="pivot_root to a new root works, with paths of the kernel masked",
        bad="pivot_root to a new root fails",
        operations={"read-only paths": "mount", "masked paths": "mount"},
    )


def _terminal(facts: HostFacts, probe: Probe, needs: Needs) -> Check:
    failed = probe.failure("open a terminal")
    if failed is not None:
        return Check(
            id="terminal",
            level="failure" if needs.terminal else "warning",
            summary=f"no terminal can be opened in a sandbox: {_text_of(failed[1])}",
            cost="`up` fails if the program gets a terminal: process.terminal = true, or standard input and output are a terminal",
            remedy="set process.terminal = false",
            facts={"here": facts.terminal, **_evidence(failed)},
        )
    if not probe.did("open a terminal"):
        return _not_tried("terminal", probe)
    here = (
        "standard input and output are a terminal"
        if facts.terminal
        else "standard input and output are not a terminal"
    )
    return Check(
        id="terminal",
        level="ok",
        summary=f"a terminal can be opened in a sandbox; {here}",
        facts={"here": facts.terminal},
    )

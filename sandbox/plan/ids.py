"""Plan the uid and gid maps of the sandbox, and the user and groups that the program runs as."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandbox.host.facts import HostFacts
from sandbox.kernel.idmaps import IdMap, is_single, lookup, through
from sandbox.kernel.namespaces import UserNamespaceFact
from sandbox.plan.findings import Findings
from sandbox.plan.values import IdPlan
from sandbox.spec.model import Spec
from sandbox.spec.tables import IdRange
from sandbox.spec.values import User
from unionfs._stdlib.dataclasses import replace

# doctor finds the packages and a free range of subordinate ids. A range named here could belong to another account.
_SUBID_HINT = "remove it, or get more ids: `sandbox doctor` names the command"
_HELPER_HINT = "install uidmap, or map nothing but your own ids: { inside = 0, outside = YOURS, count = 1 }"
_ROOT_KEEPS_NO_ID = "root of the sandbox would be root of this machine"


def plan_ids(
    spec: Spec,
    facts: HostFacts,
    findings: Findings,
    within: UserNamespaceFact | None = None,
    *,
    joined: bool = False,
) -> IdPlan:
    """Plan the ids that the file asks for, or the single id that every account may map; refuse users that are not mapped.

    *within* is the user namespace in which the sandbox's own is created or, if *joined*, the one that the sandbox joins. It
    is None for the launcher's.
    """
    if within is not None and joined:
        ids = _ids_of_namespace(within, facts)
    else:
        explicit = _explicit(spec, facts, findings) if spec.ids.uid_map or spec.ids.gid_map else None
        ids = explicit or _by_keyword(spec, facts, findings)
        if within is not None and inner_maps(ids, within) is None:
            ids = _ids_of_joined(spec, ids, within, facts, findings)
        if within is not None:
            ids = replace(ids, setgroups=ids.setgroups and within.setgroups)
    if not ids.single or joined:
        _refuse_unmapped(spec, ids, findings)
    return ids


def inner_maps(ids: IdPlan, within: UserNamespaceFact) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]] | None:
    """Return the maps of *ids* as they are written within the user namespace *within*; None if it lacks some of the ids."""
    uid_map, gid_map = through(within.uid_map, ids.uid_map), through(within.gid_map, ids.gid_map)
    return None if uid_map is None or gid_map is None else (uid_map, gid_map)


def _ids_of_namespace(within: UserNamespaceFact, facts: HostFacts) -> IdPlan:
    """Return the ids of an existing user namespace."""
    ids = _id_plan(facts, within.uid_map, within.gid_map)
    return replace(ids, setgroups=within.setgroups)


def _ids_of_joined(
    spec: Spec, ids: IdPlan, within: UserNamespaceFact, facts: HostFacts, findings: Findings
) -> IdPlan:
    """Return the ids of the user namespace *within*, which lacks some of *ids*; refuse if the file insists on its own."""
    reason = "the sandbox whose namespaces are joined does not have all of these ids"
    key = "ids.uid_map" if spec.ids.uid_map else "ids.map"
    if spec.is_set(key) and key.removeprefix("ids.") not in spec.ids.optional:
        findings.refuse(key, reason, "remove it to use the ids of that sandbox")
        return ids
    findings.degrade(key, "maps the ids of that sandbox", reason, warned=spec.is_set(key))
    return _ids_of_namespace(within, facts)


def program_user(spec: Spec, facts: HostFacts, ids: IdPlan) -> User:
    """Return the user that the program runs as.

    With keep-id and no process.user in the file, that is the user who starts the sandbox (as with podman).
    """
    if spec.ids.map == "keep-id" and not spec.is_set("process.user"):
        own = (lookup(ids.uid_map, facts.uid), lookup(ids.gid_map, facts.gid))
        if own == (facts.uid, facts.gid):
            return User(facts.uid, facts.gid)
    return spec.process.user


def program_groups(spec: Spec, user: User, ids: IdPlan) -> tuple[int | str, ...] | None:
    """Return the supplementary groups of the program, which runs as *user*; None for those that /etc/group lists.

    As with docker, a user with an explicit group gets no supplementary groups. A user given by number gets none either, nor
    does any user if only group 0 exists. If setgroups(2) is denied, the program keeps the groups of the host.
    """
    if spec.process.groups is not None:
        return spec.process.groups
    by_name = isinstance(user.user, str) and user.group is None
    return None if by_name and ids.setgroups and not ids.single else ()


def _by_keyword(spec: Spec, facts: HostFacts, findings: Findings) -> IdPlan:
    word = spec.ids.map
    if word == "keep-id":
        kept = facts.keep_id_maps()
        if kept is not None:
            return _id_plan(facts, *kept)
        reason = _ROOT_KEEPS_NO_ID if facts.is_real_root else facts.id_map_problem or "no ids"
        if "map" not in spec.ids.optional:
            hint = (
                "start the sandbox as an ordinary user, or remove it" if facts.is_real_root else _SUBID_HINT
            )
            findings.refuse("ids.map", f'"keep-id" is not possible: {reason}', hint)
        elif facts.is_real_root:
            findings.degrade("ids.map", "maps ids that no account has", reason)
        else:
            findings.degrade("ids.map", "maps a single id", reason)
    whole = facts.whole_maps() if word != "single" else None
    if whole is not None:
        return _id_plan(facts, *whole)
    if word == "auto":
        reason = facts.id_map_problem or "no ids"
        findings.degrade("ids.map", "maps a single id", reason, warned=spec.is_set("ids.map"))
    if word != "single":
        _refuse_all_but_zero(spec, facts, findings)
    return _id_plan(facts, *facts.single_maps())


def _refuse_all_but_zero(spec: Spec, facts: HostFacts, findings: Findings) -> None:
    reason, user = facts.id_map_problem or "no ids", spec.process.user
    if user.user not in (0, "root"):
        findings.refuse("process.user", f"only user 0 exists in the sandbox: {reason}", _SUBID_HINT)
    elif user.group not in (None, 0, "root"):
        findings.refuse("process.user", f"only group 0 exists in the sandbox: {reason}", _SUBID_HINT)
    if spec.process.groups:
        findings.refuse("process.groups", f"only group 0 exists in the sandbox: {reason}", _SUBID_HINT)


def _explicit(spec: Spec, facts: HostFacts, findings: Findings) -> IdPlan | None:
    """Return the ids of ids.uid_map and ids.gid_map; None if they are refused, or the file makes them optional and they fail."""
    found: list[tuple[str, str, str]] = []
    for groups, key in enumerate(("uid_map", "gid_map")):
        id_map = _entries(getattr(spec.ids, key))
        refused = facts.unmappable(id_map, groups=bool(groups))
        for number in refused:
            shown = _span(id_map[number].outside, id_map[number].count)
            text = f"{shown} may not be mapped by this account"
            found.append((f"ids.{key}[{number}]", text, _mappable(facts, key)))
        helper = facts.newgidmap if groups else facts.newuidmap
        if not refused and helper.problem and facts.uid != 0 and not _is_own(spec, facts):
            found.append((f"ids.{key}", helper.problem, _HELPER_HINT))
    if not found:
        return _id_plan(facts, _entries(spec.ids.uid_map), _entries(spec.ids.gid_map))
    for key, other in (("ids.uid_map", "ids.gid_map"), ("ids.gid_map", "ids.uid_map")):
        if not any(name.startswith(key) for name, _, _ in found):
            found.append(
                (key, f"can be used only together with {other}", "map other ids in that one, or remove both")
            )
    for key, reason, hint in found:
        table = key.removeprefix("ids.").partition("[")[0]
        if table in spec.ids.optional:
            findings.degrade(f"ids.{table}", None, reason)
        else:
            findings.refuse(key, reason, hint)
    return None


def _is_own(spec: Spec, facts: HostFacts) -> bool:
    """Tell whether only the account itself is mapped, which needs neither newuidmap nor newgidmap."""
    maps = ((spec.ids.uid_map, facts.uid), (spec.ids.gid_map, facts.gid))
    return all(len(ranges) == 1 and (ranges[0].outside, ranges[0].count) == (own, 1) for ranges, own in maps)


def _mappable(facts: HostFacts, table: str) -> str:
    groups = table == "gid_map"
    if facts.uid == 0:
        own_map = facts.own_gid_map if groups else facts.own_uid_map
        return (
            f"the ids of this user namespace are {_spans((entry.inside, entry.count) for entry in own_map)}"
        )
    own_id, ranges = (facts.gid, facts.gid_ranges) if groups else (facts.uid, facts.uid_ranges)
    spans = _spans([(own_id, 1), *((item.start, item.count) for item in ranges)])
    return f"each range must be your own id alone, or lie within one line for your account in /etc/sub{table[0]}id: {spans}"


def _entries(ranges: Sequence[IdRange]) -> tuple[IdMap, ...]:
    return tuple(IdMap(inside=item.inside, outside=item.outside, count=item.count) for item in ranges)


def _id_plan(facts: HostFacts, uid_map: tuple[IdMap, ...], gid_map: tuple[IdMap, ...]) -> IdPlan:
    own_uid = is_single(uid_map) and uid_map[0].outside == facts.uid
    own_gid = is_single(gid_map) and gid_map[0].outside == facts.gid
    return IdPlan(
        uid_map=uid_map,
        gid_map=gid_map,
        helpers=None if own_uid and own_gid else facts.map_helpers,
        single=is_single(uid_map) and is_single(gid_map),
        # user_namespaces(7): a process could otherwise drop a group that denies it access.
        setgroups=facts.setgroups and (facts.uid == 0 or not own_gid),
    )


def _refuse_unmapped(spec: Spec, ids: IdPlan, findings: Findings) -> None:
    user, group = spec.process.user.user, spec.process.user.group
    users, groups = (
        f"the sandbox has {what} {_spans((entry.inside, entry.count) for entry in id_map)}"
        for what, id_map in (("users", ids.uid_map), ("groups", ids.gid_map))
    )
    if isinstance(user, int) and lookup(ids.uid_map, user) is None:
        findings.refuse("process.user", f"user {user} does not exist in the sandbox", users)
    elif isinstance(group, int) and lookup(ids.gid_map, group) is None:
        findings.refuse("process.user", f"group {group} does not exist in the sandbox", groups)
    for number, group in enumerate(spec.process.groups or ()):
        if isinstance(group, int) and lookup(ids.gid_map, group) is None:
            findings.refuse(
                f"process.groups[{number}]", f"group {group} does not exist in the sandbox", groups
            )
    if spec.process.groups and not ids.setgroups:
        hint = "map subordinate group ids in addition to your own"
        findings.refuse("process.groups", "setgroups(2) is denied if only your own group is mapped", hint)


def _spans(ranges: Iterable[tuple[int, int]]) -> str:
    """Return *ranges* of start and count in words, adjacent ones merged: "0-65535 and 100000"."""
    merged: list[list[int]] = []
    for start, count in sorted(ranges):
        if merged and merged[-1][0] + merged[-1][1] == start:
            merged[-1][1] += count
        else:
            merged.append([start, count])
    *first, last = [_span(start, count) for start, count in merged] or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


def _span(start: int, count: int) -> str:
    return str(start) if count == 1 else f"{start}-{start + count - 1}"

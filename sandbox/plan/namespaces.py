"""Plan the namespaces: which are the sandbox's own, which are the host's, and which it joins."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.host.facts import HostFacts
from sandbox.kernel.namespaces import NamespaceFact, UserNamespaceFact
from sandbox.plan.findings import Findings
from sandbox.plan.values import Join
from sandbox.spec.model import Spec
from sandbox.spec.values import TimeOffsets
from unionfs._stdlib.dataclasses import dataclass

KINDS = ("user", "mount", "pid", "net", "ipc", "uts", "cgroup", "time")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespacePlan:
    """The namespaces, by kind. Those neither private nor joined are the host's."""

    private: frozenset[str]
    joins: tuple[Join, ...]
    #: The kind of the one of *joins* whose user namespace is entered first: an ordinary user may not join the others otherwise.
    through: str | None
    #: The user namespace that is entered first or joined; None if there is neither.
    user: UserNamespaceFact | None
    #: The clock offsets of a private time namespace, in nanoseconds.
    clocks: tuple[tuple[str, int], ...]

    def owned(self, kind: str) -> bool:
        """Tell whether the sandbox's root has capabilities over its namespace of *kind*, so that it may mount its file system."""
        if kind in self.private:
            return True
        mine = {join.kind: join.owner for join in self.joins}
        return kind in mine and "user" in mine and mine[kind] == mine["user"]


def plan_namespaces(
    spec: Spec, facts: HostFacts, found: Mapping[str, NamespaceFact], findings: Findings
) -> NamespacePlan:
    """Plan the namespaces of *spec*; *found* are the facts of those to join, by kind."""
    private, joins, users = set(), [], {}
    for kind in KINDS:
        source = getattr(spec.namespaces, kind)
        if isinstance(source, TimeOffsets) or source == "private":
            if kind != "time" or _has_time(spec, facts, findings):
                private.add(kind)
        elif source != "host":
            fact = found.get(kind, NamespaceFact(path="", problem="was not examined"))
            refusal = _refusal(kind, fact, facts)
            if refusal is None:
                owner = None if fact.user is None else fact.user.identity
                joins.append(
                    Join(kind=kind, asked=source, path=fact.path, identity=fact.identity, owner=owner)
                )
                users[kind] = fact.user
            else:
                _degrade_or_refuse(spec, kind, refusal, findings)
                private.add(kind)
    for join, refusal in _out_of_reach(joins, facts):
        _degrade_or_refuse(spec, join.kind, refusal, findings)
        joins.remove(join)
        private.add(join.kind)
    # setns(2) requires CAP_SYS_ADMIN in the owning user namespace, which an ordinary user gets by entering that first.
    through = joins[0].kind if joins and facts.uid != 0 and "user" not in users else None
    chosen = "user" if "user" in users else through
    offsets = spec.namespaces.time
    clocks = () if not isinstance(offsets, TimeOffsets) or "time" not in private else _nanoseconds(offsets)
    return NamespacePlan(
        private=frozenset(private),
        joins=tuple(joins),
        through=through,
        user=users[chosen] if chosen is not None else None,
        clocks=clocks,
    )


def _nanoseconds(offsets: TimeOffsets) -> tuple[tuple[str, int], ...]:
    given = (("monotonic", offsets.monotonic), ("boottime", offsets.boottime))
    return tuple((name, round(value * 10**9)) for name, value in given if value)


def _has_time(spec: Spec, facts: HostFacts, findings: Findings) -> bool:
    if facts.time_namespaces:
        return True
    refusal = ("this kernel has no time namespaces (Linux 5.6, CONFIG_TIME_NS)", 'write "host"')
    _degrade_or_refuse(spec, "time", refusal, findings)
    return False


def _degrade_or_refuse(spec: Spec, kind: str, refusal: tuple[str, str | None], findings: Findings) -> None:
    reason, hint = refusal
    if kind in spec.namespaces.optional:
        findings.degrade(f"namespaces.{kind}", None, reason)
    else:
        findings.refuse(f"namespaces.{kind}", reason, hint)


def _refusal(kind: str, fact: NamespaceFact, facts: HostFacts) -> tuple[str, str | None] | None:
    """Return message and hint if the namespace cannot be joined, otherwise None."""
    if fact.problem is not None:
        return fact.problem, fact.hint
    if fact.own:
        hint = "name another namespace" if kind == "user" else 'write "host"'
        return f"{fact.path} is the {kind} namespace of the host", hint
    if kind == "user":
        if fact.user is None:
            return (
                f"{fact.path} is not a user namespace below the caller's",
                "join the user namespace of one of your sandboxes",
            )
        if fact.user.owner != facts.uid:
            # The owner of a user namespace has all capabilities over the processes in it.
            return (
                f"{fact.path} was created by user {fact.user.owner}",
                "join the user namespace of one of your sandboxes",
            )
        if not any(entry.inside == 0 for entry in fact.user.uid_map) or not any(
            entry.inside == 0 for entry in fact.user.gid_map
        ):
            return (
                f"{fact.path} maps no user or group 0",
                "name a user namespace that maps user 0 and group 0",
            )
    elif facts.uid != 0 and (fact.user is None or fact.user.owner != facts.uid or not fact.user.uid_map):
        whose = "the host" if fact.user is None else f"user {fact.user.owner}"
        return (
            f"{fact.path} belongs to {whose}",
            "only root can join it; you can join namespaces of your own sandboxes",
        )
    return None


def _out_of_reach(joins: list[Join], facts: HostFacts) -> list[tuple[Join, tuple[str, str]]]:
    """Return those of *joins* that cannot be joined after entering the user namespace of the first, each with message and hint.

    If a user namespace is joined, it is the first of *joins*.
    """
    if facts.uid != 0:
        hint = "an ordinary user can join the namespaces of one sandbox only"
        refusal = ("does not belong to the same sandbox as the other namespaces", hint)
        return [(join, refusal) for join in joins if join.owner != joins[0].owner]
    if not any(join.kind == "user" for join in joins):
        return []
    # Any other owner may lie within the joined user namespace, whose root has all capabilities in it.
    refusal = (
        "belongs to the host, and root of the joined user namespace has no capabilities over namespaces of the host",
        "remove namespaces.user, or join a namespace that belongs to it",
    )
    return [(join, refusal) for join in joins if join.owner is None]

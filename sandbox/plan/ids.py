"""Which ids the sandbox has."""

from __future__ import annotations

from sandbox.host import HostFacts
from sandbox.kernel.idmaps import lookup, single_map
from sandbox.plan.findings import Findings
from sandbox.plan.values import IdPlan
from sandbox.spec.model import Spec

# Which packages and which free range that takes, doctor finds out: a range named here could be another account's.
_SUBID_HINT = "remove it, or get more ids: `sandbox doctor` names the command"


def plan_ids(spec: Spec, facts: HostFacts, findings: Findings) -> IdPlan:
    """Map as many ids as the file asks for, or the one that anybody may map; refuse accounts that then lack."""
    whole = facts.whole_maps() if spec.ids.map == "auto" else None
    user = spec.process.user
    if whole is not None:
        ids = IdPlan(uid_map=whole[0], gid_map=whole[1], helpers=facts.map_helpers, single=False)
        _refuse_unmapped(spec, ids, findings)
        return ids
    if spec.ids.map == "auto":
        reason = facts.id_map_problem or "no ids"
        findings.differ("ids.map", "maps a single id", reason, warned=spec.is_set("ids.map"))
        if user.user not in (0, "root"):
            findings.refuse("process.user", f"only user 0 exists here: {reason}", _SUBID_HINT)
        elif user.group not in (None, 0, "root"):
            findings.refuse("process.user", f"only group 0 exists here: {reason}", _SUBID_HINT)
        if spec.process.groups:
            findings.refuse("process.groups", f"only group 0 exists here: {reason}", _SUBID_HINT)
    return IdPlan(uid_map=single_map(facts.uid), gid_map=single_map(facts.gid), helpers=None, single=True)


def _refuse_unmapped(spec: Spec, ids: IdPlan, findings: Findings) -> None:
    user, group = spec.process.user.user, spec.process.user.group
    hint = "use ids up to 65535"
    if isinstance(user, int) and lookup(ids.uid_map, user) is None:
        findings.refuse("process.user", f"user {user} does not exist in the sandbox", hint)
    elif isinstance(group, int) and lookup(ids.gid_map, group) is None:
        findings.refuse("process.user", f"group {group} does not exist in the sandbox", hint)
    for number, group in enumerate(spec.process.groups):
        if lookup(ids.gid_map, group) is None:
            findings.refuse(f"process.groups[{number}]", f"group {group} does not exist in the sandbox", hint)

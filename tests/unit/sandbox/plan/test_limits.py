"""Cgroup limits in the plan: the cgroup level of each machine, and the limits of the file system server."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sandbox.errors import SpecError
from sandbox.host.facts import HostFacts
from sandbox.host.paths import PathFact
from sandbox.kernel.cgroups import CgroupLimits, Hierarchy, IoRates, NoHierarchy
from sandbox.kernel.cgroups.scope import ScopeHierarchy
from sandbox.kernel.cgroups.v1 import V1Hierarchy
from sandbox.kernel.cgroups.v2 import V2Hierarchy
from sandbox.plan import as_dict, describe
from sandbox.spec.diagnostic import Diagnostic
from tests.unit.sandbox.explain.machines import FilesThatAreThere
from tests.unit.sandbox.facts import host, plan

ROOT = '[root]\nlayers = ["dir:/"]\n'
ALL = frozenset({"memory", "cpu", "pids", "cpuset", "io"})


def delegated(*controllers: str, **changes: Any) -> V2Hierarchy:
    found = frozenset(controllers) or ALL
    return V2Hierarchy(directory="/own", available=found, enabled=frozenset(), processors="0-3", **changes)


def scopes(*controllers: str) -> ScopeHierarchy:
    found = frozenset(controllers) or ALL
    return ScopeHierarchy(
        bus="/run/bus", directory="/manager", slice="app.slice", controllers=found, processors="0-3"
    )


def version_1() -> V1Hierarchy:
    names = ("memory", "cpu", "pids")
    return V1Hierarchy(
        directories=tuple((name, f"/{name}") for name in names),
        files=FilesThatAreThere(),  # type: ignore[arg-type]
    )


NONE = NoHierarchy(reason="there is none")


@pytest.mark.parametrize(
    ("own", "given", "level"),
    [
        (delegated(), scopes(), "delegated"),
        (delegated(), NONE, "delegated"),
        (NONE, scopes(), "scope"),
        (version_1(), scopes(), "scope"),
        (version_1(), NONE, "v1"),
        # If systemd runs, a cgroup that root can write to still belongs to systemd.
        (delegated(of_machine=True), scopes(), "scope"),
        (delegated(of_machine=True), NONE, "delegated"),
        # A level that enforces all limits is preferred to an earlier level that does not.
        (delegated("pids"), scopes(), "scope"),
        (version_1(), scopes("pids"), "v1"),
        # If no level enforces all limits, the one that enforces most is taken.
        (delegated("memory"), scopes(), "scope"),
    ],
)
def test_the_first_level_that_holds_the_limits_is_taken(own: Hierarchy, given: Hierarchy, level: str) -> None:
    made = plan(ROOT + '[limits]\nmemory = "64M"\npids = 9\n', host(cgroups=own, scopes=given))
    assert made.cgroup_level == level
    assert made.cgroup == CgroupLimits(memory=64 << 20, pids=9)
    assert made.warnings == ()


def test_a_level_that_holds_most_is_taken_where_the_rest_may_go_unenforced() -> None:
    text = ROOT + '[limits]\nmemory = "64M"\npids = 9\ncpuset = "0"\noptional = ["memory", "cpuset"]\n'
    made = plan(text, host(cgroups=delegated("cpu"), scopes=scopes("pids", "memory")))
    assert (made.cgroup_level, made.cgroup.given()) == ("scope", ["memory", "pids"])
    assert made.warnings == (
        "not enforced: limits.cpuset: the cpuset controller is not delegated to /manager",
    )


def test_without_limits_the_level_is_what_a_report_would_be_measured_by() -> None:
    assert plan(ROOT, host(cgroups=NONE, scopes=scopes())).cgroup_level == "scope"
    assert plan(ROOT, host(cgroups=NONE)).cgroup_level == "none"


def test_memory_is_never_held_by_a_limit_of_address_space() -> None:
    made = plan(ROOT + '[limits]\nmemory = "64M"\noptional = ["memory"]\n', host(cgroups=NONE))
    assert made.process.rlimits == {}
    assert made.warnings == ("not enforced: limits.memory: there is none",)


def refusal(text: str, facts: HostFacts, **paths: PathFact) -> str:
    with pytest.raises(SpecError) as caught:
        plan(text, facts, {f"/{name}": fact for name, fact in paths.items()})
    return caught.value.render()


def test_a_controller_that_accounts_could_be_given_is_a_question_for_doctor() -> None:
    facts = host(cgroups=NONE, scopes=scopes("memory", "pids"), systemd=True)
    text = refusal(ROOT + '[limits]\ncpuset = "0"\n', facts)
    assert "cannot be enforced here: the cpuset controller is not delegated to /manager" in text
    assert (
        "; or let root delegate the cpuset controller to accounts: `sandbox doctor` prints the command"
        in text
    )


def hints(text: str, facts: HostFacts) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        plan(text, facts)
    return {one.key: one.hint or "" for one in cast("list[Diagnostic]", caught.value.diagnostics)}


def test_limits_that_are_refused_for_one_cause_are_made_optional_together() -> None:
    found = hints(ROOT + '[limits]\npids = 9\ncpus = 0.5\nmemory = "64M"\n', host(cgroups=NONE))
    hint = (
        'remove it, or allow the sandbox to run without these: optional = ["memory", "cpus", "pids"]; '
        "`sandbox doctor` prints what is needed to enforce it"
    )
    assert found == {"limits.pids": hint, "limits.cpus": hint, "limits.memory": hint}


def test_what_is_refused_for_another_cause_is_not_in_the_hint_and_what_is_optional_already_stays() -> None:
    text = ROOT + '[limits]\nmemory = "64M"\npids = 9\ncpus = 0.5\noptional = ["cpus"]\n'
    found = hints(text, host(cgroups=delegated("io")))
    assert 'without these: optional = ["cpus", "memory"]' in found["limits.memory"]
    assert 'without these: optional = ["cpus", "pids"]' in found["limits.pids"]


def test_the_server_has_limits_of_its_own_that_leave_it_room() -> None:
    text = ROOT + '[limits]\nmemory = "64M"\ncpus = 0.5\ncpu_weight = 20\npids = 9\ncpuset = "1"\n'
    made = plan(text, host(cgroups=delegated()))
    assert made.server_cgroup == CgroupLimits(memory=1 << 30, cpus=1.0, pids=128)
    more = plan(ROOT + '[limits]\nmemory = "4G"\ncpus = 3\npids = 500\n', host(cgroups=delegated()))
    assert more.server_cgroup == CgroupLimits(memory=4 << 30, cpus=3.0, pids=500)
    assert plan(ROOT, host(cgroups=delegated())).server_cgroup.given() == []


def disk(name: str, device: str | None, reason: str = "") -> PathFact:
    return PathFact(path=f"/{name}", real=f"/{name}", kind="directory", device=device, no_device=reason)


IO = '[limits]\nio = [{ path = "/a", read = "2M" }, { path = "/b", read = "1M", write_operations = 5 }]\n'


def test_rates_are_of_the_disk_below_a_path_and_of_two_for_one_disk_the_lower_hold() -> None:
    facts = host(cgroups=delegated())
    apart = plan(ROOT + IO, facts, {"/a": disk("a", "8:0"), "/b": disk("b", "8:16")})
    assert apart.cgroup.io == (
        IoRates(device="8:0", read=2 << 20),
        IoRates(device="8:16", read=1 << 20, write_operations=5),
    )
    together = plan(ROOT + IO, facts, {"/a": disk("a", "8:0"), "/b": disk("b", "8:0")})
    assert together.cgroup.io == (IoRates(device="8:0", read=1 << 20, write_operations=5),)


def test_a_path_on_no_disk_is_refused_at_its_place_or_where_optional_left_out() -> None:
    facts = host(cgroups=delegated())
    on_tmpfs = disk("b", None, "it is on a tmpfs file system")
    text = refusal(ROOT + IO, facts, a=disk("a", "8:0"), b=on_tmpfs)
    assert "limits.io[1].path: /b: it is on a tmpfs file system" in text
    made = plan(ROOT + IO + 'optional = ["io"]\n', facts, {"/a": disk("a", "8:0"), "/b": on_tmpfs})
    assert made.cgroup.io == (IoRates(device="8:0", read=2 << 20),)
    assert made.warnings == ("not enforced: limits.io[1]: /b: it is on a tmpfs file system",)


def test_plan_says_what_holds_each_limit() -> None:
    text = ROOT + '[limits]\npids = 9\nio = [{ path = "/a", read = "1M" }]\n'
    made = plan(text, host(cgroups=NONE, scopes=scopes()), {"/a": disk("a", "8:0")})
    lines = describe(made)
    assert "limit pids 9 (cgroup version 2, in a transient scope of systemd)" in lines
    assert "limit io 8:0 read=1048576 (cgroup version 2, in a transient scope of systemd)" in lines
    assert "limit of the server pids 128 (cgroup version 2, in a transient scope of systemd)" in lines
    told = as_dict(made)
    assert told["cgroup_level"] == "scope"
    rates = {
        "device": "8:0",
        "read": 1 << 20,
        "write": None,
        "read_operations": None,
        "write_operations": None,
    }
    assert told["cgroup"] == {"pids": 9, "io": [rates]}
    assert told["server_cgroup"] == {"pids": 128}

"""All checks together, from facts and an environment file."""

from __future__ import annotations

import errno

from sandbox.doctor.checks.needs import ALL, ALWAYS, default_needs, needs_of
from sandbox.doctor.examine import FileOutcome, check_file, check_machine, plan_file
from sandbox.doctor.facts import Failure, NamespaceFacts, Obstacle, ProgramFacts
from sandbox.errors import HostError
from sandbox.host.paths import PathFact
from sandbox.plan.limits import CGROUP_LIMITS
from sandbox.spec.load import parse
from sandbox.spec.model import Spec
from tests.unit.sandbox.doctor.made_up import Hierarchy, account, cgroups, checks, machine, probe, session
from tests.unit.sandbox.facts import plan

ROOT = '[root]\nlayers = ["dir:/"]\n'
EVERY_ID = [
    "kernel",
    "server",
    "userns",
    "ids",
    "namespaces",
    "fuse",
    "proc",
    "sysfs",
    "dev",
    "root",
    "terminal",
    "cgroups",
    "cgroups.memory",
    "cgroups.memory_high",
    "cgroups.swap",
    "cgroups.pids",
    "cgroups.cpu",
    "cgroups.io",
    "cgroups.cpuset",
    "session",
    "linger",
    "seccomp",
    "landlock",
    "network",
    "mtab",
    "state",
    "state.filesystem",
    "state.attributes",
    "state.deletions",
    "state.names",
    "state.owners",
    "state.space",
    "run",
    "leftovers",
]


def outcome(text: str) -> FileOutcome:
    """Plan the environment file *text* on a machine on which all probes succeed."""
    return FileOutcome(file="test.toml", plan=plan(text, account()))


def failing(*steps: str, number: int = errno.ENOSPC) -> NamespaceFacts:
    found = probe(fails={step: Failure(errno=number, text="no") for step in steps})
    return NamespaceFacts(single=found, whole=found)


def test_ids_and_their_order_are_stable_and_all_is_well_on_a_machine_that_has_everything():
    found = check_machine(account(), machine(), None)
    assert [check.id for check in found] == EVERY_ID
    assert {check.level for check in found} == {"ok"}
    assert [check for check in found if check.cost or check.remedy] == []


def test_lingering_is_no_question_where_no_systemd_runs():
    assert "linger" not in checks(session=session(place="plain", lingers=None))


def test_a_state_directory_that_cannot_be_used_has_no_file_system_to_judge():
    found = checks(state=Obstacle(reason="there is none"))
    assert [name for name in found if name.startswith("state")] == ["state"]


def test_with_a_single_id_nobody_else_can_own_files():
    found = checks(account(uid_ranges=()), namespaces=NamespaceFacts(single=probe(), whole=None))
    assert "state.owners" not in found


def test_a_file_that_can_be_planned_is_the_last_check():
    found = list(checks(outcome=outcome(ROOT)).values())[-1]
    assert (found.id, found.level, found.summary) == ("file", "ok", "test.toml can be planned here")
    assert found.facts == {"diagnostics": [], "warnings": []}


def test_what_serving_takes_is_no_failure_where_a_root_may_be_bound():
    tar = PathFact(path="/specs/a.tar", real="/specs/a.tar", kind="file", identity=(1, 3))
    broken = {
        "server": ProgramFacts(path="/usr/bin/python3", problem="it ended with status 1"),
        "namespaces": failing("mount fuse"),
    }
    for server, level in (("none", "warning"), ("auto", "warning"), ("direct", "failure")):
        text = f'[root]\nlayers = ["tar:a.tar"]\nwritable = "none"\nserver = "{server}"\n'
        planned = plan(text, account(), paths={"/specs/a.tar": tar})
        found = checks(outcome=FileOutcome(file="test.toml", plan=planned), **broken)
        assert (found["fuse"].level, found["server"].level) == (level, level)
    assert found["userns"].level == "ok"


def test_warnings_of_a_plan_are_a_warning_with_each_of_them():
    text = ROOT + '[limits]\npids = 5\noptional = ["pids"]\n'
    planned = plan(text)  # no cgroup there
    found = check_file(FileOutcome(file="test.toml", plan=planned))
    assert found.level == "warning"
    assert found.summary == "test.toml can be planned here, with 1 warning"
    assert found.cost == "`up` starts without the settings listed above"
    assert found.details == ("not enforced: limits.pids: there is none",)
    assert found.facts == {"diagnostics": [], "warnings": ["not enforced: limits.pids: there is none"]}


def test_what_no_machine_enforces_yet_is_shown_with_its_place():
    text = ROOT + '[health]\ncommand = ["true"]\n'
    unenforced = parse(text.encode(), path="/specs/test.toml", environ={}, unenforced="keep").unenforced
    found = check_file(FileOutcome(file="test.toml", plan=plan(ROOT, account()), unenforced=unenforced))
    assert (found.level, found.summary) == ("warning", "test.toml can be planned here, with 1 warning")
    assert found.details[0] == "/specs/test.toml:3:2: health: not enforced by this version"
    assert [one["key"] for one in found.facts["diagnostics"]] == ["health"]


def load(text: str) -> Spec:
    return parse(text.encode(), path="/specs/test.toml", environ={})


def test_mistakes_of_a_file_are_a_failure_with_their_diagnostics():
    result = plan_file(
        "test.toml", lambda: load('[root]\nlayers = ["dir:/absent"]\n'), account(), machine(), {}
    )
    found = check_file(result)
    assert (found.level, found.summary) == ("failure", "test.toml is refused: 1 mistake")
    assert found.details == (
        "/specs/test.toml:2:11: root.layers[0]: /absent: no such file or directory",
        '    2 | layers = ["dir:/absent"]',
        "      |           ^~~~~~~~~~~~~ name an existing directory or archive; relative paths start at the file's directory",
    )
    assert [one["key"] for one in found.facts["diagnostics"]] == ["root.layers[0]"]


def test_several_mistakes_are_counted():
    result = plan_file("t", lambda: load("[root]\nlayer = []\n[x]\n"), account(), machine(), {})
    assert check_file(result).summary.startswith("t is refused: ")
    assert check_file(result).summary.endswith(" mistakes")


def test_what_the_machine_lacks_for_any_plan_is_said_with_its_hint():
    found = check_file(FileOutcome(file="t", error=HostError("/dev/fuse is missing", hint="modprobe fuse")))
    assert (found.level, found.summary, found.remedy) == (
        "failure",
        "t cannot be planned: /dev/fuse is missing",
        "modprobe fuse",
    )


def test_the_defaults_are_what_the_smallest_file_needs():
    assert default_needs(account()) == needs_of(plan(ROOT, account()))
    single = account(uid_ranges=())
    assert default_needs(single) == needs_of(plan(ROOT, single))
    assert default_needs(single).single_id


def test_a_file_needs_what_it_asks_for():
    text = ROOT + (
        '[namespaces]\npid = "host"\nuts = "host"\ncgroup = "host"\n[network]\nmode = "host"\n[ids]\nmap = "single"\n'
        "[process]\nterminal = true\n[limits]\nmemory = 9999999\nswap = 0\ncpus = 1\n"
    )
    needs = needs_of(plan(text, account()))
    assert needs.single_id
    assert needs.terminal
    assert not needs.private_net
    assert needs.namespaces == ALWAYS
    assert needs.controllers == {"memory", "swap", "cpu"}
    assert default_needs(account()).namespaces == ALL


def test_time_namespaces_are_needed_where_a_file_has_clocks_of_its_own():
    clocks = outcome(ROOT + '[namespaces]\ntime = { boottime = "1d" }\n')
    facts = failing("unshare time")
    assert checks(outcome=clocks, namespaces=facts)["namespaces"].level == "failure"
    found = checks(namespaces=facts)["namespaces"]
    assert (found.level, found.cost) == ("warning", 'any namespaces.time other than "host" is refused')


def test_masked_proc_is_a_failure_but_for_a_file_that_shows_the_hosts():
    facts = failing("mount proc")
    assert checks(namespaces=facts)["proc"].level == "failure"
    shared = outcome(ROOT + '[namespaces]\npid = "host"\n')
    assert checks(outcome=shared, namespaces=facts)["proc"].level == "warning"


def test_what_a_file_does_without_is_a_warning_for_it_and_a_failure_otherwise():
    without = outcome(ROOT + '[namespaces]\nuts = "host"\ncgroup = "host"\n')
    facts = failing("unshare uts")
    assert checks(outcome=without, namespaces=facts)["namespaces"].level == "warning"
    assert checks(namespaces=facts)["namespaces"].level == "failure"


def test_network_namespaces_are_needed_even_with_the_hosts_network_but_sysfs_is_not():
    shared = outcome(ROOT + '[network]\nmode = "host"\n')
    assert checks(outcome=shared, namespaces=failing("unshare net"))["namespaces"].level == "failure"
    masked = failing("mount sysfs", "loopback", number=errno.EPERM)
    found = checks(outcome=shared, namespaces=masked)
    assert (found["sysfs"].level, found["root"].level) == ("warning", "ok")
    found = checks(namespaces=masked)
    assert (found["sysfs"].level, found["root"].level) == ("failure", "failure")


def test_a_map_that_is_refused_fails_only_files_that_want_it():
    facts = NamespaceFacts(
        single=probe(), whole=probe(fails={"id map": Failure(errno=errno.EPERM, text="no")}, last="id map")
    )
    single = outcome(ROOT + '[ids]\nmap = "single"\n')
    found = checks(outcome=single, namespaces=facts)
    assert (found["ids"].level, found["fuse"].level) == ("warning", "ok")
    assert checks(namespaces=facts)["ids"].level == "failure"


def test_what_fails_under_a_whole_map_only_fails_those_who_have_one():
    facts = NamespaceFacts(
        single=probe(),
        whole=probe(fails={"mount tmpfs": Failure(errno=errno.EPERM, text="no")}, last="mount tmpfs"),
    )
    assert checks(namespaces=facts)["userns"].level == "failure"
    single = outcome(ROOT + '[ids]\nmap = "single"\n')
    assert checks(outcome=single, namespaces=facts)["userns"].level == "ok"


def test_a_terminal_is_needed_by_a_file_that_asks_for_one():
    facts = failing("open a terminal")
    asking = outcome(ROOT + "[process]\nterminal = true\n")
    assert checks(outcome=asking, namespaces=facts)["terminal"].level == "failure"
    assert checks(namespaces=facts)["terminal"].level == "warning"


def test_a_limit_that_a_file_asks_for_and_that_cannot_be_made_is_a_failure():
    limited = outcome(ROOT + "[limits]\npids = 9\n")
    broken = cgroups({"pids": "no process could be moved into it"})
    assert checks(outcome=limited, cgroups=broken)["cgroups.pids"].level == "failure"
    assert checks(cgroups=broken)["cgroups.pids"].level == "warning"
    other = cgroups({"memory": "no process could be moved into it"})
    assert checks(outcome=limited, cgroups=other)["cgroups.memory"].level == "warning"
    wrong = cgroups(problem="it stayed")
    assert checks(outcome=limited, cgroups=wrong)["cgroups"].level == "failure"
    none = cgroups(dict.fromkeys(("memory", "pids"), "no"))
    found = checks(account(cgroups=Hierarchy(0)), outcome=limited, cgroups=none)
    assert (found["cgroups"].level, found["cgroups.pids"].level) == ("failure", "failure")
    # Users see one check with the cause and all affected limits; JSON has a check for each limit.
    assert {name for name, check in found.items() if check.explained_by == "cgroups"} == {
        "cgroups.memory",
        "cgroups.pids",
    }
    assert all(name in found["cgroups"].cost for name in CGROUP_LIMITS)
    assert not any(check.explained_by for check in checks(outcome=limited, cgroups=other).values())

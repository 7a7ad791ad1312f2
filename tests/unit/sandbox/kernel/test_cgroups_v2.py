"""cgroups version 2, on a simulated file system."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from sandbox.kernel import cgroups
from sandbox.kernel.cgroups import CgroupLimits, IoRates, base, v2
from unionfs._stdlib.dataclasses import fields

if TYPE_CHECKING:
    from tests.unit.sandbox.kernel.simulated_cgroups import SimulatedCgroups

MOUNTINFO = "31 23 0:28 / /root rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OWN = "/root/user/app.scope"


def detect(
    simulated: SimulatedCgroups, path: str = "/user/app.scope", *, euid: int = 1000
) -> cgroups.Hierarchy:
    return cgroups.detect(MOUNTINFO, f"0::{path}\n", euid=euid, root=simulated.root, files=simulated)


@pytest.fixture
def tree(simulated: SimulatedCgroups, own_pid: int) -> SimulatedCgroups:
    """A machine whose session manager delegated a scope to this process."""
    simulated.make_v2("/root", enabled="cpu memory pids", procs=(1, 2))
    simulated.make_v2("/root/user", enabled="cpu memory pids")
    simulated.make_v2(OWN, procs=(own_pid,))
    simulated.denied |= {"/root", "/root/user"}
    return simulated


def test_every_limit_has_a_controller():
    assert list(base.CONTROLLER_OF) == [field.name for field in fields(CgroupLimits)]


def test_a_scope_of_our_own_is_usable_and_must_be_vacated(tree):
    found = detect(tree)
    assert isinstance(found, v2.V2Hierarchy)
    assert found.directory == tree.path(OWN)
    assert found.controllers == {"cpu", "memory", "pids"}
    assert found.vacate
    assert tree.log == []


def test_path_is_known_before_anything_is_made(tree):
    paths = detect(tree).paths_of("a1")
    assert tree.log == []
    assert paths == detect(tree).create("a1", CgroupLimits(pids=9)).paths


def test_create_moves_the_supervisor_aside_before_it_hands_out_controllers(tree, own_pid):
    detect(tree).create("a1", CgroupLimits(memory=1 << 26, swap=0, cpus=1.5, cpu_weight=20, pids=9))
    assert tree.content(f"{OWN}/supervisor/cgroup.procs") == str(own_pid)
    assert tree.content(f"{OWN}/cgroup.procs") == ""
    payload = f"{OWN}/sandbox-a1/payload"
    assert tree.content(f"{payload}/memory.max") == str(1 << 26)
    assert tree.content(f"{payload}/memory.swap.max") == "0"
    assert tree.content(f"{payload}/cpu.max") == "150000 100000"
    assert tree.content(f"{payload}/pids.max") == "9"
    assert tree.content(f"{OWN}/sandbox-a1/server/pids.max") == "max"


def test_a_weight_is_that_of_the_whole_sandbox_among_its_siblings(tree):
    detect(tree).create("a1", CgroupLimits(cpu_weight=20), CgroupLimits(cpus=1.0))
    weights = [tree.content(f"{OWN}/sandbox-a1{leaf}/cpu.weight") for leaf in ("", "/payload", "/server")]
    assert weights == ["20", "100", "100"]


def test_children_that_the_supervisor_has_already_move_with_it(tree, own_pid):
    tree.parents[70000] = own_pid
    tree.parents[70001] = 70000
    tree.make_v2(OWN, procs=(own_pid, 70000, 70001))
    detect(tree).create("a1", CgroupLimits())
    assert tree.content(f"{OWN}/supervisor/cgroup.procs").split() == [str(own_pid), "70000", "70001"]


def test_remove_takes_the_supervisor_back_and_leaves_the_scope_as_it_was(tree, own_pid):
    group = detect(tree).create("a1", CgroupLimits(pids=3))
    group.remove()
    assert tree.content(f"{OWN}/cgroup.procs") == str(own_pid)
    assert tree.content(f"{OWN}/cgroup.subtree_control") == ""
    assert tree.children(tree.path(OWN)) == []
    group.remove()


def test_another_process_in_our_cgroup_makes_limits_unenforceable(tree, own_pid):
    tree.make_v2(OWN, procs=(own_pid, 77))
    reasons = detect(tree).unenforceable(CgroupLimits(pids=3))
    assert reasons == {
        "pids": f"1 other process in the cgroup {tree.path(OWN)}, which therefore cannot have limits"
    }
    assert detect(tree).delegable


def test_a_process_that_comes_in_after_detection_fails_creation_and_leaves_nothing(tree, own_pid):
    found = detect(tree)
    tree.make_v2(OWN, procs=(own_pid, 77))
    with pytest.raises(OSError, match="process 77 entered the cgroup of this process") as caught:
        found.create("a1", CgroupLimits(pids=3))
    assert caught.value.errno == errno.EBUSY
    assert tree.children(tree.path(OWN)) == []


@pytest.mark.parametrize("name", ["", "/cgroup.procs", "/cgroup.subtree_control"])
def test_a_cgroup_that_is_not_writable_in_every_needed_file_is_not_delegated(tree, name):
    tree.denied.add(OWN + name)
    found = detect(tree)
    assert found.version == 0
    assert "is not delegated to this account" in found.unenforceable(CgroupLimits(pids=3))["pids"]


def test_a_controller_that_is_not_delegated_is_the_reason_for_its_limits_only(tree, own_pid):
    tree.make_v2(OWN, controllers="memory pids", procs=(own_pid,))
    reasons = detect(tree).unenforceable(CgroupLimits(pids=3, memory=5, cpus=1.0, cpu_weight=5))
    assert set(reasons) == {"cpus", "cpu_weight"}
    assert "the cpu controller is not delegated to" in reasons["cpus"]


def test_swap_is_unenforceable_where_the_kernel_does_not_account_it(tree, tmp_path):
    (tmp_path / OWN[1:] / "memory.swap.max").unlink()
    assert "does not account swap" in detect(tree).unenforceable(CgroupLimits(memory=1, swap=1))["swap"]


def test_a_controller_that_cannot_be_enabled_fails_only_the_limits_that_need_it(tree, own_pid, monkeypatch):
    real = tree.write

    def without_cpu(path: str, value: str) -> None:
        if value == "+cpu":
            raise OSError(errno.EOPNOTSUPP, "threaded", path)
        real(path, value)

    monkeypatch.setattr(tree, "write", without_cpu)
    detect(tree).create("a1", CgroupLimits(pids=3)).remove()
    with pytest.raises(OSError, match="threaded"):
        detect(tree).create("a2", CgroupLimits(cpus=0.5))
    assert tree.children(tree.path(OWN)) == []
    assert tree.content(f"{OWN}/cgroup.procs") == str(own_pid)


def test_a_limit_that_the_kernel_refuses_leaves_nothing_and_takes_the_supervisor_back(tree, own_pid):
    tree.failures[("write", "/payload/memory.max")] = errno.EINVAL
    with pytest.raises(OSError, match="Invalid"):
        detect(tree).create("a1", CgroupLimits(memory=1))
    assert tree.children(tree.path(OWN)) == []
    assert tree.content(f"{OWN}/cgroup.procs") == str(own_pid)


def test_inside_the_leaf_of_an_outer_supervisor_sandboxes_are_made_beside_it(tree, own_pid):
    tree.make_v2(OWN, enabled="memory pids")
    tree.make_v2(f"{OWN}/supervisor", controllers="memory pids", procs=(77, own_pid))
    found = detect(tree, "/user/app.scope/supervisor")
    assert isinstance(found, v2.V2Hierarchy)
    assert found.directory == tree.path(OWN)
    assert not found.vacate
    assert found.controllers == {"memory", "pids"}
    group = found.create("a2", CgroupLimits(pids=4))
    assert tree.content(f"{OWN}/sandbox-a2/payload/pids.max") == "4"
    group.remove()
    assert tree.content(f"{OWN}/supervisor/cgroup.procs").split() == ["77", str(own_pid)]


def test_the_supervisor_stays_aside_while_a_sibling_needs_the_controllers(tree, own_pid):
    first = detect(tree).create("a1", CgroupLimits(pids=4))
    second = detect(tree, "/user/app.scope/supervisor").create("a2", CgroupLimits(pids=4))
    first.remove()
    assert tree.content(f"{OWN}/supervisor/cgroup.procs") == str(own_pid)
    assert tree.content(f"{OWN}/sandbox-a2/payload/pids.max") == "4"
    second.remove()


def test_real_root_falls_back_to_the_root_of_the_hierarchy(tree, own_pid):
    tree.denied.clear()
    tree.make_v2("/root/user/session", procs=(own_pid, 77))
    found = detect(tree, "/user/session", euid=0)
    assert isinstance(found, v2.V2Hierarchy)
    assert found.directory == tree.path("/root")
    assert not found.vacate
    found.create("a1", CgroupLimits(pids=4)).remove()
    assert tree.content("/root/cgroup.subtree_control") == "cpu memory pids"


def test_root_of_a_cgroup_namespace_with_other_processes_gets_no_such_fallback(simulated, own_pid):
    simulated.make_v2("/ns", procs=(own_pid, 77))
    found = cgroups.detect(
        MOUNTINFO.replace("/root", "/ns"), "0::/\n", euid=0, root=simulated.root, files=simulated
    )
    assert "1 other process" in found.unenforceable(CgroupLimits(pids=1))["pids"]


def test_counters_come_from_the_sandbox_and_its_payload(tree):
    group = detect(tree).create("a1", CgroupLimits())
    top = tree.path(f"{OWN}/sandbox-a1")
    tree.write(f"{top}/memory.peak", "4096\n")
    tree.write(f"{top}/cpu.stat", "usage_usec 12\nuser_usec 10\n")
    tree.write(f"{top}/memory.events", "high 6\noom 3\noom_kill 2\noom_group_kill 0\n")
    tree.write(f"{top}/payload/cpu.stat", "usage_usec 11\nthrottled_usec 4\n")
    tree.make_file(f"{top}/pids.peak", "7\n")
    tree.make_file(f"{top}/io.stat", "8:0 rbytes=10 wbytes=4 rios=1\n8:16 rbytes=20 wbytes=0\n")
    tree.write(f"{top}/payload/pids.events", "max 5\n")
    assert group.counters() == cgroups.Counters(
        memory_peak=4096,
        cpu_nanoseconds=12000,
        user_nanoseconds=10000,
        throttled_nanoseconds=4000,
        memory_high_events=6,
        oom_kills=2,
        pids_peak=7,
        pids_max_events=5,
        io_read=30,
        io_written=4,
    )
    assert group.counters("server") == cgroups.Counters(
        memory_peak=0, cpu_nanoseconds=0, memory_high_events=0, oom_kills=0, pids_max_events=0
    )


def test_kill_uses_the_kernel_s_own_kill_on_the_leaf_that_is_meant(tree):
    group = detect(tree).create("a1", CgroupLimits())
    group.add(2**31 - 1)
    group.add(2**31 - 2, "server")
    group.kill("payload")
    assert tree.content(f"{OWN}/sandbox-a1/payload/cgroup.procs") == ""
    assert tree.content(f"{OWN}/sandbox-a1/server/cgroup.procs") == str(2**31 - 2)
    group.kill()
    assert tree.content(f"{OWN}/sandbox-a1/server/cgroup.procs") == ""


def test_where_both_versions_are_mounted_the_one_with_the_controllers_is_taken(simulated, own_pid):
    simulated.make_v2("/root", controllers="", procs=(own_pid,))
    simulated.make_v1("/pids", ["pids"], "", [])
    both = MOUNTINFO + "39 31 0:36 / /pids rw,relatime - cgroup cgroup rw,pids\n"
    found = cgroups.detect(both, "0::/\n8:pids:/\n", euid=0, root=simulated.root, files=simulated)
    assert found.version == 1
    assert found.controllers == {"pids"}


def test_stale_cgroups_are_killed_and_removed(tree):
    group = detect(tree).create("a1", CgroupLimits())
    assert cgroups.remove_stale(group.paths, files=tree) == ()
    assert tree.children(tree.path(OWN)) == ["supervisor"]


@pytest.fixture
def rich(tree, own_pid) -> SimulatedCgroups:
    """The same machine with every controller delegated."""
    tree.make_v2(OWN, controllers="cpu memory pids cpuset io", procs=(own_pid,))
    return tree


RATES = IoRates(device="8:0", read=1 << 20, write_operations=50)


def test_processors_and_rates_of_disks_hold_for_both_leaves_together(rich):
    detect(rich).create("a1", CgroupLimits(memory_high=1 << 25, cpuset="1,3", io=(RATES,)))
    top = f"{OWN}/sandbox-a1"
    assert rich.content(f"{top}/cpuset.cpus") == "1,3"
    assert rich.content(f"{top}/io.max") == "8:0 rbps=1048576 wiops=50"
    assert rich.content(f"{top}/payload/memory.high") == str(1 << 25)
    assert rich.content(f"{top}/server/memory.high") == "max"


def test_a_cpuset_is_handed_on_only_where_it_is_asked_for(rich):
    detect(rich).create("a1", CgroupLimits(pids=3))
    assert rich.content(f"{OWN}/cgroup.subtree_control") == "cpu io memory pids"


@pytest.mark.parametrize(
    "limit", ["memory", "memory_high", "swap", "cpus", "cpu_weight", "pids", "cpuset", "io"]
)
def test_the_file_of_a_limit_is_told_before_and_after_it_is_made(rich, limit):
    found = detect(rich)
    values = {"memory": 1 << 26, "memory_high": 1 << 25, "swap": 5, "cpus": 0.5, "cpu_weight": 7, "pids": 8}
    limits = CgroupLimits(**values, cpuset="2", io=(RATES,))
    group = found.create("a1", limits)
    assert group.file_of(limit) == found.file_of("a1", limit)
    written = {entry[1] for entry in rich.log if entry[0] == "write"}
    assert group.file_of(limit).removeprefix(rich.root) in written


def test_processors_that_are_not_there_are_refused(rich):
    # The kernel would accept missing processors, and use all others instead.
    reasons = detect(rich).unenforceable(CgroupLimits(cpuset="2-5"))
    assert reasons == {"cpuset": "processor 4, 5 is not available here, only 0-3"}
    assert detect(rich).unenforceable(CgroupLimits(cpuset="0,3")) == {}


def test_limits_of_controllers_that_are_not_delegated_are_refused(tree):
    reasons = detect(tree).unenforceable(CgroupLimits(memory_high=1 << 26, cpuset="0", io=(RATES,)))
    assert reasons == {
        name: f"the {name} controller is not delegated to {tree.path(OWN)}" for name in ("cpuset", "io")
    }


def test_rates_of_writing_need_the_controller_that_knows_whose_pages_are_written(tree, own_pid):
    tree.make_v2(OWN, controllers="io", procs=(own_pid,))
    reasons = detect(tree).unenforceable(CgroupLimits(io=(RATES,)))
    assert reasons["io"].startswith("limiting writes needs the memory controller")
    assert detect(tree).unenforceable(CgroupLimits(io=(IoRates(device="8:0", read=1),))) == {}


def test_the_root_of_the_hierarchy_is_told_from_a_cgroup_that_was_delegated(tree, own_pid):
    tree.denied.clear()
    tree.make_v2("/root/user/session", procs=(own_pid, 77))
    at_top = detect(tree, "/user/session", euid=0)
    assert isinstance(at_top, v2.V2Hierarchy)
    assert at_top.of_machine
    delegated = detect(tree)
    assert isinstance(delegated, v2.V2Hierarchy)
    assert not delegated.of_machine

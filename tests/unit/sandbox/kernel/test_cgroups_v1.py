"""cgroups version 1, on a simulated file system."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from sandbox.kernel import cgroups
from sandbox.kernel.cgroups import CgroupLimits, IoRates, v1

if TYPE_CHECKING:
    from tests.unit.sandbox.kernel.simulated_cgroups import SimulatedCgroups

MOUNTINFO = """\
32 31 0:29 / /cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /memory rw,relatime shared:9 - cgroup cgroup rw,memory
39 31 0:36 / /pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /systemd rw,relatime - cgroup cgroup rw,name=systemd
"""
SELF_CGROUP = "9:name=systemd:/\n8:pids:/job\n4:memory:/job/deep\n2:cpu,cpuacct:/\n"


@pytest.fixture
def hierarchy(simulated: SimulatedCgroups) -> v1.V1Hierarchy:
    simulated.make_v1("/cpu,cpuacct", ["cpu", "cpuacct"], "", [])
    simulated.make_v1("/memory", ["memory"], "/job/deep", [])
    simulated.make_v1("/pids", ["pids"], "/job", [])
    found = cgroups.detect(MOUNTINFO, SELF_CGROUP, euid=0, root=simulated.root, files=simulated)
    assert isinstance(found, v1.V1Hierarchy)
    return found


def test_controllers_are_used_below_our_own_cgroup_in_each_hierarchy(hierarchy, simulated):
    assert dict(hierarchy.directories) == {
        "cpu": simulated.path("/cpu,cpuacct"),
        "cpuacct": simulated.path("/cpu,cpuacct"),
        "memory": simulated.path("/memory/job/deep"),
        "pids": simulated.path("/pids/job"),
    }
    assert hierarchy.version == 1


def test_paths_are_known_before_anything_is_made(hierarchy, simulated):
    paths = hierarchy.paths_of("a1")
    assert simulated.log == []
    assert paths == hierarchy.create("a1", CgroupLimits(pids=20)).paths
    assert len(paths) == 3


def test_detect_changes_nothing(hierarchy, simulated):
    assert simulated.log == []


def test_every_limit_can_be_held_where_all_controllers_are_writable(hierarchy):
    limits = CgroupLimits(memory=1 << 26, swap=0, cpus=0.5, cpu_weight=50, pids=20)
    assert hierarchy.unenforceable(limits) == {}


def test_create_writes_the_limits_to_the_payload_leaf_only(hierarchy, simulated):
    limits = CgroupLimits(memory=1 << 26, swap=1 << 20, cpus=0.5, pids=20)
    hierarchy.create("a1", limits)
    memory, cpu = "/memory/job/deep/sandbox-a1", "/cpu,cpuacct/sandbox-a1"
    assert simulated.content(f"{memory}/payload/memory.limit_in_bytes") == str(1 << 26)
    assert simulated.content(f"{memory}/payload/memory.memsw.limit_in_bytes") == str((1 << 26) + (1 << 20))
    assert simulated.content(f"{cpu}/payload/cpu.cfs_quota_us") == "50000"
    assert simulated.content("/pids/job/sandbox-a1/payload/pids.max") == "20"
    assert simulated.content("/pids/job/sandbox-a1/server/pids.max") == "max"
    assert simulated.content(f"{memory}/memory.limit_in_bytes") == "9223372036854771712"


def test_a_weight_is_that_of_the_whole_sandbox_among_its_siblings(hierarchy, simulated):
    hierarchy.create("a1", CgroupLimits(cpu_weight=200))
    top = "/cpu,cpuacct/sandbox-a1"
    shares = [simulated.content(f"{top}{leaf}/cpu.shares") for leaf in ("", "/payload", "/server")]
    assert shares == ["2048", "1024", "1024"]


def test_the_server_leaf_takes_limits_of_its_own(hierarchy, simulated):
    hierarchy.create("a1", CgroupLimits(), server=CgroupLimits(memory=1 << 28))
    assert simulated.content("/memory/job/deep/sandbox-a1/server/memory.limit_in_bytes") == str(1 << 28)


def test_memory_is_limited_before_memory_plus_swap():
    files = [file for _, file, _ in v1.settings(CgroupLimits(memory=5, swap=6))]
    assert files == ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]


def test_directories_that_share_a_hierarchy_are_made_and_listed_once(hierarchy, simulated):
    group = hierarchy.create("a1", CgroupLimits())
    assert sorted(group.paths) == [
        simulated.path("/cpu,cpuacct/sandbox-a1"),
        simulated.path("/memory/job/deep/sandbox-a1"),
        simulated.path("/pids/job/sandbox-a1"),
    ]
    assert simulated.log.count(("mkdir", "/cpu,cpuacct/sandbox-a1")) == 1


def test_a_failure_half_way_leaves_no_cgroup(hierarchy, simulated):
    simulated.failures[("write", "/payload/pids.max")] = errno.EINVAL
    with pytest.raises(OSError) as caught:
        hierarchy.create("a1", CgroupLimits(memory=1 << 26, pids=0))
    assert caught.value.errno == errno.EINVAL
    made = [entry[1] for entry in simulated.log if entry[0] == "mkdir"]
    removed = [entry[1] for entry in simulated.log if entry[0] == "rmdir"]
    assert len(made) == 9
    assert sorted(made) == sorted(removed)


def test_a_name_in_use_is_an_error_that_leaves_the_other_sandbox_alone(hierarchy, simulated):
    hierarchy.create("a1", CgroupLimits(pids=7))
    with pytest.raises(FileExistsError):
        hierarchy.create("a1", CgroupLimits())
    assert simulated.content("/pids/job/sandbox-a1/payload/pids.max") == "7"


@pytest.mark.parametrize("name", ["", "a/b", "a\nb"])
def test_a_name_that_is_no_file_name_is_refused_before_anything_is_made(hierarchy, simulated, name):
    with pytest.raises(ValueError, match="cannot name a cgroup"):
        hierarchy.create(name, CgroupLimits())
    assert simulated.log == []


def test_add_moves_the_process_in_every_hierarchy(hierarchy, simulated):
    group = hierarchy.create("a1", CgroupLimits())
    group.add(4242)
    group.add(4343, "server")
    for top in ("/memory/job/deep", "/pids/job", "/cpu,cpuacct"):
        assert simulated.content(f"{top}/sandbox-a1/payload/cgroup.procs") == "4242"
        assert simulated.content(f"{top}/sandbox-a1/server/cgroup.procs") == "4343"


def test_counters_of_the_sandbox_add_up_the_events_of_its_leaves(hierarchy, simulated):
    group = hierarchy.create("a1", CgroupLimits())
    memory = "/memory/job/deep/sandbox-a1"
    simulated.write(simulated.path(f"{memory}/memory.max_usage_in_bytes"), "5000\n")
    simulated.write(simulated.path(f"{memory}/payload/memory.oom_control"), "under_oom 0\noom_kill 2\n")
    simulated.write(simulated.path(f"{memory}/server/memory.oom_control"), "under_oom 0\noom_kill 1\n")
    simulated.write(simulated.path("/cpu,cpuacct/sandbox-a1/cpuacct.usage"), "123456789\n")
    simulated.write(simulated.path("/pids/job/sandbox-a1/payload/pids.events"), "max 4\n")
    assert group.counters() == cgroups.Counters(
        memory_peak=5000, cpu_nanoseconds=123456789, oom_kills=3, pids_max_events=4
    )
    assert group.counters("server").oom_kills == 1


def test_counters_of_controllers_that_are_not_there_are_none(simulated):
    simulated.make_v1("/pids", ["pids"], "/job", [])
    found = cgroups.detect(MOUNTINFO, SELF_CGROUP, euid=0, root=simulated.root, files=simulated)
    counters = found.create("a1", CgroupLimits()).counters()
    assert counters == cgroups.Counters(pids_max_events=0)


def test_remove_waits_for_a_process_that_is_ending(hierarchy, simulated, monkeypatch):
    group = hierarchy.create("a1", CgroupLimits())
    simulated.failures[("rmdir", "/payload")] = errno.EBUSY
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            simulated.failures.clear()

    monkeypatch.setattr("time.sleep", nap)
    group.remove()
    assert naps == [0.001, 0.002, 0.004]
    assert not any(simulated.exists(path) for path in group.paths)


def test_remove_gives_up_on_a_process_that_stays_and_names_the_cgroup(hierarchy, simulated):
    group = hierarchy.create("a1", CgroupLimits())
    simulated.failures[("rmdir", "/pids/job/sandbox-a1/payload")] = errno.EBUSY
    with pytest.raises(OSError, match="still contains processes") as caught:
        group.remove(timeout=0.01)
    assert caught.value.filename == simulated.path("/pids/job/sandbox-a1/payload")


def test_removing_twice_is_no_error(hierarchy):
    group = hierarchy.create("a1", CgroupLimits())
    group.remove()
    group.remove()


def test_kill_stops_forks_first_and_reports_what_outlives_it(hierarchy, simulated):
    group = hierarchy.create("a1", CgroupLimits())
    group.add(2**31 - 1)  # a pid that no kernel assigns: there is no process to kill, and it stays listed
    with pytest.raises(TimeoutError, match="2147483647"):
        group.kill(timeout=0.01)
    assert simulated.content("/pids/job/sandbox-a1/payload/pids.max") == "0"


def test_a_hierarchy_that_is_not_writable_makes_its_limits_unenforceable(simulated):
    simulated.make_v1("/memory", ["memory"], "/job/deep", [])
    simulated.make_v1("/pids", ["pids"], "/job", [])
    simulated.denied.add("/memory/job/deep")
    found = cgroups.detect(MOUNTINFO, SELF_CGROUP, euid=1000, root=simulated.root, files=simulated)
    reasons = found.unenforceable(CgroupLimits(memory=1, swap=1, pids=1, cpus=1.0))
    assert set(reasons) == {"memory", "swap", "cpus"}
    assert "is not writable" in reasons["memory"]
    assert reasons["swap"] == reasons["memory"]
    assert "is not visible under /cpu,cpuacct" in reasons["cpus"]


def test_no_writable_hierarchy_at_all_gives_the_reason_for_every_limit(simulated):
    simulated.make_v1("/memory", ["memory"], "/job/deep", [])
    simulated.denied.add("/memory/job/deep")
    line = MOUNTINFO.splitlines()[1]
    found = cgroups.detect(line, SELF_CGROUP, euid=1000, root=simulated.root, files=simulated)
    assert found.version == 0
    assert "is not writable" in found.unenforceable(CgroupLimits(memory=1))["memory"]
    with pytest.raises(ValueError, match="is not writable"):
        found.create("a1", CgroupLimits(memory=1))


def test_swap_without_memory_is_unenforceable(hierarchy):
    assert "together with memory" in hierarchy.unenforceable(CgroupLimits(swap=1))["swap"]


def test_swap_without_swap_accounting_is_unenforceable(hierarchy, simulated, tmp_path):
    (tmp_path / "memory/job/deep/memory.memsw.limit_in_bytes").unlink()
    assert "does not account swap" in hierarchy.unenforceable(CgroupLimits(memory=1, swap=1))["swap"]


def test_a_mount_that_shows_part_of_the_hierarchy_is_read_relative_to_its_root(simulated):
    simulated.make_v1("/memory", ["memory"], "/deep", [])
    line = "35 31 0:32 /job /memory rw,relatime - cgroup cgroup rw,memory"
    found = cgroups.detect(line, SELF_CGROUP, euid=0, root=simulated.root, files=simulated)
    assert isinstance(found, v1.V1Hierarchy)
    assert found.directories == (("memory", simulated.path("/memory/deep")),)


def test_a_cgroup_outside_of_the_cgroup_namespace_is_not_used(simulated):
    simulated.make_v1("/memory", ["memory"], "", [])
    found = cgroups.detect(
        MOUNTINFO.splitlines()[1], "4:memory:/../x", euid=0, root=simulated.root, files=simulated
    )
    assert found.version == 0
    assert "not visible" in found.unenforceable(CgroupLimits(memory=1))["memory"]


def test_a_machine_without_cgroups_says_so():
    found = cgroups.detect("", "0::/\n", euid=0)
    assert found.unenforceable(CgroupLimits(pids=1)) == {"pids": "no cgroup file system is mounted"}


@pytest.mark.parametrize(("weight", "shares"), [(1, 10), (100, 1024), (10000, 102400)])
def test_weights_become_shares_as_the_kernel_converts_them(weight, shares):
    assert v1.shares(weight) == shares


def test_stale_cgroups_are_removed_by_their_paths(hierarchy, simulated):
    paths = hierarchy.create("a1", CgroupLimits()).paths
    assert cgroups.remove_stale((*paths, simulated.path("/gone/sandbox-x")), files=simulated) == ()
    assert not any(simulated.exists(path) for path in paths)


def test_a_stale_path_that_is_not_a_sandbox_cgroup_is_left_alone(hierarchy, simulated, tmp_path):
    (tmp_path / "sandbox-mine").mkdir()
    foreign = [simulated.path("/memory/job"), str(tmp_path / "sandbox-mine")]
    assert cgroups.remove_stale(foreign, files=simulated) == tuple(foreign)
    assert (tmp_path / "sandbox-mine").is_dir()
    assert not any(entry[0] == "rmdir" for entry in simulated.log)


RATES = IoRates(device="8:0", read=1 << 20, read_operations=50)
MORE_MOUNTS = """\
41 31 0:38 / /cpuset rw,relatime - cgroup cgroup rw,cpuset
42 31 0:39 / /blkio rw,relatime - cgroup cgroup rw,blkio
"""


@pytest.fixture
def rich(hierarchy, simulated) -> v1.V1Hierarchy:
    """The same machine, also with the controllers of processors and disks."""
    simulated.make_v1("/cpuset", ["cpuset"], "", [])
    simulated.make_v1("/blkio", ["blkio"], "/job", [])
    membership = SELF_CGROUP + "10:cpuset:/\n11:blkio:/job\n"
    found = cgroups.detect(MOUNTINFO + MORE_MOUNTS, membership, euid=0, root=simulated.root, files=simulated)
    assert isinstance(found, v1.V1Hierarchy)
    simulated.log.clear()
    return found


def test_a_cpuset_gets_processors_and_memory_in_every_directory_before_a_process_comes(rich, simulated):
    group = rich.create("a1", CgroupLimits(cpuset="1-2"))
    for directory in ("", "/payload", "/server"):
        assert simulated.content(f"/cpuset/sandbox-a1{directory}/cpuset.cpus") == "1-2"
        assert simulated.content(f"/cpuset/sandbox-a1{directory}/cpuset.mems") == "0"
    group.add(4242)
    assert simulated.content("/cpuset/sandbox-a1/payload/cgroup.procs") == "4242"
    assert group.file_of("cpuset") == simulated.path("/cpuset/sandbox-a1/cpuset.cpus")


def test_no_cpuset_is_made_where_none_is_asked_for(rich, simulated):
    rich.create("a1", CgroupLimits(pids=3))
    assert not simulated.exists(simulated.path("/cpuset/sandbox-a1"))


def test_the_server_shares_the_rates_of_disks_which_do_not_nest(rich, simulated):
    group = rich.create("a1", CgroupLimits(io=(RATES,)))
    payload = "/blkio/job/sandbox-a1/payload"
    assert simulated.content(f"{payload}/blkio.throttle.read_bps_device") == "8:0 1048576"
    assert simulated.content(f"{payload}/blkio.throttle.read_iops_device") == "8:0 50"
    assert not simulated.exists(simulated.path("/blkio/job/sandbox-a1/server"))
    group.add(4242)
    group.add(4343, "server")
    assert simulated.content(f"{payload}/cgroup.procs").split() == ["4242", "4343"]
    simulated.write(
        simulated.path(f"{payload}/blkio.throttle.io_service_bytes"),
        "8:0 Read 10\n8:0 Write 4\n8:16 Read 20\n8:16 Write 0\nTotal 34\n",
    )
    assert (group.counters().io_read, group.counters().io_written) == (30, 4)
    assert group.counters("payload").io_read is None  # cannot be distinguished from the server's


def test_killing_one_leaf_spares_the_other_where_they_share_a_directory(rich, simulated):
    group = rich.create("a1", CgroupLimits(io=(RATES,)))
    simulated.write(simulated.path("/blkio/job/sandbox-a1/payload/cgroup.procs"), str(2**31 - 1))
    group.kill("payload", timeout=0.01)
    with pytest.raises(TimeoutError):
        group.kill(timeout=0.01)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (CgroupLimits(memory_high=1 << 26), "cgroups version 1 do not support it"),
        (CgroupLimits(cpuset="3-4"), "processor 4 is not available here, only 0-3"),
        (CgroupLimits(io=(IoRates(device="8:0", write=1),)), "cgroups version 1 cannot attribute writes"),
    ],
)
def test_what_version_1_cannot_hold_is_refused(rich, limits, reason):
    (found,) = rich.unenforceable(limits).values()
    assert found.startswith(reason)


def test_rates_of_disks_need_a_directory_of_their_own(simulated):
    simulated.make_v1("/both", ["memory", "blkio"], "", [])
    line = "35 31 0:32 / /both rw,relatime - cgroup cgroup rw,memory,blkio\n"
    found = cgroups.detect(line, "4:memory,blkio:/\n", euid=0, root=simulated.root, files=simulated)
    assert found.unenforceable(CgroupLimits(io=(RATES,))) == {
        "io": "the blkio controller is mounted together with others"
    }
    group = found.create("a1", CgroupLimits(memory=1 << 26))
    group.add(4343, "server")
    assert simulated.content("/both/sandbox-a1/server/cgroup.procs") == "4343"

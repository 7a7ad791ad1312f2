"""cgroups of the running kernel, of either version. The tests really exceed the limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from sandbox.kernel import cgroups, disks
from sandbox.kernel.cgroups import CgroupLimits, Hierarchy, IoRates

pytestmark = pytest.mark.cgroup

NAME = f"test-{os.getpid()}"


@pytest.fixture
def hierarchy() -> Hierarchy:
    with open("/proc/self/mountinfo") as mountinfo, open("/proc/self/cgroup") as membership:
        found = cgroups.detect(mountinfo.read(), membership.read())
    reasons = found.unenforceable(CgroupLimits(memory=1))
    if reasons:
        pytest.skip(f"no usable cgroup: {reasons['memory']}")
    return found


@pytest.fixture
def create(hierarchy) -> Iterator[Callable[..., cgroups.Cgroup]]:
    """Return a function that makes cgroups. They are killed and removed at the end."""
    made: list[cgroups.Cgroup] = []

    def make(
        limits: CgroupLimits = cgroups.NO_LIMITS, server: CgroupLimits = cgroups.NO_LIMITS
    ) -> cgroups.Cgroup:
        if reasons := hierarchy.unenforceable(limits):
            pytest.skip(f"not enforceable here: {reasons}")
        made.append(hierarchy.create(f"{NAME}-{len(made)}", limits, server))
        return made[-1]

    yield make
    for group in made:
        group.kill()
        group.remove()


def start(group: cgroups.Cgroup, program: str, leaf: cgroups.Leaf = "payload") -> subprocess.Popen[str]:
    """Start Python code, which waits until it has been moved to a leaf."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"input()\n{program}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin is not None
    with child.stdin:
        group.add(child.pid, leaf)
        child.stdin.write("go\n")
    child.stdin = None
    return child


def run_in(group: cgroups.Cgroup, program: str, leaf: cgroups.Leaf = "payload") -> tuple[int, str]:
    """Run Python code in a leaf and return its status and its output."""
    child = start(group, program, leaf)
    output, _ = child.communicate(timeout=120)
    return child.returncode, output


def test_a_program_beyond_its_memory_is_killed_and_the_kill_is_counted(create):
    group = create(CgroupLimits(memory=64 << 20))
    status, _ = run_in(group, "block = bytearray(200 << 20); block[::4096] = bytes(len(block[::4096]))")
    assert status == -signal.SIGKILL
    counters = group.counters()
    assert counters.oom_kills == 1
    assert counters.memory_peak is None or 32 << 20 < counters.memory_peak <= 66 << 20
    assert group.counters("payload").oom_kills == 1
    assert group.counters("server").oom_kills == 0


def test_forks_beyond_the_limit_fail_and_are_counted(create):
    group = create(CgroupLimits(pids=5))
    program = (
        "import os, signal\n"
        "children = []\n"
        "try:\n"
        "    while len(children) < 50:\n"
        "        pid = os.fork()\n"
        "        if pid == 0: signal.pause()\n"
        "        children.append(pid)\n"
        "except BlockingIOError:\n"
        "    print(len(children))\n"
        "for pid in children: os.kill(pid, signal.SIGKILL)\n"
    )
    assert run_in(group, program) == (0, "4\n")
    assert (group.counters().pids_max_events or 0) >= 1


def test_cpu_time_is_bounded_by_the_share_and_counted(create):
    group = create(CgroupLimits(cpus=0.2))
    start = time.monotonic()
    run_in(group, "import time\nwhile time.process_time() < 0.4: pass")
    elapsed = time.monotonic() - start
    assert elapsed > 1.2, (
        "0.4 seconds of work at a fifth of a cpu take 2 seconds, less the first period's burst"
    )
    used = group.counters().cpu_nanoseconds
    assert used is not None
    assert 0.35e9 < used < 1.5e9


def test_the_limits_of_the_payload_do_not_apply_to_the_server(create):
    group = create(CgroupLimits(pids=1), server=CgroupLimits(memory=256 << 20))
    program = "import os; pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0)"
    assert run_in(group, program, "server")[0] == 0
    assert run_in(group, program)[0] == 1


def test_processes_run_on_the_processors_of_the_cpuset(create):
    first = min(os.sched_getaffinity(0))
    group = create(CgroupLimits(cpuset=str(first)))
    program = "import os; print(sorted(os.sched_getaffinity(0)))"
    assert run_in(group, program) == (0, f"[{first}]\n")
    assert run_in(group, program, "server") == (0, f"[{first}]\n")


def test_rates_of_disks_are_accepted_by_the_kernel(create, tmp_path):
    try:
        device = disks.disk_of(str(tmp_path))
    except ValueError as error:
        pytest.skip(f"needs a temporary directory on a disk: {error}")
    group = create(CgroupLimits(io=(IoRates(device=device, read=1 << 20, read_operations=500),)))
    with open(group.file_of("io")) as file:
        assert device in file.read()
    assert run_in(group, "print(1)", "server") == (0, "1\n")


def test_the_kernel_refuses_rates_of_a_partition_or_a_missing_device_and_nothing_is_left(hierarchy):
    limits = CgroupLimits(io=(IoRates(device="254:200", read=1),))
    if reasons := hierarchy.unenforceable(limits):
        pytest.skip(f"not enforceable here: {reasons}")
    with pytest.raises(OSError, match="254:200"):
        hierarchy.create(f"{NAME}-gone", limits)
    assert not os.path.exists(os.path.dirname(hierarchy.file_of(f"{NAME}-gone", "io")))


def test_counters_without_limits_are_read_too(create):
    group = create()
    used = "import os, time\nif os.fork() == 0: os._exit(0)\nos.wait()\nwhile time.process_time() < 0.2: pass"
    assert run_in(group, used)[0] == 0
    counters = group.counters("payload")
    assert (counters.user_nanoseconds or 0) + (counters.system_nanoseconds or 0) > 100_000_000
    assert counters.pids_peak in (None, 2)
    assert counters.throttled_nanoseconds in (None, 0)


def start_sleepers(group: cgroups.Cgroup, leaf: cgroups.Leaf) -> subprocess.Popen[str]:
    child = start(group, "import os, signal; os.fork(); os.fork(); os.write(1, b'x'); signal.pause()", leaf)
    assert child.stdout is not None
    with child.stdout:
        seen = b""
        while len(seen) < 4:
            seen += os.read(child.stdout.fileno(), 4)
    return child


def test_kill_ends_every_process_of_its_leaf_only(create):
    group = create()
    payload, server = start_sleepers(group, "payload"), start_sleepers(group, "server")
    group.kill("payload")
    assert payload.wait(60) == -signal.SIGKILL
    assert server.poll() is None
    group.kill()
    assert server.wait(60) == -signal.SIGKILL


def test_a_fork_bomb_is_killed(create):
    group = create(CgroupLimits(pids=200))
    bomb = start(group, "import os\nwhile True:\n try: os.fork()\n except OSError: pass")
    assert bomb.stdout is not None
    bomb.stdout.close()
    time.sleep(0.2)
    group.kill()
    assert bomb.wait(60) == -signal.SIGKILL
    group.remove()


def test_cgroups_of_a_dead_supervisor_are_killed_and_removed_by_their_paths(hierarchy):
    group = hierarchy.create(f"{NAME}-stale", CgroupLimits())
    sleeper = start_sleepers(group, "payload")
    try:
        assert cgroups.remove_stale(group.paths) == ()
        assert sleeper.wait(60) == -signal.SIGKILL
        assert not any(os.path.exists(path) for path in group.paths)
        assert cgroups.remove_stale(group.paths) == ()
    finally:
        group.remove()


def test_creation_of_a_name_in_use_fails_and_leaves_the_first(create, hierarchy):
    group = create()
    name = os.path.basename(group.paths[0]).removeprefix("sandbox-")
    with pytest.raises(FileExistsError):
        hierarchy.create(name, CgroupLimits())
    assert all(os.path.isdir(path) for path in group.paths)


def test_adding_a_process_that_is_gone_is_an_error(create):
    done = subprocess.Popen(["true"])
    done.wait()
    with pytest.raises(ProcessLookupError):
        create().add(done.pid)


def test_a_value_that_the_kernel_refuses_leaves_nothing(hierarchy):
    with pytest.raises(OSError, match="writing '-5'"):
        hierarchy.create(f"{NAME}-bad", CgroupLimits(pids=-5))
    with pytest.raises(OSError, match="writing '-5'"):
        hierarchy.create(f"{NAME}-bad", CgroupLimits(pids=-5))

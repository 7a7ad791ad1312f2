"""Each limit stops a program that exceeds it, and the report names the mechanism and the counters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox.host import facts
from tests.e2e.support import (
    HOST_ROOT,
    PATIENCE,
    PYTHON,
    Launcher,
    children,
    first_line,
    limits,
    run_reported,
)

pytestmark = [pytest.mark.userns, pytest.mark.fuse]

#: Marks of tests that need a cgroup. Here that is root's, on version 1; `tests/vm` tests accounts on version 2.
with_cgroup = [pytest.mark.root, pytest.mark.cgroup]


def limit_in(report: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = report["limits"][key]
    return found


# -- all processes together ------------------------------------------------------------------------


class TestOfAllProcesses:
    """Limits that a cgroup enforces."""

    pytestmark = with_cgroup

    def test_memory(self, launcher: Launcher) -> None:
        done, report = run_reported(
            launcher, limits('memory = "64M"'), "x = bytearray(300 << 20); print('not limited')"
        )
        assert (done.status, done.out) == (128 + signal.SIGKILL, "")
        assert "out of memory: limits.memory of 64M was reached, and the kernel killed 1 process" in done.err
        assert (report["ended_by"], report["signal"]) == ("out of memory", "SIGKILL")
        assert report["program"]["oom_kills"] == 1
        assert 32 << 20 < report["program"]["memory_peak"] <= 66 << 20
        assert limit_in(report, "limits.memory")["enforced_by"].startswith("cgroup version ")

    def test_memory_of_a_tmpfs_counts_as_memory_of_the_program(self, launcher: Launcher) -> None:
        spec = limits('memory = "64M"') + '[[volumes]]\ntype = "tmpfs"\ntarget = "/t"\n'
        done, report = run_reported(launcher, spec, "open('/t/x', 'wb').write(bytes(300 << 20))")
        assert (done.status, report["ended_by"]) == (128 + signal.SIGKILL, "out of memory")

    def test_a_kill_for_memory_is_a_warning_without_a_report_too(self, launcher: Launcher) -> None:
        program = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', 'bytearray(300 << 20)']).returncode == -9)"
        done = launcher.up(limits('memory = "64M"'), [PYTHON, "-c", program])
        assert done.status == 1
        assert done.err == (
            "sandbox: warning: out of memory: limits.memory of 64M was reached, and the kernel killed 1 process\n"
        )

    def test_swap(self, launcher: Launcher) -> None:
        # Without swap on this machine nothing can exceed the limit; tests/vm exceeds it.
        spec = limits('memory = "64M"\nswap = "16M"')
        with sleeper(launcher, spec) as supervisor:
            assert file_of(supervisor, "memory", "memory.memsw.limit_in_bytes") == str(80 << 20)

    def test_cpus(self, launcher: Launcher) -> None:
        program = "import time\nwhile time.process_time() < 0.5: pass"
        done, report = run_reported(launcher, limits("cpus = 0.2"), program)
        assert done.status == 0
        assert report["program"]["throttled_nanoseconds"] > 100_000_000
        assert report["program"]["cpu_nanoseconds"] > 400_000_000

    def test_cpu_weight(self, launcher: Launcher) -> None:
        with sleeper(launcher, limits("cpu_weight = 50")) as supervisor:
            # Not in the program's own cgroup, where the weight would count against the server only.
            assert file_of(supervisor, "cpu", "../cpu.shares") == "512"

    def test_cpuset(self, launcher: Launcher) -> None:
        first, *others = sorted(os.sched_getaffinity(0))
        program = f"""
import os
print(sorted(os.sched_getaffinity(0)))
try:
    os.sched_setaffinity(0, {others or [4095]})
except OSError:
    print("refused")
"""
        done, report = run_reported(launcher, limits(f'cpuset = "{first}"'), program)
        assert done.out.splitlines() == [f"[{first}]", "refused"], done.err
        assert limit_in(report, "limits.cpuset")["where"].endswith("cpuset.cpus")

    def test_cpuset_with_a_processor_that_does_not_exist_is_refused(self, launcher: Launcher) -> None:
        done = launcher.up(limits('cpuset = "0,4095"'), ["true"])
        assert done.status == 125
        assert (
            "limits.cpuset: cannot be enforced here: processor 4095 is not available here, only 0" in done.err
        )

    def test_pids(self, launcher: Launcher) -> None:
        program = """
import os, time
n = 0
try:
    while True:
        if os.fork() == 0: time.sleep(100)
        n += 1
except BlockingIOError:
    print(n)
"""
        done, report = run_reported(launcher, limits("pids = 30"), program)
        assert 20 <= int(done.out) < 30
        assert "limits.pids of 30 was reached, and 1 fork failed" in done.err
        assert report["program"]["pids_max_events"] == 1
        assert report["program"]["pids_peak"] in (None, 30)

    def test_io(self, launcher: Launcher, tmp_path: Path) -> None:
        volume = tmp_path / "volume"
        volume.mkdir()
        (volume / "file").write_bytes(os.urandom(4 << 20))
        spec = limits(f'io = [{{ path = "{volume}", read = "2M" }}]')
        spec += f'[[volumes]]\ntype = "bind"\nsource = "{volume}"\ntarget = "/v"\nread_only = true\n'
        program = """
import mmap, os, time
fd, buffer = os.open("/v/file", os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 1 << 20)
start = time.monotonic()
while os.readv(fd, [buffer]): pass
print(time.monotonic() - start)
"""
        done = launcher.up(spec, [PYTHON, "-c", program], options=["--report", "--json"])
        if "which is not on a disk" in done.err:
            pytest.skip("needs a temporary directory on a disk")
        report = json.loads(done.err.splitlines()[-1])
        # 4M at 2M a second take 2 seconds. The first slice may come at once, but it is less than half.
        assert float(done.out) > 1
        assert report["sandbox"]["io_read"] >= 4 << 20
        assert limit_in(report, "limits.io")["value"][0]["read"] == 2 << 20

    def test_limit_that_version_1_cannot_enforce_is_refused(self, launcher: Launcher) -> None:
        if not os.path.isdir("/sys/fs/cgroup/memory"):
            pytest.skip("needs cgroups version 1")
        spec = limits('memory_high = "32M"\nio = [{ path = "/", write = "1M" }]')
        done = launcher.up(spec, ["true"])
        assert done.status == 125
        assert "limits.memory_high: cannot be enforced here: cgroups version 1 do not support it" in done.err
        on_disk = os.major(os.stat("/").st_dev) != 0  # kernel OverlayFS has a device number without a disk
        assert (
            "cannot attribute writes through the page cache" if on_disk else "name a path on a disk"
        ) in done.err
        done = launcher.up(spec + 'optional = ["memory_high", "io"]\n', ["true"])
        assert done.status == 0
        assert "not enforced: limits.memory_high: " in done.err

    def test_the_server_is_beside_the_program_with_limits_of_its_own(self, launcher: Launcher) -> None:
        spec = limits('memory = "16M"\npids = 5')
        with sleeper(launcher, spec) as supervisor:
            places = {
                pid: Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8") for pid in children(supervisor)
            }
            leaves = {"server": 0, "payload": 0}
            for text in places.values():
                memory = next(
                    line for line in text.splitlines() if ":memory:" in line or line.startswith("0::/")
                )
                leaves[memory.rpartition("/")[2]] += 1
            assert leaves == {"server": 1, "payload": 1}
            assert file_of(supervisor, "pids", "pids.max", "server") == "128"
            assert file_of(supervisor, "memory", "memory.limit_in_bytes", "server") == str(1 << 30)


@contextmanager
def sleeper(launcher: Launcher, spec: str) -> Iterator[int]:
    """Start a sandbox whose program sleeps, yield the supervisor's pid, and end the sandbox."""
    with launcher.start(spec, ["sh", "-c", "echo ready; exec sleep 100"]) as supervisor:
        assert first_line(supervisor) == "ready"
        yield supervisor.pid
        supervisor.terminate()
        supervisor.wait(PATIENCE)


def file_of(supervisor: int, controller: str, name: str, leaf: str = "payload") -> str:
    """Return the content of a file in a version 1 leaf of the supervisor's sandbox."""
    for pid in children(supervisor):
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(",") and path.endswith(f"/{leaf}"):
                return Path(f"/sys/fs/cgroup/{controllers}{path}/{name}").read_text(encoding="utf-8").strip()
    pytest.skip("needs cgroups version 1")


# -- each process ----------------------------------------------------------------------------------


def test_open_files_bounds_descriptors(launcher: Launcher) -> None:
    program = """
import os
try:
    while True: os.dup(0)
except OSError as error:
    print(os.strerror(error.errno))
"""
    done, report = run_reported(launcher, limits("open_files = 64"), program)
    assert done.out.strip() == "Too many open files"
    assert limit_in(report, "limits.open_files") == {
        "value": 64,
        "enforced_by": "an rlimit of each process",
        "where": None,
        "reason": None,
    }


def test_processes(launcher: Launcher) -> None:
    program = """
import os, time
n = 0
try:
    while n < 200:
        if os.fork() == 0: time.sleep(100)
        n += 1
except BlockingIOError:
    pass
print(n)
"""
    done, _ = run_reported(launcher, limits("processes = 20"), program)
    assert 1 <= int(done.out) < 20


def test_file_size(launcher: Launcher) -> None:
    program = (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); open('/x', 'wb').write(bytes(1 << 20))"
    )
    done, report = run_reported(launcher, limits('file_size = "64K"'), program)
    assert done.status == 128 + signal.SIGXFSZ
    assert (report["ended_by"], report["signal"]) == ("signal", "SIGXFSZ")


@pytest.mark.parametrize(("core", "dumped"), [("0", "False"), ('"unlimited"', "True")])
def test_core(launcher: Launcher, core: str, dumped: str) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text(encoding="utf-8").strip()
    if pattern.startswith("|") or "/" in pattern:
        pytest.skip(f"needs cores in the working directory, not {pattern}")
    program = """
import os
os.mkdir("/c")
os.chdir("/c")
pid = os.fork()
if pid == 0: os.abort()
print(os.WCOREDUMP(os.waitpid(pid, 0)[1]), os.listdir("."))
"""
    done, _ = run_reported(launcher, limits(f"core = {core}"), program)
    flag, _, files = done.out.partition(" ")
    assert flag == dumped, done.err
    assert (files.strip() == "[]") == (dumped == "False")


@pytest.mark.bash
def test_stack(launcher: Launcher) -> None:
    def depth(size: str) -> int:
        script = "f() { echo $1; f $(($1 + 1)); }; f 1"
        done = launcher.up(
            limits(f'stack = "{size}"'), ["bash", "-c", script], options=["--report", "--json"]
        )
        report = json.loads(done.err.splitlines()[-1])
        assert (report["ended_by"], report["signal"]) == ("signal", "SIGSEGV")
        return int(done.out.split()[-1])

    assert depth("256K") * 2 < depth("1M")


def test_cpu_time(launcher: Launcher) -> None:
    done, report = run_reported(launcher, limits("cpu_time = 1\ncore = 0"), "while True: pass")
    assert done.status == 128 + signal.SIGXCPU
    assert "sandbox: warning: limits.cpu_time of 1s was reached by the program\n" in done.err
    assert (report["ended_by"], report["signal"]) == ("cpu_time", "SIGXCPU")
    # For the limit the kernel counts ticks; for the report it counts exactly.
    assert report["program"]["cpu_nanoseconds"] > 500_000_000


def test_cpu_time_kills_a_program_that_handles_the_first_signal(launcher: Launcher) -> None:
    program = (
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: print('told', flush=True))\nwhile True: pass"
    )
    done = launcher.up(limits("cpu_time = 1"), [PYTHON, "-c", program])
    assert (done.status, done.out) == (128 + signal.SIGKILL, "told\n")
    assert done.err == "sandbox: warning: limits.cpu_time of 1s was reached by the program\n"


def test_cpu_time_of_an_orphan_is_reported_as_that_of_another_process(launcher: Launcher) -> None:
    script = f"( {PYTHON} -c 'print(1, flush=True)\nwhile True: pass' & ) | cat; sleep 0.1; exit 7"
    done = launcher.up(limits("cpu_time = 1\ncore = 0"), ["sh", "-c", script], options=["--report", "--json"])
    report = json.loads(done.err.splitlines()[-1])
    assert (done.status, report["ended_by"]) == (7, "exit")
    assert "sandbox: warning: limits.cpu_time of 1s was reached by another process\n" in done.err


def test_cpu_time_equal_to_the_callers_hard_limit_kills(launcher: Launcher) -> None:
    arguments = launcher.arguments(limits("cpu_time = 3"), [PYTHON, "-c", "while True: pass"])
    done = subprocess.run(
        ["sh", "-c", 'ulimit -t 3; exec "$@"', "sh", *arguments],
        env=launcher.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGKILL
    assert "limits.cpu_time of 3s was reached by the program" in done.stderr


def test_wall_time_ends_the_sandbox(launcher: Launcher) -> None:
    done, report = run_reported(launcher, limits('wall_time = "1s"'), "import time; time.sleep(1000)")
    assert done.status == 124
    assert report["ended_by"] == "wall_time"
    assert report["wall_seconds"] >= 1
    assert limit_in(report, "limits.wall_time")["enforced_by"] == "a timer of the supervisor"


def test_oom_score_adj_is_set(launcher: Launcher) -> None:
    program = """
with open("/proc/self/oom_score_adj", "r+") as file:
    print(file.read().strip())
    try:
        file.write("0")
        file.flush()
    except OSError as error:
        print(error.strerror)
"""
    spec = limits("oom_score_adj = 500") + '[process]\nuser = "1"\n'
    if launcher.up(HOST_ROOT + '[process]\nuser = "1"\n', ["true"]).status != 0:
        spec = limits("oom_score_adj = 500")  # a single id
    done, report = run_reported(launcher, spec, program)
    # With CAP_SYS_RESOURCE, the launcher also sets the lower bound of the score, so the program cannot lower it again.
    locked = facts.gather().sys_resource
    assert done.out.split("\n")[:2] == ["500", "Permission denied" if locked else ""], done.err
    assert limit_in(report, "limits.oom_score_adj")["where"] == "/proc/self/oom_score_adj"


# -- files -----------------------------------------------------------------------------------------


def test_size_and_inodes_bound_the_writable_layer(launcher: Launcher) -> None:
    program = """
import os
try:
    with open("/x", "wb", buffering=0) as file:
        while True: file.write(bytes(1 << 16))
except OSError as error:
    print(error.strerror, os.stat("/x").st_size <= 1 << 20)
os.truncate("/x", 0)
try:
    for n in range(100): open(f"/f{n}", "x").close()
except OSError as error:
    print(error.strerror, n)
"""
    spec = '[root]\nlayers = ["dir:/"]\nsize = "1M"\ninodes = 30\n'
    done = launcher.up(spec, [PYTHON, "-c", program])
    first, second = done.out.splitlines()
    assert first == "No space left on device True"
    assert second.startswith("No space left on device ")
    assert int(second.split()[-1]) <= 30
    assert done.err == (
        "sandbox: warning: root.size of 1M was reached: the writable layer was full, and writing failed\n"
        "sandbox: warning: root.inodes of 30 was reached: the writable layer was full, and creating files failed\n"
    )


def test_size_bounds_a_tmpfs(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[[volumes]]\ntype = "tmpfs"\ntarget = "/t"\nsize = "1M"\n'
    program = """
try:
    with open("/t/x", "wb", buffering=0) as file:
        for _ in range(100): file.write(bytes(1 << 16))
except OSError as error:
    print(error.strerror)
"""
    done, report = run_reported(launcher, spec, program)
    assert done.out == "No space left on device\n"
    assert limit_in(report, "volumes: size of /t")["enforced_by"] == "an option of the mount"

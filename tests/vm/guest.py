"""Runs inside the virtual machine, as one of its accounts: starts sandboxes and writes the results as JSON.

usage: guest.py RESULTS CASE...
"""

from __future__ import annotations

import glob
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SANDBOX = [sys.executable, "-m", "sandbox"]
PYTHON = "/usr/bin/python3"
ROOT = '[root]\nlayers = ["dir:/"]\n'
#: The machine is emulated, so everything takes tens of times as long.
SECONDS = 400

ALLOCATE = "import sys; x = bytearray(int(sys.argv[1]) << 20); print('not limited')"
FORK = """
import os, time
n = 0
try:
    while True:
        if os.fork() == 0: time.sleep(1000)
        n += 1
except BlockingIOError:
    print(n)
"""
SPIN = "import time\nwhile time.process_time() < 2: pass"
AFFINITY = """
import os
print(sorted(os.sched_getaffinity(0)))
try:
    os.sched_setaffinity(0, [1])
except OSError:
    print("refused")
"""
READ = """
import mmap, os, time
fd, buffer = os.open("/v/file", os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 1 << 20)
start = time.monotonic()
while os.readv(fd, [buffer]): pass
print(time.monotonic() - start)
"""
FILL = """
with open("/v/new", "wb") as file:
    for _ in range(64): file.write(bytes(1 << 20))
print("filled")
"""
WRITE = """
import os, time
start = time.monotonic()
with open("/v/new", "wb") as file:
    file.write(bytes(4 << 20))
    file.flush()
    os.fsync(file.fileno())
print(time.monotonic() - start)
"""


def up(
    limits: str,
    program: str,
    *arguments: str,
    environ: dict[str, str | None] | None = None,
    front: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run Python code in a sandbox with *limits*; return status, output and report."""
    with open("case.toml", "w", encoding="utf-8") as file:
        file.write(f"{ROOT}{limits}\n")
    env = {name: value for name, value in {**os.environ, **(environ or {})}.items() if value is not None}
    done = subprocess.run(
        [*front, *SANDBOX, "up", "--report", "--json", "case.toml", "--", PYTHON, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env=env,
    )
    reports = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"name"')]
    return {
        "status": done.returncode,
        "out": done.stdout,
        "err": done.stderr,
        "report": reports[-1] if reports else None,
    }


def bound(limits: str, program: str) -> dict[str, Any]:
    """Run Python code with a volume on the disk."""
    # Not in the account's home directory, which other ids may not enter.
    directory = f"/var/tmp/volume-{os.getuid()}"
    os.makedirs(directory, exist_ok=True)
    os.chmod(directory, 0o777)
    with open(f"{directory}/file", "wb") as file:
        file.write(os.urandom(4 << 20))
        os.fsync(file.fileno())
    volume = f'[[volumes]]\ntype = "bind"\nsource = "{directory}"\ntarget = "/v"\n'
    return up(volume + limits, program)


def with_swap(limits: str) -> dict[str, Any]:
    """Run a program that takes 120 MiB on a machine with swap."""
    subprocess.run(["dd", "if=/dev/zero", "of=/swapfile", "bs=1M", "count=256", "status=none"], check=True)
    os.chmod("/swapfile", 0o600)
    subprocess.run(["mkswap", "-q", "/swapfile"], check=True)
    subprocess.run(["swapon", "/swapfile"], check=True)
    try:
        return up(limits, ALLOCATE, "120")
    finally:
        subprocess.run(["swapoff", "/swapfile"], check=True)
        os.unlink("/swapfile")


def supervisor_killed() -> dict[str, Any]:
    """Kill a supervisor; return its cgroups and units before and after."""
    with open("case.toml", "w", encoding="utf-8") as file:
        file.write(f"{ROOT}[limits]\npids = 30\n")
    with subprocess.Popen(
        [*SANDBOX, "up", "case.toml", "--", "sh", "-c", "echo ready; exec sleep 1000"],
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stdout is not None
        supervisor.stdout.readline()
        before = leftovers()
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
    return {"before": before, "after": settled()}


def leftovers() -> dict[str, list[str]]:
    """Return the existing cgroups and units of sandboxes."""
    found = glob.glob("/sys/fs/cgroup/**/sandbox-*", recursive=True)
    manager = ["systemctl"] if os.geteuid() == 0 else ["systemctl", "--user"]
    units = subprocess.run(
        [*manager, "list-units", "--all", "--plain", "--no-legend", "sandbox-*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"cgroups": sorted(found), "units": units.stdout.split()[:1]}


def settled() -> dict[str, list[str]]:
    """Return the cgroups and units that are left after the service manager has removed empty scopes."""
    for _ in range(40):
        left = leftovers()
        if not any(left.values()):
            break
        time.sleep(0.5)
    return left


def doctor() -> dict[str, Any]:
    """Return the checks of `sandbox doctor` by their id."""
    done = subprocess.run(
        [*SANDBOX, "doctor", "--json"], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    return {check["id"]: check for check in json.loads(done.stdout)["checks"]}


def own_cgroup() -> str:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        return file.read().strip()


LIMITS = "[limits]\n"
ALONE = ("systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes")
CASES: dict[str, Callable[[], Any]] = {
    "memory": lambda: up(LIMITS + 'memory = "64M"\nswap = 0\n', ALLOCATE, "200"),
    # Page cache, which can be reclaimed. Anonymous memory would be throttled for ever.
    "memory_high": lambda: bound(LIMITS + 'memory_high = "32M"\n', FILL),
    "pids": lambda: up(LIMITS + "pids = 30\n", FORK),
    "cpus": lambda: up(LIMITS + "cpus = 0.2\ncpu_weight = 50\n", SPIN),
    "all": lambda: up(LIMITS + 'memory = "128M"\nswap = 0\npids = 30\ncpus = 0.5\n', "print('runs')"),
    "report only": lambda: up("", "print('runs')"),
    "cpuset": lambda: up(LIMITS + 'cpuset = "0"\n', AFFINITY),
    "read": lambda: bound(LIMITS + 'io = [{ path = "/", read = "1M" }]\n', READ),
    "write": lambda: bound(LIMITS + 'io = [{ path = "/", write = "1M" }]\n', WRITE),
    "swap": lambda: with_swap(LIMITS + 'memory = "64M"\nswap = "200M"\n'),
    "no swap": lambda: with_swap(LIMITS + 'memory = "64M"\nswap = 0\n'),
    "oom score": lambda: up(
        LIMITS + "oom_score_adj = 500\n",
        "import os; os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'0')",
    ),
    "no runtime directory named": lambda: up(
        LIMITS + "pids = 30\n", "print('runs')", environ={"XDG_RUNTIME_DIR": None}
    ),
    "no bus": lambda: up(LIMITS + "pids = 30\n", "", environ={"XDG_RUNTIME_DIR": "/nowhere"}),
    "alone": lambda: up(LIMITS + "pids = 30\n", FORK, front=ALONE),
    "supervisor killed": supervisor_killed,
    "doctor": doctor,
    "own cgroup": own_cgroup,
    "left": settled,
}


def main() -> None:
    path, *names = sys.argv[1:]
    results: dict[str, Any] = {}
    for name in names:
        sys.stderr.write(f"case: {name}\n")
        try:
            results[name] = CASES[name]()
        except Exception as error:  # noqa: BLE001 - the other cases are worth having
            results[name] = {"error": repr(error)}
        with open(path, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()

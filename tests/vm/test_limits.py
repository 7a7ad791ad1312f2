"""Limits on a stock Debian with systemd and cgroups version 2, as an account in a plain login and as root.

$SANDBOX_TEST_VM is a directory with `build-image`, which makes the image once, and `run-in-vm`, which runs a command in a
temporary copy of it. The machine is emulated, so a sandbox takes tens of seconds to start.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT

pytestmark = [pytest.mark.long, pytest.mark.vm, pytest.mark.timeout(3600)]

SCOPE = "cgroup version 2, in a transient scope of systemd"
DELEGATED = "cgroup version 2, delegated"
#: Packages and directories that only the tests need.
_LEFT_OUT = ("mypy", "mypyc", "hypothesis", "pip", "ruff", ".git", ".venv", "__pycache__")


def run(tmp_path: Path, mode: str, *cases: str) -> dict[str, Any]:
    """Run the *cases* of guest.py in the machine, and return the results."""
    faulthandler.cancel_dump_traceback_later()  # pytest would dump tracebacks after a minute
    tools = os.environ["SANDBOX_TEST_VM"]
    subprocess.run([f"{tools}/build-image"], check=True, timeout=1200)
    results = tmp_path / mode
    excluded = [word for name in _LEFT_OUT for word in ("--exclude", name)]
    packages = sysconfig.get_path("purelib")
    quoted = " ".join(f"'{case}'" for case in cases)
    command = f"export PYTHONPATH=$PWD/proj:$PWD/site; python3 -P proj/tests/vm/guest.py $VM_OUT/results.json {quoted}"
    options = ["--mode", mode, "--timeout", "2400", "--results", str(results), *excluded]
    options += ["--copy", f"{PROJECT}:proj", "--copy", f"{packages}:site"]
    done = subprocess.run(
        [f"{tools}/run-in-vm", *options, "--", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((results / "results.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of the cases of an account that has logged in, as over ssh, without a delegated cgroup."""
    cases = ["own cgroup", "memory", "memory_high", "pids", "cpus", "all", "report only", "cpuset", "read"]
    cases += ["no runtime directory named", "no bus", "alone", "supervisor killed", "doctor", "left"]
    return run(tmp_path_factory.mktemp("vm"), "login", *cases)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of the cases of a system service of root."""
    cases = [
        "memory",
        "cpuset",
        "read",
        "write",
        "swap",
        "no swap",
        "oom score",
        "supervisor killed",
        "doctor",
        "left",
    ]
    return run(tmp_path_factory.mktemp("vm"), "root", *cases)


class TestLogin:
    """An account without any preparation for sandboxes."""

    def test_login_has_no_delegated_cgroup(self, login: dict[str, Any]) -> None:
        assert "/session-" in login["own cgroup"]

    def test_memory(self, login: dict[str, Any]) -> None:
        found = login["memory"]
        assert (found["status"], found["out"]) == (137, ""), found
        report = found["report"]
        assert (report["ended_by"], report["program"]["oom_kills"]) == ("out of memory", 1)
        assert 32 << 20 < report["program"]["memory_peak"] <= 64 << 20
        assert report["limits"]["limits.memory"]["enforced_by"] == SCOPE
        assert "limits.memory of 64M was reached, and the kernel killed 1 process" in found["err"]

    def test_memory_high(self, login: dict[str, Any]) -> None:
        found = login["memory_high"]
        assert found["out"] == "filled\n", found
        assert found["report"]["program"]["memory_high_events"] > 0
        assert found["report"]["program"]["memory_peak"] < 48 << 20

    def test_pids(self, login: dict[str, Any]) -> None:
        found = login["pids"]
        assert 20 <= int(found["out"]) < 30, found
        assert found["report"]["program"]["pids_max_events"] == 1
        assert found["report"]["program"]["pids_peak"] == 30

    def test_cpus(self, login: dict[str, Any]) -> None:
        report = login["cpus"]["report"]
        assert report["program"]["throttled_nanoseconds"] > 0
        assert report["limits"]["limits.cpu_weight"]["where"].endswith(
            ".scope" + report_path(report, "cpu.weight")
        )

    def test_several_at_once(self, login: dict[str, Any]) -> None:
        found = login["all"]
        assert (found["status"], found["out"]) == (0, "runs\n"), found
        mechanisms = {limit["enforced_by"] for limit in found["report"]["limits"].values()}
        assert mechanisms == {SCOPE}

    def test_a_report_is_measured_in_a_scope_even_without_limits(self, login: dict[str, Any]) -> None:
        report = login["report only"]["report"]
        assert report["measured_by"] == SCOPE
        assert report["sandbox"]["memory_peak"] > report["program"]["memory_peak"] > 0

    @pytest.mark.parametrize(("case", "controller"), [("cpuset", "cpuset"), ("read", "io")])
    def test_controllers_that_debian_keeps_are_refused(
        self, login: dict[str, Any], case: str, controller: str
    ) -> None:
        found = login[case]
        assert found["status"] == 125
        assert f"the {controller} controller is not delegated to " in found["err"]
        assert f"let root delegate the {controller} controller to accounts" in found["err"]

    def test_the_bus_is_found_without_the_variable(self, login: dict[str, Any]) -> None:
        found = login["no runtime directory named"]
        assert (found["status"], found["out"]) == (0, "runs\n"), found

    def test_without_a_bus_the_limit_is_refused_with_the_reason(self, login: dict[str, Any]) -> None:
        found = login["no bus"]
        assert found["status"] == 125
        assert "/nowhere/bus: no such file or directory" in found["err"]
        assert "loginctl enable-linger alice" in found["err"]

    def test_a_delegated_scope_without_other_processes_is_used_directly(self, login: dict[str, Any]) -> None:
        found = login["alone"]
        assert 20 <= int(found["out"]) < 30, found
        assert found["report"]["limits"]["limits.pids"]["enforced_by"] == DELEGATED

    def test_a_killed_supervisor_leaves_no_cgroup_and_no_unit(self, login: dict[str, Any]) -> None:
        found = login["supervisor killed"]
        assert found["before"]["cgroups"]
        assert found["before"]["units"]
        assert found["after"] == {"cgroups": [], "units": []}

    def test_nothing_is_left(self, login: dict[str, Any]) -> None:
        assert login["left"] == {"cgroups": [], "units": []}

    def test_doctor_has_probed_the_limits(self, login: dict[str, Any]) -> None:
        checks = login["doctor"]
        assert checks["cgroups"]["facts"]["level"] == "scope"
        levels = {
            name: checks[f"cgroups.{name}"]["level"]
            for name in ("memory", "memory_high", "swap", "pids", "cpu")
        }
        assert set(levels.values()) == {"ok"}
        assert checks["cgroups.io"]["level"] == checks["cgroups.cpuset"]["level"] == "warning"
        assert "Delegate=cpu cpuset io memory pids" in checks["cgroups.io"]["remedy"]
        assert checks["session"]["level"] == "ok"


def report_path(report: dict[str, Any], file: str) -> str:
    """Return the path of a file of the sandbox below the scope."""
    name = report["limits"]["limits.cpu_weight"]["where"].split(".scope/")[1].split("/")[0]
    return f"/{name}/{file}"


class TestRoot:
    """Root of a machine with systemd, which owns the hierarchy."""

    def test_memory_is_enforced_in_a_scope_of_the_system(self, root: dict[str, Any]) -> None:
        found = root["memory"]
        assert found["report"]["ended_by"] == "out of memory", found
        held = found["report"]["limits"]["limits.memory"]
        assert held["enforced_by"] == SCOPE
        assert "/system.slice/sandbox-" in held["where"]

    def test_cpuset(self, root: dict[str, Any]) -> None:
        assert root["cpuset"]["out"] == "[0]\nrefused\n", root["cpuset"]

    @pytest.mark.parametrize(("case", "counter"), [("read", "io_read"), ("write", "io_written")])
    def test_io(self, root: dict[str, Any], case: str, counter: str) -> None:
        found = root[case]
        # 4M at 1M a second take 4 seconds, but a first slice may come at once.
        assert float(found["out"]) > 2, found
        assert found["report"]["sandbox"][counter] >= 4 << 20
        assert found["report"]["limits"]["limits.io"]["where"].endswith("/io.max")

    def test_swap_is_counted_apart_from_memory(self, root: dict[str, Any]) -> None:
        assert root["swap"]["out"] == "not limited\n", root["swap"]
        assert (root["no swap"]["status"], root["no swap"]["out"]) == (137, ""), root["no swap"]

    def test_the_oom_score_cannot_be_lowered(self, root: dict[str, Any]) -> None:
        assert root["oom score"]["status"] == 1
        assert "PermissionError" in root["oom score"]["err"]

    def test_a_killed_supervisor_leaves_no_cgroup_and_no_unit(self, root: dict[str, Any]) -> None:
        assert root["supervisor killed"]["before"]["units"]
        assert root["supervisor killed"]["after"] == {"cgroups": [], "units": []}
        assert root["left"] == {"cgroups": [], "units": []}

    def test_doctor_finds_every_limit_enforceable(self, root: dict[str, Any]) -> None:
        checks = root["doctor"]
        assert checks["cgroups"]["facts"]["level"] == "scope"
        assert {check["level"] for name, check in checks.items() if name.startswith("cgroups")} == {"ok"}

"""Scopes of a service manager: when they are available, and the exchange that creates one."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.kernel import service_manager
from sandbox.kernel.cgroups import CgroupLimits, Hierarchy, NoHierarchy, v2
from sandbox.kernel.cgroups.scope import ScopeHierarchy, look
from tests.unit.sandbox.kernel.bus import Bus

if TYPE_CHECKING:
    from tests.unit.sandbox.kernel.simulated_cgroups import SimulatedCgroups

MOUNTINFO = "31 23 0:28 / /root rw - cgroup2 cgroup2 rw,nsdelegate\n"
MANAGER = "/root/user.slice/user-1000.slice/user@1000.service"


@pytest.fixture
def bus(tmp_path: Path) -> str:
    return str(tmp_path / "bus")


def start(bus: str, **others: Any) -> None:
    service_manager.start_scope(bus, "sandbox-x.scope", [11, 12], description="sandbox x", **others)


@pytest.mark.parametrize("early", [False, True])
def test_a_scope_is_asked_for_with_its_processes_and_its_job_waited_for(bus, *, early):
    manager = Bus(early=early)
    with manager.listening(bus):
        start(bus)
    assert [name for name, _ in manager.calls] == ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]
    unit, mode, properties, others = manager.calls[-1][1]
    assert (unit, mode, others) == ("sandbox-x.scope", "fail", [])
    assert dict(properties) == {
        "Description": ("s", "sandbox x"),
        "PIDs": ("au", [11, 12]),
        "Delegate": ("b", True),
        "CollectMode": ("s", "inactive-or-failed"),
    }


def test_a_scope_has_the_weight_of_its_sandbox_among_the_other_units(bus):
    manager = Bus()
    with manager.listening(bus):
        start(bus, cpu_weight=20)
    assert dict(manager.calls[-1][1][2])["CPUWeight"] == ("t", 20)


@pytest.mark.parametrize("silent_from", ["AUTH", "Hello", "AddMatch", "StartTransientUnit"])
def test_a_bus_that_falls_silent_is_waited_for_so_long_and_no_longer(bus, silent_from):
    with Bus(silent_from=silent_from).listening(bus), pytest.raises(TimeoutError) as caught:
        start(bus, timeout=0.2)
    assert caught.value.strerror == "the service manager did not answer within 0.2 seconds"
    assert caught.value.filename == bus


def test_a_refusal_is_told_in_the_manager_s_words(bus):
    with (
        Bus(refusal="Unit sandbox-x.scope was already loaded.").listening(bus),
        pytest.raises(OSError) as caught,
    ):
        start(bus)
    text = "the service manager refused: Unit sandbox-x.scope was already loaded."
    assert (caught.value.errno, caught.value.strerror) == (errno.EPROTO, text)


def test_a_job_that_fails_is_told(bus):
    with (
        Bus(result="failed").listening(bus),
        pytest.raises(OSError, match="could not start the scope sandbox-x"),
    ):
        start(bus)


def test_a_bus_that_hangs_up_is_an_error(bus):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(bus)
        with pytest.raises(ConnectionRefusedError):
            start(bus)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("sandbox-dev-1a.b_C", "sandbox-dev-1a.b_C.scope"),
        ("sandbox-a b/ü", "sandbox-a\\x20b\\x2f\\xc3\\xbc.scope"),
        ("x" * 300, "x" * 249 + ".scope"),
    ],
)
def test_names_of_units_hold_what_systemd_takes(name, unit):
    assert service_manager.scope_name(name) == unit


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Return a directory with a short path, because a socket path has at most 107 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="bus", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def machine(simulated: SimulatedCgroups, tmp_path: Path) -> SimulatedCgroups:
    """A machine with systemd, where user 1000 has a service manager with some controllers."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    for directory in ("run/user/1000", "run/dbus"):
        (tmp_path / directory).mkdir(parents=True)
    for name in ("run/user/1000/bus", "run/dbus/system_bus_socket"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / name))
    simulated.make_v2("/root", controllers="cpuset cpu io memory pids", enabled="cpu memory pids")
    simulated.make_v2(MANAGER)
    return simulated


def looked(
    machine: SimulatedCgroups, *, uid: int = 1000, real_root: bool = False, **environ: str
) -> Hierarchy:
    return look(MOUNTINFO, uid=uid, real_root=real_root, environ=environ, root=machine.root, files=machine)


def test_scopes_of_a_user_hold_what_root_has_given_its_manager(machine):
    found = looked(machine)
    assert isinstance(found, ScopeHierarchy)
    assert found.bus == machine.path("/run/user/1000/bus")
    assert found.unenforceable(CgroupLimits(memory=1 << 26, swap=0, cpus=1, pids=1)) == {}
    assert found.unenforceable(CgroupLimits(cpuset="0")) == {
        "cpuset": f"the cpuset controller is not delegated to {machine.path(MANAGER)}"
    }
    assert found.file_of("x-1", "pids") == (
        f"{machine.path(MANAGER)}/app.slice/sandbox-x-1.scope/sandbox-x-1/payload/pids.max"
    )
    assert machine.log == []


def test_root_asks_the_manager_of_the_machine(machine):
    found = looked(machine, uid=0, real_root=True)
    assert isinstance(found, ScopeHierarchy)
    assert (found.bus, found.directory) == (
        machine.path("/run/dbus/system_bus_socket"),
        machine.path("/root"),
    )
    assert found.controllers == {"cpuset", "cpu", "io", "memory", "pids"}


def test_the_runtime_directory_of_the_session_is_looked_into(machine, tmp_path):
    found = looked(machine, XDG_RUNTIME_DIR="/elsewhere")
    assert found.version == 0
    (reason,) = found.unenforceable(CgroupLimits(pids=1)).values()
    assert reason == (
        f"the service manager of this account cannot be reached: {tmp_path}/elsewhere/bus: no such file or directory"
    )


def test_without_a_session_or_lingering_there_is_no_bus(machine, tmp_path):
    os.unlink(tmp_path / "run/user/1000/bus")
    assert looked(machine).version == 0


def test_a_file_in_place_of_the_bus_is_none(machine, tmp_path):
    os.unlink(tmp_path / "run/user/1000/bus")
    (tmp_path / "run/user/1000/bus").touch()
    (reason,) = looked(machine).unenforceable(CgroupLimits(pids=1)).values()
    assert reason.endswith("/run/user/1000/bus is not a socket")


def test_root_of_a_user_namespace_has_none(machine):
    assert looked(machine, uid=0).unenforceable(CgroupLimits(pids=1)) == {
        "pids": "root of a user namespace has no service manager"
    }


def test_a_machine_without_systemd_or_version_2_has_none(machine, tmp_path):
    assert look("", uid=1000, real_root=False, environ={}, root=machine.root, files=machine).version == 0
    assert look(MOUNTINFO, uid=1000, real_root=False, environ={}, root=str(tmp_path / "x")).version == 0


def test_entering_moves_this_process_and_its_children_and_finds_itself_there(machine, own_pid, tmp_path):
    os.unlink(tmp_path / "run/user/1000/bus")
    found = looked(machine)
    assert found.version == 0
    bus = str(tmp_path / "run/user/1000/bus")
    manager = Bus()
    with manager.listening(bus):
        scopes = looked(machine)
        assert isinstance(scopes, ScopeHierarchy)
        machine.parents[1] = 0
        made = v2.V2Hierarchy(
            directory="/x/app.slice/sandbox-a1.scope", available=frozenset({"pids"}), enabled=frozenset()
        )
        assert scopes.enter("a1", here=lambda: made) is made
    properties = dict(manager.calls[-1][1][2])
    assert own_pid in properties["PIDs"][1]


@pytest.mark.parametrize(
    "here",
    [
        NoHierarchy(reason="1 other process in the cgroup"),
        v2.V2Hierarchy(directory="/x/session-2.scope", available=frozenset({"pids"}), enabled=frozenset()),
    ],
)
def test_a_scope_that_we_are_not_alone_in_is_refused(machine, tmp_path, here):
    bus = str(tmp_path / "run/user/1000/bus")
    os.unlink(bus)
    with Bus().listening(bus):
        scopes = looked(machine)
        assert isinstance(scopes, ScopeHierarchy)
        with pytest.raises(
            OSError, match=r"the scope sandbox-a1\.scope of the service manager cannot be used"
        ):
            scopes.enter("a1", here=lambda: here)

"""The results of probes from files and simulated machines. tests/kernel tests them on the real machine."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import stat
import tempfile
import time
from pathlib import Path

import pytest

from sandbox.doctor.facts import CgroupFacts, Leftovers, ProgramFacts, SessionFacts, StateFacts
from sandbox.doctor.probes import control, surroundings
from sandbox.doctor.probes.storage import look_for_leftovers, mount_of, probe_run_directory
from sandbox.doctor.probes.uplinks import probe_pasta, probe_slirp4netns
from sandbox.host.facts import gather
from sandbox.kernel import cgroups
from sandbox.state.node import Node, Place
from tests.unit.sandbox.facts import host
from tests.unit.sandbox.kernel.simulated_cgroups import SimulatedCgroups

V2 = "31 23 0:28 / /root rw - cgroup2 cgroup2 rw\n"
V1 = "32 23 0:29 / /mem rw - cgroup cgroup rw,memory\n33 23 0:30 / /blk rw - cgroup cgroup rw,blkio\n"


@pytest.mark.parametrize(
    ("mountinfo", "mode"), [(V2, "v2"), (V1, "v1"), (V1 + V2, "hybrid"), ("", "none"), ("nonsense", "none")]
)
def test_the_mode_of_cgroups_is_which_versions_are_mounted(mountinfo, mode):
    assert control.mode_of(mountinfo) == mode


@pytest.fixture
def scope(tmp_path) -> SimulatedCgroups:
    """A scope that is delegated to this process and contains it."""
    simulated = SimulatedCgroups(str(tmp_path))
    simulated.make_v2("/root", controllers="cpu memory pids io", enabled="cpu memory pids io", procs=(1, 2))
    simulated.make_v2("/root/scope", controllers="cpu memory pids io", procs=(os.getpid(),))
    simulated.denied |= {"/root"}
    return simulated


def try_in(simulated: SimulatedCgroups) -> CgroupFacts:
    found = cgroups.detect(V2, "0::/scope\n", euid=1000, root=simulated.root, files=simulated)
    return control.probe_cgroups(found, mountinfo=V2, files=simulated)


@pytest.fixture(autouse=True)
def _one_disk(monkeypatch) -> None:
    monkeypatch.setattr(control, "_disks", lambda files: iter(["8:0"]))


def test_a_scope_is_left_for_the_trial_and_entered_again(scope):
    before = sorted(os.listdir(scope.path("/root/scope")))
    found = try_in(scope)
    assert found.controllers == {
        "memory": None,
        "memory_high": None,
        "swap": None,
        "pids": None,
        "cpu": None,
        "io": None,
        "cpuset": f"the cpuset controller is not delegated to {scope.path('/root/scope')}",
    }
    assert (found.mode, found.problem) == ("v2", None)
    assert scope.content("/root/scope/cgroup.procs") == str(os.getpid())
    assert scope.content("/root/scope/cgroup.subtree_control") == ""
    assert sorted(os.listdir(scope.path("/root/scope"))) == before


def test_only_this_process_and_its_children_are_moved(scope):
    try_in(scope)
    moved = {entry[2] for entry in scope.log if entry[0] == "write" and entry[1].endswith("cgroup.procs")}
    supervisor = {entry[2] for entry in scope.log if entry[1].endswith("supervisor/cgroup.procs")}
    assert supervisor == {str(os.getpid())}
    payload = {entry[2] for entry in scope.log if entry[1].endswith("payload/cgroup.procs")}
    assert len(payload) == len(control.LIMITS) + 1  # one child for each limit, and for io
    assert moved == supervisor | payload


@pytest.fixture
def empty(scope: SimulatedCgroups) -> SimulatedCgroups:
    """The same scope after the supervisor has left it: no process must be moved before a cgroup is created."""
    scope.make_v2("/root/scope", controllers="cpu memory pids io", enabled="pids")
    return scope


def test_what_is_handed_on_for_the_trial_is_taken_back(empty):
    found = try_in(empty)
    assert {found.controllers[name] for name in control.LIMITS} == {None}
    assert empty.content("/root/scope/cgroup.subtree_control") == "pids"
    # All other changes were made in a child, which has its own copy of the log.
    assert empty.log == [
        ("write", "/root/scope/cgroup.subtree_control", "-cpu"),
        ("write", "/root/scope/cgroup.subtree_control", "-io"),
        ("write", "/root/scope/cgroup.subtree_control", "-memory"),
    ]
    assert cgroup_names(empty) == []


def test_what_a_sandbox_that_started_meanwhile_uses_is_not_taken_back(empty, monkeypatch):
    control_of_kernel = empty._control

    def busy(directory: str, command: str) -> None:
        if command.startswith("-"):
            raise OSError(errno.EBUSY, "used by a child", directory)
        control_of_kernel(directory, command)

    monkeypatch.setattr(empty, "_control", busy)
    found = try_in(empty)
    assert (found.problem, found.controllers["memory"]) == (None, None)
    assert empty.content("/root/scope/cgroup.subtree_control") == "cpu io memory pids"


def test_a_limit_that_the_kernel_refuses_is_said_and_the_others_are_tried(scope):
    scope.failures["write", "memory.max"] = 22
    found = try_in(scope)
    assert re.fullmatch(
        rf"{scope.path('/root/scope')}/sandbox-doctor-[0-9a-f]{{8}}-memory/payload/memory.max: Invalid argument",
        found.controllers["memory"] or "",
    )
    assert found.controllers["pids"] is None
    assert cgroup_names(scope) == []


def cgroup_names(scope: SimulatedCgroups) -> list[str]:
    return scope.children(scope.path("/root/scope"))


def test_a_child_that_cannot_be_put_in_is_said_and_nothing_is_left(scope):
    scope.failures["write", "payload/cgroup.procs"] = 13
    found = try_in(scope)
    assert found.controllers["pids"] is not None
    assert found.controllers["pids"].startswith("no process could be moved into it: ")
    assert found.controllers["pids"].endswith(": Permission denied")
    assert cgroup_names(scope) == []


def test_a_cgroup_that_stays_is_a_problem(scope):
    scope.failures["rmdir", "payload"] = 13
    found = try_in(scope)
    assert found.problem is not None
    assert found.problem.endswith("/payload: Permission denied")


def test_where_none_can_be_made_every_controller_says_why(tmp_path):
    found = control.probe_cgroups(cgroups.NoHierarchy(reason="because"), mountinfo="")
    assert found.controllers == {
        "memory": "because",
        "memory_high": "because",
        "swap": "because",
        "pids": "because",
        "cpu": "because",
        "io": "because",
        "cpuset": "because",
    }


def test_the_place_shows_by_what_runs_it(tmp_path):
    root = str(tmp_path)
    assert surroundings.place_of(root) == "plain"
    (tmp_path / ".dockerenv").touch()
    assert surroundings.place_of(root) == "container"
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert surroundings.place_of(root) == "systemd"


def session(tmp_path, environ: dict[str, str], **changes: object) -> SessionFacts:
    return surroundings.look_at_session(host(**changes), environ, root=str(tmp_path))


def test_without_systemd_there_is_no_manager_and_no_lingering(tmp_path):
    found = session(tmp_path, {"PATH": "/nowhere"})
    assert (found.place, found.debian, found.manager) == ("plain", False, None)
    assert found.lingers is None


def test_a_session_is_reached_by_the_socket_of_its_bus(tmp_path):
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="X"\nID=ubuntu\nID_LIKE="debian"\n')
    environ = {"XDG_RUNTIME_DIR": "/u"}
    assert session(tmp_path, {}).manager == f"{tmp_path}/run/user/1000/bus: No such file or directory"
    bus = f"{tmp_path}/u/bus"
    assert session(tmp_path, environ).manager == f"{bus}: No such file or directory"
    (tmp_path / "u").mkdir()
    (tmp_path / "u/bus").touch()
    assert session(tmp_path, environ).manager == f"{bus} is not a socket"
    os.unlink(bus)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(bus)
        assert session(tmp_path, environ).manager == f"{bus}: Connection refused"
        listener.listen()
        found = session(tmp_path, environ)
    assert (found.manager, found.debian, found.lingers) == (None, True, False)
    (tmp_path / "var/lib/systemd/linger").mkdir(parents=True)
    (tmp_path / "var/lib/systemd/linger/user").touch()
    assert session(tmp_path, environ).lingers
    root = session(tmp_path, environ, uid=0, user_name="root")
    assert (root.manager, root.lingers) == (
        f"{tmp_path}/run/dbus/system_bus_socket: No such file or directory",
        True,
    )


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        ([], 100000),
        (["a:100000:65536\n"], 165536),
        (["a:100000:65536\nb:165536:10\n", "c:300000:1\nbad\nx:y:z\n"], 362144),
        (["a:1000:5\n"], 100000),
    ],
)
def test_subordinate_ids_are_offered_behind_those_that_somebody_has(texts, first):
    assert surroundings.first_free_subid(texts) == first


def program(directory, name: str, script: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_interpreter_of_the_server_prints_its_versions():
    found = surroundings.ServerInterpreter().facts()
    assert found.problem is None
    assert (found.version or "").startswith("pyfuse3 ")


def test_an_interpreter_that_cannot_run_has_a_reason(tmp_path):
    path = tmp_path / "python"
    path.write_bytes(b"no program")
    path.chmod(stat.S_IRWXU)
    found = surroundings.ServerInterpreter(str(path)).facts()
    assert found == ProgramFacts(path=str(path), problem=f"{path}: Exec format error")
    broken = program(tmp_path, "broken", "echo first; echo broken >&2; exit 3")
    assert surroundings.ServerInterpreter(broken).facts() == ProgramFacts(path=broken, problem="broken")


def test_an_interpreter_that_hangs_is_killed(tmp_path):
    path = program(tmp_path, "python", "echo $$ > $0.pid; exec sleep 60")
    start = time.monotonic()
    running = surroundings.ServerInterpreter(path)
    while not (tmp_path / "python.pid").exists():
        time.sleep(0.01)
    found = running.facts(seconds=3)
    assert found.problem == "no answer within 3 seconds"
    assert time.monotonic() - start < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "python.pid").read_text()), 0)


def test_an_interpreter_whose_answer_is_not_needed_any_more_is_ended(tmp_path):
    path = program(tmp_path, "python", "exec sleep 60")
    start = time.monotonic()
    surroundings.ServerInterpreter(path).abandon()  # the fixture would find a process that still runs
    assert time.monotonic() - start < 20


@pytest.mark.pasta
def test_pasta_is_tried_in_a_network_namespace_of_its_own():
    found = probe_pasta(gather(), os.environ["PATH"])
    assert found.path is not None
    assert found.problem is None


def test_a_pasta_that_fails_has_what_it_printed_as_its_problem(tmp_path):
    path = program(tmp_path, "pasta", "echo 'no such option' >&2; exit 1")
    assert probe_pasta(gather(), str(tmp_path)) == ProgramFacts(path=path, problem="no such option")


@pytest.mark.slirp4netns
def test_slirp4netns_is_tried_in_a_network_namespace_of_its_own():
    found = probe_slirp4netns(gather(), os.environ["PATH"])
    assert found.path is not None
    assert found.problem is None


def test_a_slirp4netns_that_fails_has_what_it_printed_as_its_problem(tmp_path):
    # For root of the machine, it is executed as another user, who may not search the directories of pytest.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        path = program(Path(name), "slirp4netns", "echo 'child failed(1)' >&2; exit 1")
        assert probe_slirp4netns(gather(), name) == ProgramFacts(path=path, problem="child failed(1)")


def test_the_mount_of_a_path_is_the_deepest_and_the_last():
    text = (
        "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /home rw - nfs4 b rw\n"
        "3 1 0:3 / /ho rw - xfs c rw\n4 2 0:4 / /home rw - tmpfs d rw\n"
    )
    assert [
        getattr(mount_of(path, text), "fstype", None) for path in ("/", "/home/x", "/homely", "/home")
    ] == [
        "ext4",
        "tmpfs",
        "ext4",
        "tmpfs",
    ]
    assert mount_of("/x", "") is None


@pytest.mark.parametrize("separate", [True, False])
def test_what_dead_sandboxes_left_is_told_from_what_runs(tmp_path, separate):
    run_path = str(tmp_path / "run-directory") if separate else None
    assert look_for_leftovers(str(tmp_path), run_path, "") == Leftovers()
    if run_path is not None:
        os.mkdir(run_path)
    (tmp_path / "lock" if run_path is None else tmp_path / "run-directory/lock").touch()
    for name in ("alive", "dead", "elsewhere", "never-locked", "odd"):
        (tmp_path / "run" / name).mkdir(parents=True)
    for name in ("alive", "dead", "odd"):
        (tmp_path / "run" / name / "lock").touch()
    gone = str(tmp_path / "no-such-cgroup")
    (tmp_path / "run/dead/state.json").write_text(json.dumps({"cgroups": [str(tmp_path), gone]}))
    (tmp_path / "run/odd/state.json").write_text("[]")
    other = Place(node=Node(machine="another", host="b"), boot="", pid_namespace="")
    (tmp_path / "run/elsewhere/state.json").write_text(json.dumps(other.as_record(pid=7, start=1)))
    with open(tmp_path / "run/alive/lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = look_for_leftovers(str(tmp_path), run_path, "")
    assert found == Leftovers(
        running=("alive",),
        dead=("dead", "never-locked", "odd"),
        elsewhere=("elsewhere (pid 7, on b)",),
        cgroups=(str(tmp_path),),
    )
    assert sorted(os.listdir(tmp_path / "run")) == ["alive", "dead", "elsewhere", "never-locked", "odd"]


def test_leftovers_that_cannot_be_read_are_not_known(tmp_path):
    (tmp_path / "run").touch()
    found = look_for_leftovers(str(tmp_path), None, "")
    assert found.problem == f"{tmp_path}/run: Not a directory"


def run_directory_at(path: Path) -> StateFacts:
    return probe_run_directory(host(), {"SANDBOX_RUN_DIR": str(path)}, "")


def test_a_run_directory_is_tried_in_its_place_and_left_as_it_was(tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    found = run_directory_at(tmp_path / "run")
    assert (found.path, found.exists, found.untrusted) == (str(tmp_path / "run"), True, None)
    assert found.probe.failure("make", "lock", "write", "link", "rename") is None
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize("how", ["missing", "open to others", "a link"])
def test_a_run_directory_that_is_not_used_is_said_to_be(tmp_path, how):
    path = tmp_path / "run"
    if how == "open to others":
        path.mkdir()
        path.chmod(0o750)
    elif how == "a link":
        (tmp_path / "real").mkdir(mode=0o700)
        path.symlink_to("real")
    found = run_directory_at(path)
    reasons = {"open to others": "can be searched by other users", "a link": "is a symbolic link"}
    assert found.untrusted == reasons.get(how)
    assert found.exists == (how != "missing")
    left = {"a link": ["real", "run"], "open to others": ["run"]}
    assert sorted(os.listdir(tmp_path)) == left.get(how, [])

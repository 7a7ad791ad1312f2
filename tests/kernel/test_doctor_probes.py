"""The probes of `sandbox doctor` on the running kernel have correct results, and leave nothing.

tests.support.leaks checks after each test that no mount, process, descriptor or cgroup is left.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time

import pytest

from sandbox.doctor.child import run_limited
from sandbox.doctor.facts import StateFacts
from sandbox.doctor.probes import control, namespaces, storage, surroundings
from sandbox.host import facts as host
from sandbox.kernel import cgroups

SHARED = (
    "unshare user",
    "id map",
    "unshare mount",
    "make private",
    "mount tmpfs",
    "mount proc",
    "pivot_root",
)


def mountinfo() -> str:
    with open("/proc/self/mountinfo") as file:
        return file.read()


@pytest.mark.userns
@pytest.mark.fuse
def test_starting_without_layers_works_under_either_map(tmp_path):
    facts = host.gather()
    found = namespaces.probe_namespaces(facts, None)
    assert found.obstacle is None
    for probe in filter(None, (found.single, found.whole)):
        assert probe.problem is None
        assert {step: failure for step, failure in probe.attempts.items() if failure is not None} == {}
        assert set(SHARED) | {"mount fuse", "mount sysfs", "build dev", "open a terminal"} <= set(
            probe.attempts
        )
    assert (found.whole is None) == (facts.whole_maps() is None)


@pytest.mark.userns
def test_a_killed_probe_leaves_no_process_in_any_of_its_namespaces(monkeypatch):
    # The innermost process waits before its mounts. It must end with the killed process.
    monkeypatch.setattr(namespaces.mounts, "make_private", lambda: time.sleep(1000))
    before = set(os.listdir("/proc"))
    single = (namespaces.idmaps.single_map(os.geteuid()), namespaces.idmaps.single_map(os.getegid()))
    outcome = run_limited(lambda report: namespaces._mapper(report, single, None, None, None), seconds=1)
    assert outcome.problem == "no answer within 1 seconds"
    assert "unshare cgroup" in outcome.results
    deadline = time.monotonic() + 60
    while (left := waiting_here(before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def waiting_here(before: set[str]) -> list[str]:
    """Return the new processes that are forks of this one. They have its command line."""
    with open("/proc/self/cmdline", "rb") as file:
        ours = file.read()
    found = []
    for name in set(os.listdir("/proc")) - before:
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    found += [name] if file.read() == ours else []
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def test_a_refused_user_namespace_is_reported_with_the_reason():
    script = (
        "from sandbox.host import facts; from sandbox.doctor.probes.namespaces import probe_namespaces;"
        "found = probe_namespaces(facts.gather(), None); print(found.single.attempts); print(found.obstacle)"
    )
    limit = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare failed" in done.stderr or "unshare:" in done.stderr:
        pytest.skip("needs user namespaces")
    assert done.stdout.splitlines() == [
        "{'unshare user': Failure(errno=28, text='unshare: No space left on device')}",
        "Obstacle(reason='user namespaces are disabled', remedy='as root, sysctl user.max_user_namespaces=15000')",
    ], done


def environ(path: object) -> dict[str, str]:
    return {"SANDBOX_STATE_DIR": str(path)}


def test_a_state_directory_is_probed_in_place_and_left_unchanged(tmp_path):
    with storage.probe_state(host.gather(), environ(tmp_path), mountinfo()) as tried:
        assert isinstance(tried.facts, StateFacts)
        assert tried.files is not None
        assert os.path.dirname(os.path.dirname(tried.files)) == str(tmp_path)
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []
    found = tried.facts
    assert (found.path, found.exists, found.probe.problem) == (str(tmp_path), True, None)
    assert set(found.probe.attempts) == {
        "make", "lock", "write", "link", "rename", "attribute", "mark", "whiteout",
    }  # fmt: skip
    assert found.probe.failure("make", "lock", "write", "link", "rename") is None
    assert found.free_bytes


def test_a_missing_state_directory_is_probed_where_it_would_be_made(tmp_path):
    with storage.probe_state(host.gather(), environ(tmp_path / "a/b"), mountinfo()) as tried:
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []
    assert isinstance(tried.facts, StateFacts)
    assert not tried.facts.exists
    assert tried.facts.probe.did("make")


def test_a_state_directory_behind_a_link_is_reported_with_its_real_path(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with storage.probe_state(host.gather(), environ(tmp_path / "link"), mountinfo()) as tried:
        assert isinstance(tried.facts, StateFacts)
        assert tried.facts.path == str(tmp_path / "real")
    assert os.listdir(tmp_path / "real") == []


def test_a_state_directory_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with storage.probe_state(host.gather(), environ(tmp_path / "file"), mountinfo()) as tried:
        assert isinstance(tried.facts, StateFacts)
        failed = tried.facts.probe.failure("make")
        assert failed is not None
        assert failed[1].text == f"{tmp_path}/file: Not a directory"
        assert tried.files is None


def test_a_state_directory_that_others_may_write_is_not_trusted(tmp_path):
    tmp_path.chmod(0o777)
    with storage.probe_state(host.gather(), environ(tmp_path), mountinfo()) as tried:
        assert isinstance(tried.facts, StateFacts)
        assert tried.facts.untrusted == "can be written by other users"


def test_the_directory_of_a_probe_is_removed_when_another_probe_fails(tmp_path):
    with pytest.raises(KeyError), storage.probe_state(host.gather(), environ(tmp_path), mountinfo()):
        raise KeyError
    assert os.listdir(tmp_path) == []


@pytest.mark.userns
def test_files_of_every_id_can_be_made_where_a_whole_map_can(open_directory):
    facts = host.gather()
    if facts.whole_maps() is None:
        pytest.skip("needs subordinate ids")
    os.chmod(open_directory, 0o755)
    with storage.probe_state(facts, environ(open_directory), mountinfo()) as tried:
        found = namespaces.probe_namespaces(facts, tried.files)
    assert found.whole is not None
    assert found.whole.did("chown")
    assert os.listdir(open_directory) == []


@pytest.mark.cgroup
def test_cgroups_that_can_be_made_are_made_and_removed():
    facts = host.gather()
    before = own_cgroups()
    found = control.probe_cgroups(facts.cgroups, mountinfo=mountinfo())
    assert found.problem is None
    for name, limits in control.limits_to_try(facts.cgroups, cgroups.CgroupFiles()).items():
        reasons = facts.cgroups.unenforceable(limits)
        assert (found.controllers[name] is None) == (reasons == {}), name
    assert own_cgroups() == before


@pytest.mark.cgroup
def test_a_killed_probe_of_cgroups_leaves_none(monkeypatch):
    facts = host.gather()
    if facts.cgroups.unenforceable(control.LIMITS["memory"]):
        pytest.skip("needs a cgroup that can be made")
    monkeypatch.setattr(control, "_put_child_into", lambda group: time.sleep(1000))
    monkeypatch.setattr(control, "run_limited", functools.partial(run_limited, seconds=0.5))
    found = control.probe_cgroups(facts.cgroups, mountinfo=mountinfo())
    assert found.problem == "no answer within 0.5 seconds"
    assert found.controllers["memory"] == found.problem


def own_cgroups() -> str:
    with open("/proc/self/cgroup") as file:
        return file.read()


def test_without_a_place_for_cgroups_nothing_is_probed():
    found = control.probe_cgroups(cgroups.NoHierarchy(reason="none here"), mountinfo=mountinfo())
    assert {name: found.controllers[name] for name in control.LIMITS} == dict.fromkeys(
        control.LIMITS, "none here"
    )


def test_a_filter_is_probed_in_a_child_only():
    def mode() -> str:
        with open("/proc/self/status") as file:
            return next(line for line in file if line.startswith("Seccomp:"))

    before = mode()
    assert surroundings.probe_security().seccomp is None
    assert mode() == before

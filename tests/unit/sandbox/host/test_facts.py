"""Host facts, from simulated files and from the real machine."""

from __future__ import annotations

import errno
import os
import resource
import stat
from typing import TYPE_CHECKING

import pytest

from sandbox.errors import SetupError
from sandbox.host import facts as host
from sandbox.kernel.cgroups import NoHierarchy
from sandbox.kernel.idmaps import IdMap, SubidRange

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

ROOT_MAP = (IdMap(inside=0, outside=0, count=2**32 - 1),)
RANGE = (SubidRange(start=200000, count=65536),)
WORKING = host.IdHelper(path="/usr/bin/newuidmap", problem=None)


def facts(**changes: object) -> host.HostFacts:
    values: dict[str, object] = {
        "uid": 2000,
        "gid": 2000,
        "user_name": "alice",
        "groups": (2000,),
        "uid_ranges": RANGE,
        "gid_ranges": RANGE,
        "own_uid_map": ROOT_MAP,
        "own_gid_map": ROOT_MAP,
        "newuidmap": WORKING,
        "newgidmap": WORKING,
        "fuse": "ok",
        "cgroups": NoHierarchy(reason="none here"),
        "kernel_version": (6, 1),
        "terminal": False,
        "hard_limits": {},
    }
    return host.HostFacts(**(values | changes))  # type: ignore[arg-type]


def test_gathering_gives_this_account():
    found = host.gather()
    assert (found.uid, found.gid) == (os.geteuid(), os.getegid())
    assert found.own_uid_map


def test_gathering_on_a_machine_without_any_of_the_files_raises_nothing(tmp_path):
    found = host.gather(
        proc_root=str(tmp_path), etc_root=str(tmp_path), fuse_device=str(tmp_path / "fuse"), helper_path=()
    )
    assert found.fuse == "missing"
    assert found.uid_ranges == ()
    assert found.cgroups.version == 0
    assert found.newuidmap.problem == "newuidmap is not installed (Debian: uidmap, Fedora: shadow-utils)"


def test_what_could_not_be_looked_at_does_not_count_as_absent(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.open(os.devnull, os.O_RDONLY)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
    try:
        with pytest.raises(SetupError) as raised:
            host.gather()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert str(raised.value) == (
        "facts of this machine: open /proc/self/status: too many open files (EMFILE)"
    )
    assert raised.value.hint == "too many open files in this process: raise `ulimit -n`"


def test_a_user_with_ranges_and_helpers_gets_whole_maps():
    uid_map, gid_map = facts().whole_maps() or ((), ())
    assert (
        uid_map
        == gid_map
        == (
            IdMap(inside=0, outside=2000, count=1),
            IdMap(inside=1, outside=200000, count=65535),
        )
    )
    assert facts().map_helpers == ("/usr/bin/newuidmap", "/usr/bin/newuidmap")


def test_real_root_needs_neither_ranges_nor_helpers():
    root = facts(
        uid=0, gid=0, uid_ranges=(), gid_ranges=(), newuidmap=host.IdHelper(path=None, problem="absent")
    )
    assert root.is_real_root
    assert root.id_map_problem is None
    assert root.map_helpers is None
    assert root.whole_maps() == (
        (IdMap(inside=0, outside=0x6FFF0000, count=65536),),
        (IdMap(inside=0, outside=0x6FFF0000, count=65536),),
    )


def test_root_of_a_container_maps_the_ranges_that_the_container_has():
    few = (IdMap(inside=0, outside=100000, count=1000),)
    inner = facts(uid=0, gid=0, own_uid_map=few, own_gid_map=few)
    assert not inner.is_real_root
    assert "are outside of this user namespace" in (inner.id_map_problem or "")
    fitting = (SubidRange(start=500, count=100),)
    inner = facts(uid=0, gid=0, own_uid_map=few, own_gid_map=few, uid_ranges=fitting, gid_ranges=fitting)
    assert (inner.whole_maps() or ((), ()))[0] == (
        IdMap(inside=0, outside=0, count=1),
        IdMap(inside=1, outside=500, count=100),
    )
    assert inner.map_helpers is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"uid_ranges": ()}, "/etc/subuid has no range for alice"),
        ({"gid_ranges": (), "user_name": None}, "/etc/subgid has no range for 2000"),
        (
            {"newgidmap": host.IdHelper(path=None, problem="newgidmap is not installed")},
            "newgidmap is not installed",
        ),
    ],
)
def test_what_stands_against_whole_maps_is_said(changes, problem):
    assert facts(**changes).id_map_problem == problem
    assert facts(**changes).whole_maps() is None


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.12.3-amd64", (6, 12)),
        ("5.4.0", (5, 4)),
        ("4.18", (4, 18)),
        ("6.1rc2", (6, 1)),
        ("x", (0, 0)),
        ("7", (7, 0)),
    ],
)
def test_kernel_releases_are_read(release, version):
    assert host.parse_kernel_version(release) == version


def test_a_fuse_device_that_is_another_file_is_missing(tmp_path):
    path = tmp_path / "fuse"
    assert host.fuse_state(str(path)) == "missing"
    path.write_text("")
    assert host.fuse_state(str(path)) == "missing"


def test_a_device_that_we_may_open_is_ok_and_is_not_opened():
    assert host.fuse_state("/dev/null") == "ok"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every device")
def test_a_device_that_we_may_not_open_is_not_accessible():
    path = "/dev/tty0"
    if not os.path.exists(path):
        pytest.skip(f"this machine has no {path}")  # as in a container
    assert stat.S_ISCHR(os.stat(path).st_mode)
    assert host.fuse_state(path) == "not accessible"


def test_a_helper_without_privilege_is_a_problem_that_names_it(tmp_path):
    path = tmp_path / "newuidmap"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    found = host.find_helper("newuidmap", ["/nowhere", str(tmp_path)], "")
    assert found.path == str(path)
    assert found.problem == f"{path} has neither the set-user-id bit of root nor file capabilities"


@pytest.mark.newuidmap
def test_a_helper_under_no_new_privs_is_a_problem():
    import shutil

    directory = os.path.dirname(shutil.which("newuidmap") or "")
    assert host.find_helper("newuidmap", [directory], "Name:\tx\nNoNewPrivs:\t0\n").problem is None
    found = host.find_helper("newuidmap", [directory], "NoNewPrivs:\t1\n")
    assert "has no_new_privs set" in (found.problem or "")


@pytest.fixture
def fake_proc(tmp_path: pathlib.Path) -> Callable[..., str]:
    """Return a simulated /proc with the given files."""

    def make(**files: str) -> str:
        (tmp_path / "self/ns").mkdir(parents=True)
        (tmp_path / "self/ns/user").write_text("")
        for name, value in ({"sys__user__max_user_namespaces": "1000"} | files).items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value + "\n")
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("files", "number", "said"),
    [
        ({"sys__user__max_user_namespaces": "0"}, errno.ENOSPC, "sysctl user.max_user_namespaces=15000"),
        ({}, errno.ENOSPC, "the limit user.max_user_namespaces is 1000"),
        (
            {"sys__kernel__unprivileged_userns_clone": "0"},
            errno.EPERM,
            "sysctl kernel.unprivileged_userns_clone=1",
        ),
        ({"sys__kernel__apparmor_restrict_unprivileged_userns": "1"}, errno.EACCES, "AppArmor restricts"),
        ({"self__status": "Seccomp:\t2"}, errno.EPERM, "a seccomp filter of this process"),
        (
            {"sys__kernel__unprivileged_userns_clone": "1"},
            errno.EPERM,
            "possibly because it runs in a chroot",
        ),
        ({}, errno.EINVAL, "the kernel refuses it: Invalid argument"),
    ],
)
def test_the_reason_for_a_failed_user_namespace_is_found(fake_proc, monkeypatch, files, number, said):
    monkeypatch.setattr(os, "geteuid", lambda: 2000)
    assert said in host.explain_userns_failure(number, proc_root=fake_proc(**files))


def test_a_kernel_without_user_namespaces_is_the_first_reason(tmp_path):
    assert "CONFIG_USER_NS" in host.explain_userns_failure(errno.EINVAL, proc_root=str(tmp_path))

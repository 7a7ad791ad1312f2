"""The checks of user namespaces and ids: the exact text of every branch."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from sandbox.doctor.facts import Failure, NamespaceFacts, Obstacle, Probe
from sandbox.host.facts import HostFacts, IdHelper
from sandbox.kernel.idmaps import IdMap, SubidRange
from tests.unit.sandbox.doctor.made_up import account, checks, namespaces, session, shown

FEW = (IdMap(inside=0, outside=100000, count=1000),)
ONE = (IdMap(inside=0, outside=1000, count=1),)


CASES: list[tuple[str, str, HostFacts | None, dict[str, Any], tuple[str, str, str, str]]] = [
    (
        "all is well",
        "userns",
        None,
        {},
        (
            "ok",
            "a user namespace with an id map and mounts can be created",
            "",
            "",
        ),
    ),
    (
        "sysctl on a machine with systemd",
        "userns",
        None,
        namespaces(
            {"unshare user": Failure(errno=errno.ENOSPC, text="unshare: No space left on device")},
            last="unshare user",
            obstacle=Obstacle(
                reason="user namespaces are disabled",
                remedy="as root, sysctl user.max_user_namespaces=15000",
            ),
        ),
        (
            "failure",
            "user namespaces cannot be used: user namespaces are disabled",
            "no sandbox starts",
            "as root, sysctl user.max_user_namespaces=15000 (permanently: a line in /etc/sysctl.d/sandbox.conf)",
        ),
    ),
    (
        "sysctl in a container",
        "userns",
        None,
        namespaces(
            {"unshare user": Failure(errno=errno.EPERM, text="unshare: Operation not permitted")},
            last="unshare user",
            obstacle=Obstacle(
                reason="only root may create user namespaces on this machine",
                remedy="as root, sysctl kernel.unprivileged_userns_clone=1",
            ),
        )
        | {"session": session(place="container", lingers=None)},
        (
            "failure",
            "user namespaces cannot be used: only root may create user namespaces on this machine",
            "no sandbox starts",
            "on the host of this container: as root, sysctl kernel.unprivileged_userns_clone=1",
        ),
    ),
    (
        "an obstacle without a remedy",
        "userns",
        None,
        namespaces(
            {"unshare user": Failure(errno=errno.EPERM, text="unshare: Operation not permitted")},
            last="unshare user",
            obstacle=Obstacle(reason="possibly because it runs in a chroot"),
        ),
        (
            "failure",
            "user namespaces cannot be used: possibly because it runs in a chroot",
            "no sandbox starts",
            "",
        ),
    ),
    (
        "restricted only where one is used",
        "userns",
        None,
        namespaces(
            {"mount tmpfs": Failure(errno=errno.EACCES, text="mount tmpfs: Permission denied")},
            last="mount tmpfs",
            obstacle=Obstacle(
                reason="AppArmor restricts user namespaces on this machine",
                remedy="as root, sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ),
        (
            "failure",
            "user namespaces cannot be used: AppArmor restricts user namespaces on this machine",
            "no sandbox starts",
            "as root, sysctl kernel.apparmor_restrict_unprivileged_userns=0 (permanently: a line in /etc/sysctl.d/sandbox.conf)",
        ),
    ),
    (
        "no obstacle is known",
        "userns",
        None,
        namespaces(
            {"unshare user": Failure(errno=errno.EUSERS, text="unshare: Too many users")}, last="unshare user"
        ),
        (
            "failure",
            "user namespaces cannot be used: unshare: Too many users",
            "no sandbox starts",
            "user namespaces are nested too deeply (32 levels): start the sandbox outside of one of them",
        ),
    ),
    (
        "the map of one id is refused",
        "userns",
        account(uid_ranges=()),
        namespaces(
            {"id map": Failure(errno=errno.EPERM, text="writing '0 1000 1': Operation not permitted")},
            last="id map",
            single_only=True,
        ),
        (
            "failure",
            "user namespaces cannot be used: writing '0 1000 1': Operation not permitted",
            "no sandbox starts",
            "the kernel refuses this id map: an ordinary user may map only its own id; install uidmap and give the user a range in /etc/subuid and /etc/subgid for more",
        ),
    ),
    (
        "the probe hangs before anything is known",
        "userns",
        None,
        {"namespaces": NamespaceFacts(single=Probe(problem="no answer within 5 seconds"), whole=None)},
        (
            "failure",
            "the probe of user namespaces ended early: no answer within 5 seconds",
            "no sandbox starts",
            "",
        ),
    ),
    (
        "a whole map",
        "ids",
        None,
        {},
        (
            "ok",
            "65536 ids can be mapped by newuidmap and newgidmap",
            "",
            "",
        ),
    ),
    (
        "root of the machine",
        "ids",
        account(uid=0, gid=0),
        {},
        (
            "ok",
            "65536 ids can be mapped",
            "",
            "",
        ),
    ),
    (
        "no ranges",
        "ids",
        account(uid_ranges=(), gid_ranges=()),
        namespaces(single_only=True),
        (
            "warning",
            "only a single id can be mapped: /etc/subuid has no range for user",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "as root: usermod --add-subuids 231072-296607 --add-subgids 231072-296607 user",
        ),
    ),
    (
        "no ranges and no programs",
        "ids",
        account(uid_ranges=(), newuidmap=IdHelper(path=None, problem="newuidmap is not installed")),
        namespaces(single_only=True),
        (
            "warning",
            "only a single id can be mapped: /etc/subuid has no range for user",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "as root: apt-get install uidmap && usermod --add-subuids 231072-296607 --add-subgids 231072-296607 user",
        ),
    ),
    (
        "no programs on Debian",
        "ids",
        account(newuidmap=IdHelper(path=None, problem="newuidmap is not installed")),
        namespaces(single_only=True),
        (
            "warning",
            "only a single id can be mapped: newuidmap is not installed",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "as root: apt-get install uidmap",
        ),
    ),
    (
        "no programs elsewhere",
        "ids",
        account(newgidmap=IdHelper(path=None, problem="newgidmap is not installed")),
        namespaces(single_only=True) | {"session": session(debian=False)},
        (
            "warning",
            "only a single id can be mapped: newgidmap is not installed",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "as root: install newuidmap (Fedora: shadow-utils)",
        ),
    ),
    (
        "no new privileges",
        "ids",
        account(
            newuidmap=IdHelper(
                path="/usr/bin/newuidmap",
                problem="/usr/bin/newuidmap gains no privileges: this process has no_new_privs set",
            )
        ),
        namespaces(single_only=True),
        (
            "warning",
            "only a single id can be mapped: /usr/bin/newuidmap gains no privileges: this process has no_new_privs set",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "start sandbox outside of the container, service (NoNewPrivileges=) or sandbox that set no_new_privs",
        ),
    ),
    (
        "mounted nosuid",
        "ids",
        account(
            newgidmap=IdHelper(
                path="/usr/bin/newgidmap", problem="/usr/bin/newgidmap is on a file system mounted nosuid"
            )
        ),
        namespaces(single_only=True),
        (
            "warning",
            "only a single id can be mapped: /usr/bin/newgidmap is on a file system mounted nosuid",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "as root: mount -o remount,suid $(findmnt -no TARGET -T /usr/bin/newgidmap)",
        ),
    ),
    (
        "without the set-user-id bit",
        "ids",
        account(
            newuidmap=IdHelper(
                path="/usr/bin/newuidmap",
                problem="/usr/bin/newuidmap has neither the set-user-id bit of root nor file capabilities",
            )
        ),
        namespaces(single_only=True),
        (
            "warning",
            "only a single id can be mapped: /usr/bin/newuidmap has neither the set-user-id bit of root nor file capabilities",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "as root: apt-get install --reinstall uidmap",
        ),
    ),
    (
        "without the set-user-id bit elsewhere",
        "ids",
        account(
            newuidmap=IdHelper(
                path="/usr/bin/newuidmap",
                problem="/usr/bin/newuidmap has neither the set-user-id bit of root nor file capabilities",
            )
        ),
        namespaces(single_only=True) | {"session": session(debian=False)},
        (
            "warning",
            "only a single id can be mapped: /usr/bin/newuidmap has neither the set-user-id bit of root nor file capabilities",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "as root: reinstall newuidmap and newgidmap",
        ),
    ),
    (
        "root of a container with few ids",
        "ids",
        account(uid=0, gid=0, own_uid_map=FEW, own_gid_map=FEW),
        namespaces(single_only=True),
        (
            "warning",
            "only a single id can be mapped: the ranges of /etc/subuid and /etc/subgid are outside of this user namespace",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "as root: usermod --add-subuids 1-999 --add-subgids 1-999 user, instead of the present ranges",
        ),
    ),
    (
        "root of a container without ranges",
        "ids",
        account(
            uid=0,
            gid=0,
            user_name="root",
            uid_ranges=(),
            gid_ranges=(),
            own_uid_map=FEW,
            own_gid_map=FEW,
        ),
        namespaces(single_only=True),
        (
            "warning",
            "only a single id can be mapped: /etc/subuid has no range for root",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "as root: usermod --add-subuids 1-999 --add-subgids 1-999 root",
        ),
    ),
    (
        "root of a container of one id",
        "ids",
        account(uid=0, gid=0, uid_ranges=(), own_uid_map=ONE, own_gid_map=ONE),
        namespaces(single_only=True),
        (
            "warning",
            "only a single id can be mapped: /etc/subuid has no range for user",
            "sandboxes have only user and group 0: `up` refuses any other process.user and any process.groups, and chown to other ids fails",
            "start the outer container with more than one id: podman run --userns=auto:size=65536",
        ),
    ),
    (
        "a small range",
        "ids",
        account(
            uid_ranges=(SubidRange(start=100000, count=1000),),
            gid_ranges=(SubidRange(start=100000, count=1000),),
        ),
        {},
        (
            "warning",
            "1001 ids can be mapped by newuidmap and newgidmap",
            "ids from 1001 upwards do not exist in sandboxes, including nobody (65534)",
            "as root: usermod --add-subuids 231072-296607 --add-subgids 231072-296607 user",
        ),
    ),
    (
        "newuidmap refuses",
        "ids",
        None,
        namespaces(
            {
                "id map": Failure(
                    errno=errno.EPERM, text="newuidmap: write to uid_map failed: Operation not permitted"
                )
            },
            last="id map",
        ),
        (
            "failure",
            "a range of ids cannot be mapped by newuidmap and newgidmap: newuidmap: write to uid_map failed: Operation not permitted",
            'no sandbox starts with ids.map = "auto", the default',
            'newuidmap must be set-user-id root or have cap_setuid: as root `apt-get install --reinstall uidmap`, and check that /etc/subuid and /etc/subgid give this user a range; or set ids.map = "single"',
        ),
    ),
    (
        "root cannot write the map",
        "ids",
        account(uid=0, gid=0),
        namespaces(
            {"id map": Failure(errno=errno.EINVAL, text="writing '0 1878982656 65536': Invalid argument")},
            last="id map",
        ),
        (
            "failure",
            "a range of ids cannot be mapped: writing '0 1878982656 65536': Invalid argument",
            'no sandbox starts with ids.map = "auto", the default',
            "ranges of the id map overlap, or contain ids that this user namespace does not have",
        ),
    ),
    (
        "the map was not reached",
        "ids",
        None,
        namespaces(
            {"unshare user": Failure(errno=errno.EPERM, text="unshare: Operation not permitted")},
            last="unshare user",
        ),
        (
            "note",
            "not tested: an earlier check failed",
            "",
            "",
        ),
    ),
]


@pytest.mark.parametrize(
    ("identity", "facts", "changes", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0].replace(" ", "-") for case in CASES],
)
def test_what_is_found_is_said_with_its_cost_and_remedy(
    identity: str, facts: HostFacts | None, changes: dict[str, Any], expected: tuple[str, str, str, str]
) -> None:
    assert shown(checks(facts, **changes)[identity]) == expected

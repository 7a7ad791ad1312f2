"""The checks of namespaces and their mounts: the exact text of every branch."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from sandbox.doctor.facts import Failure
from sandbox.host.facts import HostFacts
from tests.unit.sandbox.doctor.made_up import account, checks, namespaces, session, shown

CASES: list[tuple[str, str, HostFacts | None, dict[str, Any], tuple[str, str, str, str]]] = [
    (
        "every kind",
        "namespaces",
        None,
        {},
        (
            "ok",
            "mount, pid, net, ipc, uts, cgroup and time namespaces can be created",
            "",
            "",
        ),
    ),
    (
        "a kind that every sandbox has",
        "namespaces",
        None,
        namespaces({"unshare net": Failure(errno=errno.ENOSPC, text="unshare: No space left on device")}),
        (
            "failure",
            "net namespaces cannot be created: unshare: No space left on device",
            "no sandbox starts",
            "as root, sysctl user.max_net_namespaces=15000 (permanently: a line in /etc/sysctl.d/sandbox.conf)",
        ),
    ),
    (
        "mount namespaces have another name",
        "namespaces",
        None,
        namespaces(
            {"unshare mount": Failure(errno=errno.ENOSPC, text="unshare: No space left on device")},
            last="unshare mount",
        )
        | {"session": session(place="container", lingers=None)},
        (
            "failure",
            "mount namespaces cannot be created: unshare: No space left on device",
            "no sandbox starts",
            "on the host of this container: as root, sysctl user.max_mnt_namespaces=15000",
        ),
    ),
    (
        "kinds that a file can leave to the host",
        "namespaces",
        None,
        namespaces(
            {
                "unshare uts": Failure(errno=errno.EINVAL, text="unshare: Invalid argument"),
                "unshare cgroup": Failure(errno=errno.EINVAL, text="unshare: Invalid argument"),
            }
        ),
        (
            "failure",
            "uts and cgroup namespaces cannot be created: unshare: Invalid argument",
            'a sandbox starts only with namespaces.uts = "host" and namespaces.cgroup = "host"',
            "the kernel was built without one kind of namespace: see `zgrep _NS= /proc/config.gz`",
        ),
    ),
    (
        "kinds that were not reached",
        "namespaces",
        None,
        namespaces(last="id map"),
        (
            "note",
            "not tested: an earlier check failed",
            "",
            "",
        ),
    ),
    (
        "a probe that was cut short",
        "namespaces",
        None,
        namespaces(last="id map", problem="it was killed by signal 9"),
        (
            "failure",
            "not tested: it was killed by signal 9",
            "",
            "",
        ),
    ),
    (
        "FUSE mounts",
        "fuse",
        None,
        {},
        (
            "ok",
            "/dev/fuse can be opened and mounted in a user namespace",
            "",
            "",
        ),
    ),
    (
        "no device with systemd",
        "fuse",
        account(fuse="missing"),
        {},
        (
            "failure",
            "/dev/fuse is missing",
            "no sandbox starts: the root file system is served through FUSE",
            "as root: modprobe fuse && echo fuse > /etc/modules-load.d/fuse.conf",
        ),
    ),
    (
        "no device in a container",
        "fuse",
        account(fuse="missing"),
        {"session": session(place="container", lingers=None)},
        (
            "failure",
            "/dev/fuse is missing",
            "no sandbox starts: the root file system is served through FUSE",
            "start the container with --device /dev/fuse (podman, docker)",
        ),
    ),
    (
        "no device elsewhere",
        "fuse",
        account(fuse="missing"),
        {"session": session(place="plain", lingers=None)},
        (
            "failure",
            "/dev/fuse is missing",
            "no sandbox starts: the root file system is served through FUSE",
            "as root: modprobe fuse; [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229",
        ),
    ),
    (
        "closed device with systemd",
        "fuse",
        account(fuse="not accessible"),
        {},
        (
            "failure",
            "/dev/fuse cannot be opened by this account",
            "no sandbox starts: the root file system is served through FUSE",
            'as root: chmod 666 /dev/fuse; permanently: echo \'KERNEL=="fuse", MODE="0666"\' > /etc/udev/rules.d/99-fuse.rules',
        ),
    ),
    (
        "closed device in a container",
        "fuse",
        account(fuse="not accessible"),
        {"session": session(place="container", lingers=None)},
        (
            "failure",
            "/dev/fuse cannot be opened by this account",
            "no sandbox starts: the root file system is served through FUSE",
            "as root of the container: chmod 666 /dev/fuse; if that does not help: start it with --device /dev/fuse",
        ),
    ),
    (
        "closed device elsewhere",
        "fuse",
        account(fuse="not accessible"),
        {"session": session(place="plain", lingers=None)},
        (
            "failure",
            "/dev/fuse cannot be opened by this account",
            "no sandbox starts: the root file system is served through FUSE",
            "as root: chmod 666 /dev/fuse",
        ),
    ),
    (
        "a device cgroup",
        "fuse",
        None,
        namespaces({"open /dev/fuse": Failure(errno=errno.EPERM, text="/dev/fuse: Operation not permitted")})
        | {"session": session(place="container", lingers=None)},
        (
            "failure",
            "/dev/fuse cannot be opened: /dev/fuse: Operation not permitted",
            "no sandbox starts: the root file system is served through FUSE",
            "as root of the container: chmod 666 /dev/fuse; if that does not help: start it with --device /dev/fuse",
        ),
    ),
    (
        "no driver",
        "fuse",
        None,
        namespaces({"open /dev/fuse": Failure(errno=errno.ENODEV, text="/dev/fuse: No such device")}),
        (
            "failure",
            "/dev/fuse cannot be opened: /dev/fuse: No such device",
            "no sandbox starts: the root file system is served through FUSE",
            "as root: modprobe fuse && echo fuse > /etc/modules-load.d/fuse.conf",
        ),
    ),
    (
        "a mount that is forbidden",
        "fuse",
        None,
        namespaces({"mount fuse": Failure(errno=errno.EPERM, text="mount: Operation not permitted")}),
        (
            "failure",
            "FUSE cannot be mounted: mount: Operation not permitted",
            "no sandbox starts: the root file system is served through FUSE",
            "mounting FUSE in a user namespace needs Linux 4.18; in a container its seccomp or AppArmor profile must allow mount",
        ),
    ),
    (
        "another device",
        "fuse",
        None,
        namespaces({"mount fuse": Failure(errno=errno.EINVAL, text="mount: Invalid argument")}),
        (
            "failure",
            "FUSE cannot be mounted: mount: Invalid argument",
            "no sandbox starts: the root file system is served through FUSE",
            "as root: rm /dev/fuse && mknod -m 666 /dev/fuse c 10 229",
        ),
    ),
    (
        "FUSE was not reached",
        "fuse",
        None,
        namespaces(last="unshare pid"),
        (
            "note",
            "not tested: an earlier check failed",
            "",
            "",
        ),
    ),
    (
        "proc mounts",
        "proc",
        None,
        {},
        (
            "ok",
            "/proc of a new pid namespace can be mounted",
            "",
            "",
        ),
    ),
    (
        "proc is masked",
        "proc",
        None,
        namespaces(
            {
                "mount proc": Failure(
                    errno=errno.EPERM,
                    text="mount proc: fsmount: Operation not permitted (VFS: Mount too revealing)",
                )
            }
        ),
        (
            "failure",
            "/proc cannot be mounted: mount proc: fsmount: Operation not permitted (VFS: Mount too revealing)",
            'a sandbox starts only with namespaces.pid = "host"',
            'parts of the outer /proc are masked, so the kernel refuses a new, complete one ("mount too revealing"): start the outer container with --security-opt unmask=ALL (podman) or systempaths=unconfined (docker), or, if the program may see and signal processes outside, set namespaces.pid = "host"',
        ),
    ),
    (
        "sysfs mounts",
        "sysfs",
        None,
        {},
        (
            "ok",
            "/sys of a new network namespace can be mounted",
            "",
            "",
        ),
    ),
    (
        "sysfs is masked",
        "sysfs",
        None,
        namespaces(
            {
                "mount sysfs": Failure(
                    errno=errno.EPERM,
                    text="mount sysfs: fsmount: Operation not permitted (VFS: Mount too revealing)",
                )
            }
        ),
        (
            "failure",
            "/sys cannot be mounted: mount sysfs: fsmount: Operation not permitted (VFS: Mount too revealing)",
            'a sandbox starts only with namespaces.net = "host"',
            "parts of the outer /sys are masked, or the network namespace is not the sandbox's own: start the outer container with --security-opt unmask=ALL (podman) or systempaths=unconfined (docker)",
        ),
    ),
    (
        "dev is built",
        "dev",
        None,
        {},
        (
            "ok",
            "a /dev with its own terminals can be created",
            "",
            "",
        ),
    ),
    (
        "a device is missing",
        "dev",
        None,
        namespaces(
            {"open devices": Failure(errno=errno.ENOENT, text="/dev/full: No such file or directory")}
        ),
        (
            "failure",
            "/dev cannot be created: /dev/full: No such file or directory",
            "no sandbox starts",
            "as root: rm -f /dev/full && mknod -m 666 /dev/full c 1 7",
        ),
    ),
    (
        "a limit on open files keeps a device from being opened",
        "dev",
        None,
        namespaces({"open devices": Failure(errno=errno.EMFILE, text="/dev/tty: Too many open files")}),
        (
            "failure",
            "/dev cannot be created: /dev/tty: Too many open files",
            "no sandbox starts",
            "too many open files in this process: raise `ulimit -n`",
        ),
    ),
    (
        "a mount of dev is refused",
        "dev",
        None,
        namespaces({"build dev": Failure(errno=errno.ENOSPC, text="mount devpts: No space left on device")}),
        (
            "failure",
            "/dev cannot be created: mount devpts: No space left on device",
            "no sandbox starts",
            "too many mounts in this namespace: as root raise fs.mount-max with sysctl",
        ),
    ),
    (
        "the root is entered",
        "root",
        None,
        {},
        (
            "ok",
            "pivot_root to a new root works, with paths of the kernel masked",
            "",
            "",
        ),
    ),
    (
        "pivot_root is forbidden",
        "root",
        None,
        namespaces(
            {"pivot_root": Failure(errno=errno.EPERM, text="pivot_root: Operation not permitted")},
            last="pivot_root",
        ),
        (
            "failure",
            "pivot_root to a new root fails: pivot_root: Operation not permitted",
            "no sandbox starts",
            "pivot_root(2) is not permitted: in a container its seccomp profile must allow it",
        ),
    ),
    (
        "masks are refused",
        "root",
        None,
        namespaces(
            {"masked paths": Failure(errno=errno.EPERM, text="mount_setattr: Operation not permitted")}
        ),
        (
            "failure",
            "pivot_root to a new root fails: mount_setattr: Operation not permitted",
            "no sandbox starts",
            "mounting is not permitted: in a container its seccomp or AppArmor profile must allow mount in a user namespace",
        ),
    ),
    (
        "no terminal here",
        "terminal",
        None,
        {},
        (
            "ok",
            "a terminal can be opened in a sandbox; standard input and output are not a terminal",
            "",
            "",
        ),
    ),
    (
        "a terminal here",
        "terminal",
        account(terminal=True),
        {},
        (
            "ok",
            "a terminal can be opened in a sandbox; standard input and output are a terminal",
            "",
            "",
        ),
    ),
    (
        "terminals cannot be opened",
        "terminal",
        None,
        namespaces({"open a terminal": Failure(errno=errno.ENOSPC, text="No space left on device")}),
        (
            "warning",
            "no terminal can be opened in a sandbox: no space left on device",
            "`up` fails if the program gets a terminal: process.terminal = true, or standard input and output are a terminal",
            "set process.terminal = false",
        ),
    ),
    (
        "terminals were not reached",
        "terminal",
        None,
        namespaces(last="unshare pid"),
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

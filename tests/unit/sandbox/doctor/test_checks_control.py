"""The checks of cgroups and the session: the exact text of every branch."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.doctor.checks.control import SETTINGS
from sandbox.host.facts import HostFacts
from sandbox.kernel.cgroups import CONTROLLER_OF
from tests.unit.sandbox.doctor.made_up import CONTROLLERS, Hierarchy, account, cgroups, checks, session, shown

NOT_DELEGATED = "the cgroup /user is not delegated to this account"


CASES: list[tuple[str, str, HostFacts | None, dict[str, Any], tuple[str, str, str, str]]] = [
    (
        "cgroups of version 2",
        "cgroups",
        None,
        {},
        (
            "ok",
            "cgroups version 2: cgroups can be created here",
            "",
            "",
        ),
    ),
    (
        "cgroups of both versions",
        "cgroups",
        account(cgroups=Hierarchy(1)),
        {"cgroups": cgroups(mode="hybrid")},
        (
            "ok",
            "cgroups versions 1 and 2; sandboxes use version 1: cgroups can be created here",
            "",
            "",
        ),
    ),
    (
        "a scope of the service manager",
        "cgroups",
        account(cgroups=Hierarchy(0), scopes=Hierarchy(2)),
        {},
        (
            "ok",
            "cgroups version 2: systemd gives each sandbox with limits a cgroup of its own (a transient scope)",
            "",
            "",
        ),
    ),
    (
        "a service manager that answers and gives none",
        "cgroups",
        account(cgroups=Hierarchy(0)),
        {"cgroups": cgroups(mode="v2", controllers=dict.fromkeys(CONTROLLERS, NOT_DELEGATED))},
        (
            "warning",
            "cgroups version 2: no cgroup can be created here: the cgroup /user is not delegated to this account",
            "limits.memory, memory_high, swap, cpus, cpu_weight, cpuset, pids and io cannot be enforced: `up` refuses a file that asks for one of them unless limits.optional lists it",
            "as root: systemctl restart user@1000.service (this ends user's sessions)",
        ),
    ),
    (
        "none delegated without a session",
        "cgroups",
        account(cgroups=Hierarchy(0)),
        {
            "cgroups": cgroups(mode="v2", controllers=dict.fromkeys(CONTROLLERS, NOT_DELEGATED)),
            "session": session(manager="/run/user/1000/bus: No such file or directory"),
        },
        (
            "warning",
            "cgroups version 2: no cgroup can be created here: the cgroup /user is not delegated to this account",
            "limits.memory, memory_high, swap, cpus, cpu_weight, cpuset, pids and io cannot be enforced: `up` refuses a file that asks for one of them unless limits.optional lists it",
            "log in as user (ssh, or as root: machinectl shell user@), or as root: loginctl enable-linger user; on Debian its bus takes the package dbus-user-session",
        ),
    ),
    (
        "none delegated to root",
        "cgroups",
        account(uid=0, gid=0, cgroups=Hierarchy(0)),
        {
            "cgroups": cgroups(mode="v2", controllers=dict.fromkeys(CONTROLLERS, NOT_DELEGATED)),
            "session": session(manager="/run/dbus/system_bus_socket: Connection refused"),
        },
        (
            "warning",
            "cgroups version 2: no cgroup can be created here: the cgroup /user is not delegated to this account",
            "limits.memory, memory_high, swap, cpus, cpu_weight, cpuset, pids and io cannot be enforced: `up` refuses a file that asks for one of them unless limits.optional lists it",
            "as root: systemctl start dbus.socket",
        ),
    ),
    (
        "none delegated on version 1 with systemd",
        "cgroups",
        account(cgroups=Hierarchy(0)),
        {"cgroups": cgroups(mode="hybrid", controllers=dict.fromkeys(CONTROLLERS, NOT_DELEGATED))},
        (
            "warning",
            "cgroups versions 1 and 2: no cgroup can be created here: the cgroup /user is not delegated to this account",
            "limits.memory, memory_high, swap, cpus, cpu_weight, cpuset, pids and io cannot be enforced: `up` refuses a file that asks for one of them unless limits.optional lists it",
            "boot with systemd.unified_cgroup_hierarchy=1: systemd delegates cgroups of version 2 only",
        ),
    ),
    (
        "none delegated in a container",
        "cgroups",
        account(cgroups=Hierarchy(0)),
        {
            "cgroups": cgroups(mode="v2", controllers=dict.fromkeys(CONTROLLERS, NOT_DELEGATED)),
            "session": session(place="container", lingers=None),
        },
        (
            "warning",
            "cgroups version 2: no cgroup can be created here: the cgroup /user is not delegated to this account",
            "limits.memory, memory_high, swap, cpus, cpu_weight, cpuset, pids and io cannot be enforced: `up` refuses a file that asks for one of them unless limits.optional lists it",
            "start the container on cgroups version 2 with --cgroupns private and /sys/fs/cgroup writable",
        ),
    ),
    (
        "none delegated on version 2 without systemd",
        "cgroups",
        account(cgroups=Hierarchy(0)),
        {
            "cgroups": cgroups(mode="v2", controllers=dict.fromkeys(CONTROLLERS, NOT_DELEGATED)),
            "session": session(place="plain", lingers=None),
        },
        (
            "warning",
            "cgroups version 2: no cgroup can be created here: the cgroup /user is not delegated to this account",
            "limits.memory, memory_high, swap, cpus, cpu_weight, cpuset, pids and io cannot be enforced: `up` refuses a file that asks for one of them unless limits.optional lists it",
            "as root: mkdir /sys/fs/cgroup/user && chown -R user /sys/fs/cgroup/user && echo '+memory +cpu +pids' > /sys/fs/cgroup/cgroup.subtree_control && echo PID-OF-THE-SHELL > /sys/fs/cgroup/user/cgroup.procs",
        ),
    ),
    (
        "none delegated on version 1 without systemd",
        "cgroups",
        account(cgroups=Hierarchy(0)),
        {
            "cgroups": cgroups(mode="v1", controllers=dict.fromkeys(CONTROLLERS, NOT_DELEGATED)),
            "session": session(place="plain", lingers=None),
        },
        (
            "warning",
            "cgroups version 1: no cgroup can be created here: the cgroup /user is not delegated to this account",
            "limits.memory, memory_high, swap, cpus, cpu_weight, cpuset, pids and io cannot be enforced: `up` refuses a file that asks for one of them unless limits.optional lists it",
            "as root: for c in memory cpu cpuacct pids; do mkdir /sys/fs/cgroup/$c/user; chown -R user /sys/fs/cgroup/$c/user; echo PID-OF-THE-SHELL > /sys/fs/cgroup/$c/user/cgroup.procs; done",
        ),
    ),
    (
        "none mounted",
        "cgroups",
        account(cgroups=Hierarchy(0)),
        {
            "cgroups": cgroups(mode="none", controllers=dict.fromkeys(CONTROLLERS, NOT_DELEGATED)),
            "session": session(place="plain", lingers=None),
        },
        (
            "warning",
            "no cgroup file system is mounted: no cgroup can be created here",
            "limits.memory, memory_high, swap, cpus, cpu_weight, cpuset, pids and io cannot be enforced: `up` refuses a file that asks for one of them unless limits.optional lists it",
            "as root: mount -t cgroup2 none /sys/fs/cgroup",
        ),
    ),
    (
        "none mounted in a container",
        "cgroups",
        account(cgroups=Hierarchy(0)),
        {
            "cgroups": cgroups(mode="none", controllers=dict.fromkeys(CONTROLLERS, NOT_DELEGATED)),
            "session": session(place="container", lingers=None),
        },
        (
            "warning",
            "no cgroup file system is mounted: no cgroup can be created here",
            "limits.memory, memory_high, swap, cpus, cpu_weight, cpuset, pids and io cannot be enforced: `up` refuses a file that asks for one of them unless limits.optional lists it",
            "start the container with a cgroup namespace: --cgroupns private (podman, docker)",
        ),
    ),
    (
        "creating a cgroup failed",
        "cgroups",
        None,
        {"cgroups": cgroups(problem="the cgroup still contains processes")},
        (
            "warning",
            "cgroups version 2: creating a cgroup failed: the cgroup still contains processes",
            "`up` fails for a file with limits",
            "",
        ),
    ),
    (
        "memory can be limited",
        "cgroups.memory",
        None,
        {},
        (
            "ok",
            "limits.memory can be enforced",
            "",
            "",
        ),
    ),
    (
        "both settings of a controller",
        "cgroups.cpu",
        None,
        {},
        (
            "ok",
            "limits.cpus and limits.cpu_weight can be enforced",
            "",
            "",
        ),
    ),
    (
        "no hierarchy is said once",
        "cgroups.memory",
        account(cgroups=Hierarchy(0)),
        {"cgroups": cgroups(mode="v2", controllers=dict.fromkeys(CONTROLLERS, NOT_DELEGATED))},
        (
            "warning",
            "limits.memory cannot be enforced: no cgroup can be created",
            "",
            "",
        ),
    ),
    (
        "a controller that systemd does not delegate",
        "cgroups.cpu",
        None,
        {"cgroups": cgroups({"cpu": "the cpu controller is not delegated to /user"})},
        (
            "warning",
            "limits.cpus and limits.cpu_weight cannot be enforced: the cpu controller is not delegated to /user",
            "`up` refuses a file that asks for them unless they are optional",
            "as root: mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' > /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload && systemctl restart user@1000.service (this ends user's sessions)",
        ),
    ),
    (
        "a kernel that does not account swap",
        "cgroups.swap",
        None,
        {"cgroups": cgroups({"swap": "this kernel does not account swap (CONFIG_SWAP, swapaccount=1)"})},
        (
            "warning",
            "limits.swap cannot be enforced: this kernel does not account swap (CONFIG_SWAP, swapaccount=1)",
            "`up` refuses a file that asks for it unless it is optional",
            "boot with swapaccount=1 on the kernel's command line (GRUB_CMDLINE_LINUX of /etc/default/grub)",
        ),
    ),
    (
        "a controller that a container lacks",
        "cgroups.pids",
        None,
        {
            "cgroups": cgroups({"pids": "the pids controller of cgroups is not mounted"}),
            "session": session(place="container", lingers=None),
        },
        (
            "warning",
            "limits.pids cannot be enforced: the pids controller of cgroups is not mounted",
            "`up` refuses a file that asks for it unless it is optional",
            "start the container on cgroups version 2 with --cgroupns private and /sys/fs/cgroup writable",
        ),
    ),
    (
        "a limit that version 1 has nothing for",
        "cgroups.memory_high",
        account(cgroups=Hierarchy(1)),
        {"cgroups": cgroups({"memory_high": "cgroups version 1 do not support it"}, mode="v1")},
        (
            "warning",
            "limits.memory_high cannot be enforced: cgroups version 1 do not support it",
            "`up` refuses a file that asks for it unless it is optional",
            "boot with cgroups version 2 (systemd.unified_cgroup_hierarchy=1 on the kernel's command line)",
        ),
    ),
    (
        "the manager answers",
        "session",
        None,
        {},
        (
            "ok",
            "the account's service manager responds: it can create cgroups for sandboxes",
            "",
            "",
        ),
    ),
    (
        "no login session",
        "session",
        None,
        {"session": session(manager="/run/user/1000/bus: No such file or directory", debian=False)},
        (
            "note",
            "the account's service manager cannot be reached: /run/user/1000/bus: No such file or directory",
            "sandboxes that are started from here get no cgroups",
            "log in as user (ssh, or as root: machinectl shell user@), or as root: loginctl enable-linger user",
        ),
    ),
    (
        "root asks the machine's manager",
        "session",
        account(uid=0, gid=0),
        {},
        (
            "ok",
            "systemd responds: it can create cgroups for sandboxes",
            "",
            "",
        ),
    ),
    (
        "root where the bus is down",
        "session",
        account(uid=0, gid=0),
        {"session": session(manager="/run/dbus/system_bus_socket: Connection refused")},
        (
            "note",
            "systemd cannot be reached: /run/dbus/system_bus_socket: Connection refused",
            "sandboxes that are started from here get no cgroups",
            "as root: systemctl start dbus.socket",
        ),
    ),
    (
        "no systemd",
        "session",
        None,
        {"session": session(place="plain", lingers=None)},
        (
            "note",
            "systemd does not run here: no service manager delegates cgroups to accounts",
            "an ordinary account has only cgroups that root delegates to it",
            "",
        ),
    ),
    (
        "a container",
        "session",
        account(uid=0, gid=0),
        {"session": session(place="container", lingers=None)},
        (
            "note",
            "this is a container: no service manager delegates cgroups to accounts",
            "",
            "",
        ),
    ),
    (
        "lingers",
        "linger",
        None,
        {},
        (
            "ok",
            "processes of the account may continue after its last session",
            "",
            "",
        ),
    ),
    (
        "lingering is not enabled",
        "linger",
        None,
        {"session": session(lingers=False)},
        (
            "note",
            "lingering is not enabled for the account",
            "sandboxes in scopes of its service manager end with its last session",
            "loginctl enable-linger user",
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


def test_every_limit_of_cgroups_belongs_to_one_probe() -> None:
    assert sorted(limit for limits in SETTINGS.values() for limit in limits) == sorted(CONTROLLER_OF)

"""Namespaces in the plan: private, shared and joined ones, and the refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from sandbox.errors import SpecError
from sandbox.host.facts import HostFacts
from sandbox.kernel.idmaps import IdMap, single_map
from sandbox.kernel.masked_paths import MASKED_PATHS
from sandbox.kernel.namespaces import NamespaceFact, UserNamespaceFact
from sandbox.plan import Plan, as_dict, describe
from sandbox.plan import operations as ops
from tests.unit.sandbox.facts import host, plan

ROOT = '[root]\nlayers = ["dir:/"]\n'
WHOLE = (IdMap(inside=0, outside=1000, count=1), IdMap(inside=1, outside=100000, count=65535))
OURS = UserNamespaceFact(identity=(4, 7), owner=1000, uid_map=WHOLE, gid_map=WHOLE)
OTHER = replace(OURS, identity=(4, 8))


def fact(kind: str, user: UserNamespaceFact | None = OURS, **changes: object) -> NamespaceFact:
    identity = user.identity if kind == "user" and user is not None else (4, hash(kind) % 1000 + 100)
    made = NamespaceFact(path=f"/proc/9/fd/{kind}", identity=identity, user=user)
    return replace(made, **changes)  # type: ignore[arg-type]


def join(*kinds: str, more: str = "", facts: HostFacts | None = None, **found: NamespaceFact) -> Plan:
    lines = "".join(f'{kind} = "sandbox:db"\n' for kind in kinds)
    looked = {kind: fact(kind) for kind in kinds} | found
    return plan(f"{ROOT}[namespaces]\n{lines}{more}", facts, joined=looked)


def refusal(*kinds: str, **others: object) -> str:
    with pytest.raises(SpecError) as caught:
        join(*kinds, **others)  # type: ignore[arg-type]
    return str(caught.value)


def test_time_is_the_hosts_unless_it_is_asked_for() -> None:
    assert "time" not in plan(ROOT).namespaces
    assert "time" in plan(ROOT + '[namespaces]\ntime = "private"\n').namespaces


def test_offsets_are_planned_in_nanoseconds_and_shown() -> None:
    made = plan(ROOT + '[namespaces]\ntime = { monotonic = "1h", boottime = 0.5 }\n')
    assert "time" in made.namespaces
    assert made.clocks == (("monotonic", 3600 * 10**9), ("boottime", 5 * 10**8))
    assert "clock monotonic +3600 seconds" in describe(made)
    assert as_dict(made)["clocks"] == {"monotonic": 3600 * 10**9, "boottime": 5 * 10**8}


def test_kernel_without_time_namespaces_is_refused_or_warned_of() -> None:
    old = host(time_namespaces=False)
    with pytest.raises(SpecError, match="this kernel has no time namespaces"):
        plan(ROOT + '[namespaces]\ntime = "private"\n', old)
    made = plan(ROOT + '[namespaces]\ntime = { boottime = "1d" }\noptional = ["time"]\n', old)
    assert ("time" in made.namespaces, made.clocks) == (False, ())
    assert made.warnings == (
        "not enforced: namespaces.time: this kernel has no time namespaces (Linux 5.6, CONFIG_TIME_NS)",
    )


def test_pid_namespace_of_the_host_shows_the_hosts_proc() -> None:
    made = plan(ROOT + '[namespaces]\npid = "host"\n')
    assert "pid" not in made.namespaces
    assert ops.MountProc(of_host=True) in made.operations
    assert "namespaces of the host: pid" in describe(made)
    assert "bind the host's /proc on /proc" in describe(made)


def test_ordinary_user_enters_the_others_user_namespace_and_makes_its_own_there() -> None:
    made = join("net", "uts")
    assert [(item.kind, item.path) for item in made.joins] == [
        ("net", "/proc/9/fd/net"),
        ("uts", "/proc/9/fd/uts"),
    ]
    assert made.through == "net"
    assert made.namespaces == {"user", "mount", "pid", "ipc", "cgroup"}
    # The ids on the host are the same as without a join. The maps are written with the numbers of the joined namespace.
    assert made.ids == plan(ROOT).ids
    inner = (IdMap(inside=0, outside=0, count=1), IdMap(inside=1, outside=1, count=65535))
    assert made.inner_maps == (inner, inner)
    assert "join the net namespace sandbox:db" in describe(made)


def test_root_joins_from_where_it_is() -> None:
    made = join("net", facts=host(uid=0, gid=0), net=fact("net", user=None))
    assert (made.through, made.inner_maps) == (None, None)
    assert made.ids.root == (1878982656, 1878982656)


def test_nothing_is_set_or_mounted_in_a_namespace_that_is_anothers() -> None:
    made = join("net", "ipc", "uts")
    kinds = {type(operation) for operation in made.operations}
    assert not kinds & {ops.SetHostname, ops.LoopbackUp}
    assert ops.MountSys(of_host=True) in made.operations
    assert ops.BuildDev(tty_gid=5, mqueue=False) in made.operations
    # The host's /sys would not show the devices of the joined network namespace.
    masked = next(item.paths for item in made.operations if isinstance(item, ops.MaskPaths))
    assert masked[: len(MASKED_PATHS)] == MASKED_PATHS
    assert "/sys/class/net" in masked


def test_with_the_user_namespace_its_others_are_the_sandboxs_own_to_mount() -> None:
    made = join("user", "net", "ipc", "pid")
    assert made.through is None
    assert "user" not in made.namespaces
    assert made.ids.uid_map == WHOLE
    assert ops.MountSys(of_host=False) in made.operations
    assert ops.MountProc(of_host=False) in made.operations
    assert ops.BuildDev(tty_gid=5, mqueue=True) in made.operations


def test_ids_are_those_of_a_joined_user_namespace() -> None:
    few = replace(OURS, uid_map=single_map(1000), gid_map=single_map(1000), setgroups=False)
    made = join("user", user=fact("user", few))
    assert (made.ids.single, made.ids.setgroups, made.ids.helpers) == (True, False, None)
    with pytest.raises(SpecError, match="user 33 does not exist in the sandbox"):
        join("user", more="[process]\nuser = 33\n", user=fact("user", few))


def test_ids_that_the_entered_namespace_lacks_are_its_own_or_refused() -> None:
    few = replace(OURS, uid_map=single_map(1000), gid_map=single_map(1000), setgroups=False)
    made = join("net", net=fact("net", few))
    assert made.ids.uid_map == single_map(1000)
    assert made.inner_maps == (single_map(0), single_map(0))
    assert made.warnings == ()
    text = refusal("net", net=fact("net", few), more='[ids]\nmap = "keep-id"\n')
    assert "ids.map: the sandbox whose namespaces are joined does not have all of these ids" in text


@pytest.mark.parametrize(
    ("kind", "found", "message"),
    [
        ("net", fact("net", problem="no sandbox db is running"), "no sandbox db is running"),
        ("net", fact("net", own=True), "is the net namespace of the host"),
        ("user", fact("user", own=True), "is the user namespace of the host"),
        ("net", fact("net", user=None), "belongs to the host"),
        ("net", fact("net", replace(OURS, owner=0)), "belongs to user 0"),
        ("user", fact("user", replace(OURS, owner=1001)), "was created by user 1001"),
        ("user", fact("user", replace(OURS, uid_map=())), "maps no user or group 0"),
    ],
)
def test_namespace_that_cannot_be_joined_is_refused_at_its_place(
    kind: str, found: NamespaceFact, message: str
) -> None:
    text = refusal(kind, **{kind: found})
    assert f"/specs/test.toml:4:{len(kind) + 4}: namespaces.{kind}: " in text
    assert message in text


def test_user_namespace_of_another_user_is_refused_to_root_too() -> None:
    assert "was created by user 1000" in refusal("user", facts=host(uid=0, gid=0))


def test_ordinary_user_joins_one_sandbox_only() -> None:
    assert "namespaces.ipc: does not belong to the same sandbox as the other namespaces" in refusal(
        "net", "ipc", ipc=fact("ipc", OTHER)
    )
    assert "namespaces.net: does not belong" in refusal("user", "net", net=fact("net", OTHER))


def test_root_joins_nothing_of_this_machine_beside_a_user_namespace() -> None:
    root = host(uid=0, gid=0)
    user = fact("user", replace(OURS, owner=0))
    text = refusal("user", "net", facts=root, user=user, net=fact("net", user=None))
    assert (
        "/specs/test.toml:5:7: namespaces.net: belongs to the host, and root of the joined user namespace"
        in text
    )
    assert [item.kind for item in join("user", "net", facts=root, user=user).joins] == ["user", "net"]


def test_namespace_that_may_go_unjoined_is_private() -> None:
    gone: Mapping[str, NamespaceFact] = {"net": fact("net", problem="no sandbox db is running")}
    made = join("net", "uts", more='optional = ["net"]\n', **gone)
    assert "net" in made.namespaces
    assert [item.kind for item in made.joins] == ["uts"]
    assert made.warnings == ("not enforced: namespaces.net: no sandbox db is running",)
    made = join("net", "ipc", more='optional = ["ipc"]\n', ipc=fact("ipc", OTHER))
    assert "ipc" in made.namespaces

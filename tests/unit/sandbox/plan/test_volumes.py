"""Volumes, devices and masked paths in the plan: mount order, flags and refusals."""

from __future__ import annotations

import time

import pytest

from sandbox.host.paths import DeviceNode, PathFact
from sandbox.kernel.masked_paths import MASKED_PATHS, READONLY_PATHS
from sandbox.plan import (
    NamedVolume,
    as_dict,
    describe,
)
from sandbox.plan import operations as ops
from sandbox.spec import compose
from tests.unit.sandbox.facts import device, directory, plan
from tests.unit.sandbox.plan.plans import ROOT, refusal


def test_volumes_are_mounted_parents_first_and_made_inside_a_tmpfs() -> None:
    spec = ROOT + (
        '[[volumes]]\ntype = "bind"\nsource = "/x"\ntarget = "/a/b"\n'
        '[[volumes]]\ntype = "tmpfs"\ntarget = "/a"\n'
        '[[volumes]]\ntype = "tmpfs"\ntarget = "/a-b"\n'
    )
    made = plan(spec)
    volumes = [op for op in made.operations if isinstance(op, ops.BindVolume | ops.TmpfsVolume)]
    assert [(volume.target, volume.within, volume.create) for volume in volumes] == [
        ("/a", None, False),
        ("/a/b", "/a", True),
        ("/a-b", None, False),
    ]
    assert ops.CheckVolumes(targets=("/a", "/a/b", "/a-b")) in made.operations
    assert [point.path for point in made.skeleton[3:]] == ["/a", "/a-b"]


def test_targets_are_made_in_volumes_of_our_own_and_not_in_the_hosts_directories() -> None:
    inner = '[[volumes]]\ntype = "tmpfs"\ntarget = "/v/in"\n'
    outer = {
        "bind": 'source = "/x"\n',
        "named": 'source = "x"\n',
        "tmpfs": "read_only = true\n",
    }
    made = {}
    for kind, others in outer.items():
        text = ROOT + f'[[volumes]]\ntype = "{kind}"\ntarget = "/v"\n{others}' + inner
        made[kind] = next(
            step.create
            for step in plan(text).operations
            if isinstance(step, ops.TmpfsVolume) and step.target == "/v/in"
        )
    assert made == {"bind": False, "named": True, "tmpfs": True}


@pytest.mark.parametrize("source", ["/state", "/state/volumes/x/data"])
def test_volumes_of_the_state_directory_are_for_looking_only(source: str) -> None:
    text = ROOT + f'[[volumes]]\ntype = "bind"\nsource = "{source}"\ntarget = "/v"\n'
    assert f"volumes[0].source: {source} is in the sandboxes' own state directory" in refusal(text)
    plan(text + "read_only = true\n")


def test_target_below_a_file_is_refused() -> None:
    text = ROOT + '[[volumes]]\ntype = "file"\ntarget = "/v"\ncontent = ""\n'
    text += '[[volumes]]\ntype = "tmpfs"\ntarget = "/v/in"\n'
    assert "volumes[1].target: /v/in is below /v, which is a file" in refusal(text)


_OWN_VOLUMES = """
[[volumes]]
type = "named"
source = "data"
target = "/data"
[[volumes]]
type = "named"
source = "read"
target = "/read"
read_only = true
[[volumes]]
type = "tmpfs"
target = "/read/tmp"
read_only = true
[[volumes]]
type = "file"
target = "/file"
content = ""
[[volumes]]
type = "bind"
source = "/src"
target = "/src"
"""


@pytest.mark.parametrize(
    ("user", "group", "said"), [("1", None, "1"), ("web", "adm", "web:adm"), ("0", 5, "0:5")]
)
def test_volumes_of_its_own_are_given_to_who_the_program_is_before_they_become_read_only(
    user: str, group: object, said: str
) -> None:
    made = plan(ROOT + f'[process]\nuser = "{said}"\n' + _OWN_VOLUMES)
    kinds = [type(step) for step in made.operations]
    number = kinds.index(ops.ChownVolumes)
    assert kinds[number + 1] is ops.CheckVolumes
    assert kinds[:number].count(ops.BindVolume) == 3
    assert made.operations[number] == ops.ChownVolumes(
        user=int(user) if user.isdigit() else user,
        group=group,  # type: ignore[arg-type]
        made=("/file", "/read/tmp"),
        named=("/data",),
    )
    assert f"change the owner of /file /read/tmp /data (if new) to user {said}" in describe(made)


@pytest.mark.parametrize("user", ["0", "root", "0:0", "root:root"])
def test_nothing_is_given_to_user_0_whose_it_is_already(user: str) -> None:
    made = plan(ROOT + f'[process]\nuser = "{user}"\n' + _OWN_VOLUMES)
    assert ops.ChownVolumes not in map(type, made.operations)


def test_nothing_is_given_of_what_is_the_hosts() -> None:
    spec = ROOT + '[process]\nuser = 7\n[[volumes]]\ntype = "bind"\nsource = "/src"\ntarget = "/src"\n'
    assert ops.ChownVolumes not in map(type, plan(spec).operations)


def test_named_volume_is_a_directory_of_the_state() -> None:
    text = ROOT + '[[volumes]]\ntype = "named"\nsource = "data"\ntarget = "/a"\nmode = "0770"\n'
    made = plan(text + '[[volumes]]\ntype = "named"\nsource = "data"\ntarget = "/b"\nread_only = true\n')
    path = "/state/volumes/data/data"
    assert made.volumes == (NamedVolume(name="data", mode=0o770),)
    assert ops.BindVolume(source=path, target="/a", name="data") in made.operations
    assert ops.BindVolume(source=path, target="/b", name="data", read_only=True) in made.operations


def test_file_holds_its_content_which_is_not_shown() -> None:
    made = plan(ROOT + '[[volumes]]\ntype = "file"\ntarget = "/f"\ncontent = "hunter2 \u00e9"\n')
    assert ops.FileVolume(target="/f", content="hunter2 \u00e9".encode(), mode=0o644) in made.operations
    assert "show a file of 10 bytes on /f [read-only nosuid nodev mode=0644]" in describe(made)
    assert "hunter2" not in repr(as_dict(made)) + repr(made)
    assert (made.skeleton[-1].path, made.skeleton[-1].is_directory) == ("/f", False)


def test_slave_needs_a_source_from_which_mounts_travel() -> None:
    text = ROOT + '[[volumes]]\ntype = "bind"\nsource = "/m"\ntarget = "/m"\npropagation = "slave"\n'
    assert "volumes[0].propagation: /m is on a private mount of the host" in refusal(text)
    shared = PathFact(path="/m", real="/m", kind="directory", shared=True)
    assert ops.BindVolume(source="/m", target="/m", slave=True) in plan(text, paths={"/m": shared}).operations


def test_devices_are_bound_after_dev_is_built_each_by_itself() -> None:
    text = ROOT + '[[devices]]\npath = "/dev/kvm"\n[[devices]]\npath = "/dev/dri"\ntarget = "/dev/gpu"\n'
    nodes = tuple(DeviceNode(path=f"/{name}", kind="c", major=226, minor=n) for n, name in enumerate("ab"))
    cards = PathFact(path="/dev/dri", real="/dev/real", kind="directory", devices=nodes)
    made = plan(text, paths={"/dev/kvm": device("/dev/kvm"), "/dev/dri": cards})
    kinds = [type(step) for step in made.operations]
    assert kinds[3:7] == [ops.BuildDev, ops.BindDevice, ops.BindDevice, ops.BindDevice]
    assert made.operations[4:7] == (
        ops.BindDevice(source="/dev/kvm", target="/dev/kvm", kind="c", major=10, minor=232),
        ops.BindDevice(source="/dev/real/a", target="/dev/gpu/a", kind="c", major=226, minor=0),
        ops.BindDevice(source="/dev/real/b", target="/dev/gpu/b", kind="c", major=226, minor=1),
    )


def test_what_is_no_device_is_refused_with_the_reason() -> None:
    text = (
        ROOT + '[[devices]]\npath = "/dev/a"\n[[devices]]\npath = "/dev/b"\n[[devices]]\npath = "/dev/dri"\n'
    )
    found = refusal(
        text,
        paths={
            "/dev/a": PathFact(path="", real="", kind="missing", reason="no such file or directory"),
            "/dev/b": PathFact(path="", real="", kind="file", reason="is not a device"),
            "/dev/dri": directory("/dev/dri"),
        },
    )
    heads = [line.partition(": ")[2] for line in found.split("\n") if line.startswith("/specs/")]
    assert heads == [
        "devices[0].path: /dev/a: no such file or directory",
        "devices[1].path: /dev/b: is not a device",
        "devices[2].path: /dev/dri: the directory contains no device",
    ]


def test_device_that_appears_twice_at_one_place_is_refused() -> None:
    text = ROOT + '[[devices]]\npath = "/dev/dri"\n[[devices]]\npath = "/dev/x"\ntarget = "/dev/dri/a"\n'
    node = DeviceNode(path="/a", kind="c", major=1, minor=1)
    cards = PathFact(path="/dev/dri", real="/dev/dri", kind="directory", devices=(node,))
    assert "devices[1]: /dev/dri/a is the target of two devices" in refusal(
        text, paths={"/dev/dri": cards, "/dev/x": device("/dev/x")}
    )


def test_paths_of_the_file_are_covered_beside_those_that_always_are() -> None:
    text = ROOT + '[security]\nmasked_paths = ["/a", "/proc/kcore"]\nreadonly_paths = ["/b"]\n'
    operations = plan(text).operations
    assert ops.MaskPaths(paths=(*MASKED_PATHS, "/a")) in operations
    assert ops.ReadOnlyPaths(paths=(*READONLY_PATHS, "/b")) in operations


def test_cgroups_of_the_hosts_sys_are_masked_unless_they_are_shared() -> None:
    host_network = ROOT + '[network]\nmode = "host"\n'
    assert ops.MaskPaths(paths=(*MASKED_PATHS, "/sys/fs/cgroup")) in plan(host_network).operations
    shared = host_network + '[namespaces]\ncgroup = "host"\n'
    assert ops.MaskPaths(paths=MASKED_PATHS) in plan(shared).operations


@pytest.mark.parametrize(
    ("around", "create"),
    [(["/a"], True), (["/a", "/a/b"], True), (["/a/b/cc", "/b"], False), ([], False)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_volume_is_made_in_the_innermost_tmpfs_around_it(around: list[str], create: bool) -> None:
    spec = ROOT + "".join(
        f'[[volumes]]\ntype = "tmpfs"\ntarget = "{target}"\n' for target in [*around, "/a/b/c"]
    )
    made = {op.target: op.create for op in plan(spec).operations if isinstance(op, ops.TmpfsVolume)}
    assert made["/a/b/c"] is create


def test_many_volumes_are_planned_in_a_time_that_grows_with_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        compose, "MAX_ENTRIES", 100_000
    )  # more than a file may have, so that quadratic time would show
    spec = ROOT + "".join(f'[[volumes]]\ntype = "tmpfs"\ntarget = "/v{number}"\n' for number in range(20000))
    start = time.process_time()
    assert len([op for op in plan(spec).operations if isinstance(op, ops.TmpfsVolume)]) == 20000
    assert time.process_time() - start < 12  # quadratic time would take longer


def test_volumes_are_nosuid_and_nodev_always() -> None:
    spec = (
        ROOT
        + '[[volumes]]\ntype = "bind"\nsource = "/x"\ntarget = "/v"\nread_only = true\noptions = ["noexec"]\n'
    )
    assert (
        ops.BindVolume(source="/x", target="/v", read_only=True, nosuid=True, nodev=True, noexec=True)
        in plan(spec).operations
    )


def test_mount_points_come_from_a_layer_of_their_own() -> None:
    spec = ROOT + '[[volumes]]\ntype = "bind"\nsource = "/file"\ntarget = "/etc/conf"\n'
    paths = {"/file": PathFact(path="/file", real="/file", kind="file")}
    made = plan(spec, paths=paths)
    assert [(point.path, point.is_directory) for point in made.skeleton] == [
        ("/proc", True), ("/sys", True), ("/dev", True), ("/etc/conf", False),
    ]  # fmt: skip

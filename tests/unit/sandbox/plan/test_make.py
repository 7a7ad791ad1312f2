"""The plan: what is done in which order, and what is refused where; no machine is asked anything."""

from __future__ import annotations

import time

import pytest

from sandbox.errors import HostError, SpecError
from sandbox.host.facts import IdHelper
from sandbox.host.paths import DeviceNode, PathFact
from sandbox.kernel.cgroups import NoHierarchy
from sandbox.kernel.idmaps import IdMap
from sandbox.kernel.mounts import MASKED_PATHS, READONLY_PATHS
from sandbox.plan import (
    DEFAULT_PATH,
    Degradation,
    Draft,
    NamedVolume,
    as_dict,
    default_name,
    describe,
    draft,
    host_paths,
    written,
)
from sandbox.plan import operations as ops
from sandbox.plan.limits import CGROUP_LIMITS, PROCESS_LIMITS
from sandbox.plan.storage import LAYER_KINDS
from sandbox.spec import compose
from sandbox.spec.load import parse
from sandbox.spec.lookup import codec_at, is_enforced, keys
from sandbox.spec.notation import parse_key_path
from tests.unit.sandbox.facts import PRIVATE, device, directory, host, plan

ROOT = '[root]\nlayers = ["dir:/"]\n'


def refusal(text: str, **others: object) -> str:
    with pytest.raises(SpecError) as caught:
        plan(text, **others)  # type: ignore[arg-type]
    return str(caught.value)


def test_operations_come_in_the_order_in_which_the_kernel_allows_them() -> None:
    kinds = [type(operation) for operation in plan(ROOT).operations]
    assert kinds == [
        ops.MountRoot,
        ops.MountProc,
        ops.MountSys,
        ops.BuildDev,
        ops.ShowHosts,
        ops.ReadOnlyPaths,
        ops.MaskPaths,
        ops.PivotRoot,
        ops.SetHostname,
        ops.LoopbackUp,
    ]


@pytest.mark.parametrize(
    ("layers", "server", "asked"),
    [
        ('"dir:/"', "auto", True),
        ('"tar:/base.tar"', "auto", False),
        ('{ dir = "/", immutable = true }, "tar:/base.tar"', "direct", False),
        ('"tar:/base.tar", "dir:/"', "auto", True),
        ('"tar:/base.tar"', "pyfuse3", True),
    ],
)
def test_the_server_is_asked_for_each_open_unless_no_layer_changes(
    layers: str, server: str, asked: bool
) -> None:
    paths = {"/": directory("/"), "/base.tar": PathFact(path="/base.tar", real="/base.tar", kind="file")}
    made = plan(f'[root]\nlayers = [{layers}]\nserver = "{server}"\n', paths=paths)
    assert (made.server, made.open_requests) == (server, asked)
    line = f"server: {server}" + ("" if asked else ", not asked when something is opened: no layer changes")
    assert line in describe(made)


def test_defaults_are_the_safe_ones() -> None:
    made = plan(ROOT)
    assert made.namespaces == {"user", "mount", "pid", "net", "ipc", "uts", "cgroup"}
    assert made.writable == "ephemeral"
    assert made.process.no_new_privileges
    assert "SYS_ADMIN" not in made.process.capabilities
    assert ops.MountRoot(read_only=False, nosuid=True) in made.operations
    assert dict(made.process.env) == {"PATH": DEFAULT_PATH, "container": "sandbox"}


def test_namespace_of_the_host_is_not_made_and_nothing_is_set_in_it() -> None:
    made = plan(ROOT + '[namespaces]\nuts = "host"\nnet = "host"\nipc = "host"\n')
    assert made.namespaces == {"user", "mount", "pid", "cgroup"}
    kinds = {type(operation) for operation in made.operations}
    assert ops.SetHostname not in kinds
    assert ops.LoopbackUp not in kinds
    assert ops.MountSys(of_host=True) in made.operations
    assert ops.BuildDev(tty_gid=5, mqueue=False) in made.operations


def test_user_with_subordinate_ids_gets_them_through_the_helpers() -> None:
    ids = plan(ROOT).ids
    assert ids.uid_map == (
        IdMap(inside=0, outside=1000, count=1),
        IdMap(inside=1, outside=100000, count=65535),
    )
    assert ids.helpers == ("/usr/bin/newuidmap", "/usr/bin/newgidmap")
    assert not ids.single


def test_user_without_subordinate_ids_gets_one_id_and_no_helper() -> None:
    made = plan(ROOT, host(uid_ranges=()))
    assert made.ids.uid_map == (IdMap(inside=0, outside=1000, count=1),)
    assert (made.ids.helpers, made.ids.single) == (None, True)
    assert ops.BuildDev(tty_gid=None, mqueue=True) in made.operations


def test_root_gets_a_range_that_belongs_to_nobody() -> None:
    made = plan(ROOT, host(uid=0, gid=0))
    assert made.ids.uid_map == (IdMap(inside=0, outside=1878982656, count=65536),)


def test_second_user_without_subordinate_ids_is_refused_with_the_reason() -> None:
    text = refusal(ROOT + '[process]\nuser = "www-data"\n', facts=host(uid_ranges=()))
    assert (
        "/specs/test.toml:4:8: process.user: only user 0 exists here: /etc/subuid has no range for user"
        in text
    )
    # A range named in the hint could be another account's, and a shell of root's would not know the account as $USER.
    assert "`sandbox doctor` names the command" in text
    assert "usermod" not in text


def test_groups_without_subordinate_ids_are_refused() -> None:
    facts = host(newgidmap=IdHelper(path=None, problem="newgidmap is not installed"))
    assert "process.groups: only group 0 exists here: newgidmap is not installed" in refusal(
        ROOT + "[process]\ngroups = [5]\n", facts=facts
    )


@pytest.mark.parametrize(
    ("state", "message"), [("missing", "is missing"), ("not accessible", "cannot be opened")]
)
def test_machine_without_fuse_is_refused_with_the_remedy(state: str, message: str) -> None:
    with pytest.raises(HostError, match=f"/dev/fuse {message}") as caught:
        plan(ROOT, host(fuse=state))
    assert "as root: " in (caught.value.hint or "")


def test_every_host_path_that_cannot_be_used_is_named_at_its_place() -> None:
    spec = (
        '[root]\nlayers = ["dir:gone", "dir:closed", "dir:file", "tar:tree"]\n'
        '[[volumes]]\ntype = "bind"\nsource = "gone"\ntarget = "/v"\n'
    )
    paths = {
        "/specs/gone": PathFact(path="", real="", kind="missing", reason="no such file or directory"),
        "/specs/closed": PathFact(path="", real="", kind="refused", reason="permission denied"),
        "/specs/file": PathFact(path="", real="", kind="file"),
        "/specs/tree": directory("/specs/tree"),
    }
    heads = [line for line in refusal(spec, paths=paths).split("\n") if line.startswith("/specs/test.toml:")]
    assert heads == [
        "/specs/test.toml:2:11: root.layers[0]: /specs/gone: no such file or directory",
        "/specs/test.toml:2:23: root.layers[1]: /specs/closed: permission denied",
        "/specs/test.toml:2:37: root.layers[2]: /specs/file is a file, not a directory",
        "/specs/test.toml:2:49: root.layers[3]: /specs/tree is a directory, not a file",
        "/specs/test.toml:5:10: volumes[0].source: /specs/gone: no such file or directory",
    ]


def test_layer_whose_real_path_is_in_the_state_directory_is_refused() -> None:
    paths = {"/specs/link": directory("/specs/link", real="/state/run/x")}
    assert "in the sandboxes' own state directory" in refusal('[root]\nlayers = ["dir:link"]\n', paths=paths)


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
    number = kinds.index(ops.GiveVolumes)
    assert kinds[number + 1] is ops.CheckVolumes
    assert kinds[:number].count(ops.BindVolume) == 3
    assert made.operations[number] == ops.GiveVolumes(
        user=int(user) if user.isdigit() else user,
        group=group,  # type: ignore[arg-type]
        made=("/file", "/read/tmp"),
        kept=("/data",),
    )
    assert f"give /file /read/tmp /data (where new) to user {said}" in describe(made)


@pytest.mark.parametrize("user", ["0", "root", "0:0", "root:root"])
def test_nothing_is_given_to_user_0_whose_it_is_already(user: str) -> None:
    made = plan(ROOT + f'[process]\nuser = "{user}"\n' + _OWN_VOLUMES)
    assert ops.GiveVolumes not in map(type, made.operations)


def test_nothing_is_given_of_what_is_the_hosts() -> None:
    spec = ROOT + '[process]\nuser = 7\n[[volumes]]\ntype = "bind"\nsource = "/src"\ntarget = "/src"\n'
    assert ops.GiveVolumes not in map(type, plan(spec).operations)


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
    assert "volumes[0].propagation: /m is on a mount of this machine that is private" in refusal(text)
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
        "devices[2].path: /dev/dri: there is no device in it",
    ]


def test_device_that_appears_twice_at_one_place_is_refused() -> None:
    text = ROOT + '[[devices]]\npath = "/dev/dri"\n[[devices]]\npath = "/dev/x"\ntarget = "/dev/dri/a"\n'
    node = DeviceNode(path="/a", kind="c", major=1, minor=1)
    cards = PathFact(path="/dev/dri", real="/dev/dri", kind="directory", devices=(node,))
    assert "devices[1]: /dev/dri/a appears there twice" in refusal(
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
    monkeypatch.setattr(compose, "MAX_ENTRIES", 100_000)  # more than a file may have: the square shows then
    spec = ROOT + "".join(f'[[volumes]]\ntype = "tmpfs"\ntarget = "/v{number}"\n' for number in range(20000))
    start = time.process_time()
    assert len([op for op in plan(spec).operations if isinstance(op, ops.TmpfsVolume)]) == 20000
    assert time.process_time() - start < 12  # the square takes longer


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


def test_limit_without_a_cgroup_is_refused_or_where_optional_a_warning() -> None:
    text = refusal(ROOT + '[limits]\nmemory = "1G"\n')
    assert "limits.memory: cannot be enforced here: there is none" in text
    made = plan(ROOT + '[limits]\nmemory = "1G"\noptional = ["memory"]\n')
    assert made.cgroup.memory is None
    assert made.warnings == ("not enforced: limits.memory: there is none",)


def test_limits_that_cannot_be_enforced_for_one_reason_are_one_warning() -> None:
    made = plan(ROOT + '[limits]\nmemory = "1G"\npids = 9\noptional = ["memory", "pids"]\n')
    assert made.warnings == ("not enforced: limits.memory, limits.pids: there is none",)


def test_process_limit_above_the_hard_one_is_refused_or_where_optional_a_warning() -> None:
    facts = host(hard_limits={**host().hard_limits, "open_files": 100})
    assert "limits.open_files: 200 is above" in refusal(ROOT + "[limits]\nopen_files = 200\n", facts=facts)
    made = plan(ROOT + '[limits]\nopen_files = 200\noptional = ["open_files"]\n', facts)
    assert "open_files" not in made.process.rlimits
    assert made.warnings == (
        "not enforced: limits.open_files: 200 is above this process's hard limit of 100",
    )


def test_process_limit_above_the_hard_one_is_refused_with_every_remedy() -> None:
    facts = host(hard_limits={**host().hard_limits, "open_files": 100})
    assert refusal(ROOT + "[limits]\nopen_files = 200\n", facts=facts) == (
        "/specs/test.toml:4:14: limits.open_files: 200 is above this process's hard limit of 100\n"
        "    4 | open_files = 200\n"
        '      |              ^~~ ask for at most 100, write optional = ["open_files"], or let root raise the hard limit: '
        "nofile in limits.conf(5), to 200 or more, and log in anew"
    )


@pytest.mark.parametrize(
    ("systemd", "uid", "remedy"),
    [
        (True, 1000, "; or log in as user (ssh) or, as root, loginctl enable-linger user: no bus"),
        (True, 0, "; systemd could give it a cgroup, but no bus"),
        (False, 1000, "; `sandbox doctor` says what would hold it"),
    ],
)
def test_remedy_of_a_cgroup_limit_names_systemd_only_where_it_would_help(
    *, systemd: bool, uid: int, remedy: str
) -> None:
    none, no_bus = NoHierarchy(reason="there is none"), NoHierarchy(reason="no bus")
    facts = host(systemd=systemd, cgroups=none, scopes=no_bus, uid=uid)
    text = refusal(ROOT + "[limits]\npids = 9\n", facts=facts)
    whole = f'remove it, or allow the sandbox to run without it: optional = ["pids"]{remedy}'
    assert text.endswith(f"^ {whole}")


def test_command_of_the_command_line_replaces_that_of_the_file() -> None:
    spec = ROOT + '[process]\ncommand = ["from-file"]\nargs = ["a"]\n'
    assert plan(spec).process.argv == ("from-file", "a")
    assert plan(spec, command=("other", "b")).process.argv == ("other", "b")
    assert plan(ROOT).process.argv == ("/bin/sh",)


def test_environment_is_what_the_file_sets_over_what_it_inherits() -> None:
    spec = ROOT + '[process]\ninherit_env = ["A", "B", "C"]\n[process.env]\nB = "file"\n'
    env = plan(spec, environ={"A": "host", "B": "host", "D": "host"}).process.env
    assert {name: env.get(name) for name in "ABCD"} == {"A": "host", "B": "file", "C": None, "D": None}


def test_capabilities_are_the_default_less_dropped_and_more_added() -> None:
    spec = ROOT + '[security]\ncapabilities = { drop = ["CHOWN"], add = ["NET_ADMIN"] }\n'
    made = plan(spec).process
    assert "CHOWN" not in made.capabilities
    assert "NET_ADMIN" in made.capabilities
    assert made.added_capabilities == {"NET_ADMIN"}


def test_sandboxes_of_two_files_of_one_name_do_not_meet() -> None:
    assert default_name("/a/dev.toml") != default_name("/b/dev.toml")
    assert default_name("/a/dev.toml").startswith("dev-")
    assert default_name("/a/Ünïcode name!.toml").isascii()


def test_description_names_every_operation() -> None:
    lines = describe(plan(ROOT + "[limits]\nopen_files = 9\n"))
    assert "layer dir:/" in lines
    assert "limit open_files 9 (rlimit)" in lines
    assert "pivot_root; detach the host's root" in lines
    assert lines[-1] == "exec /bin/sh"


def drafted(text: str, **paths: PathFact) -> Draft:
    spec = parse(text.encode(), path="/specs/test.toml", environ={}, unenforced="keep")
    known = {path: directory(path) for path in host_paths(spec)}
    known |= {f"/specs/{name}": fact for name, fact in paths.items()}
    return draft(spec, host(), known, environ={}, state_directory="/state", private=PRIVATE)


def test_draft_goes_on_without_what_is_refused() -> None:
    text = (
        '[root]\nlayers = ["dir:gone", "oci:image", "dir:/"]\n'
        '[[volumes]]\ntype = "bind"\nsource = "gone"\ntarget = "/v"\n'
        '[[devices]]\npath = "gone"\ntarget = "/dev/gone"\n'
        "[limits]\nmemory = 4194304\n"
    )
    gone = PathFact(
        path="/specs/gone", real="/specs/gone", kind="missing", reason="no such file or directory"
    )
    made = drafted(text, gone=gone)
    assert [item.key for item in made.refusals] == [
        "root.layers[0]", "root.layers[1]", "volumes[0].source", "devices[0].path", "limits.memory",
    ]  # fmt: skip
    assert [layer.path for layer in made.plan.layers] == ["/"]
    assert [point.path for point in made.plan.skeleton] == ["/proc", "/sys", "/dev"]
    assert made.plan.cgroup.memory is None
    with pytest.raises(SpecError) as caught:
        made.accepted()
    assert len(caught.value.diagnostics) == 5


def test_setting_that_this_version_does_not_enforce_is_refused_even_if_the_file_was_loaded_to_be_looked_at() -> (
    None
):
    made = drafted(ROOT + '[network]\nhosts = { db = "10.0.0.2" }\n')
    with pytest.raises(SpecError, match=r"network\.hosts: not enforced by this version"):
        made.accepted()


def test_setting_that_may_go_unenforced_is_a_warning() -> None:
    made = plan(
        ROOT + '[network]\nmode = "private"\nhosts = { db = "10.0.0.2" }\noptional = ["mode", "hosts"]\n'
    )
    assert made.differences == (
        Degradation(
            key="network.mode",
            asked='"private"',
            effective=None,
            reason='"private" is not enforced by this version',
        ),
        Degradation(
            key="network.hosts",
            asked='{ db = "10.0.0.2" }',
            effective=None,
            reason="this version does not enforce it",
        ),
    )
    assert made.warnings == (
        'not enforced: network.mode: "private" is not enforced by this version',
        "not enforced: network.hosts: this version does not enforce it",
    )


@pytest.mark.parametrize("name", ["net", "ipc", "uts", "cgroup"])
def test_namespace_that_may_go_unjoined_is_private_and_never_the_hosts(name: str) -> None:
    made = plan(ROOT + f'[namespaces]\n{name} = "path:/proc/1/ns/{name}"\noptional = ["{name}"]\n')
    assert name in made.namespaces
    assert made.warnings == (f"not enforced: namespaces.{name}: was not looked for",)


def test_single_id_is_a_warning_only_where_more_were_asked_for() -> None:
    facts = host(uid_ranges=())
    assert plan(ROOT, facts).warnings == ()
    assert plan(ROOT, facts).differences[0].key == "ids.map"
    assert plan(ROOT + '[ids]\nmap = "auto"\n', facts).warnings == (
        'ids.map = "auto" maps a single id here: /etc/subuid has no range for user',
    )


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("70000", "user 70000 does not exist in the sandbox"),
        ("1:70000", "group 70000 does not exist in the sandbox"),
    ],
)
def test_account_that_the_id_map_lacks_is_refused(user: str, message: str) -> None:
    assert message in refusal(ROOT + f'[process]\nuser = "{user}"\n')


def test_group_without_subordinate_ids_is_refused() -> None:
    text = refusal(ROOT + '[process]\nuser = "0:5"\n', facts=host(uid_ranges=()))
    assert "process.user: only group 0 exists here: /etc/subuid has no range for user" in text


def test_plan_knows_where_the_settings_stand_that_only_the_sandbox_finds_wrong() -> None:
    made = plan(ROOT + '[process]\nuser = "nobody-has-this-name"\n')
    assert made.places == {"process.user": "/specs/test.toml:4:8"}


def test_description_is_one_line_a_step_whatever_the_file_holds() -> None:
    made = plan(ROOT + '[process]\ncommand = ["a b", "x\\ny", "plain"]\ncwd = "/a\\u001bb"\n')
    assert describe(made)[-1] == 'exec "a b" "x\\ny" plain'
    assert all(line.isprintable() for line in describe(made))


def test_plan_for_a_program_has_names_of_variables_and_no_values() -> None:
    made = plan(ROOT + '[process]\ninherit_env = ["SECRET"]\n', environ={"SECRET": "hunter2"})
    shown = repr(as_dict(made))
    assert "SECRET" in shown
    assert "hunter2" not in shown
    kinds = [step["operation"] for step in as_dict(made)["operations"]]  # type: ignore[attr-defined]
    assert kinds == [type(operation).__name__ for operation in made.operations]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("limits.memory", '"1G"'),
        ("process.env.items", '"a \\" b"'),
        ("root.layers[0]", '"dir:/"'),
        ("root.layers[0].dir", '"dir:/"'),
        ("volumes[0].options", '["noexec"]'),
        ("profile.p.limits", "{ pids = 1 }"),
    ],
)
def test_setting_is_written_as_toml(key: str, text: str) -> None:
    spec = (
        ROOT + '[limits]\nmemory = "1G"\n[process.env]\nitems = "a \\" b"\n[profile.p.limits]\npids = 1\n'
        '[[volumes]]\ntype = "tmpfs"\ntarget = "/t"\noptions = ["noexec"]\n'
    )
    assert written(parse(spec.encode(), path="/x.toml", environ={}), parse_key_path(key)) == text


def test_the_plan_does_all_that_the_language_says_is_enforced() -> None:
    # Otherwise a setting would be accepted and ignored.
    types = codec_at(("volumes", 0, "type"))
    assert types is not None
    others = {"bind": 'source = "/x"', "tmpfs": "", "named": 'source = "x"', "file": 'content = ""'}
    assert set(types.choices) == set(others)
    for kind, rest in others.items():
        made = plan(f'{ROOT}[[volumes]]\ntype = "{kind}"\ntarget = "/v"\n{rest}\n')
        assert [op for op in made.operations if getattr(op, "target", None) == "/v"], kind
    for kind in ("dir", "tar", "oci", "image"):
        spec = parse(
            f'[root]\nlayers = ["{kind}:/x"]\n'.replace("image:/", "image:").encode(),
            path="/f",
            environ={},
            unenforced="keep",
        )
        assert (spec.unenforced == ()) is (kind in LAYER_KINDS), kind
    limits = {key.removeprefix("limits.") for key in keys() if key.startswith("limits.") and "[]" not in key}
    enforced = {name for name in limits if is_enforced(("limits", name))}
    assert enforced == {*CGROUP_LIMITS, *PROCESS_LIMITS, "wall_time", "oom_score_adj", "optional"}

"""The plan: its operations and their order. No test examines this machine."""

from __future__ import annotations

import pytest

from sandbox.errors import HostError
from sandbox.host.facts import IdHelper
from sandbox.host.paths import PathFact
from sandbox.kernel.idmaps import IdMap
from sandbox.plan import (
    DEFAULT_PATH,
    as_dict,
    default_name,
    describe,
    written,
)
from sandbox.plan import operations as ops
from sandbox.plan.limits import CGROUP_LIMITS, PROCESS_LIMITS
from sandbox.plan.storage import LAYER_KINDS
from sandbox.spec.load import parse
from sandbox.spec.lookup import codec_at, is_enforced, keys
from sandbox.spec.notation import parse_key_path
from sandbox.spec.values.layers import IMAGE_KINDS
from tests.unit.sandbox.facts import directory, host, plan
from tests.unit.sandbox.plan.plans import ROOT, refusal


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
        ('{ tar = "/base.tar", mount = true }', "auto", False),
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
    line = f"server: {server}" + ("" if asked else ", no FUSE_OPEN requests: no layer changes")
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
        "/specs/test.toml:4:8: process.user: only user 0 exists in the sandbox: /etc/subuid has no range for user"
        in text
    )
    # The hint names neither a range, which could belong to another account, nor $USER, which is another user in root's shell.
    assert "`sandbox doctor` names the command" in text
    assert "usermod" not in text


def test_groups_without_subordinate_ids_are_refused() -> None:
    facts = host(newgidmap=IdHelper(path=None, problem="newgidmap is not installed"))
    assert "process.groups: only group 0 exists in the sandbox: newgidmap is not installed" in refusal(
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
    # Without this check, a setting could be accepted and ignored.
    types = codec_at(("volumes", 0, "type"))
    assert types is not None
    others = {"bind": 'source = "/x"', "tmpfs": "", "named": 'source = "x"', "file": 'content = ""'}
    assert set(types.choices) == set(others)
    for kind, rest in others.items():
        made = plan(f'{ROOT}[[volumes]]\ntype = "{kind}"\ntarget = "/v"\n{rest}\n')
        assert [op for op in made.operations if getattr(op, "target", None) == "/v"], kind
    for layer in ("dir:/x", "tar:/x", "oci:/x", "docker-archive:/x", "image:x", "docker://h.org/x"):
        parse(f'[root]\nlayers = ["{layer}"]\n'.encode(), path="/f", environ={}, unenforced="refuse")
        assert layer.partition(":")[0] in {*LAYER_KINDS, *IMAGE_KINDS}
    limits = {key.removeprefix("limits.") for key in keys() if key.startswith("limits.") and "[]" not in key}
    enforced = {name for name in limits if is_enforced(("limits", name))}
    assert enforced == {*CGROUP_LIMITS, *PROCESS_LIMITS, "wall_time", "oom_score_adj", "optional"}

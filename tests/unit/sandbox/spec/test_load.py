"""Test `sandbox.spec.load`: from a file to a specification."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

import pytest

from sandbox.errors import SpecError
from sandbox.spec import Layer, Place, Spec, User, Volume, load, parse

MINIMAL = '[root]\nlayers = ["dir:/"]\n'


def spec_of(text: str, **environ: str) -> Spec:
    return parse(text.encode(), path="/conf/f.toml", environ=environ)


def only_message(path: str) -> str:
    with pytest.raises(SpecError) as caught:
        load(path, environ={})
    assert len(caught.value.diagnostics) == 1
    return str(caught.value)


def test_the_smallest_file_has_the_safe_defaults() -> None:
    spec = spec_of(MINIMAL)
    assert (spec.file, spec.directory) == ("/conf/f.toml", "/conf")
    assert spec.root.layers == (Layer("dir", "/"),)
    assert (spec.root.writable, spec.root.driver) == ("ephemeral", "unionfs")
    assert spec.process.argv == ("/bin/sh",)
    assert (spec.process.cwd, spec.process.user, spec.process.umask) == ("/", User(0), 0o022)
    assert (spec.process.terminal, spec.process.stop_signal, spec.process.stop_timeout) == (
        "auto",
        "SIGTERM",
        10.0,
    )
    assert (dict(spec.process.env), spec.process.inherit_env, spec.process.groups) == ({}, (), None)
    namespaces = dataclasses.asdict(spec.namespaces)
    assert namespaces.pop("time") == "host"
    assert namespaces.pop("optional") == ()
    assert set(namespaces.values()) == {"private"}
    assert (spec.network.mode, spec.ids.map, spec.volumes) == ("none", "auto", ())
    limits = dataclasses.asdict(spec.limits)
    assert (limits.pop("optional"), limits.pop("io")) == ((), ())
    assert set(limits.values()) == {None}
    assert spec.security.no_new_privileges
    assert (spec.security.capabilities.drop, spec.security.capabilities.add) == ((), ())


def test_every_table_is_read() -> None:
    spec = spec_of(
        """
        [sandbox]
        name = "web-1"
        hostname = "web.internal"
        description = "a web server"
        labels = { team = "infra" }
        [root]
        layers = ["dir:base", "tar:~/x.tar.zst", { dir = "/", cross = ["/usr/", "//home"], immutable = true }, { tar = "t" }, { tar = "m", mount = true }]
        writable = "persistent"
        [process]
        command = ["python3", "-m"]
        args = ["http.server"]
        cwd = "/srv//./www/"
        user = "www-data:33"
        groups = [27]
        umask = "0077"
        env = { PORT = "80" }
        inherit_env = ["TERM"]
        terminal = false
        stop_signal = "int"
        stop_timeout = "1m30s"
        [[volumes]]
        type = "bind"
        source = "./src"
        target = "/srv/"
        read_only = true
        options = ["nosuid", "nodev"]
        [[volumes]]
        type = "tmpfs"
        target = "/tmp"
        size = "64M"
        mode = "1777"
        [namespaces]
        ipc = "host"
        [limits]
        memory = "512M"
        swap = 0
        cpus = 2
        cpu_weight = 50
        pids = 100
        open_files = 1024
        processes = "unlimited"
        file_size = "1G"
        core = 0
        stack = "unlimited"
        cpu_time = "10m"
        wall_time = 0.5
        oom_score_adj = 500
        optional = ["cpus", "io"]
        [security]
        capabilities = { drop = ["all"], add = ["chown", "CAP_NET_RAW"] }
        no_new_privileges = false
        """,
        HOME="/home/alice",
    )
    assert (spec.sandbox.name, spec.sandbox.hostname, spec.sandbox.labels["team"]) == (
        "web-1",
        "web.internal",
        "infra",
    )
    assert spec.root.layers == (
        Layer("dir", "/conf/base"),
        Layer("tar", "/home/alice/x.tar.zst"),
        Layer("dir", "/", ("/usr", "/home"), immutable=True),
        Layer("tar", "/conf/t"),
        Layer("tar", "/conf/m", mount=True),
    )
    assert spec.process.argv == ("python3", "-m", "http.server")
    assert (spec.process.cwd, spec.process.user) == ("/srv/www", User("www-data", 33))
    assert (spec.process.groups, spec.process.umask, spec.process.terminal) == ((27,), 0o077, False)
    assert (spec.process.stop_signal, spec.process.stop_timeout) == ("SIGINT", 90.0)
    assert spec.volumes == (
        Volume(type="bind", source="/conf/src", target="/srv", read_only=True, options=("nosuid", "nodev")),
        Volume(type="tmpfs", target="/tmp", size=64 << 20, mode=0o1777),
    )
    assert (spec.namespaces.ipc, spec.namespaces.net) == ("host", "private")
    assert (spec.limits.memory, spec.limits.swap, spec.limits.cpus) == (512 << 20, 0, 2.0)
    assert (spec.limits.processes, spec.limits.stack, spec.limits.cpu_time) == ("unlimited", "unlimited", 600)
    assert (spec.limits.wall_time, spec.limits.optional) == (0.5, ("cpus", "io"))
    assert (spec.security.capabilities.drop, spec.security.capabilities.add) == (
        ("all",),
        ("CAP_CHOWN", "CAP_NET_RAW"),
    )
    assert not spec.security.no_new_privileges


def test_a_command_that_is_a_string_runs_in_the_shell_and_gets_the_arguments() -> None:
    spec = spec_of(MINIMAL + '[process]\ncommand = "echo $1"\nargs = ["hello"]\n')
    assert spec.process.argv == ("/bin/sh", "-c", "echo $1", "sh", "hello")


@pytest.mark.parametrize(
    ("written", "user"),
    [
        ("0", User(0)),
        ('"0"', User(0)),
        ("4294967294", User(4294967294)),
        ('"1000:100"', User(1000, 100)),
        ('"nobody"', User("nobody")),
        ('"_apt:nogroup"', User("_apt", "nogroup")),
        ('"machine$"', User("machine$")),
    ],
)
def test_users_are_ids_or_names(written: str, user: User) -> None:
    assert spec_of(MINIMAL + f"[process]\nuser = {written}\n").process.user == user


@pytest.mark.parametrize(
    "written",
    ["-1", "4294967295", '"-1"', '":0"', '"0:"', '"a b"', '"0:0:0"', '"a/b"', '"99999999999999999999"'],
)
def test_invalid_users_are_refused(written: str) -> None:
    with pytest.raises(SpecError):
        spec_of(MINIMAL + f"[process]\nuser = {written}\n")


def test_groups_are_ids_or_names_and_an_empty_list_differs_from_an_absent_key() -> None:
    spec = spec_of(MINIMAL + '[process]\ngroups = [27, "28", "render", "a$"]\n')
    assert spec.process.groups == (27, 28, "render", "a$")
    assert spec_of(MINIMAL + "[process]\ngroups = []\n").process.groups == ()


@pytest.mark.parametrize(
    "written", ["-1", "4294967295", '"-1"', '""', '"a b"', '"27:28"', '"a\\u0000"', "true", '27, "27"']
)
def test_invalid_and_repeated_groups_are_refused(written: str) -> None:
    with pytest.raises(SpecError):
        spec_of(MINIMAL + f"[process]\ngroups = [{written}]\n")


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("dir:/", "/"),
        ("dir:.", "/conf"),
        ("dir:a//./b/", "/conf/a/b"),
        ("dir:../x", "/conf/../x"),  # only the kernel can resolve .. after a symlink
        ("dir:~", "/home/alice"),
        ("dir:~/x", "/home/alice/x"),
        ("dir:./~x", "/conf/~x"),
        ("dir:a:b", "/conf/a:b"),
        ("dir:${config_dir}/x", "/conf/x"),
        ("tar:${env:HOME}/x.tar", "/home/alice/x.tar"),
    ],
)
def test_host_paths_become_absolute(written: str, path: str) -> None:
    assert spec_of(f'root.layers = ["{written}"]', HOME="/home/alice").root.layers[0].path == path


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_a_tilde_without_a_home_is_an_error(home: str | None) -> None:
    with pytest.raises(SpecError, match="~ needs HOME to be set to an absolute path"):
        spec_of('root.layers = ["dir:~"]', **({} if home is None else {"HOME": home}))


@pytest.mark.parametrize(
    ("text", "mode", "net"),
    [
        ("", "none", "private"),
        ('[network]\nmode = "host"', "host", "host"),
        ('[namespaces]\nnet = "host"', "host", "host"),
        ('[namespaces]\nnet = "host"\n[network]\nmode = "host"', "host", "host"),
        ('[namespaces]\nnet = "private"\n[network]\nmode = "none"', "none", "private"),
    ],
)
def test_network_mode_and_net_namespace_agree(text: str, mode: str, net: str) -> None:
    spec = spec_of(MINIMAL + text)
    assert (spec.network.mode, spec.namespaces.net) == (mode, net)


@pytest.mark.parametrize("user", ["0", '"root"', '"0:0"', '"root:root"'])
def test_a_single_id_map_has_root(user: str) -> None:
    assert spec_of(MINIMAL + f'[ids]\nmap = "single"\n[process]\nuser = {user}\n').ids.map == "single"


@pytest.mark.parametrize("user", ["1", '"0:1"', '"nobody"', '"root:adm"'])
def test_a_single_id_map_has_no_other_user(user: str) -> None:
    with pytest.raises(SpecError, match="there is no id but 0"):
        spec_of(MINIMAL + f'[ids]\nmap = "single"\n[process]\nuser = {user}\n')


def test_a_specification_has_its_file_and_positions() -> None:
    spec = spec_of(MINIMAL + '[[volumes]]\ntype = "bind"\nsource = "x"\ntarget = "/x"\n')
    assert spec.origin("root.layers[0]") == Place("/conf/f.toml", 2, 11)
    assert spec.origin(("volumes", 0, "source")) == Place("/conf/f.toml", 5, 10)
    assert spec.origin("limits.memory") is None
    assert spec.is_set("volumes[0].source")
    assert not spec.is_set("volumes[0].size")
    assert spec.diagnose("volumes[0].source", "no such directory", "make it").render() == (
        "/conf/f.toml:5:10: volumes[0].source: no such directory\n"
        '    5 | source = "x"\n'
        "      |          ^~~ make it"
    )


def test_specifications_are_equal_regardless_of_positions() -> None:
    assert spec_of(MINIMAL) == spec_of('# a comment\nroot = { layers = ["dir:/"] }')
    assert spec_of(MINIMAL) != spec_of('root.layers = ["dir:/usr"]')


def test_a_specification_cannot_be_changed() -> None:
    spec = spec_of(MINIMAL + '[process]\nenv = { A = "1" }\n')
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.process.cwd = "/x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        spec.process.env["A"] = "2"  # type: ignore[index]


def test_diagnostics_are_sorted_by_position() -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(
            '[limits]\nswap = "1G"\npids = "x"\n[zzz]\n[sandbox]\nname = 1\n[root]\nlayers = ["${env:NO}"]\n'
        )
    assert [diagnostic.as_dict()["line"] for diagnostic in caught.value.diagnostics] == [2, 3, 4, 6, 8]


def test_only_the_first_mistake_of_a_value_is_reported() -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(MINIMAL + '[limits]\nmemory = "${env:NO}"\n')
    assert [diagnostic.as_dict()["message"] for diagnostic in caught.value.diagnostics] == [
        "the environment variable NO is not set"
    ]


def test_a_file_is_read_by_the_path_that_messages_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f.toml").write_text(MINIMAL + "[process]\nargs = [1]\n")
    monkeypatch.chdir(tmp_path)
    assert only_message("f.toml").startswith("f.toml:4:9: process.args[0]:")


def test_the_path_of_the_file_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.toml").write_text('root.layers = ["dir:x"]')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/nowhere")
    spec = load("f.toml")
    assert (spec.file, spec.directory) == (str(tmp_path / "f.toml"), str(tmp_path))
    assert spec.root.layers[0].path == str(tmp_path / "x")


def test_references_come_from_the_environment_of_the_process_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f.toml").write_text('root.layers = ["dir:${env:SPEC_TEST_ROOT}"]')
    monkeypatch.setenv("SPEC_TEST_ROOT", "/from/environment")
    assert load(str(tmp_path / "f.toml")).root.layers[0].path == "/from/environment"


def test_a_missing_file_is_one_diagnostic(tmp_path: Path) -> None:
    path = str(tmp_path / "none.toml")
    assert only_message(path) == f"{path}: no such file\n      hint: give the path of an environment file"


def test_a_directory_is_one_diagnostic(tmp_path: Path) -> None:
    assert "is a directory" in only_message(str(tmp_path))


def test_a_path_through_a_file_is_one_diagnostic(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    assert "cannot be read: not a directory" in only_message(str(tmp_path / "f" / "g"))


def test_a_path_with_a_nul_character_is_one_diagnostic() -> None:
    assert only_message("a\0b") == "a\ufffdb: is not a path: it contains a NUL character"


def test_an_unreadable_file_is_one_diagnostic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.toml"
    path.write_text(MINIMAL)
    path.chmod(0)
    if os.geteuid() == 0:
        # The mode does not restrict root, so the error of open(2) for other users is simulated.
        def refuse(*_args: object, **_kwargs: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("builtins.open", refuse)
    assert "permission denied" in only_message(str(path))


def test_an_endless_file_is_refused() -> None:
    assert "larger than 1 MiB" in only_message("/dev/zero")


def test_a_description_may_have_several_lines_and_values_may_be_unicode() -> None:
    spec = spec_of('[sandbox]\ndescription = """\nüber\nzwei"""\n' + MINIMAL)
    assert spec.sandbox.description == "über\nzwei"


def test_tables_survive_being_sent_to_another_process() -> None:
    spec = spec_of(MINIMAL + '[[volumes]]\ntype = "tmpfs"\ntarget = "/a"\n')
    assert pickle.loads(pickle.dumps((spec.root, spec.volumes, spec.limits))) == (
        spec.root,
        spec.volumes,
        spec.limits,
    )


def test_an_existing_file_with_the_suffix_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "hello.toml").touch()
    with pytest.raises(SpecError) as caught:
        load(str(tmp_path / "hello"))
    (only,) = caught.value.diagnostics
    assert only.as_dict()["hint"] == f"did you mean {tmp_path}/hello.toml?"

"""Test `sandbox.spec.compose`, which merges several files. Mistakes and their wording are in bad/."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest

from sandbox.errors import SpecError
from sandbox.spec import Layer, Place, Spec, load
from sandbox.spec.compose import MAX_FILES
from sandbox.spec.origin import MAX_DIAGNOSTICS

MINIMAL = 'root.layers = ["dir:/"]\n'


class Files:
    """Files in the current directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            path = self.directory / f"{name.replace('__', '/')}.toml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def load(self, name: str = "main", *profiles: str, **assignments: str) -> Spec:
        return load(
            f"{name}.toml",
            environ={"HOME": "/home/alice", "BASE": "base"},
            profiles=profiles,
            assignments=[f"{key.replace('__', '.')}={value}" for key, value in assignments.items()],
            unenforced="keep",
        )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.chdir(tmp_path)
    return Files(tmp_path)


def test_tables_merge_and_everything_else_replaces(files: Files) -> None:
    files.write(
        base=MINIMAL
        + 'process = { args = ["a"], env = { A = "1", B = "2" }, cwd = "/a" }\nlimits.pids = 5\n',
        main='extends = "base.toml"\n[process]\nargs = ["b"]\nenv.B = "3"\nenv.C = "4"\n[limits]\ncore = 0\n',
    )
    spec = files.load()
    assert spec.process.args == ("b",)
    assert dict(spec.process.env) == {"A": "1", "B": "3", "C": "4"}
    assert (spec.process.cwd, spec.limits.pids, spec.limits.core) == ("/a", 5, 0)


def test_later_files_override_earlier_ones_and_the_file_itself_overrides_all(files: Files) -> None:
    files.write(
        a=MINIMAL + "limits = { pids = 1, core = 1, open_files = 1 }\n",
        b="limits = { pids = 2, core = 2 }\n",
        main='extends = ["a.toml", "b.toml"]\nlimits.pids = 3\n',
    )
    limits = files.load().limits
    assert (limits.pids, limits.core, limits.open_files) == (3, 2, 1)


def test_a_file_that_is_extended_twice_is_applied_twice(files: Files) -> None:
    files.write(
        base=MINIMAL + 'process.args = ["base"]\n',
        left='extends = "base.toml"\nprocess.args = { append = ["left"] }\n',
        right='extends = "base.toml"\nprocess.args = { append = ["right"] }\n',
        main='extends = ["left.toml", "right.toml"]\n',
    )
    assert files.load().process.args == ("base", "right")


def test_paths_are_relative_to_the_file_that_contains_them(files: Files) -> None:
    files.write(
        lib__base='root.layers = ["dir:x", "dir:${config_dir}/y"]\n',
        main='extends = "lib/base.toml"\nroot.layers = { append = ["tar:z"] }\n',
    )
    here = str(files.directory)
    assert files.load().root.layers == (
        Layer("dir", f"{here}/lib/x"),
        Layer("dir", f"{here}/lib/y"),
        Layer("tar", f"{here}/z"),
    )


def test_extends_is_relative_to_the_file_and_expands_references(files: Files) -> None:
    files.write(
        lib__base=MINIMAL,
        lib__middle='extends = "${env:BASE}.toml"\nlimits.pids = 7\n',
        main=f'extends = "{files.directory}/lib/middle.toml"\n',
        other='extends = "${config_dir}/lib/../lib/middle.toml"\n',
    )
    assert files.load().limits.pids == 7
    assert files.load("other").limits.pids == 7


def test_a_base_below_home_is_found(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(base=MINIMAL, main='extends = "~/base.toml"\n')
    spec = load("main.toml", environ={"HOME": str(files.directory)})
    assert spec.files == (str(files.directory / "base.toml"), "main.toml")


def test_the_files_are_known_and_every_value_keeps_its_place(files: Files) -> None:
    files.write(base=MINIMAL + "limits.pids = 5\n", main='\nextends = "base.toml"\nlimits.core = 0\n')
    spec = files.load("main", limits__cpus="2")
    assert spec.files == ("base.toml", "main.toml")
    assert spec.origin("limits.pids") == Place("base.toml", 2, 15)
    assert spec.origin("limits.core") == Place("main.toml", 3, 15)
    assert spec.origin("limits.cpus") == Place("--set", 1, 13)
    assert spec.origin("limits.memory") is None


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ('{ append = ["c"] }', ("a", "b", "c")),
        ('{ remove = ["a"] }', ("b",)),
        ('{ remove = ["a", "b"] }', ()),
        ('{ remove = ["b"], append = ["b"] }', ("a", "b")),
        ('{ append = ["b"], remove = ["b"] }', ("a", "b")),
        ("{ append = [] }", ("a", "b")),
        ("[]", ()),
    ],
)
def test_a_list_is_changed_by_a_table(files: Files, change: str, result: tuple[str, ...]) -> None:
    files.write(
        base=MINIMAL + 'process.args = ["a", "b"]\n',
        main=f'extends = "base.toml"\nprocess.args = {change}\n',
    )
    assert files.load().process.args == result


def test_a_change_without_an_earlier_list_changes_an_empty_list(files: Files) -> None:
    files.write(main=MINIMAL + '[process]\nargs = { append = ["a"] }\n[volumes]\nappend = []\n')
    spec = files.load()
    assert (spec.process.args, spec.volumes) == (("a",), ())


@pytest.mark.parametrize(
    ("table", "base", "removed", "left"),
    [
        (
            "volumes",
            '[{ type = "tmpfs", target = "/a" }, { type = "tmpfs", target = "/b" }]',
            '["/a"]',
            1,
        ),
        ("volumes", '[{ type = "tmpfs", target = "/a" }]', '[{ type = "tmpfs", target = "/a" }]', 0),
        ("devices", '[{ path = "/dev/kvm" }, { path = "/dev/fuse" }]', '["/dev/kvm"]', 1),
        ("network.ports", '["127.0.0.1:8080:80/tcp", "53:53/udp"]', '["8080"]', 1),
        ("network.ports", '["127.0.0.1:8080:80/tcp", "53:53/udp"]', '["53:53/udp", "8080:80"]', 0),
        ("limits.io", '[{ path = "/", read = "1M" }]', '["/"]', 0),
        ("root.layers", '["dir:/", "tar:x", { dir = "/usr", cross = [] }]', '["tar:x", "dir:/usr"]', 1),
        ("root.layers", '["dir:/", "tar:x", { dir = "/usr", cross = [] }]', '["/", "x"]', 1),
        ("process.groups", "[5, 6]", "[5]", 1),
    ],
)
def test_an_element_is_removed_by_its_value_or_by_the_key_that_identifies_it(
    files: Files, table: str, base: str, removed: str, left: int
) -> None:
    layers = "" if table == "root.layers" else MINIMAL + 'network.mode = "private"\n'
    files.write(
        base=f"{layers}{table} = {base}\n",
        main=f'extends = "base.toml"\n{table} = {{ remove = {removed} }}\n',
    )
    value: object = files.load()
    for name in table.split("."):
        value = getattr(value, name)
    assert isinstance(value, tuple)
    assert len(value) == left


def test_a_number_is_not_removed_by_a_boolean_that_equals_it(files: Files) -> None:
    files.write(
        base=MINIMAL + "process.groups = [1]\n",
        main='extends = "base.toml"\nprocess.groups = { remove = [true] }\n',
    )
    with pytest.raises(SpecError, match="true is not in the list"):
        files.load()


def test_profiles_apply_in_the_order_of_the_command_line(files: Files) -> None:
    files.write(
        main=MINIMAL
        + "limits.pids = 1\n[profile.a.limits]\npids = 2\ncore = 2\n[profile.b]\nlimits.pids = 3\n"
    )
    assert files.load().limits.pids == 1
    assert files.load("main", "a").limits.pids == 2
    assert (files.load("main", "a", "b").limits.pids, files.load("main", "a", "b").limits.core) == (3, 2)
    assert files.load("main", "b", "a").limits.pids == 2


def test_profiles_of_the_files_together_are_one(files: Files) -> None:
    files.write(
        base=MINIMAL
        + 'process.args = ["x"]\n[profile.a]\nlimits.pids = 2\nprocess.args = { append = ["base"] }\n',
        main='extends = "base.toml"\n[profile.a]\nlimits.core = 0\nprocess.args = { append = ["main"], remove = ["x"] }\n',
    )
    spec = files.load("main", "a")
    assert (spec.limits.pids, spec.limits.core) == (2, 0)
    assert spec.process.args == ("base", "main")
    assert files.load().process.args == ("x",)


def test_variables_of_a_profile_need_to_be_set_only_if_the_profile_is_applied(files: Files) -> None:
    files.write(main=MINIMAL + '[profile.ci.process]\ncwd = "${env:CI_DIRECTORY}"\n')
    assert files.load().process.cwd == "/"
    with pytest.raises(SpecError, match="the environment variable CI_DIRECTORY is not set"):
        files.load("main", "ci")


def test_values_of_the_command_line_override_all_files(files: Files) -> None:
    files.write(main=MINIMAL + "limits.pids = 1\n[profile.a.limits]\npids = 2\n")
    spec = files.load("main", "a", limits__pids="3", process__args='["x"]', sandbox__name="web")
    assert (spec.limits.pids, spec.process.args, spec.sandbox.name) == (3, ("x",), "web")


def test_values_of_the_command_line_can_set_elements_of_lists(files: Files) -> None:
    files.write(main=MINIMAL + '[[volumes]]\ntype = "tmpfs"\ntarget = "/a"\n')
    spec = load(
        "main.toml",
        environ={},
        assignments=[
            "volumes[0].size=1M",
            "volumes={append=[{type='tmpfs', target='/b'}]}",
            "root.layers[0]=dir:x",
        ],
    )
    assert [(volume.target, volume.size) for volume in spec.volumes] == [("/a", 1 << 20), ("/b", None)]
    assert spec.root.layers == (Layer("dir", f"{files.directory}/x"),)


def test_paths_of_the_command_line_are_relative_to_the_current_directory(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(lib__main=MINIMAL)
    spec = load("lib/main.toml", environ={}, assignments=["root.layers=['dir:x', 'dir:${config_dir}/y']"])
    here = str(files.directory)
    assert spec.root.layers == (Layer("dir", f"{here}/x"), Layer("dir", f"{here}/y"))


def test_a_file_is_recognised_under_another_name(files: Files) -> None:
    files.write(main='extends = "other.toml"\n' + MINIMAL)
    (files.directory / "other.toml").symlink_to("main.toml")
    with pytest.raises(SpecError, match=r"extends itself: main.toml -> other.toml"):
        files.load()


def test_an_extended_fifo_without_a_writer_does_not_block(files: Files) -> None:
    os.mkfifo(files.directory / "pipe.toml")
    files.write(main='extends = "pipe.toml"\n' + MINIMAL)
    with pytest.raises(SpecError, match=r"pipe.toml: is not a regular file"):
        files.load()


def test_too_many_files_are_refused_before_all_are_read(files: Files) -> None:
    # Each file extends the next one twice: without the limit, 2**40 files would be read.
    names = [f"f{number}" for number in range(40)]
    for name, following in itertools.pairwise(names):
        files.write(**{name: f'extends = ["{following}.toml", "{following}.toml"]\n'})
    files.write(**{names[-1]: MINIMAL})
    with pytest.raises(SpecError, match="more than 64 files"):
        files.load("f0")


def test_the_largest_allowed_number_of_files_is_read(files: Files) -> None:
    names = [f"f{number}" for number in range(MAX_FILES + 1)]
    for name, following in itertools.pairwise(names):
        files.write(**{name: f'extends = "{following}.toml"\n'})
    files.write(**{names[-1]: MINIMAL})
    assert len(files.load("f1").files) == MAX_FILES
    with pytest.raises(SpecError, match=f"more than {MAX_FILES} files"):
        files.load("f0")


def test_a_missing_key_is_reported_where_the_last_file_sets_its_table(files: Files) -> None:
    files.write(
        base='[root]\nwritable = "none"\n', main='extends = "base.toml"\n\n[root]\nwritable = "none"\n'
    )
    with pytest.raises(SpecError, match=r"^main.toml:3:2: root.layers: required, but missing"):
        files.load()


@pytest.mark.parametrize(
    ("extends", "mistake"),
    [
        ("5", "middle.toml:1:11: extends: expected string or array of strings, found integer"),
        ('["base.toml", 5]', "middle.toml:1:25: extends[1]: expected string, found integer"),
        ('""', "middle.toml:1:11: extends: the path is empty"),
        ('"a\\u0000b"', "middle.toml:1:13: extends: a NUL character cannot be passed to the kernel"),
    ],
)
def test_extends_of_a_file_that_is_extended_is_checked_as_well(
    files: Files, extends: str, mistake: str
) -> None:
    files.write(
        base=MINIMAL,
        middle=f"extends = {extends}\n",
        other='extends = "middle.toml"\n',
        main='extends = ["middle.toml", "other.toml"]\n' + MINIMAL,
    )
    with pytest.raises(SpecError) as raised:
        files.load()
    assert [str(raised.value).partition("\n")[0], len(raised.value.diagnostics)] == [mistake, 1]


def test_an_element_behind_the_last_cannot_be_set(files: Files) -> None:
    files.write(main=MINIMAL + 'volumes = [{ type = "tmpfs", target = "/a" }]\n')
    assignments = ["volumes[0].size=1M", "volumes[1].size=1M", "volumes[1]={}"]
    with pytest.raises(SpecError) as raised:
        load("main.toml", environ={}, assignments=assignments)
    assert [diagnostic.as_dict()["message"] for diagnostic in raised.value.diagnostics] == [
        "there is no element 1: the list has 1"
    ] * 2


def test_a_list_that_was_changed_comes_from_the_last_change(files: Files) -> None:
    files.write(
        base=MINIMAL + '\n[profile.p]\nroot.layers = { append = ["dir:/b"] }\n',
        middle='extends = "base.toml"\n[root]\nlayers = { append = ["dir:/m"] }\n',
        main='extends = "middle.toml"\n[profile.p]\nroot.layers = { append = ["dir:/p"] }\n',
    )
    assert files.load().origin("root.layers") == Place("middle.toml", 3, 10)
    changed = files.load("main", "p")
    assert [layer.path for layer in changed.root.layers] == ["/", "/m", "/b", "/p"]
    assert changed.origin("root.layers") == Place("main.toml", 3, 15)


def test_the_hint_for_an_element_that_cannot_be_removed_lists_the_identifying_keys(files: Files) -> None:
    files.write(
        base=MINIMAL
        + 'volumes = [{ type = "tmpfs", target = "/one" }, { type = "tmpfs", target = "/two" }]\n',
        main='extends = "base.toml"\nvolumes = { remove = ["zzz"] }\n',
    )
    with pytest.raises(SpecError, match=r'the list has "/one", "/two"'):
        files.load()


def test_each_file_that_was_read_is_named_once_the_main_one_last(files: Files) -> None:
    files.write(
        base=MINIMAL,
        left='extends = "base.toml"\n',
        right='extends = "base.toml"\n',
        main='extends = ["left.toml", "right.toml"]\n',
    )
    assert files.load().files == ("base.toml", "left.toml", "right.toml", "main.toml")


def test_an_assignment_over_a_profile_does_not_change_the_profile(files: Files) -> None:
    files.write(main=MINIMAL + '[profile.a]\nprocess.env.A = "1"\n[profile.b]\nprocess.env.B = "2"\n')
    spec = files.load("main", "a", "b", process__env__C="3")
    assert dict(spec.process.env) == {"A": "1", "B": "2", "C": "3"}
    assert spec.profile == {"a": {"process": {"env": {"A": "1"}}}, "b": {"process": {"env": {"B": "2"}}}}


def test_many_elements_are_removed_in_a_time_that_grows_with_their_number(files: Files) -> None:
    words = [f"a{number}" for number in range(8000)]
    files.write(
        base=f"root.layers = ['dir:/']\nprocess.args = {words}\n",
        main=f"extends = 'base.toml'\nprocess.args = {{ remove = {words[1:]} }}\n",
    )
    start = time.process_time()
    assert files.load().process.args == ("a0",)
    assert time.process_time() - start < 20  # quadratic time would be minutes


def test_only_the_first_of_very_many_merge_mistakes_are_reported(files: Files) -> None:
    files.write(main=f"extends = {['missing.toml'] * 500}\n")
    with pytest.raises(SpecError) as caught:
        files.load()
    assert len(caught.value.diagnostics) == MAX_DIAGNOSTICS

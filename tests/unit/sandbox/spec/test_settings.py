"""The declarations: every setting of the language is complete, and means what it says of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.errors import SpecError
from sandbox.spec import Spec, parse
from sandbox.spec.codecs import ListOf
from sandbox.spec.decode import Record
from sandbox.spec.notation import literal, type_name
from sandbox.spec.settings import Setting, settings_of
from sandbox.spec.values import LayerTable


def declarations(cls: type, path: str = "") -> Iterator[tuple[str, Setting[Any]]]:
    for name, setting in settings_of(cls).items():
        key = f"{path}.{name}" if path else name
        yield key, setting
        codec = setting.codec.codec if isinstance(setting.codec, ListOf) else setting.codec
        if isinstance(codec, Record):
            yield from declarations(codec.cls, key)


ALL = dict(declarations(Spec)) | {f"layer.{key}": value for key, value in declarations(LayerTable)}

# What has to stand beside a setting so that its example is allowed.
BESIDE = {
    "limits.swap": 'memory = "1G"',
    "volumes.source": 'type = "bind"\ntarget = "/a"',
    "volumes.target": 'type = "tmpfs"',
    "volumes.type": 'source = "."\ntarget = "/a"',
    "volumes.read_only": 'type = "tmpfs"\ntarget = "/a"',
    "volumes.size": 'type = "tmpfs"\ntarget = "/a"',
    "volumes.mode": 'type = "tmpfs"\ntarget = "/a"',
    "volumes.options": 'type = "tmpfs"\ntarget = "/a"',
    "volumes.content": 'type = "tmpfs"\ntarget = "/a"',
}


def with_example(key: str, setting: Setting[Any]) -> str:
    table, _, name = key.rpartition(".")
    line = f"{name} = {literal(setting.example)}"
    root = "" if table in ("root", "layer") or key == "root" else '[root]\nlayers = ["dir:/"]\n'
    if not table:
        return line + "\n" + root
    if table == "layer":
        kind = '"dir" = "x", ' if name in ("cross", "immutable") else ""
        return f"[root]\nlayers = [{{ {kind}{line} }}]\n"
    header = f"[[{table}]]" if table in ("volumes", "devices") else f"[{table}]"
    beside = BESIDE.get(key, 'layers = ["dir:/"]' if table == "root" and name != "layers" else "")
    return f"{root}{header}\n{beside}\n{line}\n"


def test_the_vocabulary_is_that_of_the_design() -> None:
    expected = {
        "sandbox": "name hostname description labels",
        "root": "layers writable driver size inodes native",
        "process": "command args cwd user groups umask env inherit_env terminal stop_signal stop_timeout init env_file",
        "volumes": "type source target read_only size mode options content",
        "devices": "path target",
        "namespaces": "user mount pid net ipc uts cgroup time",
        "ids": "map uid_map gid_map",
        "network": "mode ports dns search hosts networks egress host_access",
        "limits": "memory memory_high swap cpus cpu_weight cpuset pids io open_files processes file_size core stack cpu_time "
        "wall_time oom_score_adj optional",
        "security": "capabilities no_new_privileges seccomp landlock masked_paths readonly_paths",
        "security.capabilities": "drop add",
        "layer": "dir tar oci image cross immutable",
    }
    keys = {f"{table}.{name}" for table, names in expected.items() for name in names.split()}
    tables = {table for table in expected if "." not in table and table != "layer"}
    reserved = {"extends", "profile", "health", "restart", "networks", "sandboxes", "build"}
    assert set(ALL) == keys | tables | reserved


@pytest.mark.parametrize("key", ALL)
def test_every_setting_is_documented(key: str) -> None:
    setting = ALL[key]
    assert setting.doc.endswith(".")
    assert setting.codec.expects
    assert type_name(setting.example) in setting.codec.toml_types
    assert setting.required is False or setting.default is None


@pytest.mark.parametrize(
    "key", [key for key, setting in ALL.items() if setting.enforced and not key.startswith("devices.")]
)
def test_the_example_of_a_setting_is_accepted_and_shows_something_else_than_the_default(key: str) -> None:
    setting = ALL[key]
    text = with_example(key, setting)
    spec = parse(text.encode(), path="/conf/f.toml", environ={})
    assert spec.root.layers
    if setting.default is not None and not key.startswith(("namespaces.", "root.driver", "security")):
        value: object = spec
        for part in key.replace("layer.", "root.layers.").split("."):
            value = getattr(value[0] if isinstance(value, tuple) else value, part)
        assert value != setting.default


@pytest.mark.parametrize("key", [key for key, setting in ALL.items() if not setting.enforced])
def test_a_setting_that_is_not_enforced_is_an_error_at_its_key(key: str) -> None:
    text = with_example(key, ALL[key])
    with pytest.raises(SpecError) as caught:
        parse(text.encode(), path="/conf/f.toml", environ={})
    assert len(caught.value.diagnostics) == 1
    found = caught.value.diagnostics[0].as_dict()
    assert found["message"] == "not enforced by this version"
    line, column, end = found["line"], found["column"], found["end_column"]
    assert isinstance(line, int)
    assert isinstance(column, int)
    assert isinstance(end, int)
    assert text.splitlines()[line - 1][column - 1 : end - 1] == key.rpartition(".")[2]


def test_fields_that_are_no_settings_are_only_those_of_the_file_itself() -> None:
    assert {field.name for field in dataclasses.fields(Spec)} - set(settings_of(Spec)) == {
        "file",
        "directory",
        "origins",
    }

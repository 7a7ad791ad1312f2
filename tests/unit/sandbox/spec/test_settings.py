"""Test the declarations: every setting of the language is complete, and agrees with its documentation."""

from __future__ import annotations

import dataclasses
import datetime as dt
import tomllib
from collections.abc import Mapping

import pytest
import tomli_w

from sandbox.errors import SpecError
from sandbox.spec import Spec, parse
from sandbox.spec.lookup import codec_at, is_enforced, keys, path_of, setting_at
from sandbox.spec.notation import type_name
from sandbox.spec.settings import settings_of
from tests.unit.sandbox.spec.examples import ALL, place, with_example


def test_the_vocabulary_is_that_of_the_design() -> None:
    expected = {
        "sandbox": "name hostname description labels",
        "root": "layers pull lazy writable driver server size inodes native optional",
        "process": "command args cwd user groups umask env inherit_env terminal stop_signal stop_timeout init env_file",
        "volumes[]": "type source target read_only size mode options propagation content",
        "devices[]": "path target",
        "namespaces": "user mount pid net ipc uts cgroup time optional",
        "ids": "map uid_map gid_map optional",
        "ids.uid_map[]": "inside outside count",
        "ids.gid_map[]": "inside outside count",
        "network": "mode ports dns search hosts networks aliases egress host_access on_failure optional",
        "network.egress": "allow deny",
        "limits": "memory memory_high swap cpus cpu_weight cpuset pids io open_files processes file_size core stack cpu_time "
        "wall_time oom_score_adj optional",
        "limits.io[]": "path read write read_operations write_operations",
        "security": "capabilities no_new_privileges seccomp landlock masked_paths readonly_paths optional",
        "security.capabilities": "drop add",
        "security.landlock": "read write execute connect bind",
        "health": "command interval timeout retries",
        "restart": "policy max delay",
        "networks.NAME": "subnet internal",
        "sandboxes.NAME": "file profiles depends_on",
        "build[]": "run copy env user cwd labels arg network",
        "build[].copy": "source target from owner mode",
        "layer": "dir tar oci docker_archive image docker cross immutable mount",
    }
    keys = {f"{table}.{name}" for table, names in expected.items() for name in names.split()}
    tables = {table.split("[")[0].split(".")[0] for table in expected} - {"layer"}
    assert set(ALL) == keys | tables | {"extends", "profile"}


@pytest.mark.parametrize("key", ALL)
def test_every_setting_is_documented(key: str) -> None:
    setting = ALL[key]
    assert setting.doc.endswith(".")
    assert setting.codec.expects
    assert type_name(setting.example) in setting.codec.toml_types
    assert setting.required is False or setting.default is None


ENFORCED = [
    key
    for key, setting in ALL.items()
    if setting.enforced and (key.startswith("layer.") or is_enforced(path_of(key)))
]
#: Of these, some values are enforced, and the example is another.
PLANNED_EXAMPLES: list[str] = []


@pytest.mark.parametrize("key", [key for key in ENFORCED if key not in ("extends", *PLANNED_EXAMPLES)])
def test_the_example_of_a_setting_is_accepted_and_differs_from_the_default(key: str) -> None:
    setting = ALL[key]
    text = with_example(key, setting)
    spec = parse(text.encode(), path="/conf/f.toml", environ={}, unenforced="keep")
    assert spec.root.layers
    if setting.default is not None and not key.startswith(
        ("namespaces.", "root.driver", "security", "process.init")
    ):
        value: object = spec
        for part in key.replace("layer.", "root.layers.").replace("[]", "").split("."):
            if isinstance(value, Mapping):
                (value,) = value.values()
                continue
            value = getattr(value[0] if isinstance(value, tuple) else value, part)
        assert value != setting.default


@pytest.mark.parametrize("key", [key for key in ALL if key not in ENFORCED or key in PLANNED_EXAMPLES])
def test_an_unenforced_setting_is_decoded_and_then_an_error_at_its_key(key: str) -> None:
    text = with_example(key, ALL[key])
    kept = parse(text.encode(), path="/conf/f.toml", environ={}, unenforced="keep")
    with pytest.raises(SpecError) as caught:
        parse(text.encode(), path="/conf/f.toml", environ={})
    assert caught.value.diagnostics == list(kept.unenforced)
    found = [diagnostic.as_dict() for diagnostic in caught.value.diagnostics]
    assert all(str(item["message"]).endswith("not enforced by this version") for item in found)
    assert all(item["line"] is not None for item in found)


@pytest.mark.parametrize("key", [key for key in ALL if key not in ENFORCED])
def test_unenforced_settings_are_checked(key: str) -> None:
    tree = tomllib.loads(with_example(key, ALL[key]))
    if key.startswith("layer."):
        tree["root"]["layers"] = [{key.removeprefix("layer."): dt.date(2026, 1, 1)}]
    else:
        place(tree, key, dt.date(2026, 1, 1))
    with pytest.raises(SpecError) as caught:
        parse(tomli_w.dumps(tree).encode(), path="/conf/f.toml", environ={})
    assert "found date" in str(caught.value)


@pytest.mark.parametrize("key", [key for key in ALL if not key.startswith("layer.")])
def test_a_key_is_found_by_its_path(key: str) -> None:
    path = path_of(key)
    assert setting_at(path) is ALL[key]
    assert codec_at(path) is ALL[key].codec
    assert codec_at((*path, "no such key", "at all")) is None
    assert key in keys()


def test_only_the_class_of_the_file_has_fields_that_are_not_settings() -> None:
    assert {field.name for field in dataclasses.fields(Spec)} - set(settings_of(Spec)) == {
        "file",
        "directory",
        "files",
        "read_from",
        "variables",
        "origins",
        "problems",
        "suspicious",
        "image_values",
        "image_env",
    }

"""Test `sandbox.completion.candidates`: the candidates for an argument of the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.completion.candidates import (
    assignments,
    elements,
    keys_of_file,
    language_keys,
    lists,
    paths,
    profiles,
    topics,
)
from sandbox.spec.lookup import keys, setting_at
from sandbox.spec.notation import parse_key_path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "configs").mkdir()
    for name in ("web.toml", "web.md", "wide.toml", ".hidden.toml"):
        (tmp_path / name).touch()
    return tmp_path


def test_candidates_are_files_with_the_suffix_and_directories(tree: Path) -> None:
    assert list(paths(f"{tree}/", suffix=".toml")) == [
        f"{tree}/configs/",
        f"{tree}/web.toml",
        f"{tree}/wide.toml",
    ]
    assert list(paths(f"{tree}/we", suffix=".toml")) == [f"{tree}/web.toml"]
    assert list(paths(f"{tree}/we")) == [f"{tree}/web.md", f"{tree}/web.toml"]


def test_hidden_files_are_offered_only_after_a_dot(tree: Path) -> None:
    assert list(paths(f"{tree}/.", suffix=".toml")) == [f"{tree}/.hidden.toml"]


def test_paths_stay_as_they_are_typed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    assert list(paths("~/wi")) == ["~/wide.toml"]
    monkeypatch.chdir(tree)
    assert list(paths("wi")) == ["wide.toml"]
    assert list(paths("./wi")) == ["./wide.toml"]


def test_directory_that_cannot_be_listed_has_no_candidates(tree: Path) -> None:
    assert paths(f"{tree}/absent/") == {}
    assert paths(f"{tree}/web.md/") == {}


def test_keys_are_those_that_this_version_enforces_with_their_descriptions() -> None:
    keys = language_keys()
    assert keys["limits.memory"] == "Memory of all processes together, at least 4M."
    assert "limits" in keys
    assert "root.native" in keys
    assert "network.hosts" in keys
    assert "health.command" not in keys
    assert not [key for key in keys if setting_at(parse_key_path(key)) is None]


def test_topics_are_those_of_the_reference_and_all_keys() -> None:
    found = topics()
    assert set(keys()) < found.keys()
    assert found["volumes[].target"] == "The mount point: an absolute path in the sandbox."
    assert "composition" in found


def test_lists_are_those_to_which_elements_can_be_added() -> None:
    found = lists()
    assert {"volumes", "devices", "root.layers", "process.args", "security.capabilities.add"} <= found.keys()
    assert not {"build", "process.env", "limits.memory", "root"} & found.keys()


@pytest.mark.parametrize("collection", ["volumes", "volume"])
def test_element_is_written_value_by_value(collection: str) -> None:
    found = elements(collection, "t")
    assert found["target="] == "The mount point: an absolute path in the sandbox."
    assert list(elements(collection, "type=")) == ["type=bind", "type=tmpfs", "type=named", "type=file"]
    assert list(elements(collection, "read_only=t")) == ["read_only=true", "read_only=false"]
    assert elements(collection, "absent=") == {}


@pytest.mark.parametrize("collection", ["root.layers", "build", "absent", ""])
def test_elements_that_are_no_tables_have_no_keys(collection: str) -> None:
    assert elements(collection, "") == {}


def test_assignment_begins_with_a_key_of_a_value() -> None:
    found = assignments("limits.m")
    assert found["root.writable="].startswith("Changes to the root")
    assert "limits=" not in found
    assert all(key.endswith("=") for key in found)


@pytest.mark.parametrize(
    ("prefix", "values"),
    [
        ("root.writable=", ["ephemeral", "persistent", "none"]),
        ("root.writable=per", ["ephemeral", "persistent", "none"]),  # the shell selects those that match
        ("process.terminal=", ["auto", "true", "false"]),
        ("process.init=", ["true"]),  # this version refuses false
        ("network.mode=", ["none", "host", "private"]),
        ("limits.core=", ["unlimited"]),
        ("limits.memory=", []),
        ("volumes[0].type=", ["bind", "tmpfs", "named", "file"]),
        ("process.env.HOME=", []),
        ("absent=", []),
        ("a..b=", []),
    ],
)
def test_values_are_offered_where_they_are_few(prefix: str, values: list[str]) -> None:
    key = prefix.partition("=")[0]
    assert list(assignments(prefix)) == [f"{key}={value}" for value in values]


def test_keys_of_a_file_are_shown_with_their_values(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        '[root]\nlayers = ["dir:/"]\n[process.env]\n"A B" = "x"\n[[volumes]]\ntarget = "'
        + "/long" * 20
        + '"\n'
    )
    assert keys_of_file(str(file)) == {
        "root": "",
        "root.layers": "",
        "root.layers[0]": '"dir:/"',
        "process": "",
        "process.env": "",
        'process.env."A B"': '"x"',
        "volumes": "",
        "volumes[0]": "",
        "volumes[0].target": '"/long/long/long/long/long/long/long/...',
    }


@pytest.mark.parametrize("text", ["[root\n", "\udc80", None])
def test_file_that_cannot_be_read_has_no_keys_and_no_profiles(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "a.toml"
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert keys_of_file(str(file)) == {}
    assert profiles(str(file)) == {}


def test_profiles_are_those_of_the_file_and_of_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('[root]\nlayers = ["dir:/"]\n[profile.ci]\n')
    (tmp_path / "a.toml").write_text('extends = "base.toml"\n[profile.debug]\n')
    assert sorted(profiles(str(tmp_path / "a.toml"))) == ["ci", "debug"]


@pytest.mark.parametrize(
    "content", [None, b"a = " + b"[" * 5000, b"a = " + b"9" * 5000, b"\xff", b"#" * (2 << 20)]
)
def test_a_file_that_is_no_environment_file_has_no_keys_and_is_not_waited_for(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "x.toml"
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    assert keys_of_file(str(file)) == {}
    assert profiles(str(file)) == {}


def test_an_endless_file_is_not_read() -> None:
    assert keys_of_file("/dev/zero") == {}
    assert profiles("/dev/zero") == {}

"""Test `sandbox.spec.lookup`: from a path to its declaration, and all keys of the language."""

from __future__ import annotations

import pytest

from sandbox.spec.codecs import ListOf, Size, TableOf
from sandbox.spec.decode import Record
from sandbox.spec.lookup import codec_at, declarations, is_enforced, keys, path_of, setting_at
from sandbox.spec.notation import KeyPath


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (("limits",), Record),
        (("limits", "memory"), Size),
        (("volumes",), ListOf),
        (("volumes", 7, "size"), Size),
        (("process", "env"), TableOf),
        (("networks", "any name"), Record),
    ],
)
def test_a_value_of_the_language_has_a_codec(path: KeyPath, kind: type) -> None:
    assert isinstance(codec_at(path), kind)


@pytest.mark.parametrize(
    "path", [(), ("nothing",), ("limits", "nothing"), ("limits", "memory", "deeper"), ("limits", 0), (0,)]
)
def test_an_unknown_path_has_no_codec(path: KeyPath) -> None:
    assert codec_at(path) is None
    assert setting_at(path) is None


def test_a_key_has_a_setting() -> None:
    memory = setting_at(("limits", "memory"))
    assert memory is not None
    assert memory.doc.startswith("Memory of all processes")
    assert setting_at(("limits",)) is not None
    assert setting_at(("volumes", 0, "target")) is not None
    # An element of a list, and a key that the user chooses, have no declaration.
    assert setting_at(("volumes", 0)) is None
    assert setting_at(("process", "env", "A")) is None


def test_keys_in_an_unenforced_table_are_not_enforced() -> None:
    assert is_enforced(("limits", "memory"))
    assert is_enforced(("volumes", 0, "target"))
    assert not is_enforced(("health",))
    assert not is_enforced(("health", "command"))
    assert is_enforced(("root", "native"))


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("limits.memory", ("limits", "memory")),
        ("volumes[].target", ("volumes", 0, "target")),
        ("networks.NAME.subnet", ("networks", "NAME", "subnet")),
    ],
)
def test_a_key_has_a_path(key: str, path: KeyPath) -> None:
    assert key in keys()
    assert path_of(key) == path


def test_every_key_leads_to_its_own_declaration() -> None:
    found = dict(declarations())
    assert list(found) == keys()
    assert {key for key, setting in found.items() if setting_at(path_of(key)) is not setting} == set()


def test_tables_come_before_their_keys() -> None:
    known = keys()
    assert known.index("limits") < known.index("limits.memory")
    assert known.index("volumes") < known.index("volumes[].type")

"""Test `sandbox.editing.lists`: lists are found by their usual names, which derive from the declarations."""

from __future__ import annotations

import pytest

from sandbox.editing.lists import collections, find_collection
from sandbox.errors import EditError
from sandbox.spec.codecs import ListOf, TableOf
from sandbox.spec.lookup import declarations


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("volume", "volumes"),
        ("volumes", "volumes"),
        ("bind", "volumes"),
        ("tmpfs", "volumes"),
        ("profile.debug.named", "profile.debug.volumes"),
        ("layer", "root.layers"),
        ("root.layers", "root.layers"),
        ("device", "devices"),
        ("port", "network.ports"),
        ("network.port", "network.ports"),
        ("env", "process.env"),
        ("label", "sandbox.labels"),
        ("host", "network.hosts"),
        ("capability", "security.capabilities.add"),
        ("capabilities", "security.capabilities.add"),
        ("capabilities.drop", "security.capabilities.drop"),
        ("egress.allow", "network.egress.allow"),
        ("group", "process.groups"),
        ("arg", "process.args"),
        ("network", "networks"),
        ("network.network", "network.networks"),
        ("sandbox", "sandboxes"),
        ("build", "build"),
        ("io", "limits.io"),
        ("dns", "network.dns"),
        ("volumes[0].options", "volumes[0].options"),
        ("profile.debug.volume", "profile.debug.volumes"),
        ("profile.debug.root.layers", "profile.debug.root.layers"),
    ],
)
def test_a_word_names_a_list(word: str, key: str) -> None:
    assert find_collection(word).key == key


@pytest.mark.parametrize("key", sorted(collections()))
def test_every_list_has_its_key(key: str) -> None:
    assert find_collection(key).key == key


def test_every_list_that_is_declared_outside_of_elements_is_known() -> None:
    declared = {
        key
        for key, setting in declarations()
        if isinstance(setting.codec, (ListOf, TableOf)) and "[]" not in key and "NAME" not in key.split(".")
    }
    assert declared <= set(collections())
    assert {"volumes", "process.env", "networks"} <= declared


@pytest.mark.parametrize(
    "word", ["", "profile", "profile.debug", "volumes[0]", "limits", "limits.memory", "[0]"]
)
def test_words_that_name_no_list_are_refused(word: str) -> None:
    with pytest.raises(EditError) as caught:
        find_collection(word)
    assert caught.value.message == f'"{word}" is not a list of the language'

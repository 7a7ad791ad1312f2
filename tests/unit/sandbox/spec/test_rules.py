"""Test `sandbox.spec.rules`: rules about combinations of settings. The wording is in bad/."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from sandbox.spec import Spec, parse
from sandbox.spec.lookup import setting_at
from sandbox.spec.notation import parse_key_path
from sandbox.spec.rules import RULES

MINIMAL = '[root]\nlayers = ["dir:/"]\n'


def keys_of_problems(text: str) -> list[object]:
    with pytest.raises(SpecError) as caught:
        parse((MINIMAL + text).encode(), path="/conf/f.toml", environ={})
    return [diagnostic.as_dict()["key"] for diagnostic in caught.value.diagnostics]


def test_the_keys_that_rules_read_exist() -> None:
    for rule in RULES:
        for key in rule.reads:
            assert setting_at(parse_key_path(key)) is not None, key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[sandbox]\nhostname = "a"\n[namespaces]\nuts = "host"\n', "sandbox.hostname"),
        ('[network]\nmode = "host"\n[namespaces]\nnet = "private"\n', "namespaces.net"),
        ('[network]\nmode = "none"\n[namespaces]\nnet = "host"\n', "namespaces.net"),
        ('[limits]\nswap = "1G"\n', "limits.swap"),
        ('[limits]\noptional = ["cpu"]\n', "limits.optional[0]"),
        ('[ids]\nmap = "single"\n[process]\ngroups = [1]\n', "process.groups"),
        ('[ids]\nmap = "single"\n[process]\nuser = 1\n', "process.user"),
        ('[[volumes]]\ntype = "bind"\ntarget = "/a"\n', "volumes[0].source"),
        ('[[volumes]]\ntype = "bind"\nsource = "."\ntarget = "/a"\nsize = 1\n', "volumes[0].size"),
        ('[[volumes]]\ntype = "tmpfs"\nsource = "."\ntarget = "/a"\n', "volumes[0].source"),
        (
            '[[volumes]]\ntype = "tmpfs"\ntarget = "/a"\n[[volumes]]\ntype = "tmpfs"\ntarget = "//a/."\n',
            "volumes[1].target",
        ),
    ],
)
def test_a_broken_rule_is_one_problem(text: str, key: str) -> None:
    assert keys_of_problems(text) == [key]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ('[limits]\nmemory = "x"\nswap = "1G"\n', ["limits.memory"]),
        ('[limits]\nmemory = "1G"\nswap = "x"\n', ["limits.swap"]),
        ('[ids]\nmap = "x"\n[process]\nuser = 1\n', ["ids.map"]),
        ('[sandbox]\nhostname = "_"\n[namespaces]\nuts = "host"\n', ["sandbox.hostname"]),
        ("limits = 1\n", ["limits"]),
    ],
)
def test_a_rule_about_a_wrong_value_is_skipped(text: str, keys: list[str]) -> None:
    # Top-level keys have to come before the first header.
    whole = text + MINIMAL if text.startswith("limits") else MINIMAL + text
    with pytest.raises(SpecError) as caught:
        parse(whole.encode(), path="/conf/f.toml", environ={})
    assert [diagnostic.as_dict()["key"] for diagnostic in caught.value.diagnostics] == keys


def test_a_mistake_in_one_volume_does_not_hide_those_of_the_others() -> None:
    text = '[[volumes]]\ntype = "x"\ntarget = "/a"\n[[volumes]]\ntype = "bind"\ntarget = "/a"\n'
    assert keys_of_problems(text) == ["volumes[0].type", "volumes[1].source", "volumes[1].target"]


@pytest.mark.parametrize(
    "text",
    [
        '[sandbox]\nhostname = "a"\n',
        '[namespaces]\nuts = "host"\n',
        '[limits]\nmemory = "4M"\nswap = 0\noptional = ["memory", "swap", "io"]\n',
        '[ids]\nmap = "single"\n',
        "[process]\nuser = 1\ngroups = [1]\n",
        '[[volumes]]\ntype = "tmpfs"\ntarget = "/a"\n[[volumes]]\ntype = "tmpfs"\ntarget = "/a/b"\n',
        '[[volumes]]\ntype = "bind"\nsource = "."\ntarget = "/device"\n',
    ],
)
def test_files_that_break_no_rule_are_accepted(text: str) -> None:
    assert isinstance(parse((MINIMAL + text).encode(), path="/conf/f.toml", environ={}), Spec)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ports", '["80:80"]'),
        ("host_access", '["127.0.0.1:80"]'),
        ("dns", '["9.9.9.9"]'),
        ("search", '["example.org"]'),
    ],
)
def test_settings_of_a_network_are_refused_without_one(key: str, value: str) -> None:
    text = f'[root]\nlayers = ["dir:/"]\n[network]\n{key} = {value}\n'
    with pytest.raises(SpecError, match=rf"network\.{key}: needs .*mode is \"none\""):
        parse(text.encode(), path="f.toml", environ={})
    private = text.replace("[network]", '[network]\nmode = "private"')
    assert getattr(parse(private.encode(), path="f.toml", environ={}).network, key)


@pytest.mark.parametrize("key", ["dns", "search"])
def test_the_network_of_the_host_may_have_other_name_servers(key: str) -> None:
    text = f'{MINIMAL}[network]\nmode = "host"\n{key} = ["9.9.9.9"]\n'
    assert getattr(parse(text.encode(), path="f.toml", environ={}).network, key) == ("9.9.9.9",)


def network(text: str, rest: str = "") -> Spec:
    content = f'[root]\nlayers = ["dir:/"]\n[network]\n{text}\n{rest}'
    return parse(content.encode(), path="f.toml", environ={})


def test_egress_implies_a_private_network() -> None:
    assert network('egress = { allow = ["example.org:443"] }').network.mode == "private"
    assert network('egress = {}\nports = ["80:80"]').network.mode == "private"
    for mode in ("none", "host"):
        with pytest.raises(SpecError, match=rf'network\.egress: needs .*"private", but the mode is "{mode}"'):
            network(f'mode = "{mode}"\negress = {{}}')


def test_egress_contradicts_a_network_that_is_joined() -> None:
    with pytest.raises(SpecError, match=r"network\.egress: the network is that of the namespace"):
        network("egress = {}", '[namespaces]\nnet = "sandbox:other"')


@pytest.mark.parametrize("name", ["NET_ADMIN", "NET_RAW", "all"])
def test_egress_is_refused_beside_a_capability_that_leads_around_it(name: str) -> None:
    capabilities = f'[security.capabilities]\nadd = ["{name}"]'
    with pytest.raises(SpecError, match=rf'with "{name}" the program could leave network\.egress'):
        network("egress = {}", capabilities)
    assert network('mode = "private"', capabilities)

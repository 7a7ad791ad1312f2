"""The plan of a private network, and the resolver configuration."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from sandbox.host.network_facts import NetworkFacts
from sandbox.plan import describe
from sandbox.plan.network import ResolverConfiguration, resolver_configuration
from sandbox.plan.network_values import NetworkPlan
from sandbox.plan.operations import HOSTS, RESOLV_CONF, ShowHosts, ShowResolver
from sandbox.spec.load import parse
from tests.unit.sandbox.facts import host, plan

ROOT = '[root]\nlayers = ["dir:/"]\n'
HOST = NetworkFacts(
    pasta="/usr/bin/pasta",
    resolv_conf=b"# stub\nnameserver 127.0.0.53\nsearch old\nsearch lan example.org\noptions edns0 trust-ad\n",
)


def resolver(network: str, facts: NetworkFacts = HOST) -> str | None:
    spec = parse((ROOT + network).encode(), path="/t.toml", environ={})
    found = resolver_configuration(spec, facts)
    return None if found is None else found.decode()


def test_a_private_network_asks_the_hosts_name_server_at_an_address_of_its_own() -> None:
    assert resolver('[network]\nmode = "private"\n') == (
        "nameserver 169.254.1.1\nsearch lan example.org\noptions edns0 trust-ad\n"
    )


def test_name_servers_and_domains_of_the_file_have_precedence() -> None:
    assert resolver('[network]\nmode = "private"\ndns = ["9.9.9.9", "fd00::1"]\nsearch = ["a.b"]\n') == (
        "nameserver 9.9.9.9\nnameserver fd00::1\nsearch a.b\noptions edns0 trust-ad\n"
    )


def test_the_network_of_the_host_has_the_hosts_name_servers() -> None:
    assert resolver('[network]\nmode = "host"\n') == (
        "nameserver 127.0.0.53\nsearch lan example.org\noptions edns0 trust-ad\n"
    )


def test_name_servers_that_pasta_does_not_forward_are_asked_themselves() -> None:
    only6 = NetworkFacts(pasta="/usr/bin/pasta", resolv_conf=b"nameserver fd00::53\n")
    assert resolver('[network]\nmode = "private"\n', only6) == "nameserver fd00::53\n"


def test_other_networks_leave_the_roots_file() -> None:
    assert resolver("") is None
    assert resolver('[namespaces]\nnet = "sandbox:other"\n') is None


def test_a_configuration_that_is_no_text_is_read_as_far_as_possible() -> None:
    assert ResolverConfiguration.parse(b"\xff\xfe\nnameserver\nnameserver 1.2.3.4 x\ndomain a\n") == (
        ResolverConfiguration(("1.2.3.4",), ("a",))
    )


def test_without_pasta_a_private_network_is_refused_and_the_package_named() -> None:
    with pytest.raises(SpecError, match=r"needs the program pasta[\s\S]*apt-get install passt"):
        plan(ROOT + '[network]\nmode = "private"\n', network=NetworkFacts())


def test_the_plan_has_what_the_file_opens() -> None:
    text = (
        '[network]\nmode = "private"\nports = ["8080:80"]\nhost_access = ["127.0.0.1:53/udp"]\n'
        'on_failure = "restart"\n'
    )
    made = plan(ROOT + text)
    assert isinstance(made.network, NetworkPlan)
    assert not made.network.as_root
    lines = describe(made)
    assert "private network: connected by /usr/bin/pasta; if that ends, restart the sandbox" in lines
    assert "forward port 127.0.0.1:8080:80/tcp" in lines
    assert "open the service 127.0.0.1:53/udp of the host" in lines
    assert plan(ROOT).network is None
    assert plan(ROOT + '[network]\nmode = "private"\n', facts=host(uid=0, gid=0)).network is not None


def test_a_network_adds_the_files_of_names_unless_a_volume_has_them() -> None:
    private = ROOT + '[network]\nmode = "private"\nhosts = { db = "10.0.0.2" }\n'
    made = plan(private)
    shown = [step for step in made.operations if isinstance(step, ShowHosts | ShowResolver)]
    assert [type(step) for step in shown] == [ShowHosts, ShowResolver]
    assert isinstance(shown[0], ShowHosts)
    assert shown[0].entries == (("10.0.0.2", "db"),)
    assert {HOSTS, RESOLV_CONF} <= {point.path for point in made.skeleton}
    volume = '[[volumes]]\ntype = "file"\ntarget = "/etc/resolv.conf"\ncontent = "nameserver 10.0.0.1"\n'
    made = plan(private + volume)
    assert not [step for step in made.operations if isinstance(step, ShowResolver)]

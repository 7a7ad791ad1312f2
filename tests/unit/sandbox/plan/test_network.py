"""The plan of a private network, and the resolver configuration."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from sandbox.host.network_facts import NetworkFacts
from sandbox.plan import describe
from sandbox.plan.findings import Findings
from sandbox.plan.network import ResolverConfiguration, plan_network, resolver_configuration
from sandbox.plan.network_values import EgressPlan, MembershipPlan, NetworkPlan, UplinkPlan
from sandbox.plan.operations import HOSTS, RESOLV_CONF, ShowHosts, ShowResolver
from sandbox.spec.load import parse
from tests.unit.sandbox.facts import NETWORK, host, plan

ROOT = '[root]\nlayers = ["dir:/"]\n'
HOST = NetworkFacts(
    pasta="/usr/bin/pasta",
    resolv_conf=b"# stub\nnameserver 127.0.0.53\nsearch old\nsearch lan example.org\noptions edns0 trust-ad\n",
)


def resolver(network: str, facts: NetworkFacts = HOST) -> str | None:
    spec = parse((ROOT + network).encode(), path="/t.toml", environ={})
    found = resolver_configuration(spec, facts, plan_network(spec, host(), facts, Findings(spec), "web"))
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
    with pytest.raises(
        SpecError, match=r"needs the program pasta, or at least slirp4netns[\s\S]*apt-get install passt"
    ):
        plan(ROOT + '[network]\nmode = "private"\n', network=NetworkFacts())


def test_the_plan_has_what_the_file_opens() -> None:
    text = (
        '[network]\nmode = "private"\nports = ["8080:80"]\nhost_access = ["127.0.0.1:53/udp"]\n'
        'on_failure = "restart"\n'
    )
    made = plan(ROOT + text)
    assert isinstance(made.network, NetworkPlan)
    assert made.network.uplink == UplinkPlan(kind="pasta", program="/usr/bin/pasta", as_root=False)
    assert not made.network.has_gate
    lines = describe(made)
    assert "private network: connected by /usr/bin/pasta; if that ends, restart the sandbox" in lines
    assert "forward port 127.0.0.1:8080:80/tcp" in lines
    assert "open the service 127.0.0.1:53/udp of the host" in lines
    assert plan(ROOT).network is None


NETWORKS = """\
[network]
networks = ["backend", "front"]
aliases = ["db"]
[networks.backend]
internal = true
[networks.front]
subnet = "10.1.0.0/24"
"""
INTERNAL = '[network]\nnetworks = ["backend"]\n[networks.backend]\ninternal = true\n'
WITHOUT_PASTA = NetworkFacts(
    slirp4netns="/usr/bin/slirp4netns", nft="/usr/sbin/nft", resolv_conf=HOST.resolv_conf
)


def network_of(text: str, network: NetworkFacts = NETWORK) -> NetworkPlan:
    found = plan('[sandbox]\nname = "web"\n' + ROOT + text, network=network).network
    assert found is not None
    return found


def test_a_network_that_is_not_internal_has_the_uplink_and_the_sandbox_none_of_its_own() -> None:
    uplink = UplinkPlan(kind="pasta", program="/usr/bin/pasta")
    made = network_of(NETWORKS)
    assert made.memberships == (
        MembershipPlan(network="backend"),
        MembershipPlan(network="front", subnet="10.1.0.0/24", uplink=uplink),
    )
    assert (made.uplink, made.egress, made.names) == (None, None, ("web", "db"))
    assert made.resolvers == ("127.0.0.53", "192.0.2.53")
    assert made.has_gate
    assert made.forwards_names


def test_with_internal_networks_alone_nothing_else_is_reached() -> None:
    made = network_of(INTERNAL, NetworkFacts())  # neither pasta nor nft is needed
    assert made.egress == EgressPlan()
    assert not made.forwards_names


def test_with_egress_its_rules_alone_decide_what_is_reached_outside_of_networks() -> None:
    made = network_of(NETWORKS.replace('aliases = ["db"]', 'egress = { allow = ["example.org:443"] }'))
    assert made.egress == EgressPlan(allow=("example.org:443",))
    assert not made.forwards_names
    assert made.memberships[1].uplink is not None  # for the other members


def test_slirp4netns_connects_the_sandbox_where_pasta_is_missing() -> None:
    made = network_of('[network]\nmode = "private"\n', WITHOUT_PASTA)
    assert made.uplink == UplinkPlan(kind="slirp4netns", program="/usr/bin/slirp4netns")
    assert made.has_gate
    assert "slirp4netns has no IPv6, and is slower than pasta" in made.describe()


def test_a_member_does_not_take_the_name_that_each_sandbox_has_for_itself() -> None:
    for name in ("localhost", "db.localhost"):
        with pytest.raises(SpecError, match=r"every member of a network has this name for itself"):
            plan(f'[sandbox]\nname = "{name}"\n' + ROOT + INTERNAL)
        assert plan(f'[sandbox]\nname = "{name}"\n' + ROOT).network is None


def test_without_nft_only_internal_networks_can_be_joined() -> None:
    with pytest.raises(SpecError, match=r"the network front is not internal[\s\S]*apt-get install nftables"):
        network_of(NETWORKS, NetworkFacts(pasta="/usr/bin/pasta"))


def test_all_programs_that_an_open_network_lacks_are_named_at_its_key() -> None:
    with pytest.raises(SpecError) as error:
        network_of(NETWORKS, NetworkFacts())
    assert [one.key for one in error.value.diagnostics] == ["network.networks[1]"] * 2
    for part in ("install nftables", "install passt", "internal = true in [networks.front]"):
        assert part in str(error.value)


def test_the_gate_is_the_name_server_of_sandboxes_that_have_one() -> None:
    assert resolver(NETWORKS, NETWORK) == "nameserver 192.0.0.1\nsearch lan\n"
    assert resolver(INTERNAL, NETWORK) == "nameserver 192.0.0.1\n"
    # It knows the members, and asks these servers for other names.
    assert resolver(NETWORKS.replace("aliases", 'dns = ["9.9.9.9"]\naliases'), NETWORK) == (
        "nameserver 192.0.0.1\nsearch lan\n"
    )
    assert resolver('[network]\nmode = "private"\n', WITHOUT_PASTA).startswith("nameserver 192.0.0.1\n")  # type: ignore[union-attr]
    assert resolver('[network]\nmode = "private"\ndns = ["9.9.9.9"]\n', WITHOUT_PASTA).startswith(  # type: ignore[union-attr]
        "nameserver 9.9.9.9\n"
    )


def test_a_member_has_its_host_name_at_its_address_in_the_network() -> None:
    made = plan(ROOT + INTERNAL)
    (shown,) = [step for step in made.operations if isinstance(step, ShowHosts)]
    assert shown == ShowHosts(name=None, members=True)
    assert "the members of networks" in shown.describe()


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

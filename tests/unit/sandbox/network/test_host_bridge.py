"""The bridge of root: which machines use it, its hardware addresses, and its table of nftables."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from sandbox.host.network_facts import NetworkFacts
from sandbox.network.host_bridge import hardware_address, table_rules
from sandbox.network.shared_gate import Subnet, choose_subnet
from sandbox.plan import describe
from tests.unit.sandbox.facts import host, plan

SUBNET = Subnet("10.89.3.0/24")
PRIVATE = '[root]\nlayers = ["dir:/"]\n[network]\nmode = "private"\n'
PROGRAMS = NetworkFacts(pasta="/usr/bin/pasta", nft="/usr/sbin/nft")


def test_hardware_addresses_are_those_of_one_interface_and_follow_from_the_address() -> None:
    assert hardware_address("10.89.3.2").hex(":") == "02:73:0a:59:03:02"
    first = hardware_address("10.89.3.2")[0]
    assert first & 0b01 == 0  # no group
    assert first & 0b10  # of no manufacturer


def test_the_table_has_the_addresses_of_every_sandbox_but_not_of_the_bridge() -> None:
    text = table_rules(SUBNET, alone=False)
    assert text.count("02:73:0a:59:03:") == 253
    assert "02:73:0a:59:03:02 . 10.89.3.2," in text
    assert "02:73:0a:59:03:fe . 10.89.3.254 }" in text
    assert " . 10.89.3.1," not in text


def test_only_if_the_launcher_sets_forwarding_the_table_closes_it_for_others() -> None:
    line = 'iifname != "sandbox0" oifname != "sandbox0" drop'
    assert line in table_rules(SUBNET, alone=True)
    assert line not in table_rules(SUBNET, alone=False)


@pytest.mark.networks
@pytest.mark.parametrize("alone", [True, False])
def test_nft_accepts_the_table(alone: bool) -> None:
    command = ["unshare", "--user", "--map-root-user", "--net", "/usr/sbin/nft", "--check", "--file", "-"]
    done = subprocess.run(
        command,
        input=table_rules(SUBNET, alone=alone),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_bridge_gets_the_first_block_that_nothing_overlaps_and_a_sandbox_the_lowest_address() -> None:
    found = choose_subnet(["10.89.0.0/24", "10.89.1.128/25", "192.168.0.0/16"])
    assert found.text == "10.89.2.0/24"
    assert found.gateway == "10.89.2.1"
    assert found.lowest_free(set()) == "10.89.2.2"
    assert found.lowest_free({"10.89.2.2", "10.89.2.4"}) == "10.89.2.3"


@pytest.mark.parametrize(
    ("kind", "facts", "programs"),
    [
        ("bridge", {"uid": 0, "gid": 0}, PROGRAMS),
        ("pasta", {"uid": 0, "gid": 0}, NetworkFacts(pasta="/usr/bin/pasta")),
        ("pasta", {"uid": 0, "gid": 0, "kernel_version": (5, 15)}, PROGRAMS),
        ("pasta", {}, PROGRAMS),
    ],
)
def test_root_has_the_bridge_if_nft_is_installed_and_the_kernel_locks_ports(
    kind: str, facts: dict[str, Any], programs: NetworkFacts
) -> None:
    made = plan(PRIVATE, host(**facts), network=programs)
    assert made.network is not None
    assert made.network.uplink is not None
    assert made.network.uplink.kind == kind
    assert made.network.has_gate == (kind == "bridge")


def test_the_plan_names_the_bridge_and_what_it_needs() -> None:
    lines = describe(plan(PRIVATE, host(uid=0, gid=0), network=PROGRAMS))
    connected = (
        "private network: connected by sandbox-net and the bridge sandbox0; if that ends, stop the sandbox"
    )
    assert connected in lines
    assert "sandbox0 has no IPv6, and needs net.ipv4.ip_forward, which is set if it is 0" in lines

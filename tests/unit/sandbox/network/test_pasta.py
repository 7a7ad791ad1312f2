"""The command line of pasta."""

from __future__ import annotations

from sandbox.network.pasta import command_line
from sandbox.plan.network_values import EgressPlan, NetworkPlan, UplinkPlan
from sandbox.spec.values.addresses import HostService, Port


def options_of(*ports: Port, services: tuple[HostService, ...] = ()) -> dict[str, list[str]]:
    """Return the values of the options that open something."""
    words = command_line(7, "eth0", as_root=False, ports=ports, host_access=services)
    return {
        option: [words[number + 1] for number, word in enumerate(words) if word == option]
        for option in ("-t", "-u", "-T", "-U")
    }


def test_everything_that_pasta_opens_by_default_is_closed() -> None:
    assert options_of() == {"-t": ["none"], "-u": ["none"], "-T": ["none"], "-U": ["none"]}
    words = command_line(7, "eth0", as_root=False)
    assert "--no-map-gw" in words
    assert words[words.index("--map-host-loopback") + 1] == "none"
    assert words[words.index("--map-guest-addr") + 1] == "none"
    assert words[-4:] == ["--userns", "/proc/7/ns/user", "--netns", "/proc/7/ns/net"]
    assert "--runas" not in words


def test_root_of_the_machine_stays_root() -> None:
    words = command_line(7, "eth0", as_root=True)
    assert words[words.index("--runas") + 1] == "0"


def test_ports_and_services_are_written_as_pasta_reads_them() -> None:
    services = (HostService("127.0.0.1", 5432, "tcp"), HostService("127.0.0.1", 53, "udp"))
    ports = (
        Port("127.0.0.1", 8080, 80, "tcp"),
        Port("::1", 9000, 9100, "tcp", 3),
        Port("0.0.0.0", 53, 53, "udp"),
    )
    assert options_of(*ports, services=services) == {
        "-t": ["127.0.0.1/8080:80", "::1/9000-9002:9100-9102"],
        "-u": ["0.0.0.0/53:53"],
        "-T": ["5432"],
        "-U": ["53"],
    }


def test_services_at_the_loopback_address_of_the_other_family_are_not_opened() -> None:
    both = (HostService("127.0.0.1", 80, "tcp"), HostService("::1", 80, "tcp"), HostService("::1", 53, "udp"))
    uplink = UplinkPlan(kind="pasta", program="/usr/bin/pasta")
    plan = NetworkPlan(uplink=uplink, host_access=both)
    assert plan.other_services == (HostService("127.0.0.1", 53, "udp"),)
    # With a gate, sandbox-net opens them, which takes the address, too.
    assert NetworkPlan(egress=EgressPlan(), host_access=both).other_services == ()


def test_a_network_without_ipv6_is_connected_over_ipv4_only() -> None:
    assert "--ipv4-only" in command_line(7, "up0", as_root=False, ipv6=False)
    assert "--ipv4-only" not in command_line(7, "eth0", as_root=False)

"""The command line of pasta, and its process."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sandbox.errors import SetupError
from sandbox.network.pasta import Pasta, command_line
from sandbox.plan.network_values import NetworkPlan
from sandbox.spec.values.addresses import HostService, Port


def options_of(plan: NetworkPlan, *ports: Port) -> dict[str, list[str]]:
    """Return the values of the options that open something."""
    words = command_line(plan, ports, 7)
    return {
        option: [words[number + 1] for number, word in enumerate(words) if word == option]
        for option in ("-t", "-u", "-T", "-U")
    }


def test_everything_that_pasta_opens_by_default_is_closed() -> None:
    plan = NetworkPlan(pasta="/usr/bin/pasta")
    assert options_of(plan) == {"-t": ["none"], "-u": ["none"], "-T": ["none"], "-U": ["none"]}
    words = command_line(plan, (), 7)
    assert "--no-map-gw" in words
    assert words[words.index("--map-host-loopback") + 1] == "none"
    assert words[words.index("--map-guest-addr") + 1] == "none"
    assert words[-4:] == ["--userns", "/proc/7/ns/user", "--netns", "/proc/7/ns/net"]
    assert "--runas" not in words


def test_root_of_the_machine_stays_root() -> None:
    words = command_line(NetworkPlan(pasta="/usr/bin/pasta", as_root=True), (), 7)
    assert words[words.index("--runas") + 1] == "0"


def test_ports_and_services_are_written_as_pasta_reads_them() -> None:
    plan = NetworkPlan(
        pasta="/usr/bin/pasta",
        host_access=(HostService("127.0.0.1", 5432, "tcp"), HostService("127.0.0.1", 53, "udp")),
    )
    ports = (
        Port("127.0.0.1", 8080, 80, "tcp"),
        Port("::1", 9000, 9100, "tcp", 3),
        Port("0.0.0.0", 53, 53, "udp"),
    )
    assert options_of(plan, *ports) == {
        "-t": ["127.0.0.1/8080:80", "::1/9000-9002:9100-9102"],
        "-u": ["0.0.0.0/53:53"],
        "-T": ["5432"],
        "-U": ["53"],
    }


def test_services_at_the_loopback_address_of_the_other_family_are_not_opened() -> None:
    both = (HostService("127.0.0.1", 80, "tcp"), HostService("::1", 80, "tcp"), HostService("::1", 53, "udp"))
    plan = NetworkPlan(pasta="/usr/bin/pasta", host_access=both)
    assert plan.other_services == (HostService("127.0.0.1", 53, "udp"),)


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "pasta"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(stat.S_IRWXU)
    return str(path)


def test_a_program_that_is_ready_runs_until_it_is_stopped(tmp_path: Path) -> None:
    running = Pasta(program(tmp_path, "echo $$; echo said >&2; exec sleep 60"), ["pasta"])
    pid = running.pid
    try:
        os.kill(pid, 0)
    finally:
        running.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_failure_of_a_program_contains_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="pasta cannot connect the network: no such option; try again"):
        Pasta(program(tmp_path, "echo 'no such option;' >&2; echo try again >&2; exit 1"), ["pasta"])


def test_a_program_that_cannot_be_executed_is_a_failure_with_its_path(tmp_path: Path) -> None:
    path = str(tmp_path / "absent")
    with pytest.raises(SetupError, match=f"{path}: No such file or directory"):
        Pasta(path, ["pasta"])

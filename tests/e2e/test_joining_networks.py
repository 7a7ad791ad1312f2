"""Which sandboxes can join a network, and what happens if another process keeps it locked."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.support import PATIENCE, Launcher, wait_for
from tests.e2e.test_networks import ask, asking, list_networks, member_of, reaching, serving, up
from tests.e2e.test_private_network import around, child_of
from tests.support.networks import StandIn

__all__ = ["around"]
pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.pasta, pytest.mark.twice]


def test_two_files_that_disagree_about_a_network_are_an_error_that_names_both(
    launcher: Launcher, around: StandIn
) -> None:
    spec = member_of("backend", name="web") + 'subnet = "10.5.0.0/29"\n'
    with asking(launcher, around, spec):
        done = up(launcher, around, member_of("backend") + 'subnet = "10.6.0.0/29"\n', "true")
        assert done.status == 125
        for part in (
            "networks.backend.subnet is 10.6.0.0/29 in",
            "other.toml",
            "10.5.0.0/29 in",
            "member0.toml",
        ):
            assert part in done.err
        done = up(launcher, around, reaching(member_of("backend")), "true")
        assert done.status == 125
        assert "networks.backend.internal is false in" in done.err
        # A file without a subnet takes that of the members.
        done = up(launcher, around, member_of("backend"), "sh", "-c", "ip -o -4 address show dev eth0")
        assert "10.5.0.3/32" in done.facts_text()


def test_two_networks_with_common_addresses_cannot_be_joined(launcher: Launcher, around: StandIn) -> None:
    with asking(launcher, around, member_of("backend")):  # its addresses are chosen
        spec = member_of("other", "backend").replace(
            "[networks.other]", '[networks.other]\nsubnet = "10.89.0.0/16"'
        )
        done = up(launcher, around, spec, "true")
    assert done.status == 125
    assert "its addresses 10.89.0.0/24 overlap those of the network other, 10.89.0.0/16" in done.err
    assert "networks.backend.subnet" in done.err


def test_a_subnet_that_was_chosen_for_other_members_is_not_that_of_the_file(
    launcher: Launcher, around: StandIn
) -> None:
    with asking(launcher, around, member_of("backend", name="web")):
        done = up(launcher, around, member_of("backend") + 'subnet = "10.5.0.0/29"\n', "true")
        assert done.status == 125
        for part in ("subnet is 10.5.0.0/29 in", "other.toml", "sandbox web of", "is in 10.89.0.0/24"):
            assert part in done.err
        done = up(launcher, around, member_of("backend") + 'subnet = "10.89.0.0/24"\n', "true")
        assert done.status == 0, done.err


def test_a_subnet_to_which_this_machine_has_a_route_is_refused(launcher: Launcher, around: StandIn) -> None:
    spec = reaching(member_of("front")) + 'subnet = "10.77.0.0/25"\n'
    done = up(launcher, around, spec, "true")
    assert done.status == 125
    assert "networks.front.subnet is 10.77.0.0/25 in" in done.err
    assert "but this machine has a route to 10.77.0.0/24" in done.err


def test_a_sandbox_that_cannot_join_all_its_networks_does_not_wait_for_one_that_joins_them(
    launcher: Launcher, around: StandIn
) -> None:
    spec = member_of("one", "two")
    with asking(launcher, around, member_of("two", name="web") + 'subnet = "10.5.0.0/29"\n'):
        lock = os.open(launcher.run / "networks" / "two" / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            processes = []
            for number, subnet in enumerate(('subnet = "10.6.0.0/29"\n', "")):
                path = launcher.write(spec + subnet, f"joining{number}.toml")
                command = around.in_host(*launcher.arguments(path, ("true",)))
                processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, env=launcher.environ))
                place = launcher.run / "networks" / ("two" if number == 0 else "one") / "lock"
                wait_for(functools.partial(waits, processes[-1].pid, place), "the lock")
        finally:
            os.close(lock)
        for process, status in zip(processes, (125, 0), strict=True):
            _, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == status, err


def test_a_member_ends_although_another_process_keeps_the_network_locked(
    launcher: Launcher, around: StandIn
) -> None:
    with asking(launcher, around, member_of("backend", name="web")) as process:
        lock = os.open(launcher.run / "networks" / "backend" / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _, err = process.communicate("\n", timeout=PATIENCE)
        finally:
            os.close(lock)
    assert process.returncode == 0
    assert "network backend: the record cannot be changed: another process keeps it locked" in err
    assert list_networks(launcher) == []
    done = up(launcher, around, member_of("backend"), "sh", "-c", "ip -o -4 address show dev eth0")
    assert "10.89.0.2/32" in done.facts_text()


def waits(pid: int, lock: Path) -> bool:
    """Return whether the process *pid* waits for the flock(2) of the file *lock*."""
    with open("/proc/locks", encoding="ascii") as file:
        waiting = [line.split()[5:7] for line in file if line.split()[1] == "->"]
    return any(int(one) == pid and place.endswith(f":{lock.stat().st_ino}") for one, place in waiting)


def with_aliases(number: int) -> str:
    """Return the file of a member of "backend" with *number* long aliases."""
    names = [f"a{one}.{'x' * 60}.{'y' * 60}.{'z' * 60}" for one in range(number)]
    return member_of("backend", name=f"web{number}", more=f"aliases = {json.dumps(names)}\n")


def test_a_supervisor_does_not_wait_for_a_process_that_reads_no_names(
    launcher: Launcher, around: StandIn
) -> None:
    with asking(launcher, around, member_of("backend", name="client")) as client:
        os.kill(child_of(client, "sandbox-net"), signal.SIGSTOP)
        for _ in range(4):
            assert up(launcher, around, with_aliases(500), "true").status == 0
        _, err = client.communicate(timeout=PATIENCE)
    assert client.returncode == 125
    assert "sandbox-net, which answers names, does not read what it is sent" in err


def test_names_of_members_have_a_limit(launcher: Launcher, around: StandIn) -> None:
    with asking(launcher, around, member_of("backend", name="client")) as client:
        with serving(launcher, around, with_aliases(500), 80) as server:
            found = f"tcp a499.{'x' * 60}.{'y' * 60}.{'z' * 60} 80"
            wait_for(lambda: ask(client, found) == ["sandbox 80 10.89.0.2"], "the name")
            done = up(launcher, around, with_aliases(400), "true")
            assert done.status == 125
            assert "network backend: the names of its members take more than 128 KiB" in done.err
            assert server.poll() is None
        wait_for(lambda: ask(client, found) == ["gaierror"], "the end of the name")


def test_a_network_without_a_free_address_is_an_error_that_names_the_setting(
    launcher: Launcher, around: StandIn
) -> None:
    spec = member_of("small") + 'subnet = "10.5.0.0/29"\n'
    members = []
    for _ in range(5):
        member = asking(launcher, around, spec)
        member.__enter__()
        members.append(member)
    try:
        done = up(launcher, around, spec, "true")
        assert done.status == 125
        assert "no address of 10.5.0.0/29 is free" in done.err
        assert "networks.small.subnet" in done.err
        members.pop(1).__exit__(None, None, None)
        done = up(launcher, around, spec, "sh", "-c", "ip -o -4 address show dev eth0")
        assert "10.5.0.3/32" in done.facts_text()  # the lowest free one
    finally:
        for member in members:
            member.__exit__(None, None, None)

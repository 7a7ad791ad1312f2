"""Networks of several sandboxes: who reaches whom, under which names, and what is left after the end of any process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.e2e.support import PATIENCE, Launcher, Outcome, alive, sandbox, wait_for
from tests.e2e.test_private_network import _SERVE as SERVE
from tests.e2e.test_private_network import PRIVATE, around, child_of, from_host, from_internet
from tests.support.networks import CLIENT, HOST, INTERNET, PYTHON, SECOND, StandIn

__all__ = ["around"]
pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.pasta, pytest.mark.twice]

INTERNAL = "[networks.{}]\ninternal = true\n"
#: Prints the answers of CLIENT to each line of its standard input, the words of one or more requests with commas between.
ASKING = (
    "import sys\nprint('ready', flush=True)\n"
    + CLIENT.split("with concurrent")[0]
    + (
        "while line := sys.stdin.readline().strip():\n"
        "    print(json.dumps([request(*words.split()) for words in line.split(',')]), flush=True)\n"
    )
)


def member_of(*names: str, name: str = "", more: str = "") -> str:
    """Return a file of the sandbox *name*, which joins the internal networks *names*; *more* are lines of [network]."""
    head = f'[sandbox]\nname = "{name}"\n' if name else ""
    network = PRIVATE.replace('mode = "private"\n', f"networks = {json.dumps(names)}\n{more}")
    return head + network + "".join(INTERNAL.format(one) for one in names)


def reaching(spec: str) -> str:
    """Return *spec* with networks that are not internal."""
    return spec.replace("internal = true", "internal = false")


@contextmanager
def running(launcher: Launcher, around: StandIn, spec: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Run *command* in a sandbox until the end of the block; it prints "ready" first, and ends with its standard input."""
    number = len(list(launcher.directory.glob("member*.toml")))
    path = launcher.write(spec, f"member{number}.toml")
    with subprocess.Popen(
        around.in_host(*launcher.arguments(path, command)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=launcher.environ,
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise AssertionError(process.communicate(timeout=PATIENCE)[1])
            yield process
        finally:
            if process.poll() is None:
                process.communicate("\n", timeout=PATIENCE)


def serving(
    launcher: Launcher, around: StandIn, spec: str, *ports: int
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run a sandbox that serves *ports*."""
    return running(launcher, around, spec, PYTHON, "-c", SERVE, *map(str, ports))


def asking(launcher: Launcher, around: StandIn, spec: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run a sandbox that requests what `ask` sends it."""
    return running(launcher, around, spec, PYTHON, "-c", ASKING)


def ask(process: subprocess.Popen[str], *requests: str) -> list[str]:
    """Return the answers that the program of *process* gets."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(",".join(requests) + "\n")
    process.stdin.flush()
    found: list[str] = json.loads(process.stdout.readline())
    return found


def up(launcher: Launcher, around: StandIn, spec: str, *command: str) -> Outcome:
    """Run a sandbox on the stand-in for the host to its end."""
    path = launcher.write(spec, "other.toml")
    done = subprocess.run(
        around.in_host(*launcher.arguments(path, command)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def answers(launcher: Launcher, around: StandIn, spec: str, *requests: str) -> list[str]:
    """Return the answers that a program in a sandbox gets."""
    found: list[str] = json.loads(up(launcher, around, spec, PYTHON, "-c", CLIENT, *requests).facts_text())
    return found


def list_networks(launcher: Launcher) -> list[dict[str, object]]:
    """Return what `sandbox network ls` lists."""
    found: list[dict[str, object]] = json.loads(sandbox(launcher, "network", "ls", "--json").out)
    return found


def test_members_of_an_internal_network_reach_each_other_by_name_and_nothing_else(
    launcher: Launcher, around: StandIn
) -> None:
    web = member_of("backend", name="web", more='aliases = ["www"]\n')
    with serving(launcher, around, web, 80, 82):
        requests = {
            "tcp web 80": "sandbox 80 10.89.0.3",
            "tcp web.backend 80": "sandbox 80 10.89.0.3",
            "tcp www 80": "sandbox 80 10.89.0.3",
            "tcp 10.89.0.2 80": "sandbox 80 10.89.0.3",
            "udp www.backend 82": "sandbox 82",
            "tcp web 8000": "ConnectionRefusedError",
            f"tcp {INTERNET} 8000": "ConnectionRefusedError",
            f"tcp {HOST} 8000": "ConnectionRefusedError",
            "tcp 10.89.0.1 8000": "ConnectionRefusedError",  # the gate
            "tcp nobody.backend 80": "gaierror",
        }
        found = answers(launcher, around, member_of("backend", name="db"), *requests)
        assert dict(zip(requests, found, strict=True)) == requests
        names = "cat /etc/hosts; getent hosts 10.89.0.2; echo x >>/etc/hosts"
        done = up(launcher, around, member_of("backend", name="db"), "sh", "-c", names)
        lines = [line.split() for line in done.out.splitlines()]
        assert ["10.89.0.2", "web", "web.backend", "www", "www.backend"] in lines
        assert ["10.89.0.3", "db", "db.backend"] in lines
        assert "Read-only file system" in done.err
        # Sandboxes that are no members reach neither.
        places = ["tcp 10.89.0.2 80", "tcp web 80", "tcp 10.89.0.2 80 eth0"]
        for spec in (PRIVATE, member_of("other"), PRIVATE.replace('mode = "private"', "egress = {}")):
            assert not [one for one in answers(launcher, around, spec, *places) if "sandbox" in one]
        assert [one["name"] for one in list_networks(launcher)] == ["backend"]
    assert list_networks(launcher) == []
    assert not (launcher.run / "networks" / "backend").exists()


def test_names_follow_members_that_start_and_end(launcher: Launcher, around: StandIn) -> None:
    with asking(launcher, around, member_of("backend", name="client")) as client:
        assert ask(client, "tcp web 80") == ["gaierror"]
        for _ in range(2):
            with serving(launcher, around, member_of("backend", name="web"), 80) as server:
                wait_for(lambda: ask(client, "tcp web 80") == ["sandbox 80 10.89.0.2"], "the name", 2)
                os.kill(server.pid, signal.SIGKILL)
                wait_for(lambda: ask(client, "tcp web 80") == ["gaierror"], "the end of the name", 2)
        with serving(launcher, around, member_of("backend", name="web"), 80):
            wait_for(lambda: ask(client, "tcp web 80") == ["sandbox 80 10.89.0.2"], "the name", 2)
        wait_for(lambda: ask(client, "tcp web 80") == ["gaierror"], "the end of the name", 2)


#: Prints the names of the address in its argument by DNS alone, as an application that does not read /etc/hosts.
_REVERSE = """
import socket, sys
def query(name, kind):
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return bytes.fromhex("123401000001000000000000") + labels + b"\\0" + kind.to_bytes(2, "big") + b"\\0\\1"
for name, kind in (("web.backend", 1), ("2.0.89.10.in-addr.arpa", 12), ("nobody.backend", 1)):
    for family in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        one = socket.socket(type=family)
        one.connect(("192.0.0.1", 53))
        message = query(name, kind)
        one.sendall(message if family == socket.SOCK_DGRAM else len(message).to_bytes(2, "big") + message)
        answer = one.recv(512)[0 if family == socket.SOCK_DGRAM else 2 :]
        print(answer[3] & 15, socket.inet_ntoa(answer[-4:]) if kind == 1 and answer[7] else b"backend" in answer[-20:])
"""


def test_the_gate_answers_names_and_addresses_of_members_over_udp_and_tcp(
    launcher: Launcher, around: StandIn
) -> None:
    with serving(launcher, around, member_of("backend", name="web"), 80):
        done = up(launcher, around, member_of("backend"), PYTHON, "-c", _REVERSE)
    lines = done.facts_text().splitlines()
    assert lines == ["0 10.89.0.2"] * 2 + ["0 True"] * 2 + ["3 True"] * 2


def test_members_of_an_open_network_reach_other_machines_but_no_address_of_the_host(
    launcher: Launcher, around: StandIn
) -> None:
    spec = reaching(member_of("front", name="web"))
    with asking(launcher, around, spec) as first:
        requests = [f"{kind} {INTERNET} 8000" for kind in ("tcp", "udp")]
        closed = [
            f"{kind} {address} 8000{device}"
            for kind in ("tcp", "udp")
            for address in ("127.0.0.1", HOST, SECOND, "0.0.0.0", "169.254.169.254", "10.89.0.1")
            for device in ("", " eth0", " host0")
        ]
        for found in (
            ask(first, *requests, *closed),
            answers(launcher, around, reaching(member_of("front")), *requests, *closed),
        ):
            assert [one.split()[0] for one in found[:2]] == ["internet"] * 2
            assert not [one for one in found[2:] if "host" in one or "loopback" in one]


def test_an_address_that_the_host_gets_later_is_closed_in_a_network_too(
    launcher: Launcher, around: StandIn
) -> None:
    with asking(launcher, around, reaching(member_of("front"))) as client:
        around.configure("ip address add 10.98.0.2/24 dev second0")
        try:
            wait_for(lambda: ask(client, "tcp 10.98.0.2 8000") == ["ConnectionRefusedError"], "the route", 5)
        finally:
            around.configure("ip address del 10.98.0.2/24 dev second0")


def test_another_member_connects_the_network_after_the_end_of_the_one_that_did(
    launcher: Launcher, around: StandIn
) -> None:
    spec, outside = reaching(member_of("front")), f"tcp {INTERNET} 8000"
    with (
        asking(launcher, around, spec) as first,
        asking(launcher, around, spec) as second,
        asking(launcher, around, spec) as third,
    ):
        assert [one for one in (first, second, third) if pasta_of(one)] == [first]
        left = [first, second, third]
        while len(left) > 1:
            leader = next(one for one in left if pasta_of(one))
            pasta = child_of(leader, "pasta")
            os.kill(leader.pid, signal.SIGKILL)
            left.remove(leader)
            for one in left:
                wait_for(lambda: ask(one, outside)[0].startswith("internet"), "another member", 5)  # noqa: B023
            wait_for(lambda: not alive(pasta), "the end of pasta", 5)  # noqa: B023


def pasta_of(process: subprocess.Popen[str]) -> int | None:
    """Return the pid of the pasta that the supervisor *process* has started, None if there is none."""
    try:
        return child_of(process, "pasta")
    except (AssertionError, OSError):
        return None


def test_the_end_of_pasta_is_one_warning_and_the_network_is_connected_again(
    launcher: Launcher, around: StandIn
) -> None:
    with asking(launcher, around, reaching(member_of("front"))) as client:
        os.kill(child_of(client, "pasta"), signal.SIGKILL)
        wait_for(lambda: ask(client, f"tcp {INTERNET} 8000")[0].startswith("internet"), "the new pasta", 10)
        _, err = client.communicate("\n", timeout=PATIENCE)
    assert err == (
        "sandbox: warning: network front: pasta, which connects the network, ended unexpectedly; it is started again\n"
    )


def test_egress_decides_what_a_member_reaches_outside_of_the_network(
    launcher: Launcher, around: StandIn
) -> None:
    limited = reaching(member_of("front", more=f'egress = {{ allow = ["{INTERNET}:8000"] }}\n'))
    with serving(launcher, around, reaching(member_of("front", name="web")), 80):
        requests = {
            "tcp web 80": "sandbox",
            f"tcp {INTERNET} 8000": "internet",
            f"tcp {INTERNET} 8001": "ConnectionRefusedError",
            f"tcp {INTERNET} 8000 eth0": "TimeoutError",  # past the rules, by the gate of the network
        }
        found = answers(launcher, around, limited, *requests)
        assert [one.split()[0] for one in found[:3]] == list(requests.values())[:3]
        assert "internet" not in found[3]


def test_addresses_of_the_subnet_without_a_member_are_refused(launcher: Launcher, around: StandIn) -> None:
    # Another machine has the address. The default route leads there.
    absent = "10.5.0.6"
    command = around.enter(around.internet, ["--keep-caps", "ip", "address", "add", absent, "dev", "in0"])
    subprocess.run(command, check=True)
    assert from_host(around, f"tcp {absent} 8000")[0].startswith("internet")
    subnet = 'subnet = "10.5.0.0/29"\n'
    spec = reaching(member_of("front")) + subnet
    limited = reaching(member_of("front", more="egress = {}\n")) + subnet
    for one in (spec, limited):
        done = answers(launcher, around, one, f"tcp {absent} 8000", f"tcp {absent} 8000 eth0")
        assert not [answer for answer in done if answer.startswith("internet")]


def test_a_member_of_two_networks_reaches_both_and_connects_neither(
    launcher: Launcher, around: StandIn
) -> None:
    both = member_of("backend", "front", name="middle")
    with (
        serving(launcher, around, member_of("backend", name="db"), 80),
        serving(launcher, around, member_of("front", name="web"), 80),
        serving(launcher, around, both, 80),
    ):
        records = {one["name"]: one for one in list_networks(launcher)}
        assert [records[name]["subnet"] for name in ("backend", "front")] == ["10.89.0.0/24", "10.89.1.0/24"]
        found = answers(launcher, around, both, "tcp db 80", "tcp web.front 80")
        assert [one.split()[0] for one in found] == ["sandbox"] * 2
        requests = ["tcp db 80", "tcp 10.89.0.2 80", "tcp 10.89.0.2 80 eth0", "tcp middle 80"]
        found = answers(launcher, around, member_of("front"), *requests)
        assert [one.split()[0] for one in found][3] == "sandbox"
        assert not [one for one in found[:3] if "sandbox" in one]


def test_a_member_of_two_open_networks_reaches_other_machines_by_the_first(
    launcher: Launcher, around: StandIn
) -> None:
    both = reaching(member_of("front", "back"))
    for _ in range(2):
        assert answers(launcher, around, both, f"tcp {INTERNET} 8000")[0].startswith("internet")
    assert list_networks(launcher) == []


def test_published_ports_and_services_of_the_host_work_beside_networks(
    launcher: Launcher, around: StandIn
) -> None:
    more = f'ports = ["{HOST}:8081:80", "127.0.0.1:8082:82/udp"]\nhost_access = ["127.0.0.1:5432"]\n'
    for spec in (member_of("backend", more=more), reaching(member_of("backend", more=more))):
        with serving(launcher, around, spec, 80, 82):
            assert from_internet(around, f"tcp {HOST} 8081") == [f"sandbox 80 {INTERNET}"]
            assert from_host(around, "udp 127.0.0.1 8082") == ["sandbox 82"]
        found = answers(launcher, around, spec, "tcp 127.0.0.1 5432", "tcp 127.0.0.1 8000")
        assert [one.split()[0] for one in found] == ["loopback", "ConnectionRefusedError"]


#: Sends datagrams with the source in its first argument to the address in the second one: by IP, and past it by Ethernet, with ARP.
_SPOOF = """
import socket, struct, sys
source, target = map(socket.inet_aton, sys.argv[1:3])
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
udp = struct.pack("!HHHH", 7, 82, 8 + 5, 0) + b"spoof"
head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, source, target)
packet = head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + udp
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
raw.sendto(packet, (sys.argv[2], 0))
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(("eth0", 0))
own = link.getsockname()[4]
arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, own, source, b"\\xff" * 6, target)
for _ in range(3):
    link.send(b"\\xff" * 6 + own + b"\\x08\\x06" + arp)
    link.send(b"\\xff" * 6 + own + b"\\x08\\x00" + packet)
print("sent")
"""
#: Prints every datagram that arrives at port 82.
_RECEIVE = """
import socket, threading
one = socket.socket(type=socket.SOCK_DGRAM)
one.bind(("0.0.0.0", 82))
def receive():
    while True:
        print(*one.recvfrom(100), flush=True)
threading.Thread(target=receive, daemon=True).start()
print("ready", flush=True)
input()
"""


def test_a_false_source_address_and_arp_help_a_program_with_raw_sockets_nothing(
    launcher: Launcher, around: StandIn
) -> None:
    rooted = '[security.capabilities]\nadd = ["NET_RAW"]\n'
    with (
        running(launcher, around, member_of("backend", name="target"), PYTHON, "-c", _RECEIVE) as target,
        serving(launcher, around, member_of("backend", name="victim"), 80),
    ):
        spoofing = member_of("backend", name="third") + rooted
        done = up(launcher, around, spoofing, PYTHON, "-c", _SPOOF, "10.89.0.3", "10.89.0.2")
        assert done.facts_text() == "sent\n"
        # The own address arrives, so the packets are right.
        done = up(launcher, around, spoofing, PYTHON, "-c", _SPOOF, "10.89.0.4", "10.89.0.2")
        assert done.facts_text() == "sent\n"
        assert answers(launcher, around, member_of("backend"), "tcp victim 80")[0].startswith("sandbox")
        out, _ = target.communicate("\n", timeout=PATIENCE)
    sources = [line.split("('")[1].split("'")[0] for line in out.splitlines()]
    assert sources
    assert set(sources) == {"10.89.0.4"}


@pytest.mark.parametrize("victim", ["supervisor", "pasta", "sandbox-net", "sandbox-sockets", "sandbox-init"])
def test_a_kill_leaves_no_process_no_port_and_no_member(
    launcher: Launcher, around: StandIn, victim: str
) -> None:
    spec = reaching(member_of("front", more='ports = ["8080:80"]\n'))
    with serving(launcher, around, spec, 80) as process:
        pids = [
            child_of(process, name) for name in ("pasta", "sandbox-net", "sandbox-sockets", "sandbox-init")
        ]
        os.kill(process.pid if victim == "supervisor" else child_of(process, victim), signal.SIGKILL)
        if victim == "pasta":  # which is started again
            wait_for(lambda: pasta_of(process) not in (None, pids[0]), "the new pasta")
            process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        wait_for(lambda: not any(map(alive, pids)), "the end of the processes", 5)
        assert from_host(around, "tcp 127.0.0.1 8080") == ["ConnectionRefusedError"]
        assert list_networks(launcher) == []
    with serving(launcher, around, spec, 80):
        assert from_host(around, "tcp 127.0.0.1 8080")[0].startswith("sandbox")


def test_net_admin_is_refused_together_with_a_network(launcher: Launcher, around: StandIn) -> None:
    spec = member_of("backend") + '[security.capabilities]\nadd = ["NET_ADMIN"]\n'
    done = up(launcher, around, spec, "true")
    assert done.status == 125
    assert 'with "NET_ADMIN" the program could leave network.networks' in done.err


def test_the_record_of_killed_members_is_removed_by_prune(launcher: Launcher, around: StandIn) -> None:
    with asking(launcher, around, member_of("backend", name="web")) as process:
        found = sandbox(launcher, "network", "inspect", "backend").out
        assert found.splitlines()[0] == "backend: 10.89.0.0/24, reaches members only"
        assert found.splitlines()[1].split()[:2] == ["10.89.0.2", "web"]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
    done = sandbox(launcher, "network", "inspect", "backend")
    assert (done.status, done.out) == (125, "")
    assert "no running sandbox is in a network backend" in done.err
    assert json.loads(sandbox(launcher, "network", "prune", "--json").out) == {"removed": ["backend"]}
    assert os.listdir(launcher.run / "networks") == [".lock"]

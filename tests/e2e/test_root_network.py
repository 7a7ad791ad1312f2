"""network.mode = "private" for root of the machine: the bridge `sandbox0` and the nftables table `inet sandbox`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from tests.e2e.support import PATIENCE, Launcher, first_line, sandbox, wait_for
from tests.e2e.test_private_network import PRIVATE, from_host, from_internet, serving
from tests.support.networks import CLIENT, HOST, INTERNET, INTERNET6, PYTHON, SECOND
from tests.support.root_networks import FOREIGN, RootStandIn, root_stand_in

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.networks]

#: The first two addresses of the bridge, of sandboxes that start one after the other, and the bridge's own.
BRIDGE, FIRST, SECOND_SANDBOX = "10.89.0.1", "10.89.0.2", "10.89.0.3"
METADATA = "169.254.169.254"
RAW = '[security]\ncapabilities.add = ["NET_RAW"]\n'
WAITING = ["sh", "-c", "echo ready; exec sleep 60"]


@pytest.fixture(scope="module")
def around() -> Iterator[RootStandIn]:
    with (
        root_stand_in() as made,
        made.server(made.host, "host", "::", 8000),
        made.server(made.internet, "internet", "0.0.0.0", 8000),
        made.server(made.container, "container", "0.0.0.0", 80),
    ):
        yield made


@pytest.fixture
def root(launcher: Launcher, around: RootStandIn) -> Iterator[Launcher]:
    """Return a launcher on the stand-in for the machine, which is unchanged after the test."""
    before = around.state()
    launcher.prefix = tuple(around.in_host())
    yield launcher
    assert around.state() == before


def answers(root: Launcher, spec: str, *requests: str) -> dict[str, str]:
    """Return the first word of the answer that a program in a sandbox gets to each request, or the error."""
    found = json.loads(root.up(spec, [PYTHON, "-c", CLIENT, *requests]).facts_text())
    return dict(zip(requests, found, strict=True))


@contextmanager
def running(
    root: Launcher, spec: str, *command: str, name: str = "test.toml"
) -> Iterator[subprocess.Popen[str]]:
    """Run a sandbox whose program has printed its first line, "ready"."""
    path = root.write(spec, name)
    arguments = root.arguments(path, command or WAITING)
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=root.environ
    ) as process:
        try:
            assert first_line(process) == "ready", process.stderr and process.stderr.read()
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


@contextmanager
def beside(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run *command*, which has printed "ready", until the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert first_line(process) == "ready"
            yield process
        finally:
            process.kill()


def test_the_program_reaches_other_machines_by_the_address_of_this_one(
    root: Launcher, around: RootStandIn
) -> None:
    found = answers(root, PRIVATE, f"tcp {INTERNET} 8000", f"udp {INTERNET} 8000")
    assert list(found.values()) == [f"internet {HOST}", "internet"]
    explained = sandbox(root, "explain", "--all", root.write(PRIVATE)).out
    assert "connected by sandbox-net and the bridge sandbox0" in explained


def test_no_address_of_the_machine_answers_and_all_refuse_at_once(
    root: Launcher, around: RootStandIn
) -> None:
    addresses = [HOST, SECOND, FOREIGN, BRIDGE, METADATA, "127.0.0.1", "0.0.0.0"]
    requests = [f"{kind} {address} 8000" for kind in ("tcp", "udp") for address in addresses]
    # Another table would forward this port of every address to a container.
    requests += [f"tcp {address} 8888" for address in (HOST, FOREIGN, BRIDGE)]
    found = answers(root, PRIVATE, *requests)
    assert {request for request, answer in found.items() if answer != "ConnectionRefusedError"} == set()
    six = answers(root, PRIVATE, f"tcp {INTERNET6} 8000", "tcp fe80::1%eth0 8000", "tcp ::1 8000")
    assert list(six.values()) == ["Network is unreachable"] * 2 + ["ConnectionRefusedError"]


#: Sends an echo request (ICMP) to each address, and prints those that answer.
_PING = """
import socket, struct, sys
def checksum(data):
    found = sum(struct.unpack(f"!{len(data) // 2}H", data))
    found = (found >> 16) + (found & 0xFFFF)
    return ~(found + (found >> 16)) & 0xFFFF
for address in sys.argv[1:]:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as one:
        one.settimeout(0.5)
        plain = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
        one.sendto(plain[:2] + struct.pack("!H", checksum(plain)) + plain[4:], (address, 0))
        try:
            while True:
                answer, place = one.recvfrom(1000)
                if answer[20] == 0 and place[0] == address:
                    print(address)
                    break
        except OSError:
            pass
"""


def test_only_other_machines_answer_pings(root: Launcher) -> None:
    with running(root, PRIVATE):
        addresses = [INTERNET, HOST, SECOND, BRIDGE, METADATA, FIRST, "224.0.0.1", "10.89.0.255"]
        assert root.up(PRIVATE + RAW, [PYTHON, "-c", _PING, *addresses]).facts_text() == f"{INTERNET}\n"


def test_services_of_the_machine_receive_no_multicast(root: Launcher, around: RootStandIn) -> None:
    join = (
        "import socket\none = socket.socket(type=socket.SOCK_DGRAM)\none.bind(('0.0.0.0', 5353))\n"
        "for place in ('%s', '%s'):\n"
        "    group = socket.inet_aton('224.0.0.251') + socket.inet_aton(place)\n"
        "    one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)\n"
        "print('ready', flush=True)\nprint(one.recv(100), flush=True)\n"
    )
    send = (
        "import socket\none = socket.socket(type=socket.SOCK_DGRAM)\n"
        "for place in (('224.0.0.251', 5353), ('10.89.0.255', 5353)):\n"
        "    try: one.sendto(b'question', place)\n"
        "    except OSError: pass\n"
    )
    command = around.in_host(PYTHON, "-c", join % (HOST, BRIDGE))
    with (
        running(root, PRIVATE, name="first.toml"),
        beside(command) as service,
    ):  # the first one makes the bridge
        root.up(PRIVATE, [PYTHON, "-c", send])
        service.kill()
        assert service.stdout is not None
        assert service.stdout.read() == ""


def test_published_ports_answer_and_show_the_address_of_the_client(
    root: Launcher, around: RootStandIn
) -> None:
    spec = PRIVATE + 'ports = ["8080:80", "0.0.0.0:8081:80"]\n'
    with serving(root, None, spec, 80):
        assert from_host(around, "tcp 127.0.0.1 8080", f"tcp {HOST} 8080") == [
            from_host(around, "tcp 127.0.0.1 8080")[0],
            "ConnectionRefusedError",
        ]
        assert from_host(around, "tcp 127.0.0.1 8080")[0].startswith("sandbox 80 ")
        assert from_internet(around, f"tcp {HOST} 8081") == [f"sandbox 80 {INTERNET}"]
        # Its own address answers neither this machine nor others.
        refused = ["ConnectionRefusedError", "PermissionError"]
        assert from_host(around, f"tcp {FIRST} 80", f"udp {FIRST} 80") == refused
        route = around.enter(around.internet, ["ip", "route", "add", FIRST, "via", HOST])
        subprocess.run(route, check=True, timeout=PATIENCE)
        assert from_internet(around, f"tcp {FIRST} 80") == ["ConnectionRefusedError"]
        subprocess.run([*route[:-4], "del", FIRST], check=True, timeout=PATIENCE)


#: Sends frames to the bridge and datagrams to the Internet, in the name of another sandbox.
_SPOOF = """
import socket, struct, sys
own, other, bridge, internet = sys.argv[1:]
def mac(address): return b"\\x02\\x73" + socket.inet_aton(address)
def checksum(data):
    found = sum(struct.unpack(f"!{len(data) // 2}H", data))
    found = (found >> 16) + (found & 0xFFFF)
    return ~(found + (found >> 16)) & 0xFFFF
def datagram(source, target, port, text):
    udp = struct.pack("!HHHH", 999, port, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, *map(socket.inet_aton, (source, target)))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
    one.bind(("eth0", 0))
    def send(source, target, kind, payload): one.send(target + source + struct.pack("!H", kind) + payload)
    everyone = b"\\xff" * 6
    for place in (mac(bridge), everyone):
        reply = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, mac(own), socket.inet_aton(other), mac(bridge), socket.inet_aton(bridge))
        send(mac(own), place, 0x806, reply)  # "the other's address is at my place"
        send(mac(other), place, 0x806, reply)
    send(mac(own), mac(bridge), 0x800, datagram(other, internet, 9000, b"address of the other"))
    send(mac(other), mac(bridge), 0x800, datagram(other, internet, 9000, b"all of the other"))
    send(mac(other), mac(bridge), 0x800, datagram(own, internet, 9000, b"frame of the other"))
    for place in (mac(other), mac(bridge), everyone):
        send(mac(own), place, 0x800, datagram(own, other, 9001, b"to the other"))
        send(mac(own), place, 0x88B5, b"of no protocol".ljust(46))
    send(mac(own), mac(bridge), 0x800, datagram(own, internet, 9000, b"own"))
"""
#: Prints the datagrams that arrive at a port.
_RECEIVE = """
import socket, sys
one = socket.socket(type=socket.SOCK_DGRAM)
one.bind(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    text, place = one.recvfrom(100)
    print(text.decode(), place[0], flush=True)
"""
#: Prints the frames that arrive.
_SNIFF = """
import socket
one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
one.bind(("eth0", 0))
print("ready", flush=True)
while True:
    frame, place = one.recvfrom(2000)
    if place[2] != socket.PACKET_OUTGOING:
        print(frame.hex(), flush=True)
"""


def test_no_program_sends_as_another_sandbox_or_to_one(root: Launcher, around: RootStandIn) -> None:
    with (
        running(root, PRIVATE + RAW, PYTHON, "-c", _SNIFF, name="victim.toml") as victim,
        beside(around.in_internet(PYTHON, "-c", _RECEIVE, "9000")) as internet,
    ):
        spoof = [PYTHON, "-c", _SPOOF, SECOND_SANDBOX, FIRST, BRIDGE, INTERNET]
        root.up(PRIVATE + RAW, spoof).facts_text()
        assert first_line(internet) == f"own {HOST}"
        internet.kill()
        assert internet.stdout is not None
        assert internet.stdout.read() == ""
        requests = [f"{kind} {FIRST} 9001" for kind in ("tcp", "udp")]
        assert list(answers(root, PRIVATE, *requests).values()) == ["ConnectionRefusedError"] * 2
        known = around.output("ip", "neigh", "show", "dev", "sandbox0").splitlines()
        assert f"{FIRST} lladdr 02:73:0a:59:00:02 PERMANENT " in known
        victim.terminate()
        assert victim.stdout is not None
        assert victim.stdout.read() == ""


def test_forwarding_is_switched_on_for_sandboxes_only_and_this_is_reported(
    root: Launcher, around: RootStandIn
) -> None:
    client = around.enter(around.container, [PYTHON, "-c", CLIENT, f"tcp {INTERNET} 8000"])
    with running(root, PRIVATE) as process:
        assert around.output("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
        done = subprocess.run(client, capture_output=True, text=True, check=True, timeout=PATIENCE)
        assert json.loads(done.stdout) == ["TimeoutError"]
        second = root.up(
            PRIVATE, ["true"]
        )  # neither the second one to start nor its end changes or reports anything
        assert (second.status, second.err) == (0, "")
        assert around.output("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
        assert err.count("net.ipv4.ip_forward was 0 and is 1 now") == 1
        assert err.count("warning") == 1
    assert around.output("cat", "/proc/sys/net/ipv4/ip_forward") == "0\n"


def test_forwarding_that_is_on_stays_on_and_works_for_others(root: Launcher, around: RootStandIn) -> None:
    around.configure("echo 1 >/proc/sys/net/ipv4/ip_forward")
    client = around.enter(around.container, [PYTHON, "-c", CLIENT, f"tcp {INTERNET} 8000"])
    try:
        with running(root, PRIVATE) as process:
            done = subprocess.run(client, capture_output=True, text=True, check=True, timeout=PATIENCE)
            assert json.loads(done.stdout)[0].startswith("internet ")
            process.terminate()
            assert process.communicate(timeout=PATIENCE)[1] == ""
        assert around.output("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    finally:
        around.configure("echo 0 >/proc/sys/net/ipv4/ip_forward")


def ports_of_bridge(around: RootStandIn) -> list[str]:
    """Return the names of the ports of the bridge; none without the bridge."""
    if "sandbox0" not in around.output("ip", "-br", "link"):
        return []
    return [
        line.split()[0]
        for line in around.output("ip", "-br", "link", "show", "master", "sandbox0").splitlines()
    ]


def test_the_next_command_removes_what_a_killed_supervisor_left(root: Launcher, around: RootStandIn) -> None:
    before = around.state()
    with running(root, PRIVATE, name="killed.toml") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        wait_for(lambda: not ports_of_bridge(around), "the end of the port")
    left = around.state()
    assert left["forwarding"] == "1\n"
    assert "sandbox0" in left["links"]
    assert "table inet sandbox" in left["rules"]
    assert sandbox(root, "prune").status == 0
    assert around.state() == before
    assert not (root.run / "bridges").exists()


def test_the_next_start_replaces_what_a_killed_supervisor_left(root: Launcher, around: RootStandIn) -> None:
    with running(root, PRIVATE, name="kept.toml"):
        with running(root, PRIVATE, name="killed.toml") as process:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)
            wait_for(lambda: len(ports_of_bridge(around)) == 1, "the end of the port")
        with running(root, PRIVATE, name="next.toml"):
            assert len(ports_of_bridge(around)) == 2
            record = json.loads(next((root.run / "bridges").glob("*/record.json")).read_text())
            assert [one["address"] for one in record["ports"]] == [FIRST, SECOND_SANDBOX]
        (answer,) = answers(root, PRIVATE, f"tcp {INTERNET} 8000").values()
        assert answer.startswith("internet ")


def test_a_command_in_another_pid_namespace_leaves_the_bridge_alone(
    root: Launcher, around: RootStandIn
) -> None:
    with running(root, PRIVATE, name="running.toml"):
        prefix = root.prefix
        root.prefix = (*prefix, "unshare", "--pid", "--fork", "--mount-proc")
        assert sandbox(root, "prune").status == 0
        done = root.up(PRIVATE, ["true"])
        assert "an interface sandbox0 already" in done.err
        root.prefix = prefix
        assert len(ports_of_bridge(around)) == 1
        assert [*answers(root, PRIVATE, f"tcp {INTERNET} 8000").values()] == [f"internet {HOST}"]


def test_sandboxes_that_start_and_end_at_once_have_addresses_of_their_own(
    root: Launcher, around: RootStandIn
) -> None:
    script = f"{CLIENT}\nimport time; time.sleep(1)\n"
    arguments = [
        root.arguments(root.write(PRIVATE, f"{number}.toml"), [PYTHON, "-c", script, f"tcp {INTERNET} 8000"])
        for number in range(6)
    ]

    def run(words: list[str]) -> str:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=PATIENCE, env=root.environ
        )
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)[0].split()[0])

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(run, arguments)) == ["internet"] * 6
    with ExitStack() as stack:
        for number in range(3):
            stack.enter_context(running(root, PRIVATE, name=f"{number}.toml"))
        record = json.loads(next((root.run / "bridges").glob("*/record.json")).read_text())
        assert len({one["address"] for one in record["ports"]}) == 3
    assert not (root.run / "bridges").exists()


@pytest.mark.parametrize(
    ("make", "remove", "message"),
    [
        ("ip link add sandbox0 type bridge", "ip link del sandbox0", "an interface sandbox0 already"),
        (
            "nft add table inet sandbox",
            "nft delete table inet sandbox",
            "a table inet sandbox of nftables already",
        ),
    ],
)
def test_a_bridge_or_table_of_others_is_left_alone(
    root: Launcher, around: RootStandIn, make: str, remove: str, message: str
) -> None:
    around.configure(make)
    try:
        before = around.state()
        done = root.up(PRIVATE, ["true"])
        assert done.status == 125
        assert message in done.err
        assert remove.replace("del ", "delete ") in done.err
        assert around.state() == before
    finally:
        around.configure(remove)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("nft delete table inet sandbox", "rules of the nftables table inet sandbox were removed by others"),
        (
            "nft flush chain inet sandbox input",
            "rules of the nftables table inet sandbox were removed by others",
        ),
        ("ip link del sandbox0", "the bridge sandbox0, or the sandbox's port of it, was removed by others"),
    ],
)
def test_a_sandbox_stops_if_others_remove_what_closes_the_machine(
    root: Launcher, around: RootStandIn, script: str, message: str
) -> None:
    with running(root, PRIVATE) as process:
        around.configure(script)
        assert process.wait(PATIENCE) == 125
        assert process.stderr is not None
        assert message in process.stderr.read()


def test_a_sandbox_that_is_configured_so_restarts_with_a_new_table(
    root: Launcher, around: RootStandIn
) -> None:
    program = ["sh", "-c", f"echo ready; sleep 1; exec {PYTHON} -c '{CLIENT}' 'tcp {INTERNET} 8000'"]
    with running(root, PRIVATE + 'on_failure = "restart"\n', *program) as process:
        around.configure("nft flush chain inet sandbox postrouting")
        assert first_line(process) == "ready"
        assert json.loads(first_line(process)) == [f"internet {HOST}"]


def test_a_network_of_several_sandboxes_reaches_other_machines_by_the_bridge(
    root: Launcher, around: RootStandIn
) -> None:
    spec = PRIVATE + 'networks = ["backend"]\n[networks.backend]\n'
    with running(root, '[sandbox]\nname = "first"\n' + spec, name="first.toml"):
        found = answers(
            root, '[sandbox]\nname = "second"\n' + spec, f"tcp {INTERNET} 8000", f"tcp {HOST} 8000"
        )
        assert [answer.split()[0] for answer in found.values()] == ["internet", "ConnectionRefusedError"]
        assert len(ports_of_bridge(around)) == 1


def test_a_network_is_connected_again_after_its_supervisor_was_killed(
    root: Launcher, around: RootStandIn
) -> None:
    spec = PRIVATE + 'networks = ["backend"]\n[networks.backend]\n'
    script = f"import sys\n{CLIENT.replace('sys.argv[1:]', repr([f'tcp {INTERNET} 8000']))}"
    waiting = f"import os, time\nprint('ready', flush=True)\nwhile not os.path.exists('/now'): time.sleep(0.02)\n{script}"
    shared = root.directory / "now"
    shared.mkdir()
    volume = f'[[volumes]]\ntype = "bind"\nsource = "{shared}"\ntarget = "/mnt"\n'
    waiting = waiting.replace("/now", "/mnt/now")
    with (
        running(root, '[sandbox]\nname = "first"\n' + spec, name="first.toml") as first,
        running(
            root, '[sandbox]\nname = "second"\n' + spec + volume, PYTHON, "-c", waiting, name="second.toml"
        ) as second,
    ):
        (old,) = ports_of_bridge(around)
        os.kill(first.pid, signal.SIGKILL)
        first.wait(PATIENCE)
        assert sandbox(root, "prune").status == 0
        wait_for(lambda: len(ports_of_bridge(around)) == 1 and ports_of_bridge(around) != [old], "a new port")
        (shared / "now").touch()
        assert json.loads(first_line(second))[0].startswith("internet ")


def test_a_start_that_fails_leaves_nothing(root: Launcher) -> None:
    """The fixture compares the state of the machine."""
    assert root.up(PRIVATE, ["/no/such/program"]).status == 127
    assert not (root.run / "bridges").exists()
    assert "sandbox0" not in {name for _, name in socket.if_nameindex()}  # of the machine that runs the tests

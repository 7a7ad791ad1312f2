"""network.mode = "private": what the program reaches, and what reaches it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, Outcome, alive, children, sandbox, wait_for
from tests.support import networks
from tests.support.networks import CLIENT, HOST, INTERNET, INTERNET6, PYTHON, SECOND, SECOND6, StandIn

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.pasta, pytest.mark.twice]

PRIVATE = '[root]\nlayers = ["dir:/"]\n[ids]\nmap = "single"\n[network]\nmode = "private"\n'


@pytest.fixture(scope="module")
def around() -> Iterator[StandIn]:
    with (
        networks.stand_in() as made,
        made.server(made.host, "host", "::", 8000),
        made.server(made.host, "loopback", "127.0.0.1", 5432),
        made.server(made.host, "loopback6", "::1", 5432),
        made.server(made.internet, "internet", "::", 8000),
    ):
        yield made


def up(launcher: Launcher, around: StandIn, spec: str, *command: str) -> Outcome:
    """Run a sandbox on the stand-in for the host."""
    arguments = around.in_host(*launcher.arguments(spec, command))
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PATIENCE, check=False, env=launcher.environ
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def answers(launcher: Launcher, around: StandIn, spec: str, *requests: str) -> list[str]:
    """Return the answers that a program in a sandbox gets."""
    done = up(launcher, around, spec, PYTHON, "-c", CLIENT, *requests)
    assert done.status == 0, done.err
    found: list[str] = json.loads(done.out)
    return found


def test_the_program_reaches_other_machines(launcher: Launcher, around: StandIn) -> None:
    requests = [f"{kind} {address} 8000" for kind in ("tcp", "udp") for address in (INTERNET, INTERNET6)]
    found = answers(launcher, around, PRIVATE, *requests)
    assert [answer.split()[0] for answer in found] == ["internet"] * 4


def test_no_address_of_the_host_answers(launcher: Launcher, around: StandIn) -> None:
    link_local = around.link_local_addresses()
    addresses = ["127.0.0.1", "::1", HOST, SECOND, networks.HOST6, SECOND6, *link_local, "0.0.0.0", "::"]
    requests = [
        f"{kind} {address} 8000{device}"
        for kind in ("tcp", "udp")
        for address in addresses
        for device in ("", " eth0")
    ]
    found = dict(zip(requests, answers(launcher, around, PRIVATE, *requests), strict=True))
    assert not {request: answer for request, answer in found.items() if "host" in answer}


#: Joins a multicast group, prints the first datagram, and answers it.
_JOIN = """
import socket
one = socket.socket(type=socket.SOCK_DGRAM)
one.bind(("0.0.0.0", 5353))
one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + socket.inet_aton("%s"))
print("ready", flush=True)
data, client = one.recvfrom(100)
one.sendto(b"host", client)
print(data.decode(), flush=True)
"""
#: Sends a datagram to the group, and prints the answer, or the name of the error.
_ASK = """
import socket
one = socket.socket(type=socket.SOCK_DGRAM)
one.settimeout(0.5)
one.sendto(b"question", ("224.0.0.251", 5353))
try:
    print(one.recv(100))
except OSError as error:
    print(type(error).__name__)
"""


def test_services_of_the_host_answer_no_multicast(launcher: Launcher, around: StandIn) -> None:
    command = around.in_host(PYTHON, "-c", _JOIN % HOST)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline() == "ready\n"
            done = up(launcher, around, PRIVATE, PYTHON, "-c", _ASK)
            assert service.stdout.readline() == "question\n"
        finally:
            service.kill()
    assert done.out == "TimeoutError\n"


def test_an_address_that_the_host_gets_later_does_not_answer_either(
    launcher: Launcher, around: StandIn
) -> None:
    script = "import sys\n" + CLIENT.replace("sys.argv[1:]", "['tcp 10.99.0.2 8000', 'tcp fd99::2 8000']")
    waiting = f"print('ready', flush=True); input()\n{script}"
    arguments = around.in_host(*launcher.arguments(PRIVATE, [PYTHON, "-c", waiting]))
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=launcher.environ
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        around.configure(
            "ip address add 10.99.0.2/24 dev second0; ip address add fd99::2/64 dev second0 nodad"
        )
        try:
            time.sleep(0.2)  # the supervisor follows the changes of addresses while the program runs
            out, _ = process.communicate("\n", timeout=PATIENCE)
        finally:
            around.configure("ip address del 10.99.0.2/24 dev second0; ip address del fd99::2/64 dev second0")
    assert json.loads(out) == ["ConnectionRefusedError", "ConnectionRefusedError"]


def test_only_the_named_services_of_the_host_answer_and_at_their_own_place(
    launcher: Launcher, around: StandIn
) -> None:
    spec = PRIVATE + 'host_access = ["127.0.0.1:5432", "127.0.0.1:5432/udp"]\n'
    requests = [
        "tcp 127.0.0.1 5432",
        "udp 127.0.0.1 5432",
        "tcp ::1 5432",
        "tcp 127.0.0.1 8000",
        f"tcp {HOST} 5432",
        f"tcp {SECOND} 8000",
    ]
    found = dict(zip(requests, answers(launcher, around, spec, *requests), strict=True))
    assert found.pop("tcp 127.0.0.1 5432").split()[0] == "loopback"
    assert found.pop("udp 127.0.0.1 5432").split()[0] == "loopback"
    assert not [answer for answer in found.values() if "loopback" in answer or "host" in answer]


#: Serves each port of its arguments on all addresses, but 81 on the loopback interface only.
_SERVE = """
import socket, sys, threading
def serve(port):
    place = ("127.0.0.1" if port == 81 else "0.0.0.0", port)
    stream, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    stream.bind(place); stream.listen(); datagram.bind(place)
    def echo():
        while True:
            _, client = datagram.recvfrom(100)
            datagram.sendto(f"sandbox {port}".encode(), client)
    threading.Thread(target=echo, daemon=True).start()
    while True:
        connection, client = stream.accept()
        connection.sendall(f"sandbox {port} {client[0]}".encode())
        connection.close()
for number in map(int, sys.argv[1:]):
    threading.Thread(target=serve, args=(number,), daemon=True).start()
import time
time.sleep(0.2)
print("ready", flush=True)
input()
"""


@contextmanager
def serving(
    launcher: Launcher, around: StandIn | None, spec: str, *ports: int
) -> Iterator[subprocess.Popen[str]]:
    """Run a sandbox that serves *ports*, which it may although it is not root there."""
    arguments = launcher.arguments(spec, [PYTHON, "-c", _SERVE, *map(str, ports)])
    if around is not None:
        arguments = around.in_host(*arguments)
    with subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=launcher.environ,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            if process.poll() is None:
                process.communicate("\n", timeout=PATIENCE)


def from_host(around: StandIn, *requests: str) -> list[str]:
    """Return the answers that a program on the stand-in for the host gets."""
    command = around.in_host(PYTHON, "-c", CLIENT, *requests)
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    found: list[str] = json.loads(done.stdout)
    return found


def from_internet(around: StandIn, *requests: str) -> list[str]:
    """Return the answers that a program on another machine gets."""
    command = around.in_internet(PYTHON, "-c", CLIENT, *requests)
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    found: list[str] = json.loads(done.stdout)
    return found


def test_published_ports_answer_at_the_given_address_only(launcher: Launcher, around: StandIn) -> None:
    ports = (
        f'["8080:80", "0.0.0.0:8081:80", "8082:82/udp", "9000-9002:9000-9002", "{SECOND}:8083:80", "8084:81"]'
    )
    with serving(launcher, around, f"{PRIVATE}ports = {ports}\n", 80, 81, 82, 9000, 9001, 9002):
        requests = {
            "tcp 127.0.0.1 8080": "sandbox 80",
            f"tcp {HOST} 8080": "ConnectionRefusedError",
            "udp 127.0.0.1 8080": "ConnectionRefusedError",
            "tcp 127.0.0.1 8081": "sandbox 80",
            f"tcp {HOST} 8081": "sandbox 80",
            "udp 127.0.0.1 8082": "sandbox 82",
            "tcp 127.0.0.1 8082": "ConnectionRefusedError",
            "tcp 127.0.0.1 9000": "sandbox 9000",
            "tcp 127.0.0.1 9002": "sandbox 9002",
            "tcp 127.0.0.1 9003": "ConnectionRefusedError",
            "tcp 127.0.0.1 8083": "ConnectionRefusedError",
        }
        found = from_host(around, *requests, "tcp 127.0.0.1 8084")
        assert [" ".join(answer.split()[:2]) for answer in found[:-1]] == list(requests.values())
        # It listens on the loopback interface of the sandbox only.
        assert "sandbox" not in found[-1]
        requests = {
            f"tcp {HOST} 8081": f"sandbox 80 {INTERNET}",  # the program sees the address of the client
            f"tcp {SECOND} 8081": f"sandbox 80 {INTERNET}",
            f"tcp {SECOND} 8083": f"sandbox 80 {INTERNET}",
            f"tcp {HOST} 8083": "ConnectionRefusedError",
            f"tcp {HOST} 8080": "ConnectionRefusedError",
        }
        assert from_internet(around, *requests) == list(requests.values())


def test_the_assigned_port_of_port_0_is_printed(launcher: Launcher, around: StandIn) -> None:
    spec = '[sandbox]\nname = "web"\n' + PRIVATE + 'ports = ["0:80", "127.0.0.1:9100:90"]\n'
    with serving(launcher, around, spec, 80, 90):
        lines = sandbox(launcher, "port", "web").out.splitlines()
        assert lines[1] == "90/tcp -> 127.0.0.1:9100"
        place = sandbox(launcher, "port", "web", "80").out.strip()
        assert lines[0] == f"80/tcp -> {place}"
        assert from_host(around, f"tcp {place.replace(':', ' ')}")[0].startswith("sandbox 80 ")
        rows = json.loads(sandbox(launcher, "port", "--json", "web").out)["ports"]
        assert [(row["sandbox"], row["protocol"]) for row in rows] == [(80, "tcp"), (90, "tcp")]
    assert "no sandbox web is running" in sandbox(launcher, "port", "web").err


def test_a_port_in_use_is_an_error_that_names_its_sandbox_or_process(
    launcher: Launcher, around: StandIn
) -> None:
    spec = '[sandbox]\nname = "web"\n' + PRIVATE + 'ports = ["8090:80"]\n'
    with serving(launcher, around, spec, 80):
        done = up(launcher, around, PRIVATE + 'ports = ["8090:80"]\n', "true")
        assert (done.status, done.out) == (125, "")
        assert "port 8090/tcp of 127.0.0.1 is in use by the sandbox web" in done.err
    done = up(launcher, around, PRIVATE + 'ports = ["8000:80"]\n', "true")
    assert done.status == 125
    assert "is in use by python3 (pid " in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen on every port of its stand-in for a host")
def test_the_error_for_a_low_port_names_the_setting_of_the_kernel(
    launcher: Launcher, around: StandIn
) -> None:
    done = up(launcher, around, PRIVATE + 'ports = ["80:80"]\n', "true")
    assert done.status == 125
    assert "an ordinary user may not listen on port 80/tcp of 127.0.0.1" in done.err
    assert "sysctl net.ipv4.ip_unprivileged_port_start=80 (it is 1024)" in done.err


def test_an_address_of_another_machine_is_an_error(launcher: Launcher, around: StandIn) -> None:
    done = up(launcher, around, PRIVATE + 'ports = ["10.1.2.3:8080:80"]\n', "true")
    assert done.status == 125
    assert "10.1.2.3 is not an address of this machine" in done.err


def test_names_are_found_by_the_configured_servers_and_files(launcher: Launcher, around: StandIn) -> None:
    spec = (
        '[sandbox]\nname = "box"\n'
        + PRIVATE
        + 'dns = ["192.0.2.53", "fd00::53"]\nsearch = ["example.org", "lan"]\nhosts = { db = "10.0.0.2" }\n'
    )
    script = "cat /etc/resolv.conf; cat /etc/hosts; echo x >>/etc/resolv.conf; echo x >>/etc/hosts"
    done = up(launcher, around, spec, "sh", "-c", script)
    servers = "nameserver 192.0.2.53\nnameserver fd00::53\nsearch example.org lan\n"
    assert done.out.replace("options edns0 trust-ad\n", "").startswith(servers)
    assert ["10.0.0.2", "db"] in [line.split() for line in done.out.splitlines()]
    assert ["127.0.1.1", "box"] in [line.split() for line in done.out.splitlines()]
    assert done.err.count("Read-only file system") == 2


def test_without_default_routes_the_sandbox_starts_and_reports_it(launcher: Launcher) -> None:
    spec = PRIVATE + 'host_access = ["127.0.0.1:5432"]\n'
    with (
        networks.stand_in(routes=False) as alone,
        alone.server(alone.host, "loopback", "127.0.0.1", 5432),
    ):
        done = up(launcher, alone, spec, PYTHON, "-c", CLIENT, "tcp 127.0.0.1 5432", f"tcp {INTERNET} 8000")
    assert json.loads(done.out)[0].startswith("loopback ")
    assert "internet" not in json.loads(done.out)[1]
    assert "this machine has no default route, so the sandbox reaches no other machine" in done.err


@pytest.mark.skipif(
    os.geteuid() == 0, reason="root would make its bridge on this machine: see test_root_network.py"
)
def test_this_machine_itself_reaches_a_published_port(launcher: Launcher) -> None:
    """Without a stand-in for the host, the launcher is in the network namespace of this machine."""
    spec = '[sandbox]\nname = "web"\n' + HOST_ROOT + '[network]\nmode = "private"\nports = ["0:80"]\n'
    with serving(launcher, None, spec, 80):
        place = sandbox(launcher, "port", "web", "80").out.strip()
        with socket.create_connection((place.partition(":")[0], int(place.partition(":")[2]))) as connection:
            assert connection.recv(100).startswith(b"sandbox 80 ")


def child_of(process: subprocess.Popen[str], name: str) -> int:
    """Return the pid of the descendant of *process* with the command name *name*."""
    pending = [process.pid]
    while pending:
        pid = pending.pop()
        if Path(f"/proc/{pid}/comm").read_text().startswith(name):
            return pid
        pending += children(pid)
    raise AssertionError(f"no process {name}")


def test_the_end_of_pasta_stops_the_sandbox_with_one_warning(launcher: Launcher, around: StandIn) -> None:
    with serving(launcher, around, PRIVATE + 'ports = ["8080:80"]\n', 80) as process:
        os.kill(child_of(process, "pasta"), signal.SIGKILL)
        assert process.stderr is not None
        assert process.wait(PATIENCE) == 125
        assert (
            process.stderr.read()
            == "sandbox: warning: network: pasta, which connects the network, ended unexpectedly\n"
        )


def test_the_end_of_pasta_restarts_a_sandbox_that_is_configured_so(
    launcher: Launcher, around: StandIn
) -> None:
    spec = PRIVATE + 'ports = ["8080:80"]\non_failure = "restart"\n'
    with serving(launcher, around, spec, 80) as process:
        os.kill(child_of(process, "pasta"), signal.SIGKILL)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert from_host(around, "tcp 127.0.0.1 8080")[0].startswith("sandbox 80 ")


@pytest.mark.parametrize("network", ['mode = "private"', f'egress = {{ allow = ["{INTERNET}:8000"] }}'])
def test_a_sandbox_that_shares_processes_ends_as_its_program_does(
    launcher: Launcher, around: StandIn, network: str
) -> None:
    """What the program leaves is ended with the sandbox; the processes that connect the network are not part of it."""
    spec = PRIVATE.replace('mode = "private"', network) + '[namespaces]\npid = "host"\n'
    assert answers(launcher, around, spec, f"tcp {INTERNET} 8000")[0].startswith("internet ")


@pytest.mark.parametrize("network", ['mode = "private"', "egress = {}"])
def test_a_signal_of_the_terminal_leaves_the_network_to_a_program_that_catches_it(
    launcher: Launcher, around: StandIn, network: str
) -> None:
    spec = PRIVATE.replace('mode = "private"', network) + 'ports = ["8080:80"]\n'
    program = (
        f"import os, signal\nsignal.signal(signal.SIGINT, lambda *_: os.write(1, b'caught\\n'))\n{_SERVE}"
    )
    arguments = around.in_host(*launcher.arguments(spec, [PYTHON, "-c", program, "80"]))
    with subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=launcher.environ,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)  # as ctrl-C sends it
        assert process.stdout.readline() == "caught\n"
        assert from_host(around, "tcp 127.0.0.1 8080")[0].startswith("sandbox 80 ")
        process.communicate("\n", timeout=PATIENCE)
        assert process.returncode == 0


@pytest.mark.parametrize("victim", ["supervisor", "pasta", "sandbox-init"])
def test_a_kill_leaves_no_process_and_frees_the_port(
    launcher: Launcher, around: StandIn, victim: str
) -> None:
    with serving(launcher, around, PRIVATE + 'ports = ["8080:80"]\n', 80) as process:
        pasta = child_of(process, "pasta")
        target = process.pid if victim == "supervisor" else child_of(process, victim)
        os.kill(target, signal.SIGKILL)
        process.wait(PATIENCE)
        wait_for(lambda: not alive(pasta), "the end of pasta")
        assert from_host(around, "tcp 127.0.0.1 8080") == ["ConnectionRefusedError"]

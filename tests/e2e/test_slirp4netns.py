"""network.mode = "private" where pasta is not installed: slirp4netns connects the sandbox, beside a gate of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, alive, sandbox, wait_for
from tests.e2e.test_private_network import PRIVATE, answers, child_of, from_host, from_internet, serving, up
from tests.support import networks
from tests.support.networks import CLIENT, HOST, HOST6, INTERNET, INTERNET6, PYTHON, SECOND, SECOND6, StandIn

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.slirp4netns, pytest.mark.twice]

#: The addresses of slirp4netns(1) in the network that it makes: the gateway, which can stand for the host, and the name server.
GATEWAY, NAME_SERVER = "10.0.2.2", "10.0.2.3"

#: The processes of such a network.
OURS = ("slirp4netns", "sandbox-net", "sandbox-sockets")

#: A DNS server at the address of its first argument: every name with "known" in it has the address of the second one.
_DNS_SERVER = """
import socket, sys
one = socket.socket(type=socket.SOCK_DGRAM)
one.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    query, client = one.recvfrom(2000)
    end = query.index(b"\\0", 12) + 5
    known = b"known" in query[:end] and query[end - 3] == 1
    header = query[:2] + (b"\\x81\\x80" if b"known" in query[:end] else b"\\x81\\x83") + b"\\0\\1\\0" + bytes((known,)) + bytes(4)
    found = b"\\xc0\\x0c\\0\\1\\0\\1" + bytes((0, 0, 0, 9, 0, 4)) + socket.inet_aton(sys.argv[2]) if known else b""
    one.sendto(header + query[12:end] + found, client)
"""


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """Return a stand-in for a host without pasta, whose only name server is at its loopback interface."""
    resolv_conf = tmp_path_factory.mktemp("etc") / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    with (
        networks.stand_in(mounts=True) as made,
        made.server(made.host, "host", "0.0.0.0", 8000),
        made.server(made.host, "host6", "::1", 8000),
        made.server(made.host, "loopback", "127.0.0.1", 5432),
        made.server(made.host, "loopback6", "::1", 5432),
        made.server(made.internet, "internet", "::", 8000),
    ):
        if Path("/usr/bin/pasta").exists():
            made.cover("/usr/bin/pasta", "/dev/null")
        made.cover("/etc/resolv.conf", str(resolv_conf))
        yield made


@contextmanager
def name_server(command: Sequence[str], address: str, answer: str) -> Iterator[None]:
    """Run a DNS server by *command*, which enters a stand-in; it answers with the address *answer*."""
    words = [*command, PYTHON, "-c", _DNS_SERVER, address, answer]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def test_the_program_reaches_other_machines_over_ipv4_only(launcher: Launcher, around: StandIn) -> None:
    requests = [f"{kind} {address} 8000" for kind in ("tcp", "udp") for address in (INTERNET, INTERNET6)]
    found = answers(launcher, around, PRIVATE, *requests)
    unreachable = "Network is unreachable"
    assert found == [found[0], unreachable, "internet", unreachable]
    assert found[0].split()[0] == "internet"


@pytest.mark.root
def test_root_of_the_machine_publishes_a_port(launcher: Launcher) -> None:
    """slirp4netns is not root of the machine then, but the root of the sandbox."""
    script = 'for hidden in /usr/bin/pasta /usr/sbin/nft; do mount --bind /dev/null $hidden; done; exec "$@"'
    launcher.prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    spec = '[sandbox]\nname = "web"\n' + HOST_ROOT + '[network]\nmode = "private"\nports = ["0:80"]\n'
    with serving(launcher, None, spec, 80) as process:
        place = sandbox(launcher, "port", "web", "80").out.strip()
        with socket.create_connection((place.partition(":")[0], int(place.partition(":")[2]))) as connection:
            assert connection.recv(100).startswith(b"sandbox 80 ")
        status = Path(f"/proc/{child_of(process, 'slirp4netns')}/status").read_text()
        assert "\nUid:\t0" not in status
        assert "\nGroups:\t \n" in status


def test_no_address_of_the_host_answers(launcher: Launcher, around: StandIn) -> None:
    addresses = [
        *("127.0.0.1", "127.0.0.2", "::1", HOST, SECOND, HOST6, SECOND6, "0.0.0.0", "::"),
        *(
            GATEWAY,
            NAME_SERVER,
            "169.254.169.254",
            "192.0.0.1",
            "169.254.1.1",
            *around.link_local_addresses(),
        ),
    ]
    requests = [
        f"{kind} {address} {port}{device}"
        for kind in ("tcp", "udp")
        for address in addresses
        for port in (8000, 5432)
        for device in ("", " eth0", " host0")
    ]
    # The host itself answers at each of its addresses.
    assert all("host" in answer for answer in from_host(around, f"tcp {HOST} 8000", f"udp {SECOND} 8000"))
    found = dict(zip(requests, answers(launcher, around, PRIVATE, *requests), strict=True))
    assert not {one: answer for one, answer in found.items() if "host" in answer or "loopback" in answer}
    # An address of the host is one of the sandbox, which refuses the connection at once.
    assert found[f"tcp {SECOND} 8000 eth0"] == "ConnectionRefusedError"


def test_an_address_that_the_host_gets_later_does_not_answer_either(
    launcher: Launcher, around: StandIn
) -> None:
    script = CLIENT.replace("sys.argv[1:]", "['tcp 10.99.0.2 8000', 'tcp 10.99.0.2 8000 eth0']")
    waiting = f"print('ready', flush=True); input()\n{script}"
    arguments = around.in_host(*launcher.arguments(PRIVATE, [PYTHON, "-c", waiting]))
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=launcher.environ
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        around.configure("ip address add 10.99.0.2/24 dev second0")
        try:
            time.sleep(0.2)  # the supervisor follows the changes of addresses while the program runs
            out, _ = process.communicate("\n", timeout=PATIENCE)
        finally:
            around.configure("ip address del 10.99.0.2/24 dev second0")
    assert json.loads(out) == ["ConnectionRefusedError"] * 2


def test_published_ports_show_the_address_of_the_client(launcher: Launcher, around: StandIn) -> None:
    ports = (
        f'["8080:80", "0.0.0.0:8081:80", "8082:82/udp", "9000-9001:9000-9001", "{SECOND}:8083:80", "8084:81"]'
    )
    with serving(launcher, around, f"{PRIVATE}ports = {ports}\n", 80, 81, 82, 9000, 9001):
        requests = {
            "tcp 127.0.0.1 8080": "sandbox 80",
            f"tcp {HOST} 8080": "ConnectionRefusedError",
            "tcp 127.0.0.1 8081": "sandbox 80",
            f"tcp {HOST} 8081": "sandbox 80",
            "udp 127.0.0.1 8082": "sandbox 82",
            "tcp 127.0.0.1 9001": "sandbox 9001",
            "tcp 127.0.0.1 8083": "ConnectionRefusedError",
        }
        found = from_host(around, *requests, "tcp 127.0.0.1 8084")
        assert [" ".join(answer.split()[:2]) for answer in found[:-1]] == list(requests.values())
        assert "sandbox" not in found[-1]  # it listens on the loopback interface of the sandbox only
        requests = {
            f"tcp {HOST} 8081": f"sandbox 80 {INTERNET}",
            f"tcp {SECOND} 8083": f"sandbox 80 {INTERNET}",
            f"tcp {HOST} 8080": "ConnectionRefusedError",
        }
        assert from_internet(around, *requests) == list(requests.values())


def test_a_client_of_a_port_does_not_hide_itself_as_a_destination(
    launcher: Launcher, around: StandIn
) -> None:
    """Answers to a client go back through the gate; connections of the program to the same machine go through slirp4netns."""
    script = (
        "import socket\none = socket.create_server(('0.0.0.0', 80))\nprint('ready', flush=True)\n"
        f"client, address = one.accept()\nother = socket.create_connection(('{INTERNET}', 8000), 5)\n"
        "client.sendall(address[0].encode() + b' ' + other.recv(100)); client.close()\n"
    )
    spec = PRIVATE + 'ports = ["0.0.0.0:8081:80"]\n'
    arguments = around.in_host(*launcher.arguments(spec, [PYTHON, "-c", script]))
    with subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=launcher.environ
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert from_internet(around, f"tcp {HOST} 8081") == [f"{INTERNET} internet ::ffff:{HOST}"]
        assert process.wait(PATIENCE) == 0


def test_only_the_named_services_of_the_host_answer(launcher: Launcher, around: StandIn) -> None:
    spec = PRIVATE + 'host_access = ["127.0.0.1:5432", "127.0.0.1:5432/udp"]\n'
    requests = [
        "tcp 127.0.0.1 5432",
        "udp 127.0.0.1 5432",
        "tcp ::1 5432",
        "tcp 127.0.0.1 8000",
        f"tcp {HOST} 5432",
        f"tcp {GATEWAY} 5432",
        f"tcp {SECOND} 8000",
    ]
    found = dict(zip(requests, answers(launcher, around, spec, *requests), strict=True))
    assert found.pop("tcp 127.0.0.1 5432").split()[0] == "loopback"
    assert found.pop("udp 127.0.0.1 5432").split()[0] == "loopback"
    assert not [answer for answer in found.values() if "loopback" in answer or "host" in answer]


_LOOKUP = """
import json, socket, sys
def find(name):
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        return type(error).__name__
print(json.dumps([find(name) for name in sys.argv[1:]]))
"""


def test_names_are_found_by_the_name_server_of_the_host(launcher: Launcher, around: StandIn) -> None:
    command = around.in_host("--keep-caps")
    with name_server(command, "127.0.0.1", INTERNET):
        done = up(launcher, around, PRIVATE, PYTHON, "-c", _LOOKUP, "known.test", "other.test")
        assert (done.status, done.err) == (0, "")
        assert json.loads(done.out) == [INTERNET, "gaierror"]
        # The name server itself is on the loopback interface of the host, which does not answer.
        requests = ["udp 127.0.0.1 53", f"udp {NAME_SERVER} 53", f"udp {GATEWAY} 53"]
        assert not [one for one in answers(launcher, around, PRIVATE, *requests) if "Error" not in one]


def test_names_are_found_by_the_servers_of_the_file(launcher: Launcher, around: StandIn) -> None:
    spec = PRIVATE + f'dns = ["{INTERNET}"]\nsearch = ["example.org"]\n'
    script = f"import sys\n{_LOOKUP}\nprint(open('/etc/resolv.conf').read())"
    command = [*around.in_internet("--keep-caps")]
    with name_server(command, INTERNET, SECOND):
        done = up(launcher, around, spec, PYTHON, "-c", script, "known.test", "known")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert json.loads(lines[0]) == [SECOND, SECOND]
    assert lines[1:3] == [f"nameserver {INTERNET}", "search example.org"]


def test_without_a_default_route_the_sandbox_starts_and_reports_it(launcher: Launcher) -> None:
    spec = PRIVATE + 'host_access = ["127.0.0.1:5432"]\n'
    with (
        networks.stand_in(routes=False, mounts=True) as alone,
        alone.server(alone.host, "loopback", "127.0.0.1", 5432),
    ):
        if Path("/usr/bin/pasta").exists():
            alone.cover("/usr/bin/pasta", "/dev/null")
        done = up(launcher, alone, spec, PYTHON, "-c", CLIENT, "tcp 127.0.0.1 5432")
    assert json.loads(done.out)[0].startswith("loopback "), done.err
    assert "this machine has no default route, so the sandbox reaches no other machine" in done.err


@pytest.mark.networks
def test_a_network_of_several_sandboxes_reaches_other_machines(launcher: Launcher, around: StandIn) -> None:
    spec = PRIVATE.replace('mode = "private"\n', 'networks = ["backend"]\n') + "[networks.backend]\n"
    requests = [f"{kind} {address} 8000" for kind in ("tcp", "udp") for address in (INTERNET, HOST, SECOND)]
    found = answers(launcher, around, spec, *requests)
    assert [answer.split()[0] for answer in found if "internet" in answer] == ["internet"] * 2
    assert not [answer for answer in found if "host" in answer]


def test_the_end_of_slirp4netns_stops_the_sandbox_with_one_warning(
    launcher: Launcher, around: StandIn
) -> None:
    with serving(launcher, around, PRIVATE + 'ports = ["8080:80"]\n', 80) as process:
        os.kill(child_of(process, "slirp4netns"), signal.SIGKILL)
        assert process.stderr is not None
        assert process.wait(PATIENCE) == 125
        assert process.stderr.read() == (
            "sandbox: warning: network: slirp4netns, which connects the network, ended unexpectedly\n"
        )


def test_the_end_of_slirp4netns_restarts_a_sandbox_that_is_configured_so(
    launcher: Launcher, around: StandIn
) -> None:
    spec = PRIVATE + 'ports = ["8080:80"]\non_failure = "restart"\n'
    with serving(launcher, around, spec, 80) as process:
        os.kill(child_of(process, "slirp4netns"), signal.SIGKILL)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert from_host(around, "tcp 127.0.0.1 8080")[0].startswith("sandbox 80 ")


def test_slirp4netns_has_no_files_but_those_of_etc(launcher: Launcher, around: StandIn) -> None:
    with serving(launcher, around, PRIVATE + 'ports = ["8080:80"]\n', 80) as process:
        pid = child_of(process, "slirp4netns")
        enter = ("nsenter", f"--user=/proc/{process.pid}/ns/user", "--preserve-credentials", "--keep-caps")
        show = [*enter, "ls", "-A", f"/proc/{pid}/root", f"/proc/{pid}/root/run"]
        done = subprocess.run(show, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.stdout.split() == [f"/proc/{pid}/root:", "etc", "run", f"/proc/{pid}/root/run:"], (
            done.stderr
        )
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 10  # NET_BIND_SERVICE
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"


def test_a_sandbox_that_shares_processes_ends_as_its_program_does(
    launcher: Launcher, around: StandIn
) -> None:
    """What the program leaves is ended with the sandbox; the processes that connect the network are not part of it."""
    spec = PRIVATE + '[namespaces]\npid = "host"\n'
    assert answers(launcher, around, spec, f"tcp {INTERNET} 8000")[0].startswith("internet ")


@pytest.mark.parametrize("victim", ["supervisor", *OURS, "sandbox-init"])
def test_a_kill_leaves_no_process_and_frees_the_port(
    launcher: Launcher, around: StandIn, victim: str
) -> None:
    with serving(launcher, around, PRIVATE + 'ports = ["8080:80"]\n', 80) as process:
        ours = [child_of(process, name) for name in OURS]
        os.kill(process.pid if victim == "supervisor" else child_of(process, victim), signal.SIGKILL)
        process.wait(PATIENCE)
        wait_for(lambda: not any(map(alive, ours)), "the end of the processes")
        assert from_host(around, "tcp 127.0.0.1 8080") == ["ConnectionRefusedError"]


@pytest.mark.networks
def test_doctor_tries_it_and_names_what_it_costs(launcher: Launcher, around: StandIn) -> None:
    command = around.in_host(sys.executable, "-m", "sandbox", "doctor", "--json")
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=launcher.environ
    )
    (found,) = (one for one in json.loads(done.stdout)["checks"] if one["id"] == "network")
    assert found["facts"]["slirp4netns"] == {"path": "/usr/bin/slirp4netns", "problem": None}
    assert found["cost"] == "private networks have no IPv6, and are slower"


def test_explain_and_a_dry_run_name_slirp4netns_and_what_it_lacks(
    launcher: Launcher, around: StandIn
) -> None:
    path = launcher.write(PRIVATE)
    for verb, text in (
        (["explain"], "by slirp4netns, which has no IPv6 and is slower than pasta"),
        (["up", "--dry-run"], "slirp4netns has no IPv6, and is slower than pasta"),
    ):
        command = around.in_host(sys.executable, "-m", "sandbox", *verb, path)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=launcher.environ
        )
        assert done.returncode == 0, done.stderr
        assert text in " ".join(done.stdout.split())

"""network.egress: the program reaches the destinations of the file and no others, and each refusal has its line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.support import PATIENCE, Launcher, Outcome, alive, wait_for
from tests.e2e.test_private_network import PRIVATE as _PRIVATE
from tests.e2e.test_private_network import child_of, from_host, from_internet, serving, up
from tests.support import networks
from tests.support.networks import CLIENT, HOST, INTERNET, INTERNET6, PYTHON, SECOND, StandIn

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.pasta, pytest.mark.twice]

EGRESS = _PRIVATE.replace('mode = "private"\n', "")
NAMES = f'hosts = {{ "good.test" = "{INTERNET}", "a.many.test" = "{INTERNET}", "here.test" = "127.0.0.1" }}\n'


@pytest.fixture(scope="module")
def around() -> Iterator[StandIn]:
    with (
        networks.stand_in() as made,
        made.server(made.host, "host", "::", 8000),
        made.server(made.host, "loopback", "127.0.0.1", 5432),
        made.server(made.internet, "internet", "::", 8000),
        made.server(made.internet, "other", "::", 8001),
    ):
        yield made


def answers(done: Outcome, *requests: str) -> dict[str, str]:
    """Return the answer to each of *requests*: its first word."""
    assert done.status == 0, done.err
    return dict(zip(requests, [answer.split()[0] for answer in json.loads(done.out)], strict=True))


def test_only_allowed_destinations_answer_and_others_are_refused_with_the_line_to_add(
    launcher: Launcher, around: StandIn
) -> None:
    spec = EGRESS + NAMES + 'egress = { allow = ["good.test:8000", "*.many.test:8001", "here.test:5432"] }\n'
    expected = {
        "tcp good.test 8000": "internet",
        "tcp a.many.test 8001": "other",
        "tcp here.test 5432": "loopback",  # the file pins it there
        "tcp good.test 8001": "ConnectionResetError",
        "tcp good.test 99": "ConnectionRefusedError",
        "tcp bad.test 8000": "gaierror",
        f"tcp {INTERNET} 8000": "ConnectionResetError",
        f"tcp {INTERNET} 99": "ConnectionRefusedError",
        f"udp {INTERNET} 8000": "ConnectionRefusedError",
        f"tcp {INTERNET6} 8000": "Network",  # is unreachable
        "tcp 127.0.0.1 5432": "ConnectionRefusedError",
        f"tcp {HOST} 8000": "ConnectionResetError",
        f"tcp {SECOND} 8000": "ConnectionResetError",
        f"tcp {SECOND} 8000 eth0": "ConnectionResetError",
        "tcp 169.254.169.254 8000": "ConnectionResetError",
    }
    done = up(launcher, around, spec, PYTHON, "-c", CLIENT, *expected)
    assert answers(done, *expected) == expected
    lines = done.err.splitlines()
    added = [
        line.partition("to allow it: network.egress.allow = ")[2]
        for line in lines
        if f"{INTERNET}:8000 was refused" in line
    ]
    assert added == [f'["good.test:8000", "*.many.test:8001", "here.test:5432", "{INTERNET}:8000"]']
    assert [line for line in lines if "bad.test was refused: no rule has this name" in line]
    assert [line for line in lines if f"{INTERNET}:8000/udp was refused" in line]


def test_the_line_of_a_refusal_allows_the_destination(launcher: Launcher, around: StandIn) -> None:
    request = f"tcp {INTERNET} 8000"
    done = up(launcher, around, EGRESS + "egress = {}\n", PYTHON, "-c", CLIENT, request)
    assert answers(done, request) == {request: "ConnectionRefusedError"}
    line = done.err.partition("to allow it: network.egress.allow = ")[2].strip()
    done = up(launcher, around, EGRESS + f"egress = {{ allow = {line} }}\n", PYTHON, "-c", CLIENT, request)
    assert answers(done, request) == {request: "internet"}


def test_an_address_of_a_name_leads_back_to_it(launcher: Launcher, around: StandIn) -> None:
    script = "from socket import *; print(gethostbyaddr(gethostbyname('Good.test.'))[0], gethostbyname('a.many.test'))"
    done = up(
        launcher,
        around,
        EGRESS + NAMES + 'egress = { allow = ["good.test:8000", "*.many.test:8001"] }\n',
        PYTHON,
        "-c",
        script,
    )
    assert (done.status, done.out) == (0, "good.test 198.18.0.2\n"), done.err


@pytest.mark.networks
def test_a_rule_without_a_port_allows_every_port(launcher: Launcher, around: StandIn) -> None:
    spec = EGRESS + NAMES + f'egress = {{ allow = ["good.test", "{INTERNET}"], deny = ["good.test:8001"] }}\n'
    expected = {
        "tcp good.test 8000": "internet",
        "tcp good.test 8001": "ConnectionResetError",
        f"tcp {INTERNET} 8001": "other",
    }
    done = up(launcher, around, spec, PYTHON, "-c", CLIENT, *expected)
    assert answers(done, *expected) == expected


def test_an_empty_list_reaches_only_services_of_the_host_that_the_file_names(
    launcher: Launcher, around: StandIn
) -> None:
    spec = EGRESS + 'egress = { allow = [] }\nhost_access = ["127.0.0.1:5432"]\n'
    expected = {
        "tcp 127.0.0.1 5432": "loopback",
        "udp 127.0.0.1 5432": "ConnectionRefusedError",
        "tcp 127.0.0.1 8000": "ConnectionRefusedError",
        f"tcp {INTERNET} 8000": "ConnectionRefusedError",
        "tcp good.test 8000": "gaierror",
    }
    done = up(launcher, around, spec, PYTHON, "-c", CLIENT, *expected)
    assert answers(done, *expected) == expected


def test_published_ports_work_beside_it_and_show_the_address_of_the_client(
    launcher: Launcher, around: StandIn
) -> None:
    spec = EGRESS + 'egress = {}\nports = ["0.0.0.0:8081:80", "8082:82/udp", "9000-9001:9000-9001"]\n'
    with serving(launcher, around, spec, 80, 82, 9000, 9001):
        assert from_internet(around, f"tcp {HOST} 8081", f"tcp {HOST} 9000") == [
            f"sandbox 80 {INTERNET}",
            "ConnectionRefusedError",
        ]
        found = from_host(around, "tcp 127.0.0.1 8081", "udp 127.0.0.1 8082", "tcp 127.0.0.1 9001")
        assert [" ".join(answer.split()[:2]) for answer in found] == [
            "sandbox 80",
            "sandbox 82",
            "sandbox 9001",
        ]


def test_the_report_counts_refusals(launcher: Launcher, around: StandIn) -> None:
    script = CLIENT + "\nrequest('tcp', '10.1.1.1', 80); request('tcp', '10.1.1.1', 80)"
    command = launcher.arguments(EGRESS + "egress = {}\n", [PYTHON, "-c", script], ["--report", "--json"])
    done = subprocess.run(
        around.in_host(*command),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["refused"] == 2
    assert done.stderr.count("10.1.1.1:80 was refused") == 1


@pytest.mark.parametrize("victim", ["supervisor", "sandbox-net", "sandbox-resolve", "sandbox-sockets"])
def test_a_kill_leaves_no_process_and_frees_the_port(
    launcher: Launcher, around: StandIn, victim: str
) -> None:
    with serving(launcher, around, EGRESS + 'egress = {}\nports = ["8080:80"]\n', 80) as process:
        ours = [child_of(process, name) for name in ("sandbox-net", "sandbox-resolve", "sandbox-sockets")]
        os.kill(process.pid if victim == "supervisor" else child_of(process, victim), signal.SIGKILL)
        status = process.wait(PATIENCE)
        assert status == (-signal.SIGKILL if victim == "supervisor" else 125)
        wait_for(lambda: not any(map(alive, ours)), "the end of the processes")
        assert from_host(around, "tcp 127.0.0.1 8080") == ["ConnectionRefusedError"]
        if victim != "supervisor":
            assert process.stderr is not None
            assert "sandbox-net, which connects the network, " in process.stderr.read()

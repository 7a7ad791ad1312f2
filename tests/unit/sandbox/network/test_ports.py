"""Free ports, and what has those that are not free."""

from __future__ import annotations

import os
import socket

import pytest

from sandbox.errors import SetupError
from sandbox.network.ports import claim, find_listener
from sandbox.spec.values.addresses import Port


def no_sandbox(_port: Port) -> None:
    return None


def listening(family: int, kind: int, address: str) -> socket.socket:
    """Return a socket that has a port; the port below it is free."""
    while True:
        one = socket.socket(family, kind)
        one.bind((address, 0))
        if (
            find_listener("::", one.getsockname()[1] - 1, "tcp" if kind == socket.SOCK_STREAM else "udp")
            is None
        ):
            break
        one.close()
    if kind == socket.SOCK_STREAM:
        one.listen()
    return one


def test_port_0_becomes_a_free_port_that_stays_free() -> None:
    (port,) = claim([Port("127.0.0.1", 0, 80, "tcp")], no_sandbox)
    assert port.host
    assert (port.address, port.sandbox) == ("127.0.0.1", 80)
    assert claim([port], no_sandbox) == (port,)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("family", "address", "wanted"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET, "127.0.0.1", "0.0.0.0"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
)
def test_a_port_in_use_names_the_process(protocol: str, family: int, address: str, wanted: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with listening(family, kind, address) as one:
        number = one.getsockname()[1]
        found = find_listener(wanted, number, protocol)
        assert found is not None
        assert found.pid == os.getpid()
        assert find_listener(wanted, number, "udp" if protocol == "tcp" else "tcp") is None
        port = Port(wanted, number - 1, 80, protocol, 2)  # type: ignore[arg-type]
        with pytest.raises(
            SetupError, match=rf"network\.ports\[0\]: port {number}/{protocol} of .* in use by"
        ):
            claim([port], no_sandbox)


def test_a_port_of_a_sandbox_names_the_sandbox() -> None:
    with listening(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1") as one:
        number = one.getsockname()[1]

        def sandbox_with(port: Port) -> str:
            return f"box-{port.host}"

        with pytest.raises(SetupError, match=f"in use by the sandbox box-{number}"):
            claim([Port("127.0.0.1", number, 80, "tcp")], sandbox_with)


def test_an_address_of_another_machine_has_a_hint() -> None:
    with pytest.raises(SetupError, match=r"192\.0\.2\.77 is not an address of this machine"):
        claim([Port("192.0.2.77", 8080, 80, "tcp")], no_sandbox)

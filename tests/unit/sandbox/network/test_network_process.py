"""How many connections the limit of descriptors permits."""

from __future__ import annotations

import resource

import pytest

from sandbox.network.network_process import _limited
from sandbox.network.request import Forward, NetworkRequest


@pytest.mark.parametrize("listeners", [0, 100, 15000])
@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 1 << 20, 20000])
def test_every_connection_has_its_descriptors_beside_those_of_the_listeners(
    listeners: int, hard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    forwards = tuple(
        Forward(listener=number, protocol="tcp", address="10.0.0.1", port=80, inside=False)
        for number in range(100, 100 + listeners)
    )
    found = _limited(NetworkRequest(control=3, forwards=forwards))
    soft, same = limits[resource.RLIMIT_NOFILE]
    assert same == hard
    assert soft - 1 - listeners - 700 >= 6 * found.most_connections
    assert found.most_connections >= 700
    assert hard == 20000 or found.most_connections == 2000

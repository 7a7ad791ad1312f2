"""Which addresses of clients can be the source of a forwarded connection."""

from __future__ import annotations

import pytest

from sandbox.network.forwards import is_of_host


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (("127.0.0.1", 4000), True),
        (("192.0.2.1", 4000), False),
        (("2001:db8::1", 4000, 0, 0), False),
    ],
)
def test_an_address_of_the_host_is_one_that_can_be_bound(client: tuple[object, ...], expected: bool) -> None:
    assert is_of_host(client) is expected

"""Routes of a network namespace over netlink, compared with ip(8)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

pytestmark = [pytest.mark.userns]

#: Runs in a network namespace of its own.
_SCRIPT = """
import json, socket, subprocess
from sandbox.kernel import links, netlink, network, routes
from sandbox.kernel.routes import Change, Route
network.loopback_up()
run = lambda *words: subprocess.run(["ip", *words], check=True)
run("link", "add", "a0", "type", "veth", "peer", "name", "a1")
run("address", "add", "10.1.0.2/24", "dev", "a0")
run("address", "add", "fd01::2/64", "dev", "a0", "nodad")
run("link", "set", "a0", "up")
run("link", "set", "a1", "up")
run("route", "add", "default", "via", "10.1.0.1")
one, watch = netlink.open_socket(), netlink.open_socket(netlink.ROUTES)
index = links.interface_index(one, "a0")
def wait_for_change(wanted):
    # The kernel also reports the link-local addresses, which it adds after a check for duplicates.
    while wanted not in routes.changes(watch):
        pass
def own_routes():
    return {str(route) for route in routes.local_routes(one) if not str(route).startswith("fe80:")}
before = own_routes()
found = {"local": sorted(before), "default": [str(route) for route in routes.default_routes(one)]}
for family, text in ((socket.AF_INET, "10.9.9.9"), (socket.AF_INET6, "fd09::9")):
    address = socket.inet_pton(family, text)
    route = Route(family, address, len(address) * 8, index)
    assert routes.add_local_route(one, route)
    assert not routes.add_local_route(one, route)
    wait_for_change(Change(route, added=True))
    assert str(route) in {str(other) for other in routes.local_routes(one)}
    routes.remove_local_route(one, route)
    routes.remove_local_route(one, route)
    wait_for_change(Change(route, added=False))
assert own_routes() == before
shown = []
for family in ("-4", "-6"):
    out = subprocess.run(["ip", family, "-o", "route", "show", "table", "local"], capture_output=True, text=True).stdout
    shown += [line.split()[1] for line in out.splitlines() if line.split()[0] in ("local", "anycast") and not line.split()[1].startswith("fe80:")]
found["shown"] = sorted(word if "/" in word else word + ("/128" if ":" in word else "/32") for word in shown)
try:
    links.interface_index(one, "absent")
except OSError as error:
    found["absent"] = error.errno
print(json.dumps(found))
"""


def test_routes_are_those_that_ip_shows() -> None:
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-P", "-c", _SCRIPT]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": PROJECT, "PATH": "/usr/sbin:/usr/bin"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["local"] == found["shown"]
    assert {"10.1.0.2/32", "fd01::2/128", "127.0.0.0/8", "::1/128"} <= set(found["local"])
    assert found["default"] == ["0.0.0.0/0"]
    assert found["absent"] == 19  # ENODEV

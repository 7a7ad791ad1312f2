"""Routing rules and interfaces, as pyroute2 reads them back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

pytestmark = [pytest.mark.userns]

#: Runs in a network namespace of its own.
_SCRIPT = """
import json
from pyroute2 import IPRoute
from sandbox.kernel import links, netlink
from sandbox.kernel.routes import Route
from sandbox.kernel.routing_rules import LOCAL_RULE, Rule, add_rule, remove_rule
one = netlink.open_socket()
def seen():
    with IPRoute() as reader:
        found = []
        for rule in reader.get_rules(family=2):
            kept = {key: rule.get_attr(key) for key in ("FRA_PRIORITY", "FRA_SRC", "FRA_DST", "FRA_IIFNAME", "FRA_IP_PROTO")}
            lengths = [rule["src_len"], rule["dst_len"]]
            found.append([rule["action"], rule["table"], lengths, {key: value for key, value in kept.items() if value}])
        return found
before = seen()
rules = (
    Rule(priority=60, table=254, destination=Route.to("10.89.0.0/24")),
    Rule(priority=61, table=None, source=Route.to("10.89.0.0/24")),
    Rule(priority=62, table=None, interface="m0", protocol=1),
)
assert [add_rule(one, rule) for rule in rules] == [True] * 3
assert not add_rule(one, rules[0])
found = {"rules": [rule for rule in seen() if rule not in before]}
for rule in rules * 2:
    remove_rule(one, rule)
assert seen() == before
remove_rule(one, LOCAL_RULE)
found["local"] = [rule for rule in before if rule not in seen()]
def state():
    with IPRoute() as reader:
        return reader.get_links(ifname="lo")[0]["flags"] & 1
index = links.interface_index(one, "lo")
found["up"] = [state()]
for change in (links.set_up, links.set_down):
    change(one, index)
    found["up"].append(state())
print(json.dumps(found))
"""


def test_rules_and_interfaces_are_as_they_were_configured() -> None:
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
    to_table, prohibit = 1, 8  # FR_ACT_* of linux/fib_rules.h
    assert found["rules"] == [
        [to_table, 254, [0, 24], {"FRA_PRIORITY": 60, "FRA_DST": "10.89.0.0"}],
        [prohibit, 0, [24, 0], {"FRA_PRIORITY": 61, "FRA_SRC": "10.89.0.0"}],
        [prohibit, 0, [0, 0], {"FRA_PRIORITY": 62, "FRA_IIFNAME": "m0", "FRA_IP_PROTO": 1}],
    ]
    assert found["local"] == [[to_table, 255, [0, 0], {}]]
    assert found["up"] == [0, 1, 0]

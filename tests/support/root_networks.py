"""A stand-in for a machine whose root starts sandboxes, and for the Internet behind it, in network namespaces of their own.

Unlike `networks`, these belong to the initial user namespace, so that root is real root there. The machine has a table of nftables
of its own and a bridge with a container, as other engines have them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.networks import HOST, INTERNET, SECOND, StandIn

#: The addresses of the foreign bridge and of the container at it, to whose port 80 the machine forwards its port 8888.
FOREIGN, CONTAINER = "10.66.0.1", "10.66.0.2"

_HOST = f"""
ip link set lo up
ip link add out0 type veth peer name in0 netns $1
ip link add second0 type veth peer name second1
ip address add {HOST}/24 dev out0
ip address add {SECOND}/24 dev second0
ip link set out0 up
ip link set second0 up
ip link set second1 up
ip route add default via {INTERNET} dev out0
echo 0 >/proc/sys/net/ipv4/ip_forward
echo 0 >/proc/sys/net/ipv4/icmp_ratelimit  # a test refuses more datagrams in a second than the kernel reports
ip link add foreign0 type bridge
ip link add port0 type veth peer name eth0 netns $2
ip link set port0 master foreign0 up
ip address add {FOREIGN}/24 dev foreign0
ip link set foreign0 up
nft -f - <<END
table ip foreign {{
  chain prerouting {{
    type nat hook prerouting priority dstnat
    fib daddr type local tcp dport 8888 dnat to {CONTAINER}:80
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept
    oifname "foreign0" counter accept
  }}
}}
END
"""
_INTERNET = f"""
ip link set lo up
ip address add {INTERNET}/24 dev in0
ip link set in0 up
ip route add {CONTAINER} via {HOST}
"""
_CONTAINER = f"""
ip link set lo up
ip address add {CONTAINER}/24 dev eth0
ip link set eth0 up
ip route add default via {FOREIGN}
"""


@dataclass(frozen=True, slots=True)
class RootStandIn(StandIn):
    """The network namespaces, by the processes that keep them: the machine's, the Internet's and the container's."""

    container: int

    def enter(self, pid: int, command: Sequence[str]) -> list[str]:
        """Return the command line that runs *command* in the network namespace of the process *pid*, as root."""
        return _enter(pid, command)

    def configure(self, script: str) -> None:
        """Run the shell script *script* on the stand-in for the machine."""
        _configure(self.host, script)

    def output(self, *command: str) -> str:
        """Return what *command* prints on the stand-in for the machine."""
        return subprocess.run(
            self.in_host(*command), check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def state(self) -> dict[str, str]:
        """Return what a sandbox may not change for longer than it runs."""
        return {
            "links": self.output("ip", "-br", "link"),
            "addresses": self.output("ip", "-br", "address"),
            "routes": self.output("ip", "route"),
            "rules": self.output("nft", "--stateless", "list", "ruleset"),
            "forwarding": self.output("cat", "/proc/sys/net/ipv4/ip_forward"),
        }


def _enter(pid: int, command: Sequence[str]) -> list[str]:
    # Processes of other network namespaces read the settings of their own one in /proc/sys, so that nothing else is needed.
    return ["nsenter", f"--net=/proc/{pid}/ns/net", *command]


def _configure(pid: int, script: str, *arguments: str) -> None:
    subprocess.run(_enter(pid, ("sh", "-ec", script, "sh", *arguments)), check=True, timeout=60)


@contextmanager
def _namespace() -> Iterator[int]:
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE
    ) as keeper:
        try:
            assert keeper.stdout is not None
            keeper.stdout.readline()
            yield keeper.pid
        finally:
            keeper.kill()


@contextmanager
def root_stand_in() -> Iterator[RootStandIn]:
    """Make the stand-ins; they disappear at the end."""
    with _namespace() as host, _namespace() as internet, _namespace() as container:
        _configure(host, _HOST, str(internet), str(container))
        _configure(internet, _INTERNET)
        _configure(container, _CONTAINER)
        yield RootStandIn(host=host, internet=internet, container=container)

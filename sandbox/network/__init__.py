"""Connect private networks of sandboxes with other machines, and open only what an environment file names.

private_network   the network of one sandbox: its supervisor creates, watches and closes it
open_network      one that reaches every address but those of the host, by pasta alone
gated_network     all others, by a gate and `sandbox-net`
shared_network    the membership in a network of several sandboxes; `shared_gate` is the router between its members
outside, uplink   connect a sandbox or a network of several with other machines, in one of these ways:
pasta             the command line of pasta(1)
slirp4netns       slirp4netns(1), which connects them where pasta is not installed
host_bridge       the bridge of the host and its table of nftables, for root; `bridge_uplink` is one port of it
closed_host       no address of the host answers in the sandbox
gate              the network namespace in which all packets of a sandbox end
ports             free ports of the host, and which process has a port that is in use

The process `sandbox-net` serves published ports, `network.egress` and the DNS servers of networks. All other modules are its own;
`network_process` is its beginning.

The launcher makes the namespaces, links, routes and rules, and all sockets except those for single connections. It puts their
descriptors into a `request.NetworkRequest`, and calls `network_process.start_network_process`. `control` has the messages from then
on. The process stays in the host's network namespace. The *gate* is a network namespace without a process that routes the packets
of the sandbox. tests/support/gates.py builds what follows, for tests.

The gate of `network.egress`, with GATE and SANDBOX as the addresses of the two ends of a veth pair `gate0`-`box0`. Neither address
is in 198.18.0.0/15.

- In the gate, every address is local: `ip route add local default dev lo table local`. The local table comes before the main one,
  so the route to the sandbox is there, too: `ip route add SANDBOX/32 dev gate0 table local`.
- For IPv6, which only rules with IPv6 addresses need (`EgressRules.needs_ipv6`): `local ::/0 dev lo` and `SANDBOX6/128 dev gate0`
  in the same way. The gate answers neighbour solicitations for its own address only, so the sandbox's route is
  `default via GATE6`. Without IPv6 in the sandbox, connections fail with ENETUNREACH at once.
- net.ipv4.icmp_ratelimit = 0 in the gate, or else the kernel limits the rate of its answers "port unreachable" to UDP datagrams.
- Pings: `ip rule add iif gate0 ipproto icmp prohibit pref 1`, with the rule of the local table moved to pref 2, and
  net.ipv4.ip_forward = 1, without which the kernel drops them in silence. Otherwise the gate itself answers them.
- Sockets (`socket_maker.make_sockets`, at 0.0.0.0 and :: each): UDP and TCP port 53, a TCP listener for each port of
  `EgressRules.ports` (53 excepted, which is the DNS server's), and an observer of gate0.
- If `EgressRules.needs_redirect`: one TCP listener at any other port R instead of those, with `EgressListener.redirected`, and
  `nft add rule inet T prerouting iifname gate0 tcp dport != 53 redirect to :R` in a chain `type nat hook prerouting`.
- Refused without the process: other TCP ports (RST) and other UDP ports (ICMP) have no listener. The observer shows them to the log.
- The resolv.conf of the sandbox names any address but those of its own loopback interface.

A gate with other routes, such as that of a network or the sandbox's own network namespace (beside slirp4netns):

- DNS sockets at port 53 of the gate's address.
- A published port shows the address of its client (`Forward.transparent`) only if the answers to that address come back to the
  gate's own sockets. Where every address is local, they do. Otherwise, as docs/networking/tproxy.rst of the kernel has it:
  `socket transparent 1 meta mark set 1` in a chain `type filter hook prerouting priority mangle`, `ip rule add fwmark 1 lookup 100`
  and `ip route add local default dev lo table 100`.

`host_access` without pasta: a listener at 127.0.0.1:PORT inside the *sandbox's* network namespace, as a `Forward` that is not
*inside*.

If `sandbox-net` or one of its two children ends, all end, and the kernel closes their ports. The supervisor closes its copies of
the descriptors after the start, because a port is free only after the last of them.
"""

"""The command line of pasta(1), which connects a network namespace with the network of the host without root.

Every option is given: the defaults forward the ports on which the host listens, and open the host's loopback interface.
"""

from __future__ import annotations

from collections.abc import Sequence

from sandbox.plan.network_values import RESOLVER
from sandbox.spec.values.addresses import HostService, Port


def command_line(
    pid: int,
    interface: str,
    *,
    as_root: bool,
    ports: Sequence[Port] = (),
    host_access: Sequence[HostService] = (),
    ipv6: bool = True,
) -> list[str]:
    """Return the arguments with which pasta connects the network namespace of the process *pid*.

    pasta runs in the foreground, so that it ends with its parent. It writes its pid to standard output once it is ready.

    Args:
        pid: of a process in the namespace.
        interface: the name of the interface that pasta makes there.
        as_root: the launcher is root. Then pasta has to be told to stay root: as nobody, which is its default, it may not open the
            namespaces.
        ports: of the host, which pasta forwards into the namespace.
        host_access: services of the host that can be reached at the same port of the namespace's loopback interface.
        ipv6: whether other machines can be reached over IPv6, too.
    """
    namespaces = f"/proc/{pid}/ns"
    return [
        *("pasta", "--foreground", "--quiet", "--pid", "/dev/stdout"),
        *(("--runas", "0") if as_root else ()),
        *(() if ipv6 else ("--ipv4-only",)),
        # It is ended with the sandbox. By itself it would end when the process *pid* does, which is only a part of the start.
        "--no-netns-quit",
        *("--config-net", "--ns-ifname", interface),
        *("--no-map-gw", "--map-host-loopback", "none", "--map-guest-addr", "none"),
        *("--dns-forward", RESOLVER),
        *_options("-t", [_port(port) for port in ports if port.protocol == "tcp"]),
        *_options("-u", [_port(port) for port in ports if port.protocol == "udp"]),
        *_options("-T", [_service(one) for one in host_access if one.protocol == "tcp"]),
        *_options("-U", [_service(one) for one in host_access if one.protocol == "udp"]),
        *("--userns", f"{namespaces}/user", "--netns", f"{namespaces}/net"),
    ]


def _options(option: str, values: list[str]) -> list[str]:
    return [word for value in values or ["none"] for word in (option, value)]


def _port(port: Port) -> str:
    """Return *port* as pasta writes it: ADDRESS/HOST:SANDBOX."""
    last = port.count - 1
    if not last:
        return f"{port.address}/{port.host}:{port.sandbox}"
    return f"{port.address}/{port.host}-{port.host + last}:{port.sandbox}-{port.sandbox + last}"


def _service(service: HostService) -> str:
    return str(service.port)

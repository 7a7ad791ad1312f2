"""Describe the files in which programs find the addresses of names: /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

from sandbox.plan.network import ResolverConfiguration
from sandbox.plan.operations import HOSTS, RESOLV_CONF, ShowHosts, ShowResolver


def name_file(operation: ShowHosts | ShowResolver) -> tuple[str, str, tuple[str, ...], str]:
    """Return the path, the content in words, the settings that it shows, and another setting that it depends on."""
    if isinstance(operation, ShowHosts):
        own = [] if operation.name is None else [operation.name]
        names = [*own, *(name for _, name in operation.entries)]
        word = "name" if len(names) == 1 else "names"
        source = f"the root's own file, and the {word} {' '.join(names)}; absent if a direct bind of the root has no such file"
        return HOSTS, source, ("network.hosts",), "sandbox.hostname"
    found = ResolverConfiguration.parse(operation.content)
    source = f"the name servers {' '.join(found.name_servers)}" if found.name_servers else "no name server"
    source += f", searching in {' '.join(found.search)}" if found.search else ""
    return RESOLV_CONF, source, ("network.dns", "network.search"), "network.mode"

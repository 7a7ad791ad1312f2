"""Parse the ports of EXPOSE: PORT, FIRST-LAST, each with /tcp, /udp or /sctp."""

from __future__ import annotations

import re

_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


def parse_ports(text: str) -> tuple[str, ...] | None:
    """Return each port in *text* as "PORT/PROTOCOL"; None if *text* is malformed, or a port is not from 1 to 65535."""
    match = _PORTS.fullmatch(text)
    if match is None:
        return None
    first = int(match[1])
    last = int(match[2] or first)
    if not 1 <= first <= last <= 65535:
        return None
    return tuple(f"{port}/{(match[3] or 'tcp').lower()}" for port in range(first, last + 1))

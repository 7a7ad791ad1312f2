"""Keep the names of the members of networks in the /etc/hosts of a running sandbox; hosts(5)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from sandbox.network.names import Member


def lines_of(networks: Mapping[str, Iterable[Member]], *, hostname: str | None, own: Sequence[str]) -> bytes:
    """Return a line for each member: its address, and its names without and with the network.

    Args:
        networks: the members of each network.
        hostname: the host name of the sandbox itself, which stands beside its names in the first network.
        own: the addresses of the sandbox itself.
    """
    lines = []
    for network, members in networks.items():
        for member in members:
            names = [name for one in (member.name, *member.aliases) for name in (one, f"{one}.{network}")]
            if hostname is not None and member.address in own[:1]:
                names.append(hostname)
            lines.append(f"{member.address}\t{' '.join(dict.fromkeys(names))}\n")
    return "".join(lines).encode()


class HostsFile:
    """The file that the sandbox shows at /etc/hosts. The private network creates it and closes it."""

    def __init__(self, fd: int) -> None:
        """Take over *fd*, a descriptor of the file for reading and writing."""
        self._fd = fd
        self._others = os.pread(fd, os.fstat(fd).st_size, 0)

    def write(
        self, networks: Mapping[str, Iterable[Member]], *, hostname: str | None, own: Sequence[str]
    ) -> None:
        """Write the lines of `lines_of` before those that the file had at first: resolvers use the first line with a name.

        The file keeps its inode, because it is mounted. A program that reads it at the same moment may see a part of it.

        Raises:
            OSError: there is no space.
        """
        content = lines_of(networks, hostname=hostname, own=own) + self._others
        written = os.pwrite(self._fd, content, 0)
        os.ftruncate(self._fd, written)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)

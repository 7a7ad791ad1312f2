"""Find the programs that connect private networks, and read the resolver configuration of the host; resolv.conf(5)."""

from __future__ import annotations

import os

from unionfs._stdlib.dataclasses import dataclass

_RESOLV_CONF_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What a private network depends on."""

    #: The path of pasta(1); None if it is not installed.
    pasta: str | None = None
    #: The paths of slirp4netns(1), which connects them where pasta is missing, and of nft(8).
    slirp4netns: str | None = None
    nft: str | None = None
    #: The content of the host's /etc/resolv.conf; empty if there is none.
    resolv_conf: bytes = b""


NOT_EXAMINED = NetworkFacts()
"""The facts where no network is wanted."""


def look(search_path: str, *, etc_root: str = "/etc") -> NetworkFacts:
    """Return the facts of this machine; programs are looked up in *search_path*, as in $PATH, and in /usr/sbin and /usr/bin."""
    return NetworkFacts(
        pasta=_find("pasta", search_path),
        slirp4netns=_find("slirp4netns", search_path),
        nft=_find("nft", search_path),
        resolv_conf=_read(os.path.join(etc_root, "resolv.conf")),
    )


def _find(name: str, search_path: str) -> str | None:
    for directory in (*search_path.split(os.pathsep), "/usr/sbin", "/usr/bin"):
        path = os.path.join(directory, name)
        if os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_RESOLV_CONF_LIMIT)
    except OSError:
        return b""

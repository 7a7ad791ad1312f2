"""Probes of what tests of networks need."""

from __future__ import annotations

import os
import shutil

from tests.support.probing import Missing, try_command


def probe_pasta() -> Missing | None:
    """pasta(1) and ip(8), and /dev/net/tun that this account may open."""
    return _probe_uplink("pasta", "passt")


def probe_slirp4netns() -> Missing | None:
    """slirp4netns(1) and ip(8), and /dev/net/tun that this account may open."""
    return _probe_uplink("slirp4netns", "slirp4netns")


def _probe_uplink(uplink: str, its_package: str) -> Missing | None:
    for program, package in ((uplink, its_package), ("ip", "iproute2")):
        if shutil.which(program) is None:
            return Missing(program, f"apt-get install {package}")
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return Missing(
            f"/dev/net/tun: {error.strerror}", "as root: modprobe tun; chmod 666 /dev/net/tun, as udev has it"
        )
    return None


def probe_networks() -> Missing | None:
    """User namespaces with networks of their own, ip(8), and nft(8) with the modules of the kernel for its rules."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(program, path=path) is None:
            return Missing(program, f"apt-get install {package}")
    rule = (
        "table inet t { chain c { type nat hook prerouting priority dstnat; tcp dport 1 redirect to :2; }; }"
    )
    nft = shutil.which("nft", path=path) or "nft"
    failure = try_command("unshare", "--user", "--map-root-user", "--net", nft, rule)
    return Missing(f"nft: {failure}", "modprobe nft_redir") if failure is not None else None

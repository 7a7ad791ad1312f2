"""Check the kernel, the interpreter of the server, filters, and the helpers of private networks."""

from __future__ import annotations

from sandbox.doctor.check import Check, Level
from sandbox.doctor.checks.needs import Needs, as_needed
from sandbox.doctor.facts import MachineFacts, ProgramFacts, SecurityFacts, SessionFacts
from sandbox.host.facts import HostFacts
from sandbox.kernel.landlock import NEEDED, SCOPED
from unionfs._stdlib.dataclasses import replace

MINIMUM_KERNEL = (5, 6)
"""The first version with openat2(2), which opens every path below a new root; see sandbox.kernel.mounts and filesystems for other calls."""


def check_base(facts: HostFacts, machine: MachineFacts, needs: Needs) -> list[Check]:
    """Return the checks `kernel` and `server`, on which everything else depends."""
    server = _server(machine.server, machine.session, pyfuse3=needs.pyfuse3)
    return [_kernel(facts), as_needed(server, needs)]


def check_programs(machine: MachineFacts, needs: Needs) -> list[Check]:
    """Return the checks `seccomp`, `landlock`, `network` and `mtab`."""
    security, session = machine.security, machine.session
    filtered = _seccomp(security, session, needed=needs.seccomp)
    return [filtered, _landlock(security), _network(machine), _mtab(exists=machine.mtab)]


def _kernel(facts: HostFacts) -> Check:
    release = ".".join(map(str, facts.kernel_version))
    evidence = {"version": release}
    if facts.kernel_version < MINIMUM_KERNEL:
        return Check(
            id="kernel",
            level="failure",
            summary=f"Linux {release} is too old",
            cost="no sandbox starts: openat2(2) came with Linux 5.6",
            remedy="boot a newer kernel; Debian 11 and Ubuntu 22.04 have one",
            facts=evidence,
        )
    return Check(id="kernel", level="ok", summary=f"Linux {release}", facts=evidence)


def _server(found: ProgramFacts, session: SessionFacts, *, pyfuse3: bool) -> Check:
    evidence = {"interpreter": found.path, "version": found.version}
    if found.problem is not None:
        if "No module named 'unionfs'" in found.problem:
            remedy = (
                "start sandbox with the Python environment of its checkout: scripts/quickstart creates .venv"
            )
        else:
            remedy = f"see the error of: {found.path} -P -c 'import unionfs.launch.server_process, unionfs.fuse.direct.loop'"
        return Check(
            id="server",
            level="failure",
            summary=f"the file system server cannot be started: {found.problem}",
            cost="no sandbox starts",
            remedy=remedy,
            facts=evidence,
        )
    if found.lacks is not None:
        if "libfuse" in found.lacks:
            remedy = f"as root: {'apt-get install fuse3' if session.debian else 'install libfuse 3'}"
        elif "No module named" in found.lacks:
            remedy = f"install its packages: {found.path} -m pip install pyfuse3 trio"
        else:
            remedy = f"see the error of: {found.path} -P -c 'import pyfuse3, trio'"
        return Check(
            id="server",
            level="failure" if pyfuse3 else "warning",
            summary=f"the pyfuse3 server cannot be started: {found.lacks}",
            cost='environment files with server = "pyfuse3" in [root] do not start',
            remedy=remedy,
            facts=evidence,
        )
    return Check(
        id="server",
        level="ok",
        summary=f"the file system server can be started: {found.version}",
        facts=evidence,
    )


_UNFILTERED = (
    'environment files without seccomp = "unconfined" or optional = ["seccomp"] in [security] are refused'
)


def _seccomp(security: SecurityFacts, session: SessionFacts, *, needed: bool) -> Check:
    evidence = {
        "error": None if security.seccomp is None else security.seccomp.text,
        "libseccomp": security.libseccomp,
    }
    lacking: Level = "failure" if needed else "warning"
    if security.seccomp is not None:
        return Check(
            id="seccomp",
            level=lacking,
            summary=f"no seccomp filter can be set: {security.seccomp.text}",
            cost=_UNFILTERED,
            remedy='boot a kernel with CONFIG_SECCOMP_FILTER, or set seccomp = "unconfined"',
            facts=evidence,
        )
    if not security.libseccomp:
        install = "apt-get install libseccomp2" if session.debian else "install libseccomp"
        return Check(
            id="seccomp",
            level=lacking,
            summary="seccomp filters can be set, but libseccomp, which compiles them, is not installed",
            cost=_UNFILTERED,
            remedy=f"as root: {install}",
            facts=evidence,
        )
    return Check(
        id="seccomp",
        level="ok",
        summary="seccomp filters can be compiled and set",
        facts=evidence,
    )


def _landlock(security: SecurityFacts) -> Check:
    evidence = {"version": security.landlock}
    if security.landlock >= SCOPED:
        return Check(
            id="landlock", level="ok", summary=f"Landlock, version {security.landlock}", facts=evidence
        )
    lacking = [kind for kind, version in NEEDED.items() if version > security.landlock]
    if security.landlock:
        cost = (
            f"environment files with {', '.join(lacking)} in security.landlock are refused, and "
            if lacking
            else ""
        )
        return Check(
            id="landlock",
            level="warning" if lacking else "note",
            summary=f"Landlock, version {security.landlock}, version {SCOPED} has everything that sandbox uses",
            cost=f"{cost}Landlock does not restrict signals and abstract sockets",
            remedy="boot Linux 6.12 or later",
            facts=evidence,
        )
    return Check(
        id="landlock",
        level="warning",
        summary="the kernel has no Landlock, or it was disabled at boot",
        cost="environment files with security.landlock are refused",
        remedy="boot with lsm=landlock,... on the kernel's command line (Linux 6.7 or later)",
        facts=evidence,
    )


_PRIVATE = 'environment files with network.mode = "private"'


def _network(machine: MachineFacts) -> Check:
    check = _uplink(machine.pasta, machine.slirp4netns, machine.session)
    evidence = {**check.facts, "nft": machine.nft}
    if machine.nft is not None:
        return replace(check, facts=evidence)
    costs = (
        check.cost,
        "environment files that join a network that is not internal, or whose network.egress has a rule without a port, do not start",
    )
    remedies = (check.remedy, _install("nftables", machine.session))
    return replace(
        check,
        level="note" if check.level == "ok" else check.level,
        summary=f"{check.summary}; nft, which filters packets, is not installed",
        cost="; ".join(filter(None, costs)),
        remedy="; ".join(filter(None, remedies)),
        facts=evidence,
    )


def _uplink(pasta: ProgramFacts, slirp4netns: ProgramFacts | None, session: SessionFacts) -> Check:
    """Check the program that connects private networks. A plan takes slirp4netns only if pasta is not installed, whether it works or not."""
    evidence = {
        "pasta": {"path": pasta.path, "problem": pasta.problem},
        "slirp4netns": None
        if slirp4netns is None
        else {"path": slirp4netns.path, "problem": slirp4netns.problem},
    }
    other = slirp4netns or ProgramFacts(path=None)
    other_works = other.path is not None and other.problem is None
    install = _install("passt", session)
    if pasta.path is not None and pasta.problem is None:
        return Check(
            id="network", level="ok", summary="pasta connects private networks to the host's", facts=evidence
        )
    if pasta.path is not None:
        remedy = _remedy_of_pasta(pasta.problem or "")
        if other_works:
            remedy += "; or remove the package passt: then slirp4netns connects private networks, without IPv6 and slower"
        return Check(
            id="network",
            level="warning",
            summary=f"{pasta.path} cannot connect a private network: {pasta.problem}",
            cost=f"{_PRIVATE} fail",
            remedy=remedy,
            facts=evidence,
        )
    if other_works:
        return Check(
            id="network",
            level="note",
            summary="slirp4netns connects private networks to the host's, because pasta is not installed",
            cost="private networks have no IPv6, and are slower",
            remedy=install,
            facts=evidence,
        )
    if other.path is not None:
        return Check(
            id="network",
            level="warning",
            summary=f"{other.path} cannot connect a private network, and pasta is not installed: {other.problem}",
            cost=f"{_PRIVATE} fail",
            remedy=_NO_TUN if _TUN in (other.problem or "") else install,
            facts=evidence,
        )
    return Check(
        id="network",
        level="note",
        summary="pasta, which connects private networks to the host's, is not installed, and neither is slirp4netns",
        cost=f"{_PRIVATE} are refused",
        remedy=install,
        facts=evidence,
    )


def _install(package: str, session: SessionFacts) -> str:
    return f"as root: {'apt-get install' if session.debian else 'install'} {package}"


_TUN = "/dev/net/tun"
_NO_TUN = (
    "as root: modprobe tun; chmod 666 /dev/net/tun (udev has it so); in a container: --device /dev/net/tun"
)


def _remedy_of_pasta(problem: str) -> str:
    """Return the remedy for what pasta printed."""
    if _TUN in problem:
        return _NO_TUN
    if "option" in problem or "specifier" in problem:
        return "install passt from 2024 or later, which has --map-host-loopback and --map-guest-addr"
    if "ermission denied" in problem or "not permitted" in problem:
        return (
            "AppArmor may forbid it: as root, `journalctl -k -g apparmor` names the profile and the path; add a line "
            "`PATH rw,` to the file of that profile in /etc/apparmor.d/local, then systemctl reload apparmor"
        )
    return "run the command line that `sandbox up --debug` prints"


def _mtab(*, exists: bool) -> Check:
    """Check /etc/mtab, a link to /proc/self/mounts that minimal root file systems lack (libfuse util/fusermount.c)."""
    evidence = {"exists": exists}
    if exists:
        return Check(id="mtab", level="ok", summary="fusermount3 finds mounts in /etc/mtab", facts=evidence)
    return Check(
        id="mtab",
        level="note",
        summary="/etc/mtab is missing",
        cost="fusermount3 -u does not work for ordinary users; use umount, as unionfs does",
        remedy="as root: ln -s /proc/self/mounts /etc/mtab",
        facts=evidence,
    )

"""Check the state directory and its file system."""

from __future__ import annotations

import errno
from typing import Any

from sandbox.doctor.check import Check
from sandbox.doctor.checks.needs import Needs
from sandbox.doctor.facts import MachineFacts, Obstacle, Probe, StateFacts
from sandbox.errors import describe_errno
from sandbox.state import trusted_files
from sandbox.state.location import ELSEWHERE

MEMORY = frozenset(("tmpfs", "ramfs"))
NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs"))

SCARCE_BYTES = 1 << 30
"""With less free space, a package installation into the writable layer will probably fail."""

SCARCE_INODES = 20_000
"""About the number of files in a small distribution, to which an archive is unpacked."""


def check_storage(machine: MachineFacts, needs: Needs) -> list[Check]:
    """Return the checks that begin with `state`; only the first if the directory is unusable."""
    if isinstance(machine.state, Obstacle):
        return [
            Check(
                id="state",
                level="failure",
                summary=machine.state.reason,
                cost="no sandbox starts",
                remedy=machine.state.remedy,
            )
        ]
    state = machine.state
    first = _directory(state)
    if first.level == "failure":
        return [first]
    found = machine.namespaces
    ids = found.whole if found.whole is not None and not needs.single_id else None
    return [
        first,
        _filesystem(state),
        _attributes(state),
        _deletions(state),
        _names(state),
        *([_owners(state, ids)] if ids is not None else []),
        _space(state),
    ]


def _directory(state: StateFacts) -> Check:
    evidence: dict[str, Any] = {"path": state.path, "exists": state.exists}

    def refuse(summary: str, remedy: str) -> Check:
        return Check(
            id="state",
            level="failure",
            summary=summary,
            cost="no sandbox starts",
            remedy=remedy,
            facts=evidence,
        )

    if state.untrusted is not None:
        return refuse(
            f"state directory {state.path} {state.untrusted}",
            trusted_files.remedy(state.path, state.untrusted),
        )
    if (failed := state.probe.failure("make")) is not None:
        verb = "written" if state.exists else "created"
        return refuse(
            f"state directory {state.path} cannot be {verb}: {failed[1].text}",
            (failed[1].errno == errno.ENOSPC and describe_errno("mkdir", errno.ENOSPC))
            or "set SANDBOX_STATE_DIR to a directory that you can write",
        )
    if (failed := state.probe.failure("write")) is not None:
        return refuse(
            f"nothing can be written to the state directory {state.path}: {failed[1].text}",
            describe_errno("write", failed[1].errno) or ELSEWHERE,
        )
    if (failed := state.probe.failure("lock")) is not None:
        return refuse(
            f"state directory {state.path} does not support locks: {failed[1].text}",
            f"{ELSEWHERE} on a local file system",
        )
    if state.probe.problem is not None:
        return refuse(
            f"state directory {state.path} cannot be used: {state.probe.problem}",
            f"{ELSEWHERE} on a local file system",
        )
    until = "" if state.exists else ", which the first sandbox creates"
    return Check(id="state", level="ok", summary=f"state directory {state.path}{until}", facts=evidence)


def _filesystem(state: StateFacts) -> Check:
    options = [name for name in ("noexec", "nosuid", "nodev") if name in state.mount_options]
    evidence = {"type": state.fstype, "options": list(state.mount_options)}
    if state.fstype in NETWORK:
        return Check(
            id="state.filesystem",
            level="warning",
            summary=f"the state directory is on a network file system ({state.fstype})",
            cost="sandboxes are slow, and the file server may refuse files of ids other than your own",
            remedy=f"{ELSEWHERE} on a local file system",
            facts=evidence,
        )
    if state.fstype in MEMORY:
        return Check(
            id="state.filesystem",
            level="note",
            summary=f"the state directory is in memory ({state.fstype})",
            cost="persistent writable layers and unpacked archives are lost at the next boot",
            remedy=f"{ELSEWHERE} on a disk",
            facts=evidence,
        )
    mounted = f" (mounted {', '.join(options)}, which has no effect in sandboxes)" if options else ""
    return Check(
        id="state.filesystem",
        level="ok",
        summary=f"the state directory is on {state.fstype}{mounted}",
        facts=evidence,
    )


def _attributes(state: StateFacts) -> Check:
    failed = state.probe.failure("attribute", "mark")
    if failed is not None:
        return Check(
            id="state.attributes",
            level="warning",
            summary=f"{state.fstype} does not support user extended attributes: {failed[1].text}",
            cost="directories of layers cannot be renamed (EXDEV: programs copy them instead)",
            remedy=f"{ELSEWHERE} on ext4, xfs, btrfs, or a tmpfs of Linux 6.6 or later",
            facts={"error": failed[1].text},
        )
    return Check(
        id="state.attributes",
        level="ok",
        summary="user extended attributes work: directories of layers can be renamed",
        facts={"error": None},
    )


def _deletions(state: StateFacts) -> Check:
    failed = state.probe.failure("whiteout", "mark")
    evidence = {
        "whiteout": state.probe.failure("whiteout") is None,
        "mark": state.probe.failure("mark") is None,
    }
    if failed is not None:
        return Check(
            id="state.deletions",
            level="note",
            summary=f"deleted files of layers are recorded as .wh. names: {failed[1].text}",
            cost="kernel OverlayFS cannot read persistent writable layers",
            remedy=f"{ELSEWHERE} on ext4, xfs or btrfs",
            facts=evidence,
        )
    return Check(
        id="state.deletions",
        level="ok",
        summary="deleted files of layers can be recorded in the format of kernel OverlayFS",
        facts=evidence,
    )


def _names(state: StateFacts) -> Check:
    failed = state.probe.failure("rename", "link")
    if failed is None:
        return Check(
            id="state.names", level="ok", summary="hard links and renames work", facts={"error": None}
        )
    step, failure = failed
    what = {
        "rename": "files cannot be renamed",
        "link": "hard links cannot be created",
    }[step]
    return Check(
        id="state.names",
        level="failure" if step == "rename" else "warning",
        summary=f"{what}: {failure.text}",
        cost="no sandbox starts: its records are replaced by rename(2)"
        if step == "rename"
        else "programs that create hard links fail, such as dpkg and git",
        remedy=f"{ELSEWHERE} on ext4, xfs or btrfs",
        facts={"error": failure.text},
    )


def _owners(state: StateFacts, whole: Probe) -> Check:
    failed = whole.failure("chown")
    if failed is not None:
        return Check(
            id="state.owners",
            level="warning",
            summary=f"{state.fstype} refuses files of subordinate ids: {failed[1].text}",
            cost="programs that change owners fail, such as package managers; archives cannot be unpacked",
            remedy=f'{ELSEWHERE} on a local file system, or set ids.map = "single"',
            facts={"error": failed[1].text},
        )
    if not whole.did("chown"):
        return Check(id="state.owners", level="note", summary="not tested: an earlier check failed")
    return Check(
        id="state.owners",
        level="ok",
        summary="files can belong to all ids of a sandbox",
        facts={"error": None},
    )


def _space(state: StateFacts) -> Check:
    evidence = {"bytes": state.free_bytes, "inodes": state.free_inodes}
    if state.free_bytes is None:
        return Check(
            id="state.space", level="ok", summary=f"{state.fstype} is limited only by memory", facts=evidence
        )
    shown = f"{size_in_words(state.free_bytes)} free for persistent layers and unpacked archives"
    remedy = f"free some (see `df {state.path}`), or {ELSEWHERE.replace('of yours', 'with more')}"
    if state.free_inodes is not None and state.free_inodes < SCARCE_INODES:
        return Check(
            id="state.space",
            level="warning",
            summary=f"{state.free_inodes} more files can be created",
            cost="programs that create many files fail with ENOSPC",
            remedy=remedy.replace("`df ", "`df -i "),
            facts=evidence,
        )
    if state.free_bytes < SCARCE_BYTES:
        return Check(
            id="state.space",
            level="warning",
            summary=f"only {shown}",
            cost="programs that write more fail with ENOSPC",
            remedy=remedy,
            facts=evidence,
        )
    return Check(id="state.space", level="ok", summary=shown, facts=evidence)


def size_in_words(count: int) -> str:
    """Return *count* bytes in the largest unit in which the number is at least one, rounded down."""
    for unit, bits in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >> bits:
            return f"{count >> bits} {unit}"
    return f"{count} bytes"

"""Check the run directory, which has the locks and the ephemeral layers of this machine, and what dead runs left behind."""

from __future__ import annotations

import errno

from sandbox.doctor.check import Check, Level
from sandbox.doctor.checks.storage import MEMORY, NETWORK, SCARCE_BYTES, SCARCE_INODES, size_in_words
from sandbox.doctor.facts import Leftovers, StateFacts
from sandbox.errors import describe_errno

_ELSEWHERE = "set SANDBOX_RUN_DIR to a directory that you own, on a local disk"


def unusable_because(run: StateFacts) -> str | None:
    """Return why `up` does not use the run directory, or None if it does."""
    if run.untrusted is not None:
        return run.untrusted
    failed = run.probe.failure("make")
    if failed is not None and (not run.exists or failed[1].errno not in (errno.ENOSPC, errno.EDQUOT)):
        return f"cannot be {'written' if run.exists else 'created'}: {failed[1].text}"
    if (failed := run.probe.failure("lock")) is not None:
        return f"does not support locks: {failed[1].text}"
    return None


def check_run_directory(run: StateFacts) -> Check:
    """Return the check `run`."""
    evidence = {
        "path": run.path,
        "exists": run.exists,
        "type": run.fstype,
        "attributes": run.probe.failure("attribute", "mark") is None,
        "bytes": run.free_bytes,
        "inodes": run.free_inodes,
    }

    def check(level: Level, summary: str, cost: str = "", remedy: str = "") -> Check:
        return Check(id="run", level=level, summary=summary, cost=cost, remedy=remedy, facts=evidence)

    if (reason := unusable_because(run)) is not None:
        mode = f"chmod 700 {run.path}, or " if reason == "can be searched by other users" else ""
        return check(
            "warning",
            f"run directory {run.path} {reason}",
            "locks and ephemeral layers are in the state directory instead; compiled filters are not cached",
            mode + _ELSEWHERE,
        )
    failed = run.probe.failure("make", "write", "rename")
    if failed is not None or run.probe.problem is not None:
        text = run.probe.problem if failed is None else failed[1].text
        remedy = None if failed is None else describe_errno("write", failed[1].errno)
        return check(
            "failure",
            f"nothing can be written to the run directory {run.path}: {text}",
            "no sandbox starts",
            remedy or _ELSEWHERE,
        )
    if run.fstype in NETWORK:
        return check(
            "warning",
            f"run directory {run.path} is on a network file system ({run.fstype})",
            "sandboxes are slow, and other machines may not see their locks",
            _ELSEWHERE,
        )
    free = "" if run.free_bytes is None else f", {size_in_words(run.free_bytes)} free"
    if (run.free_bytes is not None and run.free_bytes < SCARCE_BYTES) or (
        run.free_inodes is not None and run.free_inodes < SCARCE_INODES
    ):
        return check(
            "warning",
            f"there is little space for ephemeral layers in {run.path}"
            + (free or f", {run.free_inodes} more files can be created"),
            "programs that write more fail with ENOSPC",
            f"free some (see `df {run.path}`), or {_ELSEWHERE}",
        )
    if not evidence["attributes"]:
        return check(
            "note",
            f"run directory {run.path} is on {run.fstype}, which does not support user extended attributes",
            "ephemeral layers are in the state directory if that supports them; otherwise directories of layers cannot be renamed (EXDEV)",
            f"{_ELSEWHERE}: ext4, xfs, btrfs, or a tmpfs of Linux 6.6 or later",
        )
    if run.fstype in MEMORY:
        return check(
            "note",
            f"ephemeral layers are in memory: {run.path} is on {run.fstype}{free}",
            "files that a program writes use memory",
            _ELSEWHERE,
        )
    until = "" if run.exists else ", which the first sandbox creates"
    return check("ok", f"run directory {run.path}{until}: on {run.fstype}{free}")


def check_leftovers(found: Leftovers) -> Check:
    """Return the check `leftovers`: what dead sandboxes left, and what runs, here and on machines that share the state."""
    evidence = {
        "running": list(found.running),
        "dead": list(found.dead),
        "elsewhere": list(found.elsewhere),
        "unknown": list(found.unknown),
        "cgroups": list(found.cgroups),
        "mounts": list(found.mounts),
    }
    if found.problem is not None:
        return Check(
            id="leftovers",
            level="note",
            summary=f"leftovers of ended sandboxes cannot be listed: {found.problem}",
            facts=evidence,
        )
    left, remedies = [], []
    if found.dead:
        left.append(_count(len(found.dead), "ended sandbox", "ended sandboxes"))
        left += [_count(len(found.cgroups), "cgroup", "cgroups")] if found.cgroups else []
        remedies.append("the next `sandbox up` removes them")
    if found.mounts:
        left.append(_count(len(found.mounts), "FUSE mount without a server", "FUSE mounts without a server"))
        remedies += [f"umount -l {path} as root, or fusermount3 -uz {path}" for path in found.mounts]
    alive = [_count(len(found.running), "sandbox runs", "sandboxes run")] if found.running else []
    if found.elsewhere:
        alive.append(_count(len(found.elsewhere), "run of another machine", "runs of other machines"))
    if found.unknown:
        alive.append(_count(len(found.unknown), "run", "runs") + " in an unknown state")
    running = ", ".join(alive)
    if not left:
        nothing = "there are no leftovers of ended sandboxes"
        return Check(
            id="leftovers",
            level="ok",
            summary=f"{nothing}; {running}" if running else nothing,
            facts=evidence,
            details=(*found.elsewhere, *found.unknown),
        )
    return Check(
        id="leftovers",
        level="note",
        summary=f"leftovers: {', '.join(left)}" + (f"; {running}" if running else ""),
        cost="they use disk space" if found.dead else "access to these paths fails with ENOTCONN",
        remedy="; ".join(remedies),
        facts=evidence,
        details=(*found.elsewhere, *found.unknown),
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"

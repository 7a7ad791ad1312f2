"""The checks of the run directory and leftovers: the exact text of every branch."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from sandbox.doctor.facts import Failure, Leftovers, Probe
from sandbox.host.facts import HostFacts
from tests.unit.sandbox.doctor.made_up import checks, run_directory, shown, state_trial

CASES: list[tuple[str, str, HostFacts | None, dict[str, Any], tuple[str, str, str, str]]] = [
    (
        "the run directory is there",
        "run",
        None,
        {"run": run_directory()},
        (
            "ok",
            "run directory /var/tmp/sandbox-1000: on ext4, 50 GiB free",
            "",
            "",
        ),
    ),
    (
        "the run directory will be made",
        "run",
        None,
        {"run": run_directory(exists=False)},
        (
            "ok",
            "run directory /var/tmp/sandbox-1000, which the first sandbox creates: on ext4, 50 GiB free",
            "",
            "",
        ),
    ),
    (
        "another users run directory",
        "run",
        None,
        {"run": run_directory(untrusted="belongs to another user")},
        (
            "warning",
            "run directory /var/tmp/sandbox-1000 belongs to another user",
            "locks and ephemeral layers are in the state directory instead; compiled filters are not cached",
            "set SANDBOX_RUN_DIR to a directory that you own, on a local disk",
        ),
    ),
    (
        "a run directory that others may enter",
        "run",
        None,
        {"run": run_directory(untrusted="can be searched by other users")},
        (
            "warning",
            "run directory /var/tmp/sandbox-1000 can be searched by other users",
            "locks and ephemeral layers are in the state directory instead; compiled filters are not cached",
            "chmod 700 /var/tmp/sandbox-1000, or set SANDBOX_RUN_DIR to a directory that you own, on a local disk",
        ),
    ),
    (
        "no run directory can be made",
        "run",
        None,
        {
            "run": run_directory(
                exists=False,
                probe=state_trial(make=Failure(errno=errno.EROFS, text="/var/tmp: Read-only file system")),
            )
        },
        (
            "warning",
            "run directory /var/tmp/sandbox-1000 cannot be created: /var/tmp: Read-only file system",
            "locks and ephemeral layers are in the state directory instead; compiled filters are not cached",
            "set SANDBOX_RUN_DIR to a directory that you own, on a local disk",
        ),
    ),
    (
        "a run directory without locks",
        "run",
        None,
        {
            "run": run_directory(
                probe=state_trial(lock=Failure(errno=errno.ENOLCK, text="No locks available"))
            )
        },
        (
            "warning",
            "run directory /var/tmp/sandbox-1000 does not support locks: No locks available",
            "locks and ephemeral layers are in the state directory instead; compiled filters are not cached",
            "set SANDBOX_RUN_DIR to a directory that you own, on a local disk",
        ),
    ),
    (
        "a full run directory",
        "run",
        None,
        {
            "run": run_directory(
                probe=state_trial(write=Failure(errno=errno.ENOSPC, text="No space left on device"))
            )
        },
        (
            "failure",
            "nothing can be written to the run directory /var/tmp/sandbox-1000: No space left on device",
            "no sandbox starts",
            "no space left: free space on the file system of the writable layer and of the state directory (see `df`)",
        ),
    ),
    (
        "a run directory that does not answer",
        "run",
        None,
        {"run": run_directory(probe=Probe(attempts={"make": None}, problem="no answer within 5 seconds"))},
        (
            "failure",
            "nothing can be written to the run directory /var/tmp/sandbox-1000: no answer within 5 seconds",
            "no sandbox starts",
            "set SANDBOX_RUN_DIR to a directory that you own, on a local disk",
        ),
    ),
    (
        "a run directory on a network",
        "run",
        None,
        {"run": run_directory(fstype="nfs4")},
        (
            "warning",
            "run directory /var/tmp/sandbox-1000 is on a network file system (nfs4)",
            "sandboxes are slow, and other machines may not see their locks",
            "set SANDBOX_RUN_DIR to a directory that you own, on a local disk",
        ),
    ),
    (
        "little room in the run directory",
        "run",
        None,
        {"run": run_directory(free_bytes=5 << 20)},
        (
            "warning",
            "there is little space for ephemeral layers in /var/tmp/sandbox-1000, 5 MiB free",
            "programs that write more fail with ENOSPC",
            "free some (see `df /var/tmp/sandbox-1000`), or set SANDBOX_RUN_DIR to a directory that you own, on a local disk",
        ),
    ),
    (
        "a run directory without attributes",
        "run",
        None,
        {
            "run": run_directory(
                fstype="ramfs",
                free_bytes=None,
                probe=state_trial(attribute=Failure(errno=errno.EOPNOTSUPP, text="no")),
            )
        },
        (
            "note",
            "run directory /var/tmp/sandbox-1000 is on ramfs, which does not support user extended attributes",
            "ephemeral layers are in the state directory if that supports them; otherwise directories of layers cannot be renamed (EXDEV)",
            "set SANDBOX_RUN_DIR to a directory that you own, on a local disk: ext4, xfs, btrfs, or a tmpfs of Linux 6.6 or later",
        ),
    ),
    (
        "a run directory in memory",
        "run",
        None,
        {"run": run_directory(fstype="tmpfs")},
        (
            "note",
            "ephemeral layers are in memory: /var/tmp/sandbox-1000 is on tmpfs, 50 GiB free",
            "files that a program writes use memory",
            "set SANDBOX_RUN_DIR to a directory that you own, on a local disk",
        ),
    ),
    (
        "nothing left over",
        "leftovers",
        None,
        {},
        (
            "ok",
            "there are no leftovers of ended sandboxes",
            "",
            "",
        ),
    ),
    (
        "sandboxes that run",
        "leftovers",
        None,
        {"leftovers": Leftovers(running=("a", "b"))},
        (
            "ok",
            "there are no leftovers of ended sandboxes; 2 sandboxes run",
            "",
            "",
        ),
    ),
    (
        "runs of other machines",
        "leftovers",
        None,
        {"leftovers": Leftovers(elsewhere=("a-1 (pid 7, on b)",), unknown=("c",))},
        (
            "ok",
            "there are no leftovers of ended sandboxes; 1 run of another machine, 1 run in an unknown state",
            "",
            "",
        ),
    ),
    (
        "dead sandboxes",
        "leftovers",
        None,
        {"leftovers": Leftovers(running=("a",), dead=("b", "c"), cgroups=("/sys/fs/cgroup/sandbox-b",))},
        (
            "note",
            "leftovers: 2 ended sandboxes, 1 cgroup; 1 sandbox runs",
            "they use disk space",
            "the next `sandbox up` removes them",
        ),
    ),
    (
        "dead mounts",
        "leftovers",
        None,
        {"leftovers": Leftovers(mounts=("/mnt",))},
        (
            "note",
            "leftovers: 1 FUSE mount without a server",
            "access to these paths fails with ENOTCONN",
            "umount -l /mnt as root, or fusermount3 -uz /mnt",
        ),
    ),
    (
        "leftovers that cannot be counted",
        "leftovers",
        None,
        {"leftovers": Leftovers(problem="no answer within 5 seconds")},
        (
            "note",
            "leftovers of ended sandboxes cannot be listed: no answer within 5 seconds",
            "",
            "",
        ),
    ),
]


@pytest.mark.parametrize(
    ("identity", "facts", "changes", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0].replace(" ", "-") for case in CASES],
)
def test_what_is_found_is_said_with_its_cost_and_remedy(
    identity: str, facts: HostFacts | None, changes: dict[str, Any], expected: tuple[str, str, str, str]
) -> None:
    assert shown(checks(facts, **changes)[identity]) == expected

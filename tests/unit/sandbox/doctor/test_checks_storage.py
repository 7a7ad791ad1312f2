"""The checks of the state directory: the exact text of every branch."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from sandbox.doctor.facts import Failure, NamespaceFacts, Obstacle, Probe
from sandbox.host.facts import HostFacts
from tests.unit.sandbox.doctor.made_up import checks, probe, shown, state, state_trial

CASES: list[tuple[str, str, HostFacts | None, dict[str, Any], tuple[str, str, str, str]]] = [
    (
        "the directory is there",
        "state",
        None,
        {},
        (
            "ok",
            "state directory /home/user/.local/state/sandbox",
            "",
            "",
        ),
    ),
    (
        "the directory will be made",
        "state",
        None,
        {"state": state(exists=False)},
        (
            "ok",
            "state directory /home/user/.local/state/sandbox, which the first sandbox creates",
            "",
            "",
        ),
    ),
    (
        "no home directory",
        "state",
        None,
        {
            "state": Obstacle(
                reason="there is no home directory for the state directory",
                remedy="set HOME or SANDBOX_STATE_DIR to a directory of yours",
            )
        },
        (
            "failure",
            "there is no home directory for the state directory",
            "no sandbox starts",
            "set HOME or SANDBOX_STATE_DIR to a directory of yours",
        ),
    ),
    (
        "another users directory",
        "state",
        None,
        {"state": state(untrusted="belongs to another user")},
        (
            "failure",
            "state directory /home/user/.local/state/sandbox belongs to another user",
            "no sandbox starts",
            "set SANDBOX_STATE_DIR to a directory of yours",
        ),
    ),
    (
        "a directory that others may write to",
        "state",
        None,
        {"state": state(untrusted="can be written by other users")},
        (
            "failure",
            "state directory /home/user/.local/state/sandbox can be written by other users",
            "no sandbox starts",
            "chmod 700 /home/user/.local/state/sandbox, or set SANDBOX_STATE_DIR to a directory of yours",
        ),
    ),
    (
        "it cannot be made",
        "state",
        None,
        {
            "state": state(
                exists=False,
                probe=state_trial(make=Failure(errno=errno.EACCES, text="/home: Permission denied")),
            )
        },
        (
            "failure",
            "state directory /home/user/.local/state/sandbox cannot be created: /home: Permission denied",
            "no sandbox starts",
            "set SANDBOX_STATE_DIR to a directory that you can write",
        ),
    ),
    (
        "it cannot be written",
        "state",
        None,
        {
            "state": state(
                probe=state_trial(make=Failure(errno=errno.EROFS, text="/state: Read-only file system"))
            )
        },
        (
            "failure",
            "state directory /home/user/.local/state/sandbox cannot be written: /state: Read-only file system",
            "no sandbox starts",
            "set SANDBOX_STATE_DIR to a directory that you can write",
        ),
    ),
    (
        "no room for a directory",
        "state",
        None,
        {
            "state": state(
                probe=state_trial(make=Failure(errno=errno.ENOSPC, text="/state: No space left on device"))
            )
        },
        (
            "failure",
            "state directory /home/user/.local/state/sandbox cannot be written: /state: No space left on device",
            "no sandbox starts",
            "no space left: free space on the file system of the writable layer and of the state directory (see `df`)",
        ),
    ),
    (
        "no room for a file",
        "state",
        None,
        {
            "state": state(
                probe=state_trial(write=Failure(errno=errno.ENOSPC, text=os.strerror(errno.ENOSPC)))
            )
        },
        (
            "failure",
            "nothing can be written to the state directory /home/user/.local/state/sandbox: No space left on device",
            "no sandbox starts",
            "no space left: free space on the file system of the writable layer and of the state directory (see `df`)",
        ),
    ),
    (
        "a disk that fails",
        "state",
        None,
        {"state": state(probe=state_trial(write=Failure(errno=errno.EIO, text=os.strerror(errno.EIO))))},
        (
            "failure",
            "nothing can be written to the state directory /home/user/.local/state/sandbox: Input/output error",
            "no sandbox starts",
            "set SANDBOX_STATE_DIR to a directory of yours",
        ),
    ),
    (
        "no locks",
        "state",
        None,
        {"state": state(probe=state_trial(lock=Failure(errno=errno.ENOLCK, text=os.strerror(errno.ENOLCK))))},
        (
            "failure",
            "state directory /home/user/.local/state/sandbox does not support locks: No locks available",
            "no sandbox starts",
            "set SANDBOX_STATE_DIR to a directory of yours on a local file system",
        ),
    ),
    (
        "a file system that does not answer",
        "state",
        None,
        {"state": state(probe=Probe(problem="no answer within 5 seconds"))},
        (
            "failure",
            "state directory /home/user/.local/state/sandbox cannot be used: no answer within 5 seconds",
            "no sandbox starts",
            "set SANDBOX_STATE_DIR to a directory of yours on a local file system",
        ),
    ),
    (
        "a disk",
        "state.filesystem",
        None,
        {},
        (
            "ok",
            "the state directory is on ext4",
            "",
            "",
        ),
    ),
    (
        "options that do not matter",
        "state.filesystem",
        None,
        {"state": state(mount_options=("rw", "nosuid", "nodev", "noexec"))},
        (
            "ok",
            "the state directory is on ext4 (mounted noexec, nosuid, nodev, which has no effect in sandboxes)",
            "",
            "",
        ),
    ),
    (
        "memory",
        "state.filesystem",
        None,
        {"state": state(fstype="tmpfs")},
        (
            "note",
            "the state directory is in memory (tmpfs)",
            "persistent writable layers and unpacked archives are lost at the next boot",
            "set SANDBOX_STATE_DIR to a directory of yours on a disk",
        ),
    ),
    (
        "a network file system",
        "state.filesystem",
        None,
        {"state": state(fstype="nfs4")},
        (
            "warning",
            "the state directory is on a network file system (nfs4)",
            "sandboxes are slow, and the file server may refuse files of ids other than your own",
            "set SANDBOX_STATE_DIR to a directory of yours on a local file system",
        ),
    ),
    (
        "attributes",
        "state.attributes",
        None,
        {},
        (
            "ok",
            "user extended attributes work: directories of layers can be renamed",
            "",
            "",
        ),
    ),
    (
        "no attributes",
        "state.attributes",
        None,
        {
            "state": state(
                fstype="ramfs",
                probe=state_trial(
                    attribute=Failure(errno=errno.EOPNOTSUPP, text=os.strerror(errno.EOPNOTSUPP))
                ),
            )
        },
        (
            "warning",
            "ramfs does not support user extended attributes: Operation not supported",
            "directories of layers cannot be renamed (EXDEV: programs copy them instead)",
            "set SANDBOX_STATE_DIR to a directory of yours on ext4, xfs, btrfs, or a tmpfs of Linux 6.6 or later",
        ),
    ),
    (
        "whiteouts",
        "state.deletions",
        None,
        {},
        (
            "ok",
            "deleted files of layers can be recorded in the format of kernel OverlayFS",
            "",
            "",
        ),
    ),
    (
        "no whiteouts",
        "state.deletions",
        None,
        {
            "state": state(
                probe=state_trial(whiteout=Failure(errno=errno.EINVAL, text=os.strerror(errno.EINVAL)))
            )
        },
        (
            "note",
            "deleted files of layers are recorded as .wh. names: Invalid argument",
            "kernel OverlayFS cannot read persistent writable layers",
            "set SANDBOX_STATE_DIR to a directory of yours on ext4, xfs or btrfs",
        ),
    ),
    (
        "no marks",
        "state.deletions",
        None,
        {
            "state": state(
                probe=state_trial(mark=Failure(errno=errno.EOPNOTSUPP, text=os.strerror(errno.EOPNOTSUPP)))
            )
        },
        (
            "note",
            "deleted files of layers are recorded as .wh. names: Operation not supported",
            "kernel OverlayFS cannot read persistent writable layers",
            "set SANDBOX_STATE_DIR to a directory of yours on ext4, xfs or btrfs",
        ),
    ),
    (
        "links and renames",
        "state.names",
        None,
        {},
        (
            "ok",
            "hard links and renames work",
            "",
            "",
        ),
    ),
    (
        "no links",
        "state.names",
        None,
        {"state": state(probe=state_trial(link=Failure(errno=errno.EPERM, text=os.strerror(errno.EPERM))))},
        (
            "warning",
            "hard links cannot be created: Operation not permitted",
            "programs that create hard links fail, such as dpkg and git",
            "set SANDBOX_STATE_DIR to a directory of yours on ext4, xfs or btrfs",
        ),
    ),
    (
        "no renames",
        "state.names",
        None,
        {"state": state(probe=state_trial(rename=Failure(errno=errno.EIO, text=os.strerror(errno.EIO))))},
        (
            "failure",
            "files cannot be renamed: Input/output error",
            "no sandbox starts: its records are replaced by rename(2)",
            "set SANDBOX_STATE_DIR to a directory of yours on ext4, xfs or btrfs",
        ),
    ),
    (
        "owners",
        "state.owners",
        None,
        {},
        (
            "ok",
            "files can belong to all ids of a sandbox",
            "",
            "",
        ),
    ),
    (
        "a server that refuses owners",
        "state.owners",
        None,
        {
            "state": state(fstype="nfs"),
            "namespaces": NamespaceFacts(
                single=probe(),
                whole=probe(fails={"chown": Failure(errno=errno.EPERM, text=os.strerror(errno.EPERM))}),
            ),
        },
        (
            "warning",
            "nfs refuses files of subordinate ids: Operation not permitted",
            "programs that change owners fail, such as package managers; archives cannot be unpacked",
            'set SANDBOX_STATE_DIR to a directory of yours on a local file system, or set ids.map = "single"',
        ),
    ),
    (
        "owners were not reached",
        "state.owners",
        None,
        {"namespaces": NamespaceFacts(single=probe(), whole=probe(last="id map"))},
        (
            "note",
            "not tested: an earlier check failed",
            "",
            "",
        ),
    ),
    (
        "enough space",
        "state.space",
        None,
        {},
        (
            "ok",
            "50 GiB free for persistent layers and unpacked archives",
            "",
            "",
        ),
    ),
    (
        "no bound",
        "state.space",
        None,
        {"state": state(fstype="ramfs", free_bytes=None, free_inodes=None)},
        (
            "ok",
            "ramfs is limited only by memory",
            "",
            "",
        ),
    ),
    (
        "little space",
        "state.space",
        None,
        {"state": state(free_bytes=300 << 20)},
        (
            "warning",
            "only 300 MiB free for persistent layers and unpacked archives",
            "programs that write more fail with ENOSPC",
            "free some (see `df /home/user/.local/state/sandbox`), or set SANDBOX_STATE_DIR to a directory with more",
        ),
    ),
    (
        "next to no space",
        "state.space",
        None,
        {"state": state(free_bytes=3 << 10)},
        (
            "warning",
            "only 3 KiB free for persistent layers and unpacked archives",
            "programs that write more fail with ENOSPC",
            "free some (see `df /home/user/.local/state/sandbox`), or set SANDBOX_STATE_DIR to a directory with more",
        ),
    ),
    (
        "no space",
        "state.space",
        None,
        {"state": state(free_bytes=0)},
        (
            "warning",
            "only 0 bytes free for persistent layers and unpacked archives",
            "programs that write more fail with ENOSPC",
            "free some (see `df /home/user/.local/state/sandbox`), or set SANDBOX_STATE_DIR to a directory with more",
        ),
    ),
    (
        "terabytes",
        "state.space",
        None,
        {"state": state(free_bytes=3 << 40)},
        (
            "ok",
            "3 TiB free for persistent layers and unpacked archives",
            "",
            "",
        ),
    ),
    (
        "few inodes",
        "state.space",
        None,
        {"state": state(free_inodes=12)},
        (
            "warning",
            "12 more files can be created",
            "programs that create many files fail with ENOSPC",
            "free some (see `df -i /home/user/.local/state/sandbox`), or set SANDBOX_STATE_DIR to a directory with more",
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

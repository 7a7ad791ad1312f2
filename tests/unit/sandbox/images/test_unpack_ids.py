"""Unpacking as id 0 of a user namespace: owners, capabilities, and a file system that fills up."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sandbox.images.tars import (
    FIFO,
    directory,
    extract,
    file,
    header,
    pax,
    tar,
)

PROJECT = Path(__file__).parents[4]

#: VFS_CAP_REVISION_2 with cap_net_raw permitted and effective (linux/capability.h), as setcap writes it.
NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")
CAPABILITY = (b"SCHILY.xattr.security.capability", NET_RAW)
OWNED = tar(
    directory(b".", uid=1, gid=2),
    directory(b"d", uid=3, gid=4),
    file(b"d/f", b"x", mode=0o6755, uid=5, gid=6),
    header(b"s", flag=b"2", link=b"nowhere", uid=7, gid=8),
    header(b"p", flag=FIFO, uid=9, gid=10, mode=0o600),
    file(b"new/f"),
)


def run(tmp_path: Path, data: bytes, *options: str, namespace: list[str], before: str = "") -> dict[str, Any]:
    """Unpack *data* in a user namespace, after the shell command *before*; return the output of the program."""
    archive = tmp_path / "a.tar"
    archive.write_bytes(data)
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    program = [
        sys.executable,
        "-m",
        "tests.unit.sandbox.images.unpack_program",
        str(archive),
        str(root),
        *options,
    ]
    shell = ["sh", "-ec", f'{before}\nexec "$@"', "sh", *program]
    done = subprocess.run(
        ["unshare", "--user", *namespace, *shell], cwd=PROJECT, stdout=subprocess.PIPE, timeout=60, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


SINGLE = ["--map-root-user"]
RANGE = ["--map-root-user", "--map-auto"]


@pytest.mark.root
def test_owners_are_the_numbers_of_the_archive(tmp_path: Path) -> None:
    extract(OWNED, tmp_path / "root", single_id=False)
    owners = {
        name: (os.lstat(tmp_path / "root" / name).st_uid, os.lstat(tmp_path / "root" / name).st_gid)
        for name in (".", "d", "d/f", "s", "p", "new", "new/f")
    }
    assert owners == {
        ".": (1, 2),
        "d": (3, 4),
        "d/f": (5, 6),
        "s": (7, 8),
        "p": (9, 10),
        "new": (0, 0),
        "new/f": (0, 0),
    }
    assert stat.S_IMODE(os.stat(tmp_path / "root/d/f").st_mode) == 0o6755


@pytest.mark.newuidmap
def test_owners_are_the_numbers_of_the_namespace(tmp_path: Path) -> None:
    seen = run(tmp_path, OWNED, namespace=RANGE)
    assert seen["owners"] == {
        ".": [1, 2],
        "d": [3, 4],
        "d/f": [5, 6],
        "s": [7, 8],
        "p": [9, 10],
        "new": [0, 0],
        "new/f": [0, 0],
    }
    assert stat.S_IMODE(seen["modes"]["d/f"]) == 0o6755
    run_again = ["unshare", "--user", *RANGE, "rm", "-r", str(tmp_path / "root")]
    subprocess.run(run_again, check=True)  # files of subordinate ids can be removed only under these


@pytest.mark.userns
def test_with_a_single_id_everything_is_owned_by_it(tmp_path: Path) -> None:
    seen = run(tmp_path, OWNED, "--single-id", namespace=SINGLE)
    assert set(map(tuple, seen["owners"].values())) == {(0, 0)}
    assert stat.S_IMODE(seen["modes"]["d/f"]) == 0o6755


@pytest.mark.userns
@pytest.mark.parametrize(
    "part",
    [
        file(b"x", uid=5),
        directory(b"x", gid=70000),
        header(b"x", flag=b"2", link=b"y", uid=5),
    ],
    ids=["file", "directory", "symlink"],
)
def test_an_owner_outside_of_the_map_is_an_error_that_names_member_and_ids(
    part: bytes, tmp_path: Path
) -> None:
    seen = run(tmp_path, tar(part), namespace=SINGLE)
    assert "a.tar: x: its owner " in seen["image_error"]
    assert "not among the ids of the sandbox" in seen["image_error"]
    assert ("5:0" in seen["image_error"]) != ("0:70000" in seen["image_error"])


@pytest.mark.userns
@pytest.mark.parametrize("number", [-1, 2**32 - 1, 2**32, 2**60])
def test_a_number_that_is_no_id_is_an_error(number: int, tmp_path: Path) -> None:
    data = tar(
        header(b"x", uid=0),
        header(b"y", uid=number) if number < 2**55 else pax([(b"uid", b"%d" % number)]) + header(b"y"),
    )
    seen = run(tmp_path, data, namespace=SINGLE)
    assert seen["image_error"] == f"a.tar: y: its owner, user {number}, is not a valid id"


@pytest.mark.userns
def test_file_capabilities_survive_owner_and_mode(tmp_path: Path) -> None:
    data = tar(pax([CAPABILITY]), file(b"ping", b"x", mode=0o4755))
    for options in ((), ("--single-id",)):
        seen = run(tmp_path, data, *options, namespace=SINGLE)
        assert "security.capability" in seen["xattrs"]["ping"]
        assert seen["notices"] == []
        os.unlink(tmp_path / "root/ping")


@pytest.mark.userns
def test_a_capability_that_is_none_is_refused(tmp_path: Path) -> None:
    seen = run(tmp_path, tar(pax([(CAPABILITY[0], b"junk")]), file(b"ping")), namespace=SINGLE)
    assert "a.tar: ping: its attribute security.capability cannot be set" in seen["image_error"]


@pytest.mark.userns
def test_a_capability_that_may_not_be_set_is_left_out_and_reported(tmp_path: Path) -> None:
    data = tar(pax([CAPABILITY]), file(b"ping"))
    without = 'exec setpriv --bounding-set=-setfcap "$@"'
    seen = run(tmp_path, data, namespace=SINGLE, before=without)
    assert seen["notices"] == ["1 extended attributes left out: ping: security.capability"]


@pytest.mark.userns
def test_a_full_file_system_stops_it_with_enospc_and_the_member(tmp_path: Path) -> None:
    data = tar(file(b"small", b"x"), file(b"large", bytes(range(256)) * 4096), file(b"never"))
    mount = f'mount -t tmpfs -o size=256k none "{tmp_path}/root"'
    seen = run(tmp_path, data, "--single-id", namespace=[*SINGLE, "--mount"], before=mount)
    assert seen["os_error"] == [errno.ENOSPC, "large"]
    assert "never" not in seen["owners"]


@pytest.mark.userns
def test_inodes_may_run_out_too(tmp_path: Path) -> None:
    data = tar(*(directory(b"d%d" % number) for number in range(50)))
    mount = f'mount -t tmpfs -o nr_inodes=20 none "{tmp_path}/root"'
    seen = run(tmp_path, data, "--single-id", namespace=[*SINGLE, "--mount"], before=mount)
    assert seen["os_error"][0] == errno.ENOSPC
    assert seen["os_error"][1].startswith("d")

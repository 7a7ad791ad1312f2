"""scripts/test chooses a directory for temporary files, and the tests of a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]


def why_unfit(directory: Path, *, enter: tuple[str, ...] = ()) -> str:
    script = f'. {PROJECT}/scripts/setup.sh; . {PROJECT}/scripts/runs.sh; why_unfit "$1" "$2"'
    command = [*enter, "bash", "-c", script, "bash", str(directory), sys.executable]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.whiteouts
def test_a_directory_with_all_features_is_fit(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    if found.f_bavail * found.f_frsize < 2 << 30:
        pytest.skip("needs 2 GiB of free space")
    assert why_unfit(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_unfit(tmp_path: Path) -> None:
    assert why_unfit(tmp_path / "absent") == "No such file or directory\n"


@pytest.mark.userns
def test_a_directory_with_little_space_is_unfit(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec "$@"'
    enter = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    assert why_unfit(tmp_path, enter=enter) == "no space for the files of tests: less than 2 GiB are free\n"


@pytest.mark.root
@pytest.mark.overlay
def test_kernel_overlayfs_is_unfit(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    script = f'cd {tmp_path} && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged && exec "$@"'
    enter = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    reason = "no whiteouts (character devices 0:0): Operation not permitted\n"
    assert why_unfit(tmp_path / "merged", enter=enter) == reason


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("unionfs/copyup", "tests/unit/unionfs/copyup"),
        ("sandbox/plan/", "tests/unit/sandbox/plan"),
        ("sandbox/absent", "sandbox/absent"),
        ("tests/e2e/test_ids.py", "tests/e2e/test_ids.py"),
        ("-k", "-k"),
    ],
)
def test_a_folder_of_the_code_selects_its_unit_tests(argument: str, expected: str) -> None:
    script = f'. {PROJECT}/scripts/setup.sh; . {PROJECT}/scripts/runs.sh; tests_of "$1"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", argument], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == expected

"""scripts/bench as a command: its output, and that it leaves nothing. No test depends on a duration."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.support import PROJECT

pytestmark = pytest.mark.fusermount


#: Use this interpreter for the benchmark and its servers, and the smallest amount of work.
BENCH = [
    sys.executable,
    os.path.join(PROJECT, "scripts", "bench"),
    "--python",
    sys.executable,
    "--scale",
    "0.005",
]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/bench for one round."""
    return subprocess.run(
        [*BENCH, "--rounds", "1", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_quick_workloads_run_and_the_systems_agree(tmp_path: Path) -> None:
    place, result = tmp_path / "place", tmp_path / "result.json"
    place.mkdir()
    done = bench("--quick", "--systems", "unionfs,native", "--on", str(place), "--json", str(result))
    assert done.returncode == 0, done.stderr
    assert os.listdir(place) == []
    (measured,) = json.loads(result.read_text())["places"]
    assert {"walk cold", "untar", "append to lower files", "sqlite transactions"} <= {
        row["name"] for row in measured["rows"]
    }
    for row in measured["rows"]:
        assert {name: len(seconds) for name, seconds in row["seconds"].items()} == {"unionfs": 1, "native": 1}
        assert row["problems"] == []
    assert "sqlite transactions" in done.stdout


@pytest.mark.once
def test_workloads_outside_of_quick_run_as_well(tmp_path: Path) -> None:
    only = [
        part
        for name in ("chmod", "random", "git", "make", "two at once", "10 layers")
        for part in ("--only", name)
    ]
    done = bench("--systems", "unionfs,native", "--on", str(tmp_path), *only)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "failed" in line] == []


@pytest.fixture
def without_peers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a PATH with all programs except the peers of unionfs."""
    links = tmp_path_factory.mktemp("path")
    for directory in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for name in os.listdir(directory):
            if name not in {"fuse-overlayfs", "podman"} and not os.path.lexists(links / name):
                (links / name).symlink_to(f"{directory}/{name}")
    monkeypatch.setenv("PATH", str(links))


def test_a_missing_system_is_named_and_the_others_run(tmp_path: Path, without_peers: None) -> None:
    done = bench("--only", "untar", "--on", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "left out: fuse-overlayfs: not installed (apt-get install fuse-overlayfs)" in done.stdout
    assert re.search(r"^untar +[0-9]", done.stdout, re.MULTILINE)


@pytest.mark.userns
def test_the_start_of_a_program_is_measured_without_podman_as_well(
    tmp_path: Path, without_peers: None
) -> None:
    done = bench("--only", "start", "--on", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "left out: podman: podman is not installed (apt-get install podman)" in done.stdout
    assert re.search(r"^start of true +[0-9.]+ +[0-9.]+", done.stdout, re.MULTILINE)
    assert os.listdir(tmp_path) == []


@pytest.mark.once
def test_the_import_of_a_layer_is_compared_with_tar(tmp_path: Path) -> None:
    place, result = tmp_path / "place", tmp_path / "result.json"
    place.mkdir()
    done = bench("--only", "import", "--on", str(place), "--json", str(result))
    assert done.returncode == 0, done.stderr
    (measured,) = json.loads(result.read_text())["places"]
    assert [row["name"] for row in measured["rows"]][:2] == ["import, plain", "import, gzip"]
    for row in measured["rows"]:
        assert {name: len(seconds) for name, seconds in row["seconds"].items()} == {"sandbox": 1, "tar": 1}
        assert row["problems"] == []
    assert os.listdir(place) == []


def test_an_unknown_workload_is_an_error(tmp_path: Path) -> None:
    done = bench("--only", "no such thing", "--on", str(tmp_path))
    assert done.returncode == 1
    assert "bench: no workload is named no such thing (see --list)" in done.stderr


def test_a_root_that_does_not_exist_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    done = bench("--only", "untar", "--root", "/no/such/root", "--on", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "bench: --root /no/such/root: no such file or directory"
    assert os.listdir(tmp_path) == []


def test_a_signal_ends_the_benchmark_and_its_servers(tmp_path: Path) -> None:
    # So many rounds that they cannot end before the signal.
    command = [*BENCH, "--systems", "unionfs", "--only", "untar", "--rounds", "10000", "--on", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        said = next((line for line in process.stderr if line.startswith("untar")), None)
        process.terminate()
        process.communicate(timeout=60)
    assert said is not None
    assert process.returncode == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == []

"""Roots of thousands of layers and mount points. They are bounded by the limit on open files, and the error names it."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from tests.e2e.support import Launcher, Outcome, let_in

pytestmark = [pytest.mark.fuse, pytest.mark.once]

LAYERS = 3000
#: Descriptors that the launcher needs besides those of the layers.
MOST = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100


def run(launcher: Launcher, spec: str, script: str, *, open_files: int) -> Outcome:
    """Run *script* in a sandbox whose launcher has the limit *open_files*."""
    command = ["sh", "-c", f'ulimit -Sn {open_files}; exec "$@"', "sh"]
    arguments = [*command, *launcher.arguments(spec, ["sh", "-c", script])]
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=120, check=False, env=launcher.environ
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def layers(tmp_path: Path) -> list[str]:
    """Return the layers of the largest test, each with a file of its own."""
    for number in range(LAYERS):
        directory = tmp_path / "layers" / f"{number:04}"
        directory.mkdir(parents=True)
        if number in (0, LAYERS - 1):
            (directory / f"of-layer-{number}").touch()
    let_in(tmp_path / "layers")
    return [f"dir:{tmp_path}/layers/{number:04}" for number in range(LAYERS)]


def spec_of(layers: list[str]) -> str:
    return "[root]\nlayers = [" + ", ".join(f'"{layer}"' for layer in ["dir:/", *layers]) + "]\n"


@pytest.mark.skipif(MOST < LAYERS, reason=f"the hard limit on open files is below {LAYERS + 100}: ulimit -Hn")
def test_three_thousand_layers_make_one_root(launcher: Launcher, layers: list[str]) -> None:
    done = run(launcher, spec_of(layers), "ls -d /of-layer-*; touch /new", open_files=LAYERS + 100)
    assert (done.status, done.out) == (0, f"/of-layer-0\n/of-layer-{LAYERS - 1}\n"), done.err


def test_more_layers_than_open_files_are_an_error_that_names_the_limit(
    launcher: Launcher, layers: list[str]
) -> None:
    done = run(launcher, spec_of(layers[:500]), "true", open_files=300)
    assert done.status == 125
    assert "EMFILE" in done.err
    assert "ulimit -n" in done.err


def test_twenty_thousand_mount_points_are_an_error_that_names_the_limit(launcher: Launcher) -> None:
    cross = ", ".join(f'"/mnt/no-such-mount-point/{number:05}"' for number in range(20_000))
    spec = f'[root]\nlayers = [{{ dir = "/", cross = [{cross}] }}]\n'
    done = run(launcher, spec, "echo up", open_files=1024)
    assert (done.status, done.out) == (0, "up\n"), done.err

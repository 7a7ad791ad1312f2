"""Directories of a `dir:` root that the user may not search: one warning with their number and a remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.support import Launcher

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

ROOT = '[root]\nlayers = ["dir:/", "dir:{layer}"]\n[ids]\nmap = "single"\n'


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """Return a layer with /closed-0 and /closed-1 of another user, and with /open-0 that every user may search."""
    if os.geteuid() != 0:
        pytest.skip("only root gives directories away")
    top = tmp_path / "layer"
    top.mkdir()
    for name, mode in (("closed-0", 0o700), ("closed-1", 0o700), ("open-0", 0o711)):
        (top / name).mkdir()
        os.chown(top / name, 1000, 1000)
        (top / name).chmod(mode)
    return top


def warnings(err: str) -> list[str]:
    return [line for line in err.splitlines() if "may not search" in line]


def test_closed_directories_that_the_program_met_are_counted_once(launcher: Launcher, layer: Path) -> None:
    script = "for n in 1 2 3; do ls /closed-0; cat /closed-0/x; ls /closed-1; done; ls /open-0; true"
    done = launcher.shell(script, ROOT.format(layer=layer))
    assert done.status == 0
    (warning,) = warnings(done.err)
    assert "may not search 2 directories of the layers (/closed-0 and others)" in warning
    assert "tar:" in warning


def test_closed_directories_that_no_program_looked_up_are_not_counted(
    launcher: Launcher, layer: Path
) -> None:
    done = launcher.shell("ls / > /dev/null; ls -ld /closed-0; ls /usr > /dev/null", ROOT.format(layer=layer))
    assert (done.status, warnings(done.err)) == (0, [])


def test_a_name_with_control_characters_is_escaped_in_the_warning(launcher: Launcher, layer: Path) -> None:
    (layer / "closed-0").rename(layer / "closed-\x1b[2J")
    done = launcher.shell("ls /closed*; true", ROOT.format(layer=layer))
    (warning,) = warnings(done.err)
    assert "\x1b" not in warning


def test_closed_directories_of_this_machine_are_closed_inside_too(launcher: Launcher) -> None:
    if os.geteuid() == 0 or os.access("/root", os.X_OK):
        pytest.skip("this account may search /root")
    done = launcher.shell("ls /root; true")
    assert "Permission denied" in done.err
    assert warnings(done.err) == []

"""Whose files are those in volumes: the table of configs/README.md."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import host
from tests.e2e.support import HOST_ROOT, Launcher

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

ROOTS = 1878982656


def outside(single: bool) -> tuple[int, int | None]:
    """Return the users of this machine who, as the table has it, are users 0 and 7 of a sandbox; None for nobody."""
    own = os.geteuid()
    if own == 0:
        return ROOTS, None if single else ROOTS + 7
    if single:
        return own, None
    facts = host.gather()
    if facts.whole_maps() is None:
        return own, None
    return own, facts.uid_ranges[0].start + 6


@pytest.mark.parametrize("map_", ["auto", "single"])
@pytest.mark.parametrize("kind", ["bind", "named"])
def test_files_in_volumes_belong_to_whom_the_table_says(
    launcher: Launcher, tmp_path: Path, kind: str, map_: str
) -> None:
    zero, seven = outside(single=map_ == "single")
    source = tmp_path / "shared"
    source.mkdir()
    source.chmod(0o777)
    (source / "strange").touch()
    if os.geteuid() == 0:
        os.chown(source / "strange", 12345, 12345)
    volume = "data" if kind == "named" else str(source)
    spec = HOST_ROOT + f'[[volumes]]\ntype = "{kind}"\nsource = "{volume}"\ntarget = "/v"\n'
    spec += "" if map_ == "auto" else '[ids]\nmap = "single"\n'
    script = "touch /v/zero; touch /v/seven; chown 7:7 /v/seven 2>/dev/null && echo seven; stat -c '%u %g' /v/zero /v/strange"
    done = launcher.shell(script, spec)
    if kind == "named":
        source = launcher.state / "volumes" / "data" / "data"
    assert (source / "zero").stat().st_uid == zero
    assert ("seven" in done.out) == (seven is not None)
    assert (source / "seven").stat().st_uid == (zero if seven is None else seven)
    shown = [line for line in done.out.splitlines() if line != "seven"]
    assert shown[0] == "0 0"
    if kind == "bind" and os.geteuid() == 0 and map_ == "auto":
        assert shown[1] == "65534 65534"


def test_file_volumes_belong_to_user_0_for_every_map(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[[volumes]]\ntype = "file"\ntarget = "/v"\ncontent = ""\n'
    for ids in ("", '[ids]\nmap = "single"\n'):
        assert launcher.shell("stat -c '%u %g' /v", spec + ids).out == "0 0\n"

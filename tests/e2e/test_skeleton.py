"""Marks of layers hide no mount point: not those of archives or earlier runs that delete /proc or everything below."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.e2e.archive import Archive
from tests.e2e.support import HOST_ROOT, Launcher

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

OPAQUE = ".wh..wh..opq"
#: Marks that hide mount points, each in a layer above one that has all of them.
MARKS = {
    "all": [OPAQUE],
    "what is always mounted": [".wh.proc", ".wh.sys", ".wh.dev", ".wh.usr"],
    "a place and those around it": [".wh.opt", ".wh.etc"],
    "a place alone": ["opt/data/.wh.x", "etc/.wh.name"],
    "above a place": ["opt/.wh.data", f"etc/{OPAQUE}"],
    "around a place": [f"opt/{OPAQUE}", f"opt/data/{OPAQUE}", f"opt/data/x/{OPAQUE}"],
}
VOLUMES = """
[[volumes]]
type = "bind"
source = "/usr"
target = "/usr"
read_only = true
[[volumes]]
type = "tmpfs"
target = "/opt/data/x"
[[volumes]]
type = "file"
target = "/etc/name"
content = "of the volume"
"""
LOOK = (
    "grep -c '^Pid:' /proc/self/status; test -c /dev/null && test -d /sys/class && echo mounted; cat /etc/name /mine;"
    " touch /opt/data/x/new; find /opt /etc /secret ! -path /etc/hosts 2>/dev/null | sort"
)
PLACES = ["/etc", "/etc/name", "/opt", "/opt/data", "/opt/data/x", "/opt/data/x/new"]


def lower(path: Path) -> Archive:
    """Begin an archive with the objects that the marks hide."""
    archive = Archive(path).add("proc").add("sys").add("dev").add("usr")
    archive.add("opt").add("opt/data").add("opt/data/x").add("etc")
    archive.add("opt/data/old", b"").add("opt/data/x/old", b"").add("etc/name", b"old").add("etc/old", b"")
    return archive.add("secret", b"")


def upper(path: Path, marks: list[str]) -> Archive:
    """Begin an archive with *marks* and the links to the volume of programs."""
    archive = Archive(path)
    for name in ("bin", "sbin", "lib", "lib64"):
        archive.add(name, kind=tarfile.SYMTYPE, linkname=f"usr/{name}")
    for mark in marks:
        archive.add(mark, b"")
    return archive.add("mine", b"of the layer\n")


@pytest.mark.parametrize("marks", MARKS.values(), ids=list(MARKS))
def test_archive_that_deletes_mount_points_starts_and_deleted_objects_stay_hidden(
    launcher: Launcher, tmp_path: Path, marks: list[str]
) -> None:
    layers = [lower(tmp_path / "lower.tar").layer(), upper(tmp_path / "upper.tar", marks).layer()]
    spec = f"[root]\nlayers = {layers}\n{VOLUMES}"
    hidden = {
        "all": {"/opt/data/old", "/etc/old", "/secret"},
        "a place and those around it": {"/opt/data/old", "/etc/old"},
        "above a place": {"/opt/data/old", "/etc/old"},
        "around a place": {"/opt/data/old"},
    }.get(next(name for name, each in MARKS.items() if each is marks), set())
    shown = {"/opt/data/old", "/etc/old", "/secret"} - hidden
    expected = ["1", "mounted", "of the volumeof the layer", *sorted([*PLACES, *shown])]
    for _ in range(2):  # the second one has an index of the layers
        outcome = launcher.shell(LOOK, spec)
        assert (outcome.status, outcome.err) == (0, ""), outcome
        assert outcome.out.splitlines() == expected


def test_archive_with_a_file_at_a_mount_point_is_an_error(launcher: Launcher, tmp_path: Path) -> None:
    archive = upper(tmp_path / "upper.tar", []).add("proc", b"a file")
    outcome = launcher.up(f'[root]\nlayers = ["{archive.layer()}"]\n{VOLUMES}', ["true"])
    assert outcome.status == 125
    assert "the layers have a file there, not a directory" in outcome.err


KEPT = HOST_ROOT + 'writable = "persistent"\n'


def test_place_that_an_earlier_run_deleted_is_mounted_on_and_its_old_contents_stay_deleted(
    launcher: Launcher, tmp_path: Path
) -> None:
    layer = lower(tmp_path / "lower.tar").layer()
    spec = KEPT.replace('"dir:/"', f'"dir:/", "{layer}"')
    volume = '[[volumes]]\ntype = "tmpfs"\ntarget = "/opt/data/x"\n'
    assert launcher.shell("rm -r /opt", spec).status == 0
    for command, expected in (
        ("ls -A /opt /opt/data", "/opt:\ndata\n\n/opt/data:\nx\n"),
        ("touch /opt/data/new; ls -A /opt /opt/data", "/opt:\ndata\n\n/opt/data:\nnew\nx\n"),
        ("ls -A /opt /opt/data", "/opt:\ndata\n\n/opt/data:\nnew\nx\n"),
    ):
        outcome = launcher.shell(command, spec + volume)
        assert (outcome.out, outcome.err) == (expected, "")
    assert launcher.shell("ls -A /opt /opt/data", spec).out == "/opt:\ndata\n\n/opt/data:\nnew\n"


def test_link_that_leads_to_a_volume_can_be_deleted_and_nothing_shows_in_its_place(
    launcher: Launcher, tmp_path: Path
) -> None:
    archive = upper(tmp_path / "upper.tar", []).add("etc").add("etc/real", b"")
    archive.add("etc/name", kind=tarfile.SYMTYPE, linkname="real")
    script = "cat /etc/name; rm /etc/name && ls -A -I hosts /etc; echo mine > /etc/name && cat /etc/name; rm /etc/real || echo busy"
    outcome = launcher.shell(script, f'[root]\nlayers = ["{archive.layer()}"]\n{VOLUMES}')
    assert outcome.out == "of the volumereal\nmine\nbusy\n"

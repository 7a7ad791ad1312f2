"""Direct binds of paths: what a program sees of them, and which paths are refused."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.e2e.archive import Archive
from tests.e2e.support import Launcher
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

whole_map = pytest.mark.skipif(
    os.geteuid() != 0 and not has_subordinate_ids(), reason="this account has a single id"
)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = Archive(tmp_path / "app.tar")
    for name in ("app", "app/bin", "app/data"):
        made.add(name)
    made.add("app/bin/hello", b"#!/bin/sh\necho hello\n", mode=0o755)
    made.add("app/data/file", b"of the layer\n", mode=0o640)
    made.add("app/data/link", kind=tarfile.SYMTYPE, linkname="file")
    made.add("app/data/name", kind=tarfile.LNKTYPE, linkname="app/data/file")
    return made


def spec(layers: Iterable[str], native: Iterable[str] = ("/app",), more: str = "", root: str = "") -> str:
    def listed(values: Iterable[str]) -> str:
        return "[" + ", ".join(f'"{value}"' for value in values) + "]"

    return f"[root]\nlayers = {listed(layers)}\nnative = {listed(native)}\n{root}{more}"


def volume(target: str, kind: str = "tmpfs", **others: str) -> str:
    lines = "".join(f'{key} = "{value}"\n' for key, value in others.items())
    return f'[[volumes]]\ntype = "{kind}"\ntarget = "{target}"\n{lines}'


def error(launcher: Launcher, text: str) -> str:
    done = launcher.up(text, ["true"])
    assert done.status == 125, (done.status, done.out, done.err)
    assert "internal error" not in done.err
    assert launcher.runs() == []
    return done.err


LOOK = "find /app -printf '%p %y %m %U:%G %s %n %T@ %l\\n' | sort; cat /app/data/name"


@pytest.mark.parametrize("ids", ["", '[ids]\nmap = "single"\n'])
def test_native_path_shows_what_the_union_shows_and_is_no_part_of_it(
    launcher: Launcher, archive: Archive, ids: str
) -> None:
    layers = ["dir:/", archive.layer()]
    through = launcher.shell(LOOK, spec(layers, [], ids))
    past = launcher.shell(LOOK, spec(layers, ["/app"], ids))
    assert past.status == through.status == 0, past.err
    # Sizes and link counts of directories depend on the file system.
    assert [line for line in past.out.splitlines() if " d " not in line] == [
        line for line in through.out.splitlines() if " d " not in line
    ]
    assert [line.split()[:4] for line in past.out.splitlines()] == [
        line.split()[:4] for line in through.out.splitlines()
    ]
    done = launcher.shell(
        "/app/bin/hello; stat -f -c %T / /app/bin | tr '\\n' ' '", spec(layers, ["/app"], ids)
    )
    assert done.out.startswith("hello\nfuse")
    assert "fuse" not in done.out.split()[2]


def test_native_path_is_read_only_and_everything_beside_it_is_not(
    launcher: Launcher, archive: Archive
) -> None:
    script = (
        "touch /app/new; rm /app/data/file; echo x >> /app/data/file; chmod 0 /app/bin; mv /app /other; "
        "mount -o remount,bind,rw /app; touch /opt/new && ls /opt/new; grep ' /app ' /proc/self/mountinfo | cut -d' ' -f6"
    )
    done = launcher.shell(script, spec(["dir:/", archive.layer()]))
    assert done.out.splitlines()[0] == "/opt/new"
    assert set("ro nosuid nodev".split()) <= set(done.out.splitlines()[1].split(","))
    assert done.err.count("Read-only file system") >= 4
    assert "Device or resource busy" in done.err
    assert launcher.shell("cat /app/data/file", spec(["dir:/", archive.layer()])).out == "of the layer\n"


def test_directories_above_a_native_path_cannot_be_renamed(launcher: Launcher, archive: Archive) -> None:
    done = launcher.shell(
        "mv /app /other; mv /app/data /app/moved; ls /app", spec(["dir:/", archive.layer()], ["/app/data"])
    )
    assert done.err.count("Device or resource busy") == 2, done.err
    assert done.out.split() == ["bin", "data"]
    made = launcher.shell(
        "touch /app/new /app/bin/new && ls /app", spec(["dir:/", archive.layer()], ["/app/data"])
    )
    assert made.out.split() == ["bin", "data", "new"]


def test_program_cannot_keep_others_from_opening_the_layers_files(
    launcher: Launcher, archive: Archive
) -> None:
    script = """
import fcntl, os
fd = os.open("/app/data/file", os.O_RDONLY)
for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):
    try:
        print(fcntl.fcntl(fd, fcntl.F_SETLEASE, kind))
    except PermissionError:
        print("refused")
print(fcntl.fcntl(fd, fcntl.F_GETFD))
"""
    done = launcher.up(spec(["dir:/", archive.layer()]), ["/usr/bin/python3", "-c", script])
    assert done.out.split() == ["refused", "refused", "1"], done.err


def test_several_native_paths_of_several_archives_are_bound(
    launcher: Launcher, archive: Archive, tmp_path: Path
) -> None:
    other = Archive(tmp_path / "other.tar").add("app").add("app/more").add("app/more/x", b"more\n")
    text = spec(["dir:/", archive.layer(), other.layer()], ["/app/more", "/app/bin", "/app/data"])
    done = launcher.shell("cat /app/more/x /app/data/file; /app/bin/hello; touch /app/new", text)
    assert done.out == "more\nof the layer\nhello\n", done.err
    assert "more than one layer has /app: tar:" in error(
        launcher, spec(["dir:/", archive.layer(), other.layer()])
    )


def test_mounts_masks_and_the_working_directory_below_a_native_path_work(
    launcher: Launcher, archive: Archive, shared: Path
) -> None:
    archive.add("app/empty").add("app/conf", b"").add("way", kind=tarfile.SYMTYPE, linkname="app/empty")
    more = volume("/app/data") + volume("/app/data/deep/er") + volume("/way", "bind", source=str(shared))
    more += volume("/app/conf", "file", content="made\\n")
    more += '[process]\ncwd = "/app/bin"\n[security]\nmasked_paths = ["/app/bin/hello"]\nreadonly_paths = ["/app/bin"]\n'
    text = spec(["dir:/", archive.layer()], more=more)
    done = launcher.shell(
        "touch /app/data/deep/er/x && find /app/data; cat /app/conf /app/empty/file; wc -c < hello; touch /app/new",
        text,
    )
    assert (
        done.out
        == "/app/data\n/app/data/deep\n/app/data/deep/er\n/app/data/deep/er/x\nmade\nof the host\n0\n"
    )
    assert "Read-only file system" in done.err


def test_volume_that_its_layer_has_no_place_for_is_refused(launcher: Launcher, archive: Archive) -> None:
    archive.add("way", kind=tarfile.SYMTYPE, linkname="/app/bin")
    layers = ["dir:/", archive.layer()]
    said = error(launcher, spec(layers, more=volume("/app/new/x")))
    assert (
        "test.toml:3:11: root.native[0]: /app/new/x must be the target of a volume, but is not in tar:"
        in said
    )
    assert "it cannot be created below /app, which is read-only" in said
    assert "/app/bin/new must be the target of a volume" in error(
        launcher, spec(layers, more=volume("/way/new"))
    )
    # A directory cannot be mounted on a file.
    assert "/app/data/file must be the target of a volume" in error(
        launcher, spec(layers, more=volume("/app/data/file"))
    )


def test_volume_that_a_link_leads_onto_it_is_refused(launcher: Launcher, archive: Archive) -> None:
    archive.add("way", kind=tarfile.SYMTYPE, linkname="/app")
    said = error(launcher, spec(["dir:/", archive.layer()], more=volume("/way")))
    assert "/way covers it" in said


def test_directory_of_a_layer_of_this_machine_is_refused(
    launcher: Launcher, archive: Archive, tmp_path: Path
) -> None:
    (tmp_path / "layer" / "own").mkdir(parents=True)
    layers = ["dir:/", archive.layer(), f"dir:{tmp_path}/layer"]
    said = error(launcher, spec(layers, ["/own"]))
    assert "root.native[0]: /own is in dir:" in said
    assert "the program could connect to sockets in it" in said
    (tmp_path / "layer" / "app").mkdir()
    assert "more than one layer has /app: tar:" in error(launcher, spec(layers))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("app/data/.wh.gone", tarfile.REGTYPE, "/app/data/.wh.gone is a whiteout"),
        ("app/.wh..wh..opq", tarfile.REGTYPE, "/app/.wh..wh..opq is a whiteout"),
        ("app/data/pipe", tarfile.FIFOTYPE, "/app/data/pipe is a FIFO"),
    ],
)
def test_directory_that_only_the_union_can_show_is_refused_each_time_and_its_neighbours_are_not(
    launcher: Launcher, archive: Archive, name: str, kind: bytes, message: str
) -> None:
    archive.add(name, kind=kind)
    layers = ["dir:/", archive.layer()]
    for _ in range(2):
        assert f"cannot be a direct bind: {message}" in error(launcher, spec(layers))
    assert launcher.shell("/app/bin/hello", spec(layers, ["/app/bin"])).out == "hello\n"


def test_deletion_in_a_layer_above_is_refused(launcher: Launcher, archive: Archive, tmp_path: Path) -> None:
    above = Archive(tmp_path / "above.tar").add(".wh.app", b"")
    said = error(launcher, spec(["dir:/", archive.layer(), above.layer()]))
    assert "above.tar deletes /app" in said


def test_path_that_is_no_directory_of_its_own_is_refused(launcher: Launcher, archive: Archive) -> None:
    archive.add("way", kind=tarfile.SYMTYPE, linkname="app")
    layers = ["dir:/", archive.layer()]
    assert "root.native[0]: no layer has /nowhere" in error(launcher, spec(layers, ["/nowhere"]))
    assert "/way is a symbolic link in tar:" in error(launcher, spec(layers, ["/way/data"]))
    assert "/app/data/file in tar:" in error(launcher, spec(layers, ["/app/data/file"]))


@pytest.mark.parametrize(
    "change",
    [
        "echo x > /app/data/new",
        "rm /app/data/file",
        "rm -r /app",
        "mv /app /other",
        "chmod 700 /app",
        "rm -r /app; mkdir /app",
    ],
)
def test_changes_of_an_earlier_run_are_not_hidden(launcher: Launcher, archive: Archive, change: str) -> None:
    layers = ["dir:/", archive.layer()]
    kept = 'writable = "persistent"\n'
    name = '[sandbox]\nname = "kept"\n'
    assert launcher.shell(change, spec(layers, [], name, kept)).status == 0
    said = error(launcher, spec(layers, ["/app"], name, kept))
    assert (
        f"root.native[0]: an earlier run changed /app: a direct bind would hide the changes in {launcher.state}/sandboxes/kept"
        in said
    )
    assert launcher.shell("true", spec(layers, [], name, kept)).status == 0


def test_changes_elsewhere_are_kept_from_run_to_run(launcher: Launcher, archive: Archive) -> None:
    text = spec(
        ["dir:/", archive.layer()], ["/app/data"], '[sandbox]\nname = "kept"\n', 'writable = "persistent"\n'
    )
    script = "echo x >> /app/bin/log; chmod 700 /; cat /app/bin/log /app/data/file"
    assert launcher.shell(script, text).out == "x\nof the layer\n"
    assert launcher.shell(script, text).out == "x\nx\nof the layer\n"


def test_optional_native_path_that_cannot_be_bound_is_served_with_a_warning(
    launcher: Launcher, archive: Archive
) -> None:
    archive.add("app/data/.wh.gone", b"")
    text = spec(
        ["dir:/", archive.layer()],
        ["/app/data", "/app/bin"],
        volume("/app/data/made"),
        'optional = ["native"]\n',
    )
    done = launcher.shell("touch /app/data/new && ls /app/data; touch /app/bin/new", text)
    assert done.out.split() == ["file", "link", "made", "name", "new"]
    assert "warning: not enforced: root.native[0]: tar:" in done.err
    assert "root.native[1]" not in done.err
    assert "Read-only file system" in done.err


@whole_map
def test_directories_of_other_users_are_walked_as_root_of_the_sandbox(
    launcher: Launcher, archive: Archive
) -> None:
    archive.add("own", mode=0o700, uid=1000, gid=1000).add("own/in", uid=1000, gid=1000, mode=0o700)
    archive.add("own/in/side", mode=0o700, uid=1001).add(
        "own/in/side/file", b"theirs\n", uid=1001, mode=0o600
    )
    layers = ["dir:/", archive.layer()]
    assert launcher.shell("cat /own/in/side/file; stat -c %u /own/in /own/in/side", spec(layers, ["/own/in"])).out.split() == [
        "theirs", "1000", "1001",
    ]  # fmt: skip
    done = launcher.shell(
        "cat /own/in/side/file; ls /own", spec(layers, ["/own/in"], '[process]\nuser = "1000"\n')
    )
    assert done.out == "in\n"
    assert "Permission denied" in done.err
    assert "/own/in/no must be the target of a volume" in error(
        launcher, spec(layers, ["/own/in"], volume("/own/in/no"))
    )


def test_layer_is_walked_once(launcher: Launcher, archive: Archive) -> None:
    text = spec(["dir:/", archive.layer()])
    assert launcher.up(text, ["true"]).status == 0
    (record,) = (launcher.state / "images" / "archives").glob("*/native")
    first = record.read_text()
    # The forged record is used: a start that walked the layer would find no such object.
    record.write_text(first.replace('""', '"/app/x is a FIFO"'))
    assert "/app/x is a FIFO" in error(launcher, text)
    record.write_text("not what it should be")
    assert launcher.up(text, ["true"]).status == 0
    assert record.read_text() == first


def test_read_only_root_can_have_native_paths(launcher: Launcher, archive: Archive) -> None:
    text = spec(["dir:/", archive.layer()], root='writable = "none"\n')
    done = launcher.shell("/app/bin/hello; touch /app/x /x", text)
    assert done.out == "hello\n"
    assert done.err.count("Read-only file system") == 2

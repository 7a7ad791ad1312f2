"""Archives that are mounted instead of unpacked: a sandbox over them behaves as over the unpacked ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from sandbox.images.compression import zstd_module
from tests.e2e.archive import Archive, RootArchive
from tests.e2e.support import PYTHON, Launcher, first_line, sandbox
from tests.e2e.test_changes import CHANGE, ROWS, rows

OWNERS = 0 if os.geteuid() else 33


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Return an archive with a file for each change of CHANGE."""
    archive = Archive(tmp_path / "data.tar")
    for name in ("data", "data/gone", "data/moved"):
        archive.add(name)
    for name in ("changed", "deleted", "gone/a", "gone/b", "moved/inside", "moved/kept", "name"):
        archive.add(f"data/{name}", f"old {name}\n".encode(), uid=OWNERS)
    archive.add("data/mode", b"x" * 100_000)
    archive.add("data/other", kind=tarfile.LNKTYPE, linkname="data/name")
    archive.add("data/link", kind=tarfile.SYMTYPE, linkname="moved/kept")
    archive.add("data/echo", Path("/bin/echo").read_bytes(), mode=0o755)
    archive.add(".wh.srv", b"")
    archive.layer()
    return archive.path


def over(archive: Path, *, mount: bool = True, more: str = "") -> str:
    """Return an environment file with *archive* over the root of this machine."""
    return (
        '[sandbox]\nname = "box"\n[root]\n'
        f'layers = ["dir:/", {{ tar = "{archive}", mount = {str(mount).lower()} }}]\n{more}'
    )


LOOK = (
    "cd /data; ls -lnR --time-style=+%s.%N | grep -v '^total'; cat link name other; md5sum mode; "
    "./echo a program of the archive; test -e /srv || echo no /srv; stat -c '%h %i' name other | uniq | wc -l; "
    f"{PYTHON} -c \"import mmap; f = open('mode'); print(mmap.mmap(f.fileno(), 0, access=1)[99990:])\""
)


@pytest.mark.parametrize("server", ["direct", "pyfuse3"])
@pytest.mark.parametrize("ids", ["", '[ids]\nmap = "single"\n'], ids=["usual", "single"])
def test_a_mounted_archive_looks_as_the_unpacked_one(
    launcher: Launcher, packed: Path, ids: str, server: str
) -> None:
    more = f'server = "{server}"\n{ids}'
    unpacked = launcher.shell(LOOK, over(packed, mount=False, more=more))
    mounted = launcher.shell(LOOK, over(packed, more=more))
    assert mounted == unpacked
    assert mounted.status == 0, mounted.err
    assert "a program of the archive\nno /srv\n1\n" in mounted.out
    (index,) = launcher.state.glob("images/archives/*/members")
    assert os.listdir(index.parent / "tree") == []


def test_the_changes_over_it_are_listed_and_exported(
    launcher: Launcher, packed: Path, tmp_path: Path
) -> None:
    found = {}
    for way, mount in (("unpacked", False), ("mounted", True)):
        done = launcher.shell(CHANGE, over(packed, mount=mount), options=["--keep-changes"])
        assert done.status == 0, done.err
        listed = sandbox(launcher, "diff", "box", "--json")
        assert rows(listed) == ROWS
        text = sandbox(launcher, "diff", "box", "--text").out
        assert "-old changed" in text
        found[way] = text, exported(launcher, tmp_path / f"{way}.tar", "--changes")
        assert found[way][1]["data/mode"][3] == b"x" * 100_000
        assert sandbox(launcher, "discard", "box").status == 0
    assert found["mounted"] == found["unpacked"]


def exported(launcher: Launcher, target: Path, *options: str) -> dict[str, tuple[object, ...]]:
    """Return the members that `export` writes, without those of the root of the machine."""
    done = sandbox(launcher, "export", "box", *options, f"tar:{target}")
    assert done.status == 0, done.err
    with tarfile.open(target) as archive:
        return {
            member.name: (
                member.mode,
                member.uid,
                member.linkname,
                archive.extractfile(member).read() if member.isfile() else b"",  # type: ignore[union-attr]
            )
            for member in archive
            if member.name.removeprefix("./").startswith("data")
        }


def test_the_whole_root_over_it_is_exported(launcher: Launcher, tmp_path: Path) -> None:
    archive = RootArchive(tmp_path / "root.tar")
    text = '[sandbox]\nname = "box"\n' + archive.spec().replace('writable = "none"', 'writable = "ephemeral"')
    found = []
    for spec in (text, text.replace(f'"tar:{archive.path}"', f'{{ tar = "{archive.path}", mount = true }}')):
        done = launcher.shell("echo more >> /data/name", spec, options=["--keep-changes"])
        assert done.status == 0, done.err
        found.append(exported(launcher, tmp_path / "all.tar"))
        assert sandbox(launcher, "discard", "box").status == 0
    assert found[0] == found[1]
    assert {content for *_, content in found[0].values()} >= {b"of the layer\nmore\n"}


def test_a_persistent_layer_over_it_lasts(launcher: Launcher, packed: Path) -> None:
    spec = over(packed, more='writable = "persistent"\n')
    first = launcher.shell(
        f"{CHANGE}\nstat -c %i /data/mode /data/elsewhere/kept /data/name /data/other", spec
    )
    assert first.status == 0, first.err
    numbers = "stat -c %i /data/mode /data/elsewhere/kept /data/name /data/other"
    again = launcher.shell(
        f"{numbers}; cat /data/changed /data/elsewhere/kept /data/other /data/new/file", spec
    )
    assert again.out == first.out + "changed\nold moved/kept\nlinked\n1\n", again.err
    assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS


def test_changes_over_an_archive_that_has_changed_are_refused(launcher: Launcher, packed: Path) -> None:
    assert launcher.shell(CHANGE, over(packed), options=["--keep-changes"]).status == 0
    os.utime(packed, (1, 1))
    done = sandbox(launcher, "diff", "box")
    assert done.status != 0
    assert "has changed since" in done.err


def test_a_snapshot_of_a_running_sandbox_over_it_has_its_changes(launcher: Launcher, packed: Path) -> None:
    script = f"{CHANGE}\necho ready; sleep 60"
    with launcher.start(over(packed), ["sh", "-c", script], options=["--keep-changes"]) as running:
        assert first_line(running) == "ready"
        assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS


def test_it_is_the_whole_root_and_mount_points_are_found_through_its_links(
    launcher: Launcher, tmp_path: Path
) -> None:
    archive = RootArchive(tmp_path / "root.tar")
    archive.add("real")
    archive.add("alias", kind=tarfile.SYMTYPE, linkname="/real")
    text = archive.spec('server = "direct"\n', '[[volumes]]\ntype = "tmpfs"\ntarget = "/alias/deep"\n')
    spec = text.replace(f'"tar:{archive.path}"', f'{{ tar = "{archive.path}", mount = true }}')
    done = launcher.shell(
        "cat /data/name; ls -d /real/deep /alias/*; ls /; echo x > /real/deep/y && echo written", spec
    )
    assert done.status == 0, done.err
    assert done.out.startswith("of the layer\n/alias/deep\n/real/deep\n")
    assert done.out.endswith("written\n")
    assert "no server" not in sandbox(launcher, "explain", launcher.write(spec)).out


def test_an_unpacked_archive_beside_it_gets_its_index(
    launcher: Launcher, packed: Path, tmp_path: Path
) -> None:
    other = Archive(tmp_path / "other.tar").add("other").add("other/f", b"f")
    other.layer()
    spec = over(packed).replace("layers = [", f'layers = ["tar:{other.path}", ').replace('"dir:/", ', "")
    spec = spec.replace("layers = [", 'layers = ["dir:/", ')
    done = launcher.shell("cat /other/f /data/link", spec)
    assert (done.status, done.out) == (0, "fold moved/kept\n"), done.err
    assert len(list(launcher.state.glob("images/archives/*/index/*.index"))) == 1


def test_a_direct_bind_of_it_is_refused_with_the_remedy(launcher: Launcher, packed: Path) -> None:
    done = launcher.shell("true", over(packed, more='native = ["/data"]\n'))
    assert done.status == 125
    assert "is mounted, not unpacked" in done.err
    assert 'remove "mount = true"' in done.err


def test_an_archive_that_is_truncated_while_it_is_mounted_gives_input_output_errors(
    launcher: Launcher, packed: Path
) -> None:
    script = (
        "echo ready; read line; cat /data/mode > /dev/null; echo status $?; ls /data | wc -l; cat /data/link"
    )
    arguments = launcher.arguments(over(packed), ["sh", "-c", script])
    with subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=launcher.environ,
    ) as running:
        try:
            assert first_line(running) == "ready"
            os.truncate(packed, 2048)
            out, errors = running.communicate("\n", timeout=60)
        finally:
            running.kill()
    assert "status 1\n9\n" in out
    assert "Input/output error" in errors


def test_an_archive_that_is_replaced_while_it_is_mounted_is_read_to_the_end(
    launcher: Launcher, packed: Path
) -> None:
    script = "echo ready; read line; md5sum < /data/mode; cat /data/link"
    expected = subprocess.run(
        ["md5sum"], input=b"x" * 100_000, capture_output=True, check=True
    ).stdout.decode()
    with subprocess.Popen(
        launcher.arguments(over(packed), ["sh", "-c", script]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=launcher.environ,
    ) as running:
        try:
            assert first_line(running) == "ready"
            packed.unlink()
            packed.write_bytes(b"another file")
            out, _ = running.communicate("\n", timeout=60)
        finally:
            running.kill()
    assert out == f"{expected}old moved/kept\n"


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_an_archive_of_compressed_frames_looks_as_the_unpacked_one(
    launcher: Launcher, packed: Path, compression: str
) -> None:
    pack = gzip.compress if compression == "gzip" else zstd_module("test").compress
    content = packed.read_bytes()
    framed = packed.with_suffix(".tar.packed")
    framed.write_bytes(b"".join(pack(content[at : at + 50_000]) for at in range(0, len(content), 50_000)))
    unpacked = launcher.shell(LOOK, over(packed, mount=False))
    assert launcher.shell(LOOK, over(framed)) == unpacked
    script = f"{CHANGE}\nls -R; cat changed elsewhere/* other; md5sum mode"
    changed = launcher.shell(script, over(framed))
    assert changed == launcher.shell(script, over(packed))
    assert changed.status == 0, changed.err


def test_the_command_that_packs_an_archive_again_makes_one_that_can_be_mounted(
    launcher: Launcher, tmp_path: Path
) -> None:
    archive = (
        Archive(tmp_path / "large.tar").add("data").add("data/zeros", bytes(20 << 20)).add("data/f", b"f")
    )
    archive.layer()
    single = tmp_path / "large.tar.gz"
    single.write_bytes(gzip.compress(archive.path.read_bytes(), 1))
    done = launcher.shell("true", over(single))
    assert done.status == 125
    (command,) = re.findall(r"in such pieces: (.*); or remove", done.err)
    if shutil.which("pzstd") is None:
        pytest.skip("pzstd is not installed (apt-get install zstd)")
    subprocess.run(["sh", "-ec", command], check=True)
    again = launcher.shell("md5sum < /data/zeros; cat /data/f", over(tmp_path / "large-seekable.tar.zst"))
    zeros = hashlib.md5(bytes(20 << 20)).hexdigest()
    assert again.out == f"{zeros}  -\nf", again.err


def test_what_it_is_stands_in_explain_and_in_the_lists(launcher: Launcher, packed: Path) -> None:
    spec = launcher.write(over(packed))
    assert "an archive, mounted, not unpacked" in " ".join(sandbox(launcher, "explain", spec).out.split())
    assert launcher.shell("true", spec).status == 0
    listed = json.loads(sandbox(launcher, "ls", "--json").out)
    (item,) = [one for one in listed if one["kind"] == "archive"]
    assert item["bytes"] < packed.stat().st_size
    packed.unlink()
    assert sandbox(launcher, "prune", "--data", "--yes").status == 0
    assert list(launcher.state.glob("images/archives/*/members")) == []


def test_a_hostile_archive_is_refused_and_leaves_nothing(launcher: Launcher, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w") as archive:
        info = tarfile.TarInfo("a/../../etc/passwd")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    done = launcher.shell("true", over(bad))
    assert done.status == 125
    assert "a path with `..` in it" in done.err
    assert list(launcher.state.glob("images/archives/*/members")) == []

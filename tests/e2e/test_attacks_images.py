"""Hostile images: archives with names, links, devices, marks and sizes that try to reach outside of the sandbox."""

from __future__ import annotations

import io
import os
import re
import tarfile
from pathlib import Path

import pytest

from sandbox.kernel.trees import remove_contents
from tests.e2e.support import PATIENCE, Launcher
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def _has_ids() -> bool:
    return os.geteuid() == 0 or has_subordinate_ids()


whole_map = pytest.mark.skipif(not _has_ids(), reason="this account has a single id")


class Image:
    """An archive that is written member by member; `finish` closes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by finish

    def add(self, name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.size = kind, len(data)
        member.mode = 0o755
        for key, value in fields.items():
            setattr(member, key, value)
        self.tar.addfile(member, io.BytesIO(data))

    def busybox(self) -> None:
        with open("/bin/busybox", "rb") as file:
            self.add("bin/busybox", data=file.read())
        for name in (
            "sh",
            "ls",
            "cat",
            "find",
            "wc",
            "stat",
            "id",
            "echo",
            "grep",
            "true",
            "od",
            "du",
            "tr",
            "mkdir",
        ):
            self.add(f"bin/{name}", tarfile.SYMTYPE, linkname="busybox")

    def finish(self) -> str:
        self.tar.close()
        return f'[root]\nlayers = ["tar:{self.path}"]\n'


@pytest.fixture
def image(tmp_path: Path) -> Image:
    made = Image(tmp_path / "hostile.tar")
    made.busybox()
    return made


@pytest.mark.busybox
def test_links_of_an_image_lead_nowhere_outside(launcher: Launcher, image: Image, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    up = "../" * 40
    image.add("absolute", tarfile.SYMTYPE, linkname=str(tmp_path / "secret"))
    image.add("relative", tarfile.SYMTYPE, linkname=f"{up}{tmp_path}/secret")
    image.add("proc", tarfile.SYMTYPE, linkname=f"{up}{tmp_path}")
    done_ = launcher.shell("cat /absolute /relative", image.finish())
    assert done_.status == 125  # /proc is a link: nothing is mounted on its target
    assert "remove that layer" in done_.err
    assert (tmp_path / "secret").read_text() == "host"


@pytest.mark.busybox
@pytest.mark.parametrize("target", ["../../../../../..{}", "{}"])
def test_volume_behind_links_of_an_image_is_mounted_inside(
    launcher: Launcher, image: Image, tmp_path: Path, target: str
) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "file").write_text("volume")
    image.add("data", tarfile.SYMTYPE, linkname=target.format(tmp_path / "host"))
    spec = (
        image.finish() + f'[[volumes]]\ntype = "bind"\nsource = "{tmp_path}/shared"\ntarget = "/data/deep"\n'
    )
    outcome = launcher.shell("cat /data/deep/file", spec)
    assert outcome.status in (0, 125)  # mounted inside, or refused, but never outside
    assert list((tmp_path / "host").iterdir()) == []


@pytest.mark.busybox
def test_devices_and_set_id_files_of_an_image_are_without_effect(launcher: Launcher, image: Image) -> None:
    image.add("fuse", tarfile.CHRTYPE, devmajor=10, devminor=229, mode=0o666)
    image.add("disk", tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o666)
    image.add("mem", tarfile.CHRTYPE, devmajor=1, devminor=1, mode=0o666)
    image.add("bin/su", data=Path("/bin/busybox").read_bytes(), mode=0o6755)
    user = "[process]\nuser = 33\n" if _has_ids() else ""
    script = "cat /fuse /disk /mem 2>&1 | grep -c -v -e denied -e 'No such' ; /bin/su 2>/dev/null; /bin/busybox id -u; grep NoNewPrivs /proc/self/status"
    outcome = launcher.shell(script, image.finish() + user)
    assert outcome.out.split() == ["0", "33" if user else "0", "NoNewPrivs:", "1"], outcome.err


@pytest.mark.busybox
def test_huge_sparse_file_takes_no_space_and_shows_its_size(launcher: Launcher, image: Image) -> None:
    size = 1 << 40
    member = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "huge",
        "GNU.sparse.realsize": str(size),
    }
    image.add("GNUSparseFile.0/huge", data=b"1\n0\n1\n".ljust(512, b"\0") + b"x", pax_headers=member)
    outcome = launcher.shell("stat -c '%s %b' /huge", image.finish())
    shown, blocks = map(int, outcome.out.split())
    assert shown == size
    assert blocks < 100


def _dig(top: Path, depth: int) -> None:
    at = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=at))
    os.close(at)


@pytest.mark.twice
def test_tree_of_four_thousand_levels_is_shown_changed_and_removed(
    launcher: Launcher, tmp_path: Path
) -> None:
    """The tree is deeper than PATH_MAX allows, in a layer and as the program makes it."""
    depth = 4000
    top = tmp_path / "deep"
    top.mkdir()
    try:
        _dig(top, depth)
        script = (
            "import os\n"
            "os.chdir('/deep')\n"
            f"for _ in range({depth}): os.chdir('d')\n"
            "print(os.listdir('.'))\n"
            "open('leaf', 'w').write('changed')\n"
            "os.mkdir('/mine'); os.chdir('/mine')\n"
            f"for _ in range({depth}): os.mkdir('d'); os.chdir('d')\n"
            "print('dug')\n"
        )
        top.parent.chmod(0o755)
        upper = tmp_path / "layer"
        upper.mkdir()
        top.rename(upper / "deep")
        spec = f'[root]\nlayers = ["dir:/", "dir:{upper}"]\n'
        with launcher.start(spec, ["/usr/bin/python3", "-c", script]) as supervisor:
            out, err = supervisor.communicate(timeout=PATIENCE + 30)
        assert out == "['leaf']\ndug\n", err[-500:]
        assert launcher.runs() == []
    finally:
        fd = os.open(tmp_path, os.O_RDONLY)
        remove_contents(fd)
        os.close(fd)


@pytest.mark.busybox
def test_hostile_names_are_names(launcher: Launcher, image: Image) -> None:
    names = [
        "-rf",
        "a\nb",
        "\x1b[2J",
        "%s%n",
        "$(id)",
        "..\\..",
        "x" * 255,
        "\udcff\udcfe",
        " ",
        "\u202etxt.exe",
        "CON",
        ":",
        "'\"",
    ]
    for name in names:
        image.add(f"names/{name}", data=b"1")
    script = (
        "find /names -type f -print0 | tr -dc '\\000' | wc -c; find /names -type f -exec cat {} + | wc -c"
    )
    outcome = launcher.shell(script, image.finish())
    assert outcome.out.split() == [str(len(names)), str(len(names))], outcome.err


@whole_map
@pytest.mark.busybox
@pytest.mark.parametrize(
    "passwd",
    [
        b"web:x:0x10:0:::\nweb:x:-1:-1:::\nweb:x:4294967295:0:::\nweb:x:99999999999999999999:0:::\nweb:x::::\n",
        b"web\n:\n::::::\n\0\0\0:x:0:0\nweb:x:1\n",
        b"web:x:" + b"9" * (1 << 20) + b":0:::\n",
        b"\xff" * 4096,
        b"w" * (5 << 20) + b"\nweb:x:33:33:::\n",
    ],
    ids=["numbers", "fields", "digits", "bytes", "size"],
)
def test_traps_in_passwd_are_an_error_and_no_id(launcher: Launcher, image: Image, passwd: bytes) -> None:
    image.add("etc/passwd", data=passwd)
    outcome = launcher.shell("id -u", image.finish() + '[process]\nuser = "web"\n')
    assert (outcome.status, outcome.out) == (125, "")
    assert re.search(r"process\.user.*web", outcome.err)


@whole_map
@pytest.mark.busybox
def test_home_of_passwd_is_a_variable_and_nothing_else(launcher: Launcher, image: Image) -> None:
    image.add("etc/passwd", data=b"web:x:0:0::/../../etc\x1b;$(id):/bin/evil\n")
    outcome = launcher.shell(
        'printf %s "$HOME" | od -c | grep -c 033; id -u', image.finish() + '[process]\nuser = "web"\n'
    )
    assert outcome.out.split() == ["1", "0"], outcome.err


def _many(launcher: Launcher, image: Image, count: int) -> None:
    for number in range(count):
        image.add(f"many/{number // 1000}/{number}")
    spec = image.finish()
    with launcher.start(spec, ["sh", "-c", "find /many -type f | wc -l"]) as supervisor:
        out, err = supervisor.communicate(timeout=PATIENCE + count / 500)
    assert (supervisor.returncode, out.split()) == (0, [str(count)]), err


@pytest.mark.busybox
@pytest.mark.twice
def test_five_thousand_files_of_an_image_are_all_found(launcher: Launcher, image: Image) -> None:
    _many(launcher, image, 5_000)


@pytest.mark.long
@pytest.mark.busybox
@pytest.mark.parametrize("count", [100_000, 1_000_000])
def test_a_million_files_of_an_image_are_all_found(launcher: Launcher, image: Image, count: int) -> None:
    _many(launcher, image, count)

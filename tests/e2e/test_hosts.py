"""The host name of a sandbox in its /etc/hosts, for any /etc/hosts of the layers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.support import Launcher

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

NAMED = '[sandbox]\nhostname = "box"\n[root]\nlayers = ["dir:/", "dir:{layer}"]\n'


def layer_of(directory: Path, make: Callable[[Path], None] = lambda path: None) -> str:
    """Make a layer with the /etc/hosts of *make*; return an environment file with it above the host's root."""
    (directory / "layer" / "etc").mkdir(parents=True)
    make(directory / "layer" / "etc" / "hosts")
    return NAMED.format(layer=directory / "layer")


def make_huge(path: Path) -> None:
    """Make a file with a size of a tebibyte and no content."""
    path.touch()
    os.truncate(path, 1 << 40)


def test_a_program_finds_the_address_of_its_own_host_name(launcher: Launcher, tmp_path: Path) -> None:
    spec = layer_of(tmp_path, lambda path: path.write_text("10.0.0.2 db\n") and None)
    done = launcher.shell("getent hosts box; getent hosts db", spec)
    assert [line.split() for line in done.facts_text().splitlines()] == [
        ["127.0.1.1", "box"],
        ["10.0.0.2", "db"],
    ]


def test_a_root_without_the_file_gets_one(launcher: Launcher, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    (root / "etc").mkdir()
    for name in ("bin", "lib", "lib64", "sbin"):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))
    spec = f'[sandbox]\nhostname = "box"\n[root]\nlayers = ["dir:{root}"]\n'
    spec += '[[volumes]]\ntype = "bind"\nsource = "/usr"\ntarget = "/usr"\nread_only = true\n'
    assert launcher.shell("cat /etc/hosts", spec).facts_text() == (
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tbox\n"
    )


def test_the_file_of_the_host_is_never_changed(launcher: Launcher, tmp_path: Path) -> None:
    spec = layer_of(tmp_path, lambda path: path.write_text("10.0.0.2 db\n") and None)
    done = launcher.shell("echo x >> /etc/hosts", spec)
    assert "Read-only file system" in done.err
    assert (tmp_path / "layer" / "etc" / "hosts").read_text() == "10.0.0.2 db\n"


def test_files_beside_etc_hosts_are_renamed_and_replaced_as_before(
    launcher: Launcher, tmp_path: Path
) -> None:
    script = "echo new > /etc/passwd+ && mv /etc/passwd+ /etc/motd && mv /etc/motd /tmp/motd && cat /tmp/motd"
    assert launcher.shell(script, layer_of(tmp_path)).facts_text() == "new\n"


def test_a_volume_on_etc_hosts_is_shown_unchanged(launcher: Launcher, tmp_path: Path) -> None:
    spec = (
        layer_of(tmp_path)
        + '[[volumes]]\ntype = "file"\ntarget = "/etc/hosts"\ncontent = "10.0.0.3 mine\\n"\n'
    )
    assert launcher.shell("cat /etc/hosts", spec).facts_text() == "10.0.0.3 mine\n"


def test_a_sandbox_with_the_hosts_name_is_left_alone(launcher: Launcher, tmp_path: Path) -> None:
    spec = layer_of(tmp_path, lambda path: path.write_text("10.0.0.2 db\n") and None)
    spec = spec.replace('hostname = "box"\n', "") + '[namespaces]\nuts = "host"\n'
    assert launcher.shell("cat /etc/hosts", spec).facts_text() == "10.0.0.2 db\n"


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        os.mkdir,
        lambda path: os.symlink("/proc/self/root/etc/passwd", path),
        lambda path: os.symlink("/dev/zero", path),
        lambda path: os.symlink("nowhere", path),
        lambda path: os.symlink("hosts", path),
        make_huge,
    ],
    ids=["a FIFO", "a directory", "a link of proc", "a device", "nothing", "a loop", "a huge file"],
)
def test_object_that_is_no_readable_file_is_left_alone(
    launcher: Launcher, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    assert launcher.shell("echo started", layer_of(tmp_path, make)).facts_text() == "started\n"

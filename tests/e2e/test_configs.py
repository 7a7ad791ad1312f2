"""Every environment file in configs/ is run and does what it says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.e2e.support import Launcher, Outcome
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

CONFIGS = Path(PROJECT) / "configs"

whole_map = pytest.mark.skipif(
    os.geteuid() != 0 and not has_subordinate_ids(), reason="this account has a single id"
)


def test_no_file_is_forgotten_here() -> None:
    known = {"hello", "shell", "build", "limits", "debian-tar", "debian-dir"}
    assert {path.stem for path in CONFIGS.glob("*.toml")} == known


def test_hello_shows_a_changed_etc_and_leaves_the_host_alone(launcher: Launcher) -> None:
    before = {
        path: os.path.lexists(path) and os.lstat(path).st_mtime_ns for path in ("/etc/motd", "/etc/hostname")
    }
    done = launcher.up(str(CONFIGS / "hello.toml"))
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("hello from hello, process 2, running as uid=0(root) gid=0(root)")
    assert "wrote /etc/motd: changed in here only" in lines
    assert any(line.startswith("removed /etc/hostname: ls: cannot access") for line in lines)
    assert any(line.startswith("limits: 256 open files") for line in lines)
    assert lines[-1] == "network interfaces: lo"
    after = {path: os.path.lexists(path) and os.lstat(path).st_mtime_ns for path in before}
    assert after == before


def test_shell_runs_commands_on_a_copy_of_this_machine(launcher: Launcher) -> None:
    done = launcher.up(
        str(CONFIGS / "shell.toml"), stdin="hostname; touch /tmp/x /usr/y && echo touched; exit 9\n"
    )
    assert (done.status, done.out.split()) == (9, ["try", "touched"])
    assert not os.path.exists("/usr/y")


@pytest.mark.skipif(
    not os.path.exists("/usr/bin/cc"), reason="needs a compiler on the host (apt-get install gcc)"
)
def test_build_compiles_from_a_read_only_volume_into_memory(launcher: Launcher) -> None:
    before = sorted(os.listdir(CONFIGS / "build"))
    done = launcher.up(str(CONFIGS / "build.toml"))
    assert (done.status, done.out.splitlines()) == (
        0,
        ["built in the sandbox", "the sources cannot be written"],
    ), done
    assert sorted(os.listdir(CONFIGS / "build")) == before


def test_limits_hold(launcher: Launcher) -> None:
    done = launcher.up(str(CONFIGS / "limits.toml"))
    assert done.status == 0, done
    assert done.out.splitlines() == [
        "open files: 64",
        f"file size: stopped at {8 << 20} bytes",
        "cpu time: stopped",
    ]


# --- on a Debian root file system ---


@pytest.fixture(scope="session")
def debian_directory(debian_rootfs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Unpack the Debian root where the sandbox's ids own it."""
    directory = tmp_path_factory.mktemp("debian") / "root"
    subprocess.run([os.path.join(PROJECT, "scripts", "mkrootfs"), directory], check=True, timeout=600)
    yield str(directory)
    if os.geteuid() == 0:
        subprocess.run(["rm", "-rf", directory], check=True)
    else:
        subprocess.run(["unshare", "--map-root-user", "--map-auto", "rm", "-rf", directory], check=True)


@pytest.mark.rootfs
def test_debian_from_an_archive_runs_its_own_tools(launcher: Launcher, debian_rootfs: str) -> None:
    done = launcher.up(str(CONFIGS / "debian-tar.toml"), environ={"DEBIAN_TAR": debian_rootfs})
    assert done.status == 0, done.err
    assert done.out.startswith("Debian GNU/Linux")
    assert "\napt " in done.out
    assert int(done.out.splitlines()[-1].split()[0]) > 50


@pytest.mark.rootfs
def test_archive_is_unpacked_once(launcher: Launcher, debian_rootfs: str) -> None:
    spec = f'[root]\nlayers = ["tar:{debian_rootfs}"]\n'
    assert launcher.up(spec, ["true"]).status == 0
    first = [path.stat().st_ino for path in (launcher.state / "layers").glob("*/tree")]
    assert launcher.up(spec, ["true"]).status == 0
    assert [path.stat().st_ino for path in (launcher.state / "layers").glob("*/tree")] == first
    assert len(first) == 1


@pytest.mark.rootfs
@pytest.mark.newuidmap
def test_debian_from_a_directory_keeps_what_is_written(launcher: Launcher, debian_directory: str) -> None:
    def visits() -> Outcome:
        return launcher.up(str(CONFIGS / "debian-dir.toml"), environ={"DEBIAN_ROOT": debian_directory})

    assert visits().out.splitlines()[-1] == "visits so far: 1"
    assert visits().out.splitlines()[-1] == "visits so far: 2"
    assert not os.path.exists(os.path.join(debian_directory, "var", "visits"))


def make_package(directory: Path) -> Path:
    """Make a package whose installation copies files, runs a script and gives a file to another user."""
    top = directory / "pkg"
    (top / "DEBIAN").mkdir(parents=True)
    (top / "usr" / "bin").mkdir(parents=True)
    (top / "etc" / "sandbox-test").mkdir(parents=True)
    (top / "DEBIAN" / "control").write_text(
        "Package: sandbox-test\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: a test\n"
    )
    postinst = top / "DEBIAN" / "postinst"
    postinst.write_text("#!/bin/sh\nset -e\nchown _apt:mail /etc/sandbox-test/conf\n")
    postinst.chmod(0o755)
    program = top / "usr" / "bin" / "sandbox-test"
    program.write_text("#!/bin/sh\necho the package works\n")
    program.chmod(0o755)
    (top / "etc" / "sandbox-test" / "conf").write_text("x\n")
    package = directory / "sandbox-test.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", top, package], check=True, stdout=subprocess.DEVNULL
    )
    return package


@whole_map
@pytest.mark.rootfs
def test_package_installs_and_the_writable_layer_holds_it_and_the_records_only(
    launcher: Launcher, debian_rootfs: str, tmp_path: Path
) -> None:
    package = make_package(tmp_path)
    spec = (
        f'[sandbox]\nname = "install"\n[root]\nlayers = ["tar:{debian_rootfs}"]\nwritable = "persistent"\n'
        f'[[volumes]]\ntype = "bind"\nsource = "{package}"\ntarget = "/sandbox-test.deb"\nread_only = true\n'
    )
    package.chmod(0o644)
    script = "apt-get install -y /sandbox-test.deb && sandbox-test && stat -c %U:%G /etc/sandbox-test/conf"
    done = launcher.shell(script, spec)
    assert done.status == 0, (done.out, done.err)
    assert done.out.splitlines()[-2:] == ["the package works", "_apt:mail"]
    find = "cd /upper && find . ! -type d | sort"
    listing = launcher.shell(
        find,
        '[root]\nlayers = ["dir:/"]\n'
        f'[[volumes]]\ntype = "bind"\nsource = "{launcher.state}/sandboxes/install/upper"\ntarget = "/upper"\nread_only = true\n',
    )
    assert listing.status == 0, listing.err
    changed = listing.out.split()
    own = [
        path
        for path in changed
        if not path.startswith(("./var/lib/dpkg/", "./var/log/", "./var/cache/", "./var/lib/apt/"))
    ]
    assert own == ["./etc/sandbox-test/conf", "./usr/bin/sandbox-test"]
    assert "./var/lib/dpkg/info/sandbox-test.list" in changed
    assert launcher.shell("dpkg -s sandbox-test | grep Status", spec).out == "Status: install ok installed\n"


@pytest.mark.rootfs
def test_perl_and_the_rest_of_the_base_system_run(launcher: Launcher, debian_rootfs: str) -> None:
    spec = f'[root]\nlayers = ["tar:{debian_rootfs}"]\n'
    script = "perl -MPOSIX -e 'print floor(42.5), qq(\\n)'; find /usr -type f | wc -l; dpkg --verify base-files && echo verified"
    done = launcher.shell(script, spec)
    assert done.out.split()[0] == "42", done.err
    assert int(done.out.split()[1]) > 2000
    assert done.out.split()[2] == "verified"

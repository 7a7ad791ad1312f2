"""The environment files in configs/ that use a Debian root file system do what their first lines promise."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.e2e.support import Launcher, Outcome, config, several_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def mkrootfs(directory: Path, cache: Path) -> None:
    subprocess.run(
        [os.path.join(PROJECT, "scripts", "mkrootfs"), directory],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        check=True,
        timeout=600,
    )


@pytest.fixture(scope="session")
def debian_directory(debian_rootfs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Unpack the Debian root into a directory whose files have the ids of the sandbox."""
    directory = tmp_path_factory.mktemp("debian") / "root"
    # Use the existing archive. Making another in this account's cache would take a minute and the network.
    cache = tmp_path_factory.mktemp("cache")
    (cache / "sandbox").mkdir()
    (cache / "sandbox" / os.path.basename(debian_rootfs)).symlink_to(debian_rootfs)
    mkrootfs(directory, cache)
    yield str(directory)
    if os.geteuid() == 0:
        subprocess.run(["rm", "-rf", directory], check=True)
    else:
        subprocess.run(["unshare", "--map-root-user", "--map-auto", "rm", "-rf", directory], check=True)


@pytest.mark.rootfs
def test_debian_from_an_archive_runs_its_own_tools(launcher: Launcher, debian_rootfs: str) -> None:
    done = launcher.up(config("debian-tar"), environ={"DEBIAN_TAR": debian_rootfs})
    assert done.status == 0, done.err
    assert done.out.startswith("Debian GNU/Linux")
    assert "\napt " in done.out
    assert int(done.out.splitlines()[-1].split()[0]) > 50


@pytest.mark.rootfs
def test_usr_of_an_archive_is_bound_past_the_server(launcher: Launcher, debian_rootfs: str) -> None:
    done = launcher.up(config("native"), environ={"DEBIAN_TAR": debian_rootfs})
    system, kinds, installed, changed = done.facts_text().splitlines()
    assert system.startswith("Debian GNU/Linux")
    root, _, usr = kinds.removeprefix("/ is ").partition(", /usr is ")
    assert root.startswith("fuse")
    assert not usr.startswith("fuse")
    assert (installed, changed) == ("nothing is installed into /usr", "changed")


@pytest.mark.rootfs
def test_read_only_root_of_an_archive_is_bound_without_a_server(
    launcher: Launcher, debian_rootfs: str
) -> None:
    done = launcher.up(config("bound"), options=["--debug"], environ={"DEBIAN_TAR": debian_rootfs})
    system, kind, unchanged, volume = done.facts_text().splitlines()
    assert system.startswith("Debian GNU/Linux")
    assert not kind.startswith("/ is fuse")
    assert (unchanged, volume) == ("nothing of it can be changed", "in memory")
    assert "+ direct bind of the root: no server" in done.err


@pytest.mark.rootfs
def test_archive_is_unpacked_once(launcher: Launcher, debian_rootfs: str) -> None:
    spec = f'[root]\nlayers = ["tar:{debian_rootfs}"]\n'
    assert launcher.up(spec, ["true"]).status == 0
    first = [path.stat().st_ino for path in (launcher.state / "images" / "archives").glob("*/tree")]
    assert launcher.up(spec, ["true"]).status == 0
    assert [path.stat().st_ino for path in (launcher.state / "images" / "archives").glob("*/tree")] == first
    assert len(first) == 1


@pytest.mark.rootfs
@pytest.mark.newuidmap
def test_debian_from_a_directory_keeps_its_changes(launcher: Launcher, debian_directory: str) -> None:
    def visits() -> Outcome:
        return launcher.up(config("debian-dir"), environ={"DEBIAN_ROOT": debian_directory})

    assert visits().out.splitlines()[-1] == "visits so far: 1"
    assert visits().out.splitlines()[-1] == "visits so far: 2"
    assert not os.path.exists(os.path.join(debian_directory, "var", "visits"))


@pytest.mark.long
@pytest.mark.rootfs
@pytest.mark.newuidmap
def test_mkrootfs_makes_a_debian_directory_as_this_account(tmp_path: Path) -> None:
    mkrootfs(tmp_path / "root", tmp_path / "cache")
    assert (tmp_path / "root/etc/debian_version").exists()
    if os.geteuid() != 0:
        subprocess.run(
            ["unshare", "--map-root-user", "--map-auto", "rm", "-rf", tmp_path / "root"], check=True
        )


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


@several_ids
@pytest.mark.rootfs
def test_package_is_installed_and_the_writable_layer_has_its_files_and_records_only(
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

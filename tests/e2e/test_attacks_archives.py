"""Archives that are no regular files, that another user replaces during a start, and that need much memory."""

from __future__ import annotations

import gzip
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.kernel.trees import exchange
from tests.e2e.archive import Archive
from tests.e2e.support import PATIENCE, Launcher, children, let_in, wait_for
from tests.unit.sandbox.images.tars import END, directory, file, pax

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

MIB = 1 << 20


def layers(path: Path | str) -> str:
    return f'[root]\nlayers = ["dir:/", "tar:{path}"]\n'


# -- files that are not regular ----------------------------------------------------------------------------


@pytest.fixture
def special(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 bytes
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    (tmp_path / "link").symlink_to("fifo")
    return tmp_path


KINDS = {"fifo": "a FIFO", "directory": "a directory", "socket": "a socket", "link": "a FIFO"}


@pytest.mark.parametrize("verb", ["check", "explain", "doctor", "up", "up --dry-run"])
def test_archive_that_is_no_regular_file_is_refused_at_its_place(
    launcher: Launcher, special: Path, verb: str
) -> None:
    names = [*KINDS, "/dev/zero"]
    paths = [str(special / name) for name in names]
    listed = "".join(f'    "tar:{path}",\n' for path in paths)
    path = launcher.write(f'[root]\nlayers = [\n    "dir:/",\n{listed}]\n')
    done = _sandbox(launcher, *verb.split(), path)
    for number, (name, there) in enumerate(zip(names, paths, strict=True)):
        what = KINDS.get(name, "a device")
        assert _has(done, f"{path}:{number + 4}:5: root.layers[{number + 1}]: {there} is {what}, not a ")


@pytest.mark.parametrize("verb", ["check", "explain", "up"])
@pytest.mark.parametrize("name", ["fifo", "/dev/zero"])
def test_file_to_be_read_that_is_no_regular_one_is_refused_at_its_place(
    launcher: Launcher, special: Path, verb: str, name: str
) -> None:
    there = special / name
    path = launcher.write(
        '[root]\nlayers = ["dir:/"]\n'
        f'[process]\nenv_file = "{there}"\n[security]\nseccomp = {{ profile = "{there}" }}\n'
    )
    done = _sandbox(launcher, verb, path)
    assert _has(done, f"{path}:4:12: process.env_file: {there}")
    assert _has(done, f"security.seccomp.profile: {there}")
    assert "".join(done.split()).count("notaregularfile") == 2


@pytest.mark.parametrize("name", ["fifo", "/dev/zero", "socket", "/dev/watchdog"])
def test_extended_file_that_is_no_regular_one_is_refused(
    launcher: Launcher, special: Path, name: str
) -> None:
    path = launcher.write(f'extends = "{special / name}"\n[root]\nlayers = ["dir:/"]\n')
    done = _sandbox(launcher, "check", path)
    assert "not a regular file" in done or "no such file" in done
    assert f"{path}:1:11: extends" in done


def test_check_does_not_report_paths_that_do_not_exist_here(launcher: Launcher, tmp_path: Path) -> None:
    path = launcher.write(layers(tmp_path / "absent.tar"))
    assert "no mistakes" in _sandbox(launcher, "check", path)


def _sandbox(launcher: Launcher, *arguments: str) -> str:
    command = [*launcher.arguments("x.toml")[:3], *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=launcher.environ
    )
    return done.stdout + done.stderr


def _has(output: str, text: str) -> bool:
    """Return whether *text* is in *output*, wherever `explain` folds its lines."""
    return "".join(text.split()) in "".join(output.split())


# -- files that another user replaces -------------------------------------------------------------------------

OWNER = 12345
MARKS = "cat /of-the-user /of-root"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a directory of another user with an archive, beside a directory that only root may enter, with another archive."""
    place = tmp_path / "home"
    (place / "in").mkdir(parents=True)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    Archive(place / "in" / "a.tar").add("of-the-user", b"user").layer()
    Archive(private / "a.tar").add("of-root", b"secret").layer()
    (private / "a.tar").chmod(0o600)
    for path in (place, place / "in", place / "in" / "a.tar"):
        os.chown(path, OWNER, OWNER)
    let_in(place)
    return place


def _link(home: Path) -> tuple[Path, Path]:
    (home / "in" / "other").symlink_to(home.parent / "private" / "a.tar")
    return home / "in" / "a.tar", home / "in" / "other"


def _link_to_the_directory(home: Path) -> tuple[Path, Path]:
    (home / "other").symlink_to("../private")
    return home / "in", home / "other"


def _hard_link(home: Path) -> tuple[Path, Path]:
    os.link(home.parent / "private" / "a.tar", home / "other")  # fs.protected_hardlinks=0
    return home / "in" / "a.tar", home / "other"


def _renamed_file(home: Path) -> tuple[Path, Path]:
    os.rename(home.parent / "private" / "a.tar", home / "of-root.tar")  # root has moved it there
    return home / "in" / "a.tar", home / "of-root.tar"


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Exchange *one* and *other* again and again."""
    swapper = os.fork()
    if swapper == 0:
        try:
            while os.getppid() != 1:
                exchange(str(one), str(other))
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(swapper, signal.SIGKILL)
        os.waitpid(swapper, 0)


@pytest.mark.root
@pytest.mark.parametrize("swap", [_link, _link_to_the_directory, _hard_link, _renamed_file])
def test_archive_that_its_owner_swaps_for_one_of_root_is_never_served(
    launcher: Launcher, home: Path, swap: Callable[[Path], tuple[Path, Path]]
) -> None:
    one, other = swap(home)
    path = launcher.write(layers(home / "in" / "a.tar"))
    for owned in (one, other):
        if owned.is_symlink():
            os.chown(owned, OWNER, OWNER, follow_symlinks=False)
    # First without an exchange: the plan refuses it, at the place of the layer.
    exchange(str(one), str(other))
    done = launcher.shell(MARKS, path)
    assert (done.status, done.out) == (125, "")
    assert f"{path}:2:20: root.layers[1]: " in done.err
    assert "belongs to another user and leads to" in done.err
    exchange(str(one), str(other))
    with swapping(one, other):
        outcomes = [launcher.shell(MARKS, path) for _ in range(6)]
    for done in outcomes:
        assert done.out in ("user", ""), done
        if done.out == "":
            assert done.status == 125
            assert "another user" in done.err or "another process has just replaced it" in done.err, done.err
    assert launcher.shell(MARKS, path).out in ("user", "")


@pytest.mark.root
def test_archive_that_is_replaced_between_plan_and_start_is_not_opened(
    launcher: Launcher, home: Path
) -> None:
    from sandbox.errors import ImageError
    from sandbox.host.paths import inspect_all
    from sandbox.images.layer_store import _open_archive_file

    path = str(home / "in" / "a.tar")
    fact = inspect_all([path], archives=[path])[path]
    os.close(_open_archive_file(fact.real, fact.identity))
    for swap in (_link, _hard_link):
        one, other = swap(home)
        exchange(str(one), str(other))
        with pytest.raises(ImageError, match=r"symbolic links|was replaced"):
            _open_archive_file(fact.real, fact.identity)
        exchange(str(one), str(other))
        other.unlink()
    with pytest.raises(ImageError, match="is not a regular file"):
        _open_archive_file("/dev/null", fact.identity)


# -- archives that need much memory or time ---------------------------------------------------------------------------------


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """Make an archive of ten megabytes: a thousand directories, each with three attributes of a megabyte."""
    path = tmp_path / "bomb.tar.gz"
    records = (pax([(b"SCHILY.xattr.user.%c" % name, b"v" * (MIB - 100))]) for name in b"abc")
    attributes = gzip.compress(b"".join(records), 9)
    with open(path, "wb") as archive:
        archive.writelines(
            attributes + gzip.compress(directory(b"d%d" % number), 1) for number in range(1000)
        )
        archive.write(gzip.compress(END))
    assert path.stat().st_size < 12 * MIB
    return path


def test_small_archive_of_large_attributes_takes_little_memory(launcher: Launcher, bomb: Path) -> None:
    # A child starts with the peak of this process, which has collected all tests (getrusage(2), ru_maxrss).
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    supervisor = subprocess.Popen(
        launcher.arguments(layers(bomb), ["true"]), stderr=subprocess.PIPE, text=True, env=launcher.environ
    )
    assert supervisor.stderr is not None
    with supervisor.stderr as reader:
        errors = reader.read()
    # The maximum over the supervisor and all its children, one of which unpacks.
    _, status, usage = os.wait4(supervisor.pid, 0)
    supervisor.returncode = os.waitstatus_to_exitcode(status)
    assert supervisor.returncode == 125
    assert f"{bomb}: " in errors
    assert f"d0: its attribute user.a has {MIB - 100} bytes" in errors
    assert usage.ru_maxrss <= max(before, 200 << 10)
    assert launcher.runs() == []
    assert not [
        name for name in os.listdir(launcher.state / "images" / "archives") if not name.endswith(".importing")
    ]


def test_signal_while_an_archive_is_unpacked_ends_it_at_once_and_leaves_nothing(
    launcher: Launcher, tmp_path: Path
) -> None:
    path = tmp_path / "long.tar.gz"
    # Unpacking takes minutes: it reads many headers and writes little.
    headers = gzip.compress(pax([(b"comment%d" % number, b"") for number in range(40_000)]) * 3, 1)
    with open(path, "wb") as archive:
        archive.write(gzip.compress(file(b"first")))
        archive.writelines(headers + gzip.compress(file(b"f%d" % number), 1) for number in range(500))
        archive.write(gzip.compress(END))
    store = launcher.state / "images" / "archives"
    with launcher.start(layers(path), ["true"]) as supervisor:
        wait_for(lambda: list(store.glob("*.new/tree/first")), "the first member")
        (unpacking,) = (pid for pid, line in children(supervisor.pid).items() if "--serve-fd" not in line)
        began = time.monotonic()
        supervisor.send_signal(signal.SIGINT)
        assert supervisor.wait(PATIENCE) == 128 + signal.SIGINT
        assert time.monotonic() - began < 5
    assert not os.path.exists(f"/proc/{unpacking}")
    assert launcher.runs() == []
    assert [name for name in os.listdir(store) if not name.endswith(".importing")] == []

"""The rights that remain to a server that is restricted to its layers."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from unionfs import _libc
from unionfs.launch.confine import restrict_files

pytestmark = pytest.mark.skipif(
    _libc.landlock_version() < 2, reason="needs Landlock of version 2 in the kernel (Linux 5.19)"
)


def restricted(lower: Path, upper: Path, work: Path, action: Callable[[], object]) -> str:
    """Restrict a child like the server of these directories, and return the result or error of *action* in it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "nothing"
        try:
            fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (lower, upper, work)]
            assert restrict_files(fds[:1], fds[1:])
            text = f"{action()}"
        except OSError as error:
            text = f"{error.strerror}"
        except BaseException as error:  # noqa: BLE001 - a forked child must not run on in its parent's code
            text = repr(error)
        finally:
            os.write(writer, text.encode())
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    for name in ("lower", "upper", "work", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path / "lower", tmp_path / "upper", tmp_path / "work"


def test_layers_are_read_and_not_written(places: tuple[Path, Path, Path]) -> None:
    lower = places[0]
    assert restricted(*places, (lower / "file").read_text) == "lower"
    assert restricted(*places, lambda: os.listdir(lower)) == "['file']"
    for change in (
        lambda: (lower / "file").write_text("changed"),
        (lower / "new").touch,
        lambda: os.unlink(lower / "file"),
        lambda: os.mkdir(lower / "new"),
        lambda: os.symlink("x", lower / "new"),
        lambda: os.rename(lower / "file", lower / "other"),
        lambda: os.truncate(lower / "file", 0),
    ):
        assert restricted(*places, change) == "Permission denied"
    assert (lower / "file").read_text() == "lower"


def test_upper_and_work_take_everything_that_a_copy_up_does(places: tuple[Path, Path, Path]) -> None:
    _, upper, work = places

    def action() -> str:
        (work / "new").write_text("copied")
        os.rename(work / "new", upper / "new")
        os.link(upper / "new", upper / "link")
        os.link(upper / "new", work / "link")
        os.mkdir(work / "directory")
        os.rename(work / "directory", upper / "directory")
        os.symlink("x", upper / "symlink")
        os.mkfifo(upper / "fifo")
        os.truncate(upper / "new", 3)
        os.unlink(upper / "link")
        os.rmdir(upper / "directory")
        os.chmod(upper / "new", 0o600)
        again = os.open(upper, os.O_PATH)
        with open(os.open(f"/proc/self/fd/{again}/new", os.O_RDONLY)) as file:
            return file.read()

    assert restricted(*places, action) == "cop"


def test_nothing_else_is_opened(places: tuple[Path, Path, Path]) -> None:
    outside = places[0].parent / "outside"
    link = places[1] / "link"
    link.symlink_to(outside / "file")
    for path in (outside / "file", link, Path("/etc/passwd")):
        assert restricted(*places, path.read_text) == "Permission denied"
    assert restricted(*places, lambda: os.listdir("/etc")) == "Permission denied"
    assert restricted(*places, lambda: os.execv("/bin/true", ["true"])) == "Permission denied"


def test_what_was_open_before_stays_usable(places: tuple[Path, Path, Path]) -> None:
    with open(places[0].parent / "outside" / "file") as file:
        assert restricted(*places, file.read) == "outside"


def test_nothing_below_proc_is_opened_and_links_to_what_is_open_are_followed(
    places: tuple[Path, Path, Path],
) -> None:
    """A Landlock rule for /proc/self ends when the kernel reclaims its inode, so a start would fail at random."""
    for path in ("/proc/self/uid_map", "/proc/self/mountinfo", "/proc/self/status", "/proc/meminfo"):
        assert restricted(*places, Path(path).read_text) == "Permission denied"
    assert restricted(*places, lambda: os.listdir("/proc/self/fd")) == "Permission denied"
    assert restricted(*places, Path(f"/proc/{os.getppid()}/status").read_text) == "Permission denied"

    def follow() -> str:
        fd = os.open(places[0], os.O_PATH)
        return f"{os.listdir(f'/proc/self/fd/{fd}')} {Path(f'/proc/self/fd/{fd}/file').read_text()}"

    assert restricted(*places, follow) == "['file'] lower"


def test_python_itself_can_still_be_imported(places: tuple[Path, Path, Path]) -> None:
    assert restricted(*places, lambda: __import__("colorsys").rgb_to_hls(0, 0, 0)) == "(0.0, 0.0, 0.0)"


@pytest.mark.skipif(
    _libc.landlock_version() < 4, reason="needs Landlock of version 4 in the kernel (Linux 6.7)"
)
def test_network_is_out_of_reach(places: tuple[Path, Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        assert (
            restricted(*places, lambda: socket.create_connection(address, timeout=5)) == "Permission denied"
        )


@pytest.mark.skipif(
    _libc.landlock_version() < 6, reason="needs Landlock of version 6 in the kernel (Linux 6.12)"
)
def test_other_processes_cannot_be_signalled(places: tuple[Path, Path, Path]) -> None:
    assert restricted(*places, lambda: os.kill(os.getppid(), 0)) == "Operation not permitted"

"""Following and opening files whose path another user may change."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

import pytest

from sandbox.kernel.files import Followed, NotRegularError, follow, open_regular

OTHER = 12345


def test_a_regular_file_is_opened_through_links_or_not(tmp_path: Path) -> None:
    real = tmp_path.resolve()
    (real / "file").write_text("content")
    (real / "link").symlink_to("file")
    (real / "way").symlink_to(".")
    for path in ("file", "link", "way/file"):
        with open(open_regular(str(real / path))) as file:
            assert file.read() == "content"
    with open(open_regular(str(real / "file"), links=False)) as file:
        assert file.read() == "content"
    for path in ("link", "way/file"):
        with pytest.raises(OSError, match="Too many levels") as caught:
            open_regular(str(real / path), links=False)
        assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("links", [True, False])
def test_nothing_else_is_opened_or_waited_for(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path.resolve()
    monkeypatch.chdir(real)  # a socket path has at most 107 bytes
    os.mkfifo(real / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    before = os.listdir("/proc/self/fd")
    for path in ("fifo", "socket", ".", "/dev/zero"):
        with pytest.raises(NotRegularError, match="is not a regular file"):
            open_regular(str(real / path), links=links)
    with pytest.raises(FileNotFoundError):
        open_regular(str(real / "absent"), links=links)
    assert os.listdir("/proc/self/fd") == before


def test_a_lease_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path.resolve() / "file"
    path.write_bytes(b"x")
    with open(path, "r+b") as holder:
        fcntl.fcntl(holder, fcntl.F_SETSIG, 23)  # SIGURG, which does nothing, instead of SIGIO
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(BlockingIOError):
            open_regular(str(path))


def test_a_path_is_followed_as_the_kernel_does(tmp_path: Path) -> None:
    real = tmp_path.resolve()
    (real / "a" / "b").mkdir(parents=True)
    (real / "a" / "b" / "file").write_text("x")
    (real / "down").symlink_to("a/b")
    (real / "a" / "b" / "up").symlink_to("../../a/./b//file")
    (real / "absolute").symlink_to(real / "down" / "up")
    for path in ("a/b/file", "down/file", "down/../b/file", "down/up", "absolute", "./a//b/../b/file"):
        found = follow(f"{real}/{path}", os.geteuid())
        info = os.stat(f"{real}/{path}")
        assert found == Followed(real=f"{real}/a/b/file", identity=(info.st_dev, info.st_ino))
        assert found.real == os.path.realpath(f"{real}/{path}")
    assert follow("/", 0).real == "/"
    (real / "circle").symlink_to("circle")
    for path, number in (("circle", errno.ELOOP), ("absent/x", errno.ENOENT), ("a/b/file/x", errno.ENOTDIR)):
        with pytest.raises(OSError) as caught:
            follow(f"{real}/{path}", os.geteuid())
        assert caught.value.errno == number


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory of another user beside a directory of this user that no other user may search."""
    real = tmp_path.resolve()
    for name, mode in (("theirs", 0o755), ("closed", 0o700), ("open", 0o755)):
        (real / name).mkdir()
        (real / name).chmod(mode)
        (real / name / "private").write_text("x")
        (real / name / "private").chmod(0o600)
        (real / name / "public").write_text("x")
        (real / name / "public").chmod(0o644)
    os.chown(real / "theirs", OTHER, OTHER)
    return real


def link(place: Path, target: str, *, owner: int = OTHER) -> str:
    place.symlink_to(target)
    os.chown(place, owner, owner, follow_symlinks=False)
    return str(place)


@pytest.mark.root
def test_what_another_user_leads_to_must_be_theirs_or_everybodys(shared: Path) -> None:
    theirs = shared / "theirs"
    (theirs / "own").write_text("x")
    (theirs / "own").chmod(0o600)
    os.chown(theirs / "own", OTHER, OTHER)
    assert follow(f"{theirs}/own", 0).closed == ""
    assert follow(f"{theirs}/public", 0).closed == ""
    # A file of this user in the other user's directory: the other user may have renamed or linked it there.
    assert follow(f"{theirs}/private", 0).closed == f"{theirs}/private"
    assert follow(f"{theirs}/private", 0).redirected_by == str(theirs)
    for name, target, closed in (
        ("public-link", "../open/public", ""),
        ("private-link", "../open/private", "open/private"),
        ("into-closed", "../closed/public", "closed"),
        ("home", "own", ""),
        ("absolute", "/etc/shadow", "/etc/shadow"),
    ):
        found = follow(link(theirs / name, target), 0)
        assert found.closed == (os.path.join(shared, closed) if closed else "")
    # A link of the other user elsewhere, a link of this user in the other's directory, and that directory as a link.
    assert follow(link(shared / "of-theirs", "closed/private"), 0).closed == f"{shared}/closed"
    assert follow(link(shared / "of-ours", "closed/private", owner=0), 0).closed == ""
    assert follow(link(theirs / "of-ours", "../closed/private", owner=0), 0).closed == f"{shared}/closed"
    link(shared / "directory", "closed")
    assert follow(f"{shared}/directory/public", 0).closed == f"{shared}/closed"


@pytest.mark.root
def test_what_is_read_for_its_owner_is_no_way_astray(shared: Path) -> None:
    # For the user who owns all of them, the same paths are not redirected by another user.
    assert follow(link(shared / "theirs" / "link", "public"), OTHER).closed == ""
    assert follow(f"{shared}/theirs/public", OTHER).redirected_by == ""

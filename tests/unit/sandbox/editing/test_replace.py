"""Test `sandbox.editing.replace`: the content is replaced atomically; mode, owner and attributes stay."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.editing.replace import create, read_original, replace
from sandbox.errors import EditError

PROJECT = Path(__file__).parents[4]
OLD, NEW = b"old = 1\n", b"new = 22\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with the old content, in a new directory, which becomes the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.toml"
    path.write_bytes(OLD)
    return path


def refusal(action: Callable[[], object]) -> str:
    """Return the error message of *action*, which must be refused."""
    with pytest.raises(EditError) as caught:
        action()
    assert caught.value.exit_code == 125
    return caught.value.render()


def names() -> list[str]:
    """Return the names in the current directory."""
    return sorted(os.listdir())


def test_the_new_content_is_in_a_new_file_of_the_same_name(file: Path) -> None:
    with file.open("rb") as reader:
        replace(read_original("x.toml"), NEW)
        assert reader.read() == OLD
    assert file.read_bytes() == NEW
    assert names() == ["x.toml"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_the_mode_stays(file: Path, mode: int) -> None:
    file.chmod(mode)
    before = os.umask(0o077)
    try:
        replace(read_original("x.toml"), NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.root
def test_owner_and_group_stay(file: Path) -> None:
    os.chown(file, 12345, 23456)
    replace(read_original("x.toml"), NEW)
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 23456)


def test_permissions_of_a_group_that_cannot_be_kept_are_removed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _uid: int, _gid: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    file.chmod(0o664)
    replace(read_original("x.toml"), NEW)
    assert stat.S_IMODE(file.stat().st_mode) == 0o604


def test_a_group_is_kept_where_only_the_owner_cannot_be(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def refuse_owner(_descriptor: int, uid: int, gid: int) -> None:
        asked.append((uid, gid))
        if uid != -1:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse_owner)
    file.chmod(0o664)
    replace(read_original("x.toml"), NEW)
    assert asked == [(os.getuid(), file.stat().st_gid), (-1, file.stat().st_gid)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o664


def test_an_existing_file_with_the_temporary_name_is_not_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "urandom", lambda length: b"\0" * length)
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    link = tmp_path / f".x.toml.{'00' * 6}.tmp"
    link.symlink_to(victim)
    assert "cannot be written: file exists" in refusal(lambda: replace(read_original("x.toml"), NEW))
    assert (victim.read_bytes(), file.read_bytes(), link.is_symlink()) == (OLD, OLD, True)


def test_extended_attributes_stay(file: Path) -> None:
    try:
        os.setxattr(file, "user.note", b"mine")
    except OSError as error:
        pytest.skip(f"no user.* attributes on {file.parent}: {error.strerror}")
    replace(read_original("x.toml"), NEW)
    assert os.getxattr(file, "user.note") == b"mine"


def test_an_access_control_list_stays(file: Path) -> None:
    # acl(5) as the kernel stores it: version 2; user::rw-, user:1234:r--, group::r--, mask::r--, other::---
    entries = [(1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, bits, who in entries
    )
    try:
        os.setxattr(file, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"no access control lists on {file.parent}: {error.strerror}")
    replace(read_original("x.toml"), NEW)
    assert os.getxattr(file, "system.posix_acl_access") == acl


def test_a_symlink_stays_and_its_target_is_replaced(file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "real.toml"
    file.rename(target)
    file.symlink_to("elsewhere/real.toml")
    replace(read_original("x.toml"), NEW)
    assert os.readlink(file) == "elsewhere/real.toml"
    assert target.read_bytes() == NEW
    assert os.listdir(target.parent) == ["real.toml"]


def test_a_file_with_several_names_is_refused(file: Path, tmp_path: Path) -> None:
    os.link(file, tmp_path / "other.toml")
    assert refusal(lambda: replace(read_original("x.toml"), NEW)) == (
        "x.toml: has 2 names (hard links), and the others would keep the old content\n"
        "      hint: change it with an editor that writes in place, or remove the other hard links"
    )
    assert file.read_bytes() == OLD


def test_a_file_that_another_process_changed_is_refused(file: Path) -> None:
    original = read_original("x.toml")
    file.write_bytes(b"theirs = 1\n")
    told = "x.toml: was changed by another process in the meantime\n      hint: check the file, and repeat the command"
    assert refusal(lambda: replace(original, NEW)) == told
    assert file.read_bytes() == b"theirs = 1\n"
    assert names() == ["x.toml"]


def test_a_change_that_keeps_the_size_and_the_time_is_noticed(file: Path) -> None:
    original = read_original("x.toml")
    file.write_bytes(OLD[::-1])
    os.utime(file, ns=(original.status.st_atime_ns, original.status.st_mtime_ns))
    assert refusal(lambda: replace(original, NEW)).startswith(
        "x.toml: was changed by another process in the meantime"
    )


def test_a_file_that_another_command_is_replacing_is_refused(file: Path) -> None:
    for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        with file.open("rb") as held:
            fcntl.flock(held, kind)
            told = refusal(lambda: replace(read_original("x.toml"), NEW))
        assert (
            told
            == "x.toml: was changed by another process in the meantime\n      hint: check the file, and repeat the command"
        )
        assert names() == ["x.toml"]
    replace(read_original("x.toml"), NEW)


def test_of_commands_that_read_the_same_file_only_one_replaces_it(file: Path) -> None:
    """Eight processes read the file, wait for each other, and replace it: all but one get an error."""
    program = (
        "import sys\n"
        "from sandbox.editing.replace import read_original, replace\n"
        "from sandbox.errors import EditError\n"
        "original = read_original('x.toml')\n"
        "print('read', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n    replace(original, sys.argv[1].encode())\nexcept EditError as error:\n    print(error)\n"
        "else:\n    print('replaced')\n"
    )
    for _ in range(2):
        commands = [
            subprocess.Popen(
                [sys.executable, "-c", program, f"n = {number}\n"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(8)
        ]
        for command in commands:
            assert command.stdout is not None
            assert command.stdout.readline() == "read\n"
        for command in commands:
            assert command.stdin is not None
            command.stdin.write("\n")
            command.stdin.flush()
        told = [command.communicate()[0] for command in commands]
        winner = told.index("replaced\n")
        told.pop(winner)
        assert told == ["x.toml: was changed by another process in the meantime\n"] * 7
        assert file.read_text() == f"n = {winner}\n"


@pytest.mark.parametrize("how", ["removed", "replaced", "another target"])
def test_a_name_that_means_another_file_is_refused(file: Path, tmp_path: Path, how: str) -> None:
    if how == "another target":
        file.rename(tmp_path / "one.toml")
        file.symlink_to("one.toml")
    original = read_original("x.toml")
    if how == "another target":
        (tmp_path / "two.toml").write_bytes(OLD)
        file.unlink()
        file.symlink_to("two.toml")
    else:
        file.unlink()
        if how == "replaced":
            file.write_bytes(OLD)
    assert refusal(lambda: replace(original, NEW)).startswith(
        "x.toml: was changed by another process in the meantime"
    )


def unprivileged(script: str, directory: Path) -> str:
    """Run *script*, which uses names of this module, and return its output. If the test runs as root, the user is nobody."""
    program = (
        "import os\n"
        "from sandbox.editing.replace import create, read_original, replace\n"
        "from sandbox.errors import EditError\n"
        f"try:\n    {script}\nexcept EditError as error:\n    print(error.render())\n"
    )
    options: dict[str, object] = (
        {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env={"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.stderr == ""
    return str(done.stdout)


def _others_can_run_this() -> bool:
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import sandbox"],
            user=65534,
            env={"PYTHONPATH": str(PROJECT)},
            capture_output=True,
            check=False,
        )
    except PermissionError:
        return False
    return done.returncode == 0


@pytest.fixture
def public() -> Iterator[Path]:
    """Yield a directory that every user can access."""
    if os.getuid() == 0 and not _others_can_run_this():
        pytest.skip("other accounts cannot run this: chmod o+rx the directories of checkout and interpreter")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        yield Path(directory)


def test_a_read_only_file_is_refused(public: Path) -> None:
    (public / "x.toml").write_bytes(OLD)
    (public / "x.toml").chmod(0o444)
    assert unprivileged("replace(read_original('x.toml'), b'new = 1\\n')", public) == (
        "x.toml: is read-only\n      hint: make it writable: chmod u+w x.toml\n"
    )
    assert (public / "x.toml").read_bytes() == OLD


def test_a_file_in_a_read_only_directory_is_refused(public: Path) -> None:
    (public / "x.toml").write_bytes(OLD)
    (public / "x.toml").chmod(0o666)
    public.chmod(0o555)
    try:
        assert unprivileged("replace(read_original('x.toml'), b'new = 1\\n')", public) == (
            f"x.toml: its directory {public} is read-only, but the new content is first written to a new file in it\n"
            "      hint: make the directory writable, or copy the file elsewhere\n"
        )
        assert unprivileged("create('y.toml', b'new = 1\\n')", public) == (
            "y.toml: cannot be written: permission denied\n"
        )
    finally:
        public.chmod(0o777)
    assert os.listdir(public) == ["x.toml"]


def test_a_file_that_cannot_be_read_is_refused(public: Path) -> None:
    (public / "x.toml").write_bytes(OLD)
    (public / "x.toml").chmod(0)
    assert unprivileged("read_original('x.toml')", public) == "x.toml: cannot be read: permission denied\n"


def test_a_full_disk_leaves_the_old_content(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    told = (
        "x.toml: cannot be written: no space left on device\n"
        "      hint: free some space on its file system (see `df`)"
    )
    assert refusal(lambda: replace(read_original("x.toml"), NEW)) == told
    assert refusal(lambda: create("y.toml", NEW)) == told.replace("x.toml", "y.toml", 1)
    assert file.read_bytes() == OLD
    assert names() == ["x.toml"]


def test_a_file_larger_than_the_limit_of_the_file_size_leaves_the_old_content(file: Path) -> None:
    """With RLIMIT_FSIZE, write(2) fails after a part of the content, as on a full disk."""
    program = (
        "import resource, signal\n"
        "from sandbox.editing.replace import read_original, replace\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    replace(read_original('x.toml'), b'#' * 100_000)\nexcept Exception as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "x.toml: cannot be written: file too large\n"
    assert file.read_bytes() == OLD
    assert names() == ["x.toml"]


@pytest.mark.parametrize("call", ["open", "fchmod", "fsync", "rename"])
def test_a_kill_leaves_the_old_content_or_the_new(file: Path, call: str) -> None:
    """The process is killed at *call*: before the last such call, the file has the complete old content."""
    program = (
        "import os, signal\n"
        "from sandbox.editing.replace import read_original, replace\n"
        "original = read_original('x.toml')\n"
        f"os.{call} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "replace(original, b'new = 22\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -9
    assert file.read_bytes() == OLD
    left = [name for name in names() if name != "x.toml"]
    assert all(name.startswith(".x.toml.") and name.endswith(".tmp") for name in left)


def test_a_kill_after_the_rename_leaves_the_new_content(file: Path) -> None:
    program = (
        "import os, signal\n"
        "from sandbox.editing import replace as module\n"
        "module._synchronise_directory = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "module.replace(module.read_original('x.toml'), b'new = 22\\n')\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert file.read_bytes() == NEW
    assert names() == ["x.toml"]


def test_content_and_name_are_on_disk_before_the_command_ends(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename, link = os.fsync, os.rename, os.link

    def note_fsync(descriptor: int) -> None:
        events.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_rename(source: str, target: str) -> None:
        events.append("rename")
        rename(source, target)

    def note_link(source: str, target: str) -> None:
        events.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    monkeypatch.setattr(os, "link", note_link)
    replace(read_original("x.toml"), NEW)
    assert events == ["file", "rename", "directory"]
    events.clear()
    create("y.toml", NEW)
    assert events == ["file", "link", "directory"]


def test_paths_that_are_not_regular_files_are_refused(file: Path, tmp_path: Path) -> None:
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    Path("nowhere").symlink_to("gone")
    assert refusal(lambda: read_original("fifo")) == (
        "fifo: is not a regular file\n      hint: give the path of an environment file"
    )
    assert (
        refusal(lambda: read_original("."))
        == ".: is a directory\n      hint: give the path of an environment file"
    )
    assert refusal(lambda: read_original("nowhere")) == (
        "nowhere: no such file\n      hint: `sandbox init nowhere` writes one to start from"
    )
    assert refusal(lambda: read_original("loop")) == (
        "loop: cannot be read: too many levels of symbolic links"
    )
    assert refusal(lambda: read_original("a\0b")).endswith("it is not a path: it contains a NUL character")
    assert refusal(lambda: read_original("x.toml/y")) == "x.toml/y: cannot be read: not a directory"


def test_a_file_of_more_than_a_mebibyte_is_refused(file: Path) -> None:
    file.write_bytes(b"#" * (1 << 20) + b"\n")
    assert refusal(lambda: read_original("x.toml")) == (
        "x.toml: the file is larger than 1 MiB\n      hint: give the path of an environment file"
    )


def test_a_new_file_gets_the_mode_that_the_umask_leaves(file: Path) -> None:
    before = os.umask(0o027)
    try:
        create("y.toml", NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat("y.toml").st_mode) == 0o640
    assert Path("y.toml").read_bytes() == NEW
    assert os.stat("y.toml").st_nlink == 1


@pytest.mark.parametrize("there", ["file", "symlink to nothing", "directory"])
def test_a_new_file_never_replaces_an_existing_one(file: Path, there: str) -> None:
    if there == "symlink to nothing":
        Path("y.toml").symlink_to("gone")
    elif there == "directory":
        Path("y.toml").mkdir()
    else:
        Path("y.toml").write_bytes(OLD)
    assert refusal(lambda: create("y.toml", NEW)) == (
        "y.toml: exists already\n      hint: replace it with --force, or give another name"
    )
    assert names() == ["x.toml", "y.toml"]


def test_a_new_file_in_a_missing_directory_is_refused(file: Path) -> None:
    assert refusal(lambda: create("no/y.toml", NEW)) == (
        "no/y.toml: cannot be written: no such file or directory\n      hint: create its directory first"
    )

"""A freeze that is refused, fails or is killed leaves the old layer writable and whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fsapi.invariants import check_invariants
from tests.unit.unionfs.faults import Faults, failing_with
from tests.unit.unionfs.freezing import LOWER, FreezingClient, freeze, picture
from tests.unit.unionfs.seen import tree_in_union
from unionfs import _libc
from unionfs.errors import UnionError
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.launch.protocol import BEGUN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.unionfs.conftest import MakeUnion

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def test_unsuitable_directories_are_refused_and_everything_goes_on(
    client: FreezingClient, tmp_path: Path
) -> None:
    upper, work = client.new_layer()
    full = tmp_path / "full"
    (full / "x").mkdir(parents=True)

    def refused(new_upper: Path, new_work: Path) -> int | None:
        with pytest.raises(OSError, match="new upperdir") as error:
            client.fs.freeze(os.open(new_upper, _OPEN_DIR), os.open(new_work, _OPEN_DIR))
        return error.value.errno

    open_before = len(os.listdir("/proc/self/fd"))
    assert refused(full, work) == errno.ENOTEMPTY
    assert refused(client.upper, work) == errno.EINVAL
    assert refused(upper, client.work) == errno.EINVAL
    assert refused(Path("/proc/self"), work) == errno.EXDEV
    assert len(os.listdir("/proc/self/fd")) == open_before
    client.write("a", b"A")
    client.freeze_running()
    assert client.read("a") == b"Aower a"


def test_directories_that_cannot_hold_the_format_are_refused(
    client: FreezingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    if client.parts.upper.whiteouts is not WhiteoutFormat.OVERLAY:
        pytest.skip("this file system has no overlay whiteouts")

    def cannot(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as context:
        context.setattr(os, "mknod", cannot)
        with pytest.raises(UnionError, match="does not support overlay whiteouts"):
            freeze(client)
    client.write("a", b"A")
    assert client.file("a").layer is client.fs.inode_table.layers[0]


def test_a_read_only_union_cannot_be_frozen(make_union: MakeUnion, tmp_path: Path) -> None:
    union = make_union(LOWER, upper=None)
    with pytest.raises(OSError, match="Read-only") as refused:
        union.fs.freeze(os.open(tmp_path, _OPEN_DIR), os.open(tmp_path, _OPEN_DIR))
    assert refused.value.errno == errno.EROFS


def test_names_that_cannot_be_searched_for_are_not_lost(
    make_client: Callable[..., FreezingClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without birth times, the process that searches does not know that the records are about the same layers."""
    monkeypatch.setattr(_libc, "birth_time_ns", lambda *_: None)
    client = make_client()
    client.write("a", b"A")
    client.freeze_running()
    client.write("hard1", b"T")
    with pytest.raises(OSError, match="without birth times") as refused:
        client.freeze_running()
    assert refused.value.errno == errno.EOPNOTSUPP
    assert client.read("d/hard2") == b"Two names"
    client.write("d/hard2", b"L")  # makes all known names links
    client.freeze_running()
    client.forget_everything()
    assert client.read("hard1") == client.read("d/hard2") == b"Lwo names"


def test_a_freeze_that_fails_at_any_call_leaves_the_layer_writable(
    make_client: Callable[..., FreezingClient],
) -> None:
    tried = 0
    for number in range(1, 200):
        client = make_client()
        client.write("a", b"A")
        client.utime("s", 5)
        client.write("hard1", b"H")
        client.fs.link_remaining_names(client.remaining_names())
        client.unlink("gone")
        handle = client.open("a", os.O_RDWR)
        before = tree_in_union(client)
        upper, work = client.new_layer()
        fds = os.open(upper, _OPEN_DIR), os.open(work, _OPEN_DIR)
        faults = Faults(number, failing_with(errno.EIO), reading=True)
        failed = False
        with pytest.MonkeyPatch.context() as monkeypatch:
            faults.install(monkeypatch)
            try:
                client.fs.freeze(*fds)
            except (OSError, UnionError):
                failed = True
        check_invariants(client.fs)
        assert tree_in_union(client) == before, faults.names[-1]
        # A launcher whose supervisor was killed learns from this file which layer is the writable one.
        assert failed != (work / BEGUN).exists(), faults.names[-1]
        assert failed == (client.fs.inode_table.layers[0].root.stat().st_ino == client.upper.stat().st_ino)
        client.fs.files.write(handle, 0, b"B")
        assert client.read("a") == b"Bower a"
        client.fs.handles.close_file(handle)
        if not failed:
            client.upper, client.work = upper, work
        if not faults.reached:
            break
        tried += 1
    else:
        pytest.fail("more calls than a freeze makes")
    assert tried > 20


def test_a_server_that_is_killed_during_a_freeze_leaves_the_old_layer_whole(
    make_client: Callable[..., FreezingClient],
) -> None:
    for number in range(1, 200):
        client = make_client()
        client.write("a", b"A")
        client.utime("s", 5)
        client.write("hard1", b"H")
        client.fs.link_remaining_names(client.remaining_names())
        client.unlink("gone")
        client.end_request()
        before = tree_in_union(client)
        upper, work = client.new_layer()
        pid = os.fork()
        if pid == 0:
            try:
                Faults(number, lambda: os._exit(9)).install(pytest.MonkeyPatch())
                client.fs.freeze(os.open(upper, _OPEN_DIR), os.open(work, _OPEN_DIR))
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, 9)
        if status == 0:  # the first number that is more than a freeze makes
            client.lowers.insert(0, client.upper)
            client.frozen[client.upper] = picture(client.upper)
            client.upper, client.work = upper, work
        client.reopen()
        assert tree_in_union(client) == before, number
        client.write("d/hard2", b"?")
        assert (client.read("hard1"), client.stat("hard1").nlink) == (b"?wo names", 2)
        if status == 0:
            assert number > 20
            return
    pytest.fail("more calls than a freeze makes")

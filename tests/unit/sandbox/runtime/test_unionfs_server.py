"""Starts of the file system server that fail."""

from __future__ import annotations

import errno
import fcntl
import os
import resource

import pytest

from sandbox.errors import SetupError
from sandbox.runtime import unionfs_server


def test_a_machine_without_dev_null_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, _flags: int) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(unionfs_server.os, "open", refuse)
    with pytest.raises(SetupError) as raised:
        unionfs_server.Server().start()
    monkeypatch.undo()
    assert raised.value.render() == (
        "the file system's server: open /dev/null: no such file or directory (ENOENT)\n"
        "      hint: the device does not exist: as root: mknod -m 666 /dev/null c 1 3; in a container: give it a /dev of its own"
    )


def test_the_server_gets_no_descriptor_of_whoever_started_the_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inherited: list[bool] = []
    reader, writer = os.pipe()
    lowered, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    above = fcntl.fcntl(reader, fcntl.F_DUPFD, 250)  # above the limit that is set below

    def spawn(*_: object, file_actions: list[tuple[int, ...]], **__: object) -> int:
        inherited.extend(os.get_inheritable(fd) for fd in (reader, writer, above))
        assert not [action for action in file_actions if action[0] == os.POSIX_SPAWN_CLOSE]
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.set_inheritable(reader, True)
    monkeypatch.setattr(unionfs_server.os, "posix_spawn", spawn)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        with pytest.raises(SetupError):
            unionfs_server.Server().start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for fd in (reader, writer, above):
            os.close(fd)
    assert inherited == [False, False, False]


def test_a_limit_on_processes_is_said_with_where_to_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), "python3")

    monkeypatch.setattr(unionfs_server.os, "posix_spawn", refuse)
    with pytest.raises(SetupError, match=r"^the file system's server: fork: .* \(EAGAIN\)$") as raised:
        unionfs_server.Server().start()
    assert raised.value.hint is not None
    assert "ulimit -u" in raised.value.hint


def test_one_that_was_never_started_is_ended_like_any_other() -> None:
    never = unionfs_server.Server()
    never.kill()
    never.abandon()
    assert (never.stop(), never.pid, never.killed) == (0, 0, False)

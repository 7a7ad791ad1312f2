"""The server notifies the kernel of the oldest inodes (FUSE_NOTIFY_PRUNE), and only as often as that helps."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

from unionfs.fuse import notify
from unionfs.fuse.notify import KernelNotifier

if TYPE_CHECKING:
    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union

FILES = 40


@pytest.fixture
def union(make_union: MakeUnion, monkeypatch: pytest.MonkeyPatch) -> Union:
    """Return a union with one inode more than the limit, all of which the kernel knows."""
    monkeypatch.setattr(notify, "LIMIT", FILES - 1)
    made = make_union({f"f{number:02}": b"x" for number in range(FILES)})
    for number in range(FILES):
        made.file(f"f{number:02}").lookups = 1
    return made


class Connection(NamedTuple):
    """A pipe instead of a mounted /dev/fuse."""

    #: The end at which notifications arrive.
    end: int
    start: int


@pytest.fixture
def connection() -> Iterator[Connection]:
    """Return a pipe whose reading end does not block."""
    made = Connection(*os.pipe())
    os.set_blocking(made.end, False)
    yield made
    for descriptor in made:
        os.close(descriptor)


def ask(asking: KernelNotifier) -> None:
    asking.check()
    for thread in threading.enumerate():
        if thread.name == "prune-inodes":
            thread.join()


def test_the_oldest_nodes_without_handles_are_named(union: Union, connection: Connection) -> None:
    handle = union.open("f01")
    oldest = [
        union.file(f"f{number:02}").ino for number in (0, 2, 3, 4)
    ]  # after the root: two inodes over the limit, and a batch
    ask(KernelNotifier(union.fs.inode_table, connection.start))
    message = os.read(connection.end, 1000)
    length, code, unique, count = struct.unpack_from("=IiQI", message)
    assert (length, code, unique) == (len(message), 9, 0)
    assert list(struct.unpack_from(f"={count}Q", message, 32)) == oldest
    union.fs.handles.close_file(handle)


def test_what_was_named_is_the_newest_then(union: Union, connection: Connection) -> None:
    asking = KernelNotifier(union.fs.inode_table, connection.start)
    ask(asking)
    first = os.read(connection.end, 1000)[32:]
    asking._due = 0
    ask(asking)
    assert set(struct.iter_unpack("=Q", first)).isdisjoint(
        struct.iter_unpack("=Q", os.read(connection.end, 1000)[32:])
    )


def test_nothing_is_asked_for_again_until_there_is_more_to_gain(union: Union, connection: Connection) -> None:
    asking = KernelNotifier(union.fs.inode_table, connection.start)
    ask(asking)
    os.read(connection.end, 1000)
    ask(asking)
    with pytest.raises(BlockingIOError):
        os.read(connection.end, 1000)


def test_what_grew_while_the_kernel_was_being_told_is_named_though_nothing_follows(
    union: Union, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may not run before the last request was answered."""
    monkeypatch.setattr(notify, "_PER_MESSAGE", 4)
    held, told = threading.Event(), os.write

    def late(descriptor: int, data: bytes) -> int:
        assert held.wait(30)
        return told(descriptor, data)

    monkeypatch.setattr(os, "write", late)
    asking = KernelNotifier(union.fs.inode_table, connection.start)
    asking.check()
    for number in range(20):
        union.create(f"new{number:02}")
        union.file(f"new{number:02}").lookups = 1
        asking.check()
    held.set()
    ask(asking)
    named: list[int] = []
    data = os.read(connection.end, 1 << 16)
    while data:
        length, _code, _unique, count = struct.unpack_from("=IiQI", data)
        named += struct.unpack_from(f"={count}Q", data, 32)
        data = data[length:]
    assert len(union.fs.inode_table) - len(named) <= FILES - 1
    assert len(named) == len(set(named)), "nothing is named twice"


def _refused(_fd: int, _data: bytes) -> int:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def test_a_kernel_that_does_not_know_the_notification_is_asked_once(
    union: Union, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = KernelNotifier(union.fs.inode_table, connection.start)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _refused)
        ask(asking)
    asking._due = 0
    ask(asking)
    with pytest.raises(BlockingIOError):
        os.read(connection.end, 1000)


def _no_thread(_self: object) -> None:
    raise RuntimeError("can't start new thread")


def _no_descriptor(_fd: int) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize(
    ("name", "failure"), [("Thread.start", _no_thread), ("os.dup", _no_descriptor)], ids=["thread", "fd"]
)
def test_a_request_is_answered_though_nothing_can_be_asked(
    union: Union,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    failure: Callable[..., object],
) -> None:
    monkeypatch.setattr(f"unionfs.fuse.notify.{name}", failure)
    KernelNotifier(union.fs.inode_table, connection.start).check()


def test_attributes_that_do_not_hold_are_asked_for_again_before_the_request_goes_on(
    union: Union, connection: Connection
) -> None:
    KernelNotifier(union.fs.inode_table, connection.start)
    union.fs.inode_table.touch_all()
    said = os.read(connection.end, 10_000)
    messages = list(struct.iter_unpack("=IiQQqq", said))
    assert {message[:3] for message in messages} == {(40, 2, 0)}
    assert {message[4:] for message in messages} == {(-1, 0)}  # no pages are invalidated
    assert {message[3] for message in messages} == set(union.fs.inode_table._by_ino)


def test_what_the_kernel_does_not_answer_is_not_waited_for(
    union: Union, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, start = os.pipe()
    full = os.fpathconf(start, "PC_PIPE_BUF") * 1000
    monkeypatch.setattr(notify, "_LONG", 0.01)
    KernelNotifier(union.fs.inode_table, start).invalidate_attributes(range(full // 40))
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "invalidate-attributes"]
    os.close(start)
    while os.read(end, 1 << 20):
        pass
    thread.join()
    os.close(end)


def test_a_node_that_the_kernel_does_not_know_keeps_the_others_from_nothing(
    union: Union, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def unknown(fd: int, message: bytes) -> int:
        if struct.unpack_from("=Q", message, 16)[0] == 7:
            raise FileNotFoundError(2, "No such file or directory")
        return write(fd, message)

    monkeypatch.setattr(notify.os, "write", unknown)
    KernelNotifier(union.fs.inode_table, connection.start).invalidate_attributes([6, 7, 8])
    assert [message[3] for message in struct.iter_unpack("=IiQQqq", os.read(connection.end, 1000))] == [6, 8]

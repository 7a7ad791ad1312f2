"""Replies of the direct server, byte by byte, if system calls on a mount do not show them."""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
import struct
import termios
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fsapi.direct import DirectClient, entries, entry
from tests.unit.unionfs.support import Union
from unionfs.fuse import protocol
from unionfs.fuse.protocol import Init, Opcode
from unionfs.vfs import inode_flags

LOWER = {"d": {f"f{number}": b"x" for number in range(8)}, "f": b"content"}
OWNER = SimpleNamespace(uid=os.getuid(), gid=os.getgid(), pid=1, umask=0)


@pytest.fixture
def union(tmp_path: Path) -> Iterator[Union]:
    """Return an open stack over one layer."""
    made = Union(tmp_path, [LOWER], {})
    yield made
    made.close()


def look_up(client: DirectClient, parent: int, name: bytes) -> int:
    return int(entry(client.ask(Opcode.LOOKUP, parent, name + b"\0")).st_ino)


def listing(size: int) -> bytes:
    return protocol.READ_IN.pack(0, 0, size, 0, 0, 0, 0)


@pytest.mark.parametrize("opcode", [*Opcode, 54, 4096])
def test_no_request_is_too_short_or_too_strange_to_be_answered(
    union: Union, opcode: int, caplog: pytest.LogCaptureFixture
) -> None:
    client = DirectClient(union.fs)
    with caplog.at_level(
        logging.CRITICAL
    ):  # the missing structure raises an exception in the handler, which is logged
        for body in (b"", b"\0", bytes(200)):
            reply = client.send(opcode, 1, body)
            assert reply is None or isinstance(reply, bytes) or -200 < reply < 0


@pytest.mark.parametrize(
    ("command", "error"),
    [(termios.TCGETS, errno.ENOTTY), (inode_flags.FS_IOC_SETFLAGS, errno.EOPNOTSUPP)],
)
def test_an_ioctl_that_is_refused_opens_no_file(union: Union, command: int, error: int) -> None:
    client = DirectClient(union.fs, unopened=True)
    ino = look_up(client, 1, b"f")
    body = protocol.IOCTL_IN.pack(0, 0, command, 0, 0, 0)
    assert client.send(Opcode.IOCTL, ino, body) == -error
    assert len(union.fs.handles) == 0


def test_a_lookup_whose_answer_did_not_arrive_is_taken_back(union: Union) -> None:
    client = DirectClient(union.fs)
    reply = client.send(Opcode.LOOKUP, 1, b"f\0")
    assert len(union.fs.inode_table) == 2
    client.requests.take_back(Opcode.LOOKUP, reply)
    assert len(union.fs.inode_table) == 1


def test_the_lookups_of_a_listing_that_did_not_arrive_are_taken_back(union: Union) -> None:
    client = DirectClient(union.fs, unopened=True)
    directory = look_up(client, 1, b"d")
    reply = client.send(Opcode.READDIRPLUS, directory, listing(700))
    assert isinstance(reply, bytes)
    assert len(union.fs.inode_table) == 2 + len(entries(reply)) - 2
    client.requests.take_back(Opcode.READDIRPLUS, reply)
    assert len(union.fs.inode_table) == 2


@pytest.mark.parametrize("unopened", [False, True])
def test_a_file_whose_making_was_not_heard_of_is_closed(union: Union, unopened: bool) -> None:
    client = DirectClient(union.fs, unopened=unopened)
    mode = stat.S_IFREG | 0o600
    opcode, body = Opcode.CREATE, protocol.CREATE_IN.pack(os.O_RDWR | os.O_CREAT, mode, 0, 0)
    if unopened:
        assert client.send(opcode, 1, body + b"new\0", OWNER) == -errno.ENOSYS
        opcode, body = Opcode.MKNOD, protocol.MKNOD_IN.pack(mode, 0, 0, 0)
    reply = client.send(opcode, 1, body + b"new\0", OWNER)
    assert len(union.fs.handles) == 1
    client.requests.take_back(opcode, reply)
    assert (len(union.fs.handles), len(union.fs.inode_table)) == (0, 1)


@pytest.mark.parametrize("unopened", [False, True])
def test_a_file_without_a_name_whose_making_was_not_heard_of_is_closed(union: Union, unopened: bool) -> None:
    client = DirectClient(union.fs, unopened=unopened)
    body = protocol.CREATE_IN.pack(os.O_RDWR | os.O_TMPFILE, stat.S_IFREG | 0o600, 0, 0) + b"/\0"
    reply = client.send(Opcode.TMPFILE, 1, body, OWNER)
    assert isinstance(reply, bytes)
    assert len(union.fs.inode_table) == 2
    client.requests.take_back(Opcode.TMPFILE, reply)
    assert len(union.fs.inode_table) == 1
    assert len(union.fs.handles) == 0
    assert union.names() == ["d", "f"]


def _mode_after(client: DirectClient, union: Union, opcode: Opcode, body: bytes) -> int:
    union.chmod("f", 0o6777)
    assert isinstance(client.send(opcode, union.file("f").ino, body), bytes)
    return union.stat("f").mode & 0o7777


@pytest.mark.parametrize("minor", [45, 36])
@pytest.mark.parametrize("reports", [True, False])
def test_set_id_bits_are_kept_only_where_the_kernel_reports_who_may_keep_them(
    union: Union, reports: bool, minor: int
) -> None:
    if reports and os.geteuid() != 0:
        pytest.skip("needs a server with CAP_FSETID")  # otherwise the server's own write clears the bits
    offered = 0x7FFFFFFF if reports else 0x7FFFFFFF & ~Init.HANDLE_KILLPRIV_V2
    client = DirectClient(union.fs, offered=offered, minor=minor)
    inode = union.file("f")
    inode.lookups = 1
    fh = union.open("f", os.O_RDWR)
    mode = functools.partial(_mode_after, client, union)
    for flag, kept in ((0, reports), (protocol.WRITE_KILL_SUIDGID, False)):
        body = protocol.WRITE_IN.pack(fh, 0, 1, flag, 0, os.O_RDWR, 0) + b"x"
        assert mode(Opcode.WRITE, body) == (0o6777 if kept else 0o777)
    for flag, kept in ((0, reports), (protocol.FATTR_KILL_SUIDGID, False)):
        body = protocol.SETATTR_IN.pack(protocol.FATTR_SIZE | flag, 0, 0, 3, *(0,) * 12)
        assert mode(Opcode.SETATTR, body) == (0o6777 if kept else 0o777)
    for flag, kept in ((0, reports), (protocol.OPEN_KILL_SUIDGID, False)):
        assert mode(Opcode.OPEN, protocol.OPEN_IN.pack(os.O_WRONLY | os.O_TRUNC, flag)) == (
            0o6777 if kept else 0o777
        )
    allocating = protocol.FALLOCATE_IN.pack(fh, 0, 10, 0, 0)
    assert mode(Opcode.FALLOCATE, allocating) == (0o6777 if reports and minor >= 37 else 0o777)
    # The kernel sends this before a caller without CAP_FSETID changes contents, and for a chown(2) without a change.
    assert mode(Opcode.SETATTR, protocol.SETATTR_IN.pack(0, 0, 0, 0, *(0,) * 12)) == 0o777
    # The kernel then copies with READ and WRITE, which reports the caller.
    union.chmod("f", 0o4777)
    copying = protocol.COPY_FILE_RANGE_IN.pack(fh, 0, inode.ino, fh, 20, 1, 0)
    assert client.send(Opcode.COPY_FILE_RANGE, inode.ino, copying) == -errno.EOPNOTSUPP
    assert union.stat("f").mode & 0o7777 == 0o4777


def test_set_id_bits_go_with_the_allocation_that_another_caller_has_announced(union: Union) -> None:
    client = DirectClient(union.fs)
    inode = union.file("f")
    inode.lookups = 1
    fh = union.open("f", os.O_RDWR)
    union.chmod("f", 0o6777)
    nothing = protocol.SETATTR_IN.pack(0, 0, 0, 0, *(0,) * 12)
    allocating = protocol.FALLOCATE_IN.pack(fh, 0, 10, 0, 0)
    somebody, root = (SimpleNamespace(uid=uid, gid=uid, pid=10 + uid) for uid in (os.geteuid() + 1000, 0))
    reply = client.send(Opcode.SETATTR, inode.ino, nothing, somebody)
    assert isinstance(reply, bytes)
    assert union.stat("f").mode & 0o7777 == 0o6777
    assert client.send(Opcode.FALLOCATE, inode.ino, allocating, somebody) == b""
    assert union.stat("f").mode & 0o7777 == 0o777
    if os.geteuid() == 0:  # otherwise the underlying file system clears the bits (fallocate(2))
        union.chmod("f", 0o6777)
        # For a caller with CAP_FSETID, the kernel sends no SETATTR first.
        assert client.send(Opcode.FALLOCATE, inode.ino, allocating, root) == b""
        assert union.stat("f").mode & 0o7777 == 0o6777
    client.requests.fs.handles.close_file(fh)


def test_handles_that_nobody_heard_of_are_closed(union: Union) -> None:
    client = DirectClient(union.fs)
    file, directory = look_up(client, 1, b"f"), look_up(client, 1, b"d")
    for opcode, ino in ((Opcode.OPEN, file), (Opcode.OPENDIR, directory)):
        client.requests.take_back(opcode, client.send(opcode, ino, bytes(8)))
    assert len(union.fs.handles) == 0


def test_a_listing_counts_only_what_it_has_room_for_and_goes_on_there(union: Union) -> None:
    client = DirectClient(union.fs, unopened=True)
    directory = look_up(client, 1, b"d")
    names: list[bytes] = []
    after = 0
    while True:
        body = protocol.READ_IN.pack(0, after, 500, 0, 0, 0, 0)
        found = entries(client.ask(Opcode.READDIRPLUS, directory, body))
        if not found:
            break
        names += [name for name, _, _ in found]
        after = found[-1][2]
        told = {each.ino: each.lookups for each in union.fs.inode_table._by_ino.values()}
        assert sum(told.values()) == 1 + len(names) - 2
    assert names[:2] == [b".", b".."]
    assert sorted(names[2:]) == [b"f%d" % number for number in range(8)]


def test_a_plain_listing_makes_nothing_known(union: Union) -> None:
    client = DirectClient(union.fs, unopened=True)
    directory = look_up(client, 1, b"d")
    reply = client.ask(Opcode.READDIR, directory, listing(4096))
    ino, after, length, kind = protocol.DIRENT.unpack_from(reply)
    assert (ino, after, length, kind, reply[24:25]) == (directory, 1, 1, stat.S_IFDIR >> 12, b".")
    assert len(union.fs.inode_table) == 2


def test_open_is_refused_for_good_only_where_the_kernel_can_do_without(union: Union) -> None:
    able = DirectClient(union.fs, unopened=True)
    assert able.send(Opcode.OPEN, look_up(able, 1, b"f"), bytes(8)) == -errno.ENOSYS
    assert able.send(Opcode.OPENDIR, 1, bytes(8)) == -errno.ENOSYS
    old = DirectClient(union.fs, unopened=True, offered=0x7FFFFFFF & ~Init.NO_OPEN_SUPPORT)
    assert isinstance(old.send(Opcode.OPEN, look_up(old, 1, b"f"), bytes(8)), bytes)
    assert isinstance(old.send(Opcode.OPENDIR, 1, bytes(8)), bytes)


def test_a_truncating_open_that_nobody_is_told_of_copies_nothing_and_sets_the_time(union: Union) -> None:
    client = DirectClient(union.fs, unopened=True)
    ino = look_up(client, 1, b"f")
    body = protocol.SETATTR_IN.pack(protocol.FATTR_SIZE, *(0,) * 15)
    client.ask(Opcode.SETATTR, ino, body)
    assert union.parts.copy_up.bytes_copied == 0
    os.utime(union.upper / "f", ns=(1, 1))
    union.file("f").touch()
    client.ask(Opcode.SETATTR, ino, body)  # of an empty file, too
    assert union.stat("f").mtime_ns > 1


def test_attributes_are_made_or_replaced_as_asked_for(union: Union) -> None:
    client = DirectClient(union.fs)
    ino = look_up(client, 1, b"f")

    def set_to(value: bytes, flags: int) -> int | bytes | None:
        body = protocol.SETXATTR_IN_EXT.pack(len(value), flags, 0, 0) + b"user.a\0" + value
        return client.send(Opcode.SETXATTR, ino, body)

    assert set_to(b"1", os.XATTR_REPLACE) == -errno.ENODATA
    assert set_to(b"1", os.XATTR_CREATE) == b""
    assert set_to(b"2", os.XATTR_CREATE) == -errno.EEXIST
    assert set_to(b"3", os.XATTR_REPLACE) == b""
    assert client.ask(Opcode.GETXATTR, ino, struct.pack("=II", 10, 0) + b"user.a\0") == b"3"


def test_an_older_kernels_setxattr_is_understood(union: Union) -> None:
    client = DirectClient(union.fs, offered=0x7FFFFFFF & ~Init.SETXATTR_EXT)
    ino = look_up(client, 1, b"f")
    assert client.send(Opcode.SETXATTR, ino, protocol.SETXATTR_IN.pack(3, 0) + b"user.a\0abc") == b""
    assert client.ask(Opcode.LISTXATTR, ino, struct.pack("=II", 100, 0)) == b"user.a\0"
    assert client.send(Opcode.GETXATTR, ino, struct.pack("=II", 2, 0) + b"user.a\0") == -errno.ERANGE


def test_a_write_that_has_to_be_on_disk_is_synced(union: Union, monkeypatch: pytest.MonkeyPatch) -> None:
    client = DirectClient(union.fs, unopened=True)
    ino = look_up(client, 1, b"f")
    synced: list[bool] = []
    monkeypatch.setattr(union.fs.files, "fsync", lambda _fh, data_only: synced.append(data_only))
    for flags in (os.O_WRONLY, os.O_WRONLY | os.O_DSYNC, os.O_WRONLY | os.O_SYNC):
        client.ask(Opcode.WRITE, ino, protocol.WRITE_IN.pack(0, 0, 1, 0, 0, flags, 0) + b"x")
    assert synced == [True, False]


def test_a_file_that_lost_its_mode_is_read_and_written_on_by_who_had_it_open(union: Union) -> None:
    client = DirectClient(union.fs, unopened=True)
    ino = look_up(client, 1, b"f")
    client.ask(Opcode.WRITE, ino, protocol.WRITE_IN.pack(0, 0, 1, 0, 0, os.O_WRONLY, 0) + b"C")
    files = client.requests._files
    assert files is not None
    files.close(ino)  # as if other files had needed its descriptor
    client.ask(Opcode.SETATTR, ino, protocol.SETATTR_IN.pack(protocol.FATTR_MODE, *(0,) * 15))
    client.ask(Opcode.WRITE, ino, protocol.WRITE_IN.pack(0, 1, 1, 0, 0, os.O_WRONLY, 0) + b"O")
    assert client.ask(Opcode.READ, ino, listing(100)) == b"COntent"
    assert stat.S_IMODE(union.stat("f").mode) == 0


def test_files_kept_open_are_bounded_and_the_least_used_go_first(union: Union) -> None:
    client = DirectClient(union.fs, unopened=True)
    files = client.requests._files
    assert files is not None
    files._limit = 3
    directory = look_up(client, 1, b"d")
    inos = [look_up(client, directory, b"f%d" % number) for number in range(5)]
    for ino in (*inos[:3], inos[0], *inos[3:]):
        assert client.ask(Opcode.READ, ino, listing(10)) == b"x"
    assert list(files._numbers) == [inos[0], inos[3], inos[4]]
    assert len(union.fs.handles) == 3
    client.send(Opcode.FORGET, inos[0], protocol.FORGET_IN.pack(1))
    assert len(union.fs.handles) == 2


def test_files_kept_open_make_room_for_one_that_is_made(
    union: Union, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = DirectClient(union.fs, unopened=True)
    files = client.requests._files
    assert files is not None
    for name in (b"f", b"d/f0"):
        directory = look_up(client, 1, b"d") if b"/" in name else 1
        client.ask(Opcode.READ, look_up(client, directory, name.rpartition(b"/")[2]), listing(10))
    create, most = union.fs.files.create, 1

    def cramped(*arguments: object) -> object:
        if len(union.fs.handles) > most:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return create(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(union.fs.files, "create", cramped)
    request = protocol.MKNOD_IN.pack(stat.S_IFREG | 0o600, 0, 0, 0)
    assert isinstance(client.send(Opcode.MKNOD, 1, request + b"new\0", OWNER), bytes)
    assert len(files) == 2
    most = -1
    assert client.send(Opcode.MKNOD, 1, request + b"newer\0", OWNER) == -errno.EMFILE


def test_figures_have_the_names_of_the_requests(union: Union) -> None:
    client = DirectClient(union.fs)
    look_up(client, 1, b"f")
    client.send(Opcode.GETATTR, 1, bytes(16), OWNER)
    assert client.requests.requests == {"init": 1, "lookup": 1, "getattr": 1}


@pytest.mark.parametrize("unopened", [False, True])
def test_a_volatile_layer_has_the_kernel_ask_for_no_more_syncs(tmp_path: Path, unopened: bool) -> None:
    made = Union(tmp_path, [LOWER], {}, more={"volatile": True})
    try:
        client = DirectClient(made.fs, unopened=unopened)
        file = look_up(client, 1, b"f")
        asked = protocol.FSYNC_IN.pack(0, 0, 0)
        assert client.send(Opcode.FSYNC, file, asked) == -errno.ENOSYS
        assert client.send(Opcode.FSYNCDIR, 1, asked) == -errno.ENOSYS
    finally:
        made.close()


def test_a_file_that_a_server_without_open_makes_can_be_written_and_read_by_its_number_alone(
    union: Union,
) -> None:
    client = DirectClient(union.fs, unopened=True)
    made = client.ask(
        Opcode.MKNOD, 1, protocol.MKNOD_IN.pack(stat.S_IFREG | 0o400, 0, 0, 0) + b"new\0", OWNER
    )
    number = entry(made).st_ino
    assert len(union.fs.handles) == 1, "the descriptor that made it is kept"
    client.ask(Opcode.WRITE, number, protocol.WRITE_IN.pack(0, 0, 4, 0, 0, os.O_WRONLY, 0) + b"data")
    assert client.ask(Opcode.READ, number, listing(100)) == b"data"
    assert union.read("new") == b"data"

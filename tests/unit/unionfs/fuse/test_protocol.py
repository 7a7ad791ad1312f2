"""The structures of the protocol, compared with bytes from a kernel and with the sizes in fuse.h."""

from __future__ import annotations

import struct

import pytest

from unionfs.fuse import protocol
from unionfs.fuse.protocol import Init, Opcode, ProtocolError, counted, negotiate

#: The sizeof of each structure of fixed length in linux/fuse.h (version 7.41), from a C compiler.
SIZES = {
    "IN_HEADER": 40,
    "OUT_HEADER": 16,
    "INIT_OUT": 64,
    "ATTR": 88,
    "ENTRY_OUT": 128,
    "ATTR_OUT_HEAD": 104 - 88,
    "FORGET_IN": 8,
    "BATCH_FORGET_IN": 8,
    "FORGET_ONE": 16,
    "SETATTR_IN": 88,
    "MKNOD_IN": 16,
    "MKDIR_IN": 8,
    "RENAME_IN": 8,
    "RENAME2_IN": 16,
    "LINK_IN": 8,
    "OPEN_IN": 8,
    "CREATE_IN": 16,
    "OPEN_OUT": 16,
    "RELEASE_IN": 24,
    "READ_IN": 40,
    "WRITE_IN": 40,
    "WRITE_OUT": 8,
    "FSYNC_IN": 16,
    "SETXATTR_IN": 8,
    "SETXATTR_IN_EXT": 16,
    "GETXATTR_IN": 8,
    "GETXATTR_OUT": 8,
    "STATFS_OUT": 80,
    "DIRENT": 24,
    "NOTIFY_PRUNE_OUT": 16,
}

EVERYTHING = 0x7FFFFFFF


def init(major: int = 7, minor: int = 45, flags: int = EVERYTHING, flags2: int = 0) -> bytes:
    return struct.pack("=IIIII44x", major, minor, 131072, flags, flags2)


def answered(reply: bytes) -> dict[str, int]:
    names = (
        "major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages "
        "map_alignment flags2"
    ).split()
    return dict(zip(names, struct.unpack("=IIIIHHIIHHI28x", reply), strict=True))


@pytest.mark.parametrize("name", SIZES)
def test_a_structure_has_the_size_that_the_kernel_gives_it(name: str) -> None:
    assert getattr(protocol, name).size == SIZES[name]


def test_a_request_as_a_kernel_wrote_it_is_taken_apart() -> None:
    lookup = bytes.fromhex(
        "2b000000 01000000 0600000000000000 0100000000000000 e8030000 e9030000 39300000 0000 0000 626100"
    )
    length, opcode, unique, ino, uid, gid, pid, extensions, _ = protocol.IN_HEADER.unpack_from(lookup)
    assert (length, opcode, unique, ino) == (len(lookup), Opcode.LOOKUP, 6, 1)
    assert (uid, gid, pid, extensions) == (1000, 1001, 12345, 0)
    assert lookup[protocol.IN_HEADER.size :] == b"ba\0"


def test_what_is_agreed_on_is_what_both_know() -> None:
    init_reply = negotiate(init(), acls=False, unopened=False)
    reply = answered(init_reply.data)
    assert (reply["major"], reply["minor"]) == (7, protocol.MINOR)
    assert reply["flags"] == init_reply.flags
    assert (reply["max_write"], reply["max_pages"], reply["time_gran"]) == (1 << 20, 256, 1)
    assert reply["max_readahead"] == 131072
    assert init_reply.flags is not None
    wanted = Init.DONT_MASK | Init.CACHE_SYMLINKS | Init.HANDLE_KILLPRIV_V2 | Init.DO_READDIRPLUS
    assert init_reply.flags & wanted == wanted
    # Flags that change the requests, or delegate tasks that this server does not implement.
    assert not init_reply.flags & ~int(protocol._ALWAYS | Init.ATOMIC_O_TRUNC)


def test_nothing_is_agreed_on_that_the_kernel_does_not_offer() -> None:
    init_reply = negotiate(
        init(minor=31, flags=int(Init.ASYNC_READ | Init.POSIX_ACL)), acls=True, unopened=True
    )
    assert answered(init_reply.data)["flags"] == Init.ASYNC_READ | Init.POSIX_ACL
    assert answered(init_reply.data)["minor"] == 31
    assert not init_reply.unopened


@pytest.mark.parametrize("acls", [False, True])
def test_access_lists_are_honoured_only_where_they_are_kept(acls: bool) -> None:
    flags = negotiate(init(), acls=acls, unopened=False).flags
    assert flags is not None
    assert bool(flags & Init.POSIX_ACL) == acls


def test_without_open_the_kernel_says_truncations_apart() -> None:
    with_open, without = (negotiate(init(), acls=False, unopened=unopened) for unopened in (False, True))
    assert with_open.flags is not None
    assert without.flags is not None
    assert (with_open.unopened, without.unopened) == (False, True)
    assert with_open.flags & Init.ATOMIC_O_TRUNC
    assert not without.flags & Init.ATOMIC_O_TRUNC


def test_a_kernel_that_cannot_do_without_opendir_is_asked_for_both() -> None:
    init_reply = negotiate(init(flags=EVERYTHING & ~Init.NO_OPENDIR_SUPPORT), acls=False, unopened=True)
    assert not init_reply.unopened
    assert init_reply.flags is not None
    assert init_reply.flags & Init.ATOMIC_O_TRUNC


def test_a_newer_major_version_is_asked_to_speak_ours() -> None:
    init_reply = negotiate(init(major=8, minor=0), acls=False, unopened=False)
    assert init_reply.flags is None
    assert answered(init_reply.data)["major"] == 7


@pytest.mark.parametrize(("major", "minor"), [(7, 22), (6, 99)])
def test_a_kernel_that_is_too_old_is_refused(major: int, minor: int) -> None:
    with pytest.raises(ProtocolError, match=rf"FUSE {major}\.{minor}"):
        negotiate(init(major, minor), acls=False, unopened=False)


@pytest.mark.parametrize("length", [*range(10), 254, 255])
def test_an_entry_of_a_directory_ends_at_a_multiple_of_eight_bytes(length: int) -> None:
    size = protocol.dirent_size(b"n" * length)
    assert size % 8 == 0
    assert 24 + length <= size < 24 + length + 8


def test_the_lookups_that_a_reply_counts_are_found_in_it() -> None:
    def entry(ino: int) -> bytes:
        return struct.pack("=Q120x", ino)

    def named(ino: int, name: bytes) -> bytes:
        return entry(ino) + protocol.DIRENT.pack(ino, 1, len(name), 8) + name + bytes(-len(name) % 8)

    assert counted(Opcode.LOOKUP, entry(77)) == [77]
    assert counted(Opcode.LOOKUP, entry(0)) == []
    assert counted(Opcode.CREATE, entry(5) + bytes(16)) == [5]
    assert counted(Opcode.READDIRPLUS, named(0, b".") + named(9, b"a") + named(11, b"eightlet")) == [9, 11]
    assert counted(Opcode.READDIRPLUS, b"") == []
    assert counted(Opcode.GETATTR, entry(77)) == []

"""The interface of ``UnionOperations`` over the handlers of the direct server. Each call is encoded as the kernel would
encode it, and the reply is decoded to the values that pyfuse3 would receive.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import struct
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from pyfuse3 import FUSEError

from unionfs.fuse import protocol
from unionfs.fuse.direct.handlers import Handlers, Reply
from unionfs.fuse.protocol import Opcode
from unionfs.vfs.filesystem import UnionFs

_U64 = (1 << 64) - 1
#: The INIT flags of a current kernel.
_OFFERED = 0x7FFFFFFF
_SIZES = {0: 0, 1: 200, 3: 560, 100: 1 << 16}


def header(opcode: int, ino: int, length: int, context: Any) -> bytes:
    """Return struct fuse_in_header of a request with a body of *length* bytes. *context* is a request context of pyfuse3."""
    uid, gid, pid = (context.uid, context.gid, context.pid) if context is not None else (0, 0, 0)
    size = protocol.IN_HEADER.size + length
    return protocol.IN_HEADER.pack(size, opcode, 7, ino & _U64, uid, gid, pid, 0, 0)


class DirectClient:
    """Writes requests to the buffer of :class:`Handlers`."""

    def __init__(
        self, fs: UnionFs, *, unopened: bool = False, offered: int = _OFFERED, minor: int = 45
    ) -> None:
        """Send INIT of a kernel with FUSE 7.*minor* and the flags *offered* to a server of *fs*."""
        self._buffer = bytearray(protocol.BUFFER)
        self.requests = Handlers(fs, memoryview(self._buffer), unopened=unopened)
        init = protocol.INIT_IN.pack(7, minor, 131072, offered) + bytes(48)
        assert isinstance(self.send(Opcode.INIT, 0, init), bytes)

    def send(self, opcode: int, ino: int, body: bytes, context: Any = None) -> Reply:
        """Send a request and return the reply."""
        request = header(opcode, ino, len(body), context) + body
        self._buffer[: len(request)] = request
        reply = self.requests.answer(opcode, ino & _U64, len(request))
        self.requests.answered()
        return reply

    def ask(self, opcode: int, ino: int, body: bytes, context: Any = None) -> bytes:
        """Send a request and return the reply. Raise FUSEError for an errno, as the handlers of pyfuse3 do."""
        reply = self.send(opcode, ino, body, context)
        if isinstance(reply, int):
            raise FUSEError(-reply)
        return reply or b""


def entry(reply: bytes, at: int = 0) -> Any:
    """Decode struct fuse_entry_out."""
    fields = protocol.ENTRY_OUT.unpack_from(reply, at)
    return SimpleNamespace(st_ino=fields[0], st_mode=fields[15])


def entries(reply: bytes) -> list[tuple[bytes, Any, int]]:
    """Decode a reply to READDIRPLUS: name, entry and next offset."""
    found, at = [], 0
    while at < len(reply):
        start = at + protocol.ENTRY_OUT.size
        _, after, length, _ = protocol.DIRENT.unpack_from(reply, start)
        name_at = start + protocol.DIRENT.size
        found.append((reply[name_at : name_at + length], entry(reply, at), after))
        at = name_at + length + -length % 8
    assert at == len(reply)
    return found


class DirectOperations:
    """A replacement of ``UnionOperations`` for the fuzz test."""

    def __init__(self, fs: UnionFs, *, unopened: bool) -> None:
        """Serve *fs*, with or without OPEN."""
        self._client = DirectClient(fs, unopened=unopened)
        self._ask = self._client.ask
        self._unopened = unopened
        self._numbers = itertools.count(1000)
        #: Without OPEN: the inode number of each handle number of this class.
        self._opened: dict[int, int] = {}

    def _handle(self, number: int) -> tuple[int, int]:
        """Return the inode number and the handle that the kernel would send for our *number*."""
        if self._unopened:
            return self._opened.get(number, number), 0
        return 1, number & _U64

    def _new_handle(self, opcode: Opcode, ino: int, flags: int, ctx: Any) -> int:
        if not self._unopened:
            reply = self._ask(opcode, ino, protocol.OPEN_IN.pack(flags, 0), ctx)
            return int(protocol.OPEN_OUT.unpack(reply)[0])
        assert self._client.send(opcode, ino, protocol.OPEN_IN.pack(flags, 0), ctx) == -errno.ENOSYS
        number = next(self._numbers)
        self._opened[number] = ino
        return number

    async def lookup(self, parent: int, name: bytes, ctx: Any) -> Any:
        return entry(self._ask(Opcode.LOOKUP, parent, name + b"\0", ctx))

    async def forget(self, inodes: Sequence[tuple[int, int]]) -> None:
        if len(inodes) == 1:
            ((ino, count),) = inodes
            assert self._client.send(Opcode.FORGET, ino, protocol.FORGET_IN.pack(count)) is None
        else:
            body = protocol.BATCH_FORGET_IN.pack(len(inodes), 0)
            body += b"".join(protocol.FORGET_ONE.pack(*each) for each in inodes)
            assert self._client.send(Opcode.BATCH_FORGET, 0, body) is None

    async def getattr(self, ino: int, ctx: Any) -> None:
        self._ask(Opcode.GETATTR, ino, bytes(16), ctx)

    async def setattr(self, ino: int, value: Any, fields: Any, fh: int | None, ctx: Any) -> None:
        valid = sum(
            bit
            for bit, name in (
                (protocol.FATTR_MODE, "mode"),
                (protocol.FATTR_UID, "uid"),
                (protocol.FATTR_GID, "gid"),
                (protocol.FATTR_SIZE, "size"),
                (protocol.FATTR_ATIME, "atime"),
                (protocol.FATTR_MTIME, "mtime"),
            )
            if getattr(fields, "update_" + name)
        )
        if fh is not None:
            valid |= protocol.FATTR_FH
        seconds = [divmod(value.st_atime_ns, 10**9), divmod(value.st_mtime_ns, 10**9)]
        body = protocol.SETATTR_IN.pack(
            valid, 0, 0 if fh is None else self._handle(fh)[1], value.st_size & _U64, 0,
            seconds[0][0], seconds[1][0], 0, seconds[0][1], seconds[1][1], 0,
            value.st_mode, 0, value.st_uid, value.st_gid, 0,
        )  # fmt: skip
        self._ask(Opcode.SETATTR, ino, body, ctx)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        body = protocol.MKNOD_IN.pack(mode, rdev, ctx.umask, 0) + name + b"\0"
        return entry(self._ask(Opcode.MKNOD, parent, body, ctx))

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> Any:
        body = protocol.MKDIR_IN.pack(mode, ctx.umask) + name + b"\0"
        return entry(self._ask(Opcode.MKDIR, parent, body, ctx))

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> Any:
        return entry(self._ask(Opcode.SYMLINK, parent, name + b"\0" + target + b"\0", ctx))

    async def link(self, ino: int, parent: int, name: bytes, ctx: Any) -> Any:
        body = protocol.LINK_IN.pack(ino & _U64) + name + b"\0"
        return entry(self._ask(Opcode.LINK, parent, body, ctx))

    async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        self._ask(Opcode.UNLINK, parent, name + b"\0", ctx)

    async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        self._ask(Opcode.RMDIR, parent, name + b"\0", ctx)

    async def rename(self, old: int, name: bytes, new: int, to: bytes, flags: int, ctx: Any) -> None:
        names = name + b"\0" + to + b"\0"
        if flags:
            self._ask(Opcode.RENAME2, old, protocol.RENAME2_IN.pack(new & _U64, flags, 0) + names, ctx)
        else:
            self._ask(Opcode.RENAME, old, protocol.RENAME_IN.pack(new & _U64) + names, ctx)

    async def readlink(self, ino: int, ctx: Any) -> None:
        self._ask(Opcode.READLINK, ino, b"", ctx)

    async def statfs(self, ctx: Any) -> None:
        assert len(self._ask(Opcode.STATFS, 1, b"", ctx)) == 80

    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: Any) -> None:
        body = protocol.SETXATTR_IN_EXT.pack(len(value), 0, 0, 0) + name + b"\0" + value
        self._ask(Opcode.SETXATTR, ino, body, ctx)

    async def getxattr(self, ino: int, name: bytes, ctx: Any) -> None:
        body = name + b"\0"
        (size, _) = struct.unpack(
            "=II", self._ask(Opcode.GETXATTR, ino, struct.pack("=II", 0, 0) + body, ctx)
        )
        if size:
            got = self._ask(Opcode.GETXATTR, ino, struct.pack("=II", size, 0) + body, ctx)
            assert len(got) == size
            assert self._client.send(Opcode.GETXATTR, ino, struct.pack("=II", 1, 0) + body, ctx) in (
                -errno.ERANGE,
                got,
            )

    async def listxattr(self, ino: int, ctx: Any) -> None:
        self._ask(Opcode.LISTXATTR, ino, struct.pack("=II", 65536, 0), ctx)

    async def removexattr(self, ino: int, name: bytes, ctx: Any) -> None:
        self._ask(Opcode.REMOVEXATTR, ino, name + b"\0", ctx)

    async def open(self, ino: int, flags: int, ctx: Any) -> Any:
        return SimpleNamespace(fh=self._new_handle(Opcode.OPEN, ino, flags, ctx))

    async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> tuple[Any, Any]:
        body = protocol.CREATE_IN.pack(flags, mode, ctx.umask, 0) + name + b"\0"
        if self._unopened:
            assert self._client.send(Opcode.CREATE, parent, body, ctx) == -errno.ENOSYS
            made = await self.mknod(parent, name, stat.S_IFREG | stat.S_IMODE(mode), 0, ctx)
            number = next(self._numbers)
            self._opened[number] = made.st_ino
            return SimpleNamespace(fh=number), made
        reply = self._ask(Opcode.CREATE, parent, body, ctx)
        made, (number, _, _) = entry(reply), protocol.OPEN_OUT.unpack_from(reply, protocol.ENTRY_OUT.size)
        return SimpleNamespace(fh=number), made

    async def read(self, number: int, offset: int, size: int) -> None:
        ino, fh = self._handle(number)
        reply = self._ask(Opcode.READ, ino, protocol.READ_IN.pack(fh, offset & _U64, size, 0, 0, 0, 0))
        assert len(reply) <= size

    async def write(self, number: int, offset: int, data: bytes) -> None:
        ino, fh = self._handle(number)
        body = protocol.WRITE_IN.pack(fh, offset & _U64, len(data), 0, 0, os.O_WRONLY, 0) + data
        assert protocol.WRITE_OUT.unpack(self._ask(Opcode.WRITE, ino, body))[0] <= len(data)

    async def release(self, number: int) -> None:
        ino, fh = self._handle(number)
        if not self._unopened:  # without OPEN, there is no RELEASE
            self._ask(Opcode.RELEASE, ino, protocol.RELEASE_IN.pack(fh, 0, 0, 0))
        self._opened.pop(number, None)

    async def fsync(self, number: int, data_only: bool) -> None:
        ino, fh = self._handle(number)
        self._ask(Opcode.FSYNC, ino, protocol.FSYNC_IN.pack(fh, data_only, 0))

    async def opendir(self, ino: int, ctx: Any) -> int:
        return self._new_handle(Opcode.OPENDIR, ino, 0, ctx)

    async def readdir(self, number: int, start: int, kernel: Any) -> None:
        ino, fh = self._handle(number)
        size = _SIZES[kernel.room]
        reply = self._ask(Opcode.READDIRPLUS, ino, protocol.READ_IN.pack(fh, start & _U64, size, 0, 0, 0, 0))
        assert len(reply) <= size
        for _, found, _ in entries(reply):
            kernel.tell(found)

    async def releasedir(self, number: int) -> None:
        ino, fh = self._handle(number)
        if not self._unopened:
            self._ask(Opcode.RELEASEDIR, ino, protocol.RELEASE_IN.pack(fh, 0, 0, 0))
        self._opened.pop(number, None)

    async def fsyncdir(self, number: int, data_only: bool) -> None:
        ino, fh = self._handle(number)
        self._ask(Opcode.FSYNCDIR, ino, protocol.FSYNC_IN.pack(fh, data_only, 0))

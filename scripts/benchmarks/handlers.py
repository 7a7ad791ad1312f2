"""Measure how many microseconds the server's handlers take for each request, without the kernel and without waiting.

To be run by the interpreter that has the dependencies of unionfs: ``python -m benchmarks.handlers DIRECTORY``.
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from unionfs.assemble import build_indexes, open_stack, source_from_options
from unionfs.fuse import protocol
from unionfs.fuse.direct.handlers import Handlers
from unionfs.fuse.direct.replies import Reply
from unionfs.fuse.protocol import Opcode
from unionfs.options import parse_options
from unionfs.vfs.filesystem import UnionFs

#: Number of calls that are timed together, and number of such batches. There is one file of each kind per call. The fastest
#: batch counts.
_BATCH, _BATCHES = 100, 9
_WANTED = _BATCH * _BATCHES
_CAPABILITY = b"security.capability\0"


class Kernel:
    """Sends requests to the handlers as the kernel would. It owns the request buffer."""

    def __init__(self, fs: UnionFs) -> None:
        """Send INIT to the handlers of *fs*, for FUSE without OPEN."""
        fs.prepare_copies()
        self._buffer = bytearray(protocol.BUFFER)
        self._requests = Handlers(fs, memoryview(self._buffer), unopened=True)
        self.ask(Opcode.INIT, 0, protocol.INIT_IN.pack(7, 45, 131072, 0x7FFFFFFF) + bytes(48))

    def put(self, opcode: int, node: int, body: bytes) -> int:
        """Write a request into the buffer, and return its length."""
        length = protocol.IN_HEADER.size + len(body)
        header = protocol.IN_HEADER.pack(length, opcode, 7, node, os.getuid(), os.getgid(), os.getpid(), 0, 0)
        self._buffer[:length] = header + body
        return length

    def ask(self, opcode: int, node: int, body: bytes) -> Reply:
        """Send a request, and return its reply."""
        reply = self._requests.answer(opcode, node, self.put(opcode, node, body))
        self._requests.answered()
        return reply

    def number(self, parent: int, name: bytes) -> int:
        """Look up *name*, and return its inode number."""
        reply = self.ask(Opcode.LOOKUP, parent, name + b"\0")
        assert isinstance(reply, bytes), reply
        return int(protocol.ENTRY_OUT.unpack_from(reply)[0])

    def time(self, requests: Sequence[tuple[int, int, bytes]], *, fails: bool = False) -> float:
        """Return the microseconds for each of *requests*, from the fastest batch; *fails*: the replies are errors."""
        best = float("inf")
        clock, answer, answered = time.perf_counter_ns, self._requests.answer, self._requests.answered
        for start in range(0, len(requests), _BATCH):
            took = 0
            for opcode, node, body in requests[start : start + _BATCH]:
                end = self.put(opcode, node, body)
                begin = clock()
                reply = answer(opcode, node, end)
                took += clock() - begin
                answered()
                assert isinstance(reply, int) == fails, (Opcode(opcode), reply)
            best = min(best, took / 1000 / _BATCH)
        return best


def lower_files(directory: str) -> None:
    """Write the layer: for each measurement that uses up its files, directories of a hundred files of 3,000 bytes."""
    for kind in ("lookup", "append", "chmod", "unlink", "list", "read"):
        for number in range(_WANTED):
            path = os.path.join(directory, kind, str(number // 100))
            os.makedirs(path, exist_ok=True)
            with open(os.path.join(path, f"f{number}"), "wb") as file:
                file.write(b"x" * 3000)


def measure(kernel: Kernel) -> dict[str, float]:
    """Return the microseconds by kind of request."""
    found: dict[str, float] = {}

    def directories(kind: str) -> list[int]:
        top = kernel.number(1, kind.encode())
        return [kernel.number(top, b"%d" % number) for number in range(_WANTED // 100)]

    def each(kind: str, make: Callable[[int, bytes], tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
        return [
            make(directory, b"f%d" % (100 * at + number))
            for at, directory in enumerate(directories(kind))
            for number in range(100)
        ]

    read = protocol.READ_IN.pack(0, 0, 1 << 17, 0, 0, 0, 0)
    listing = [
        (int(Opcode.READDIRPLUS), directory, read) for directory in directories("list") for _ in range(1)
    ]
    # The result is the time per entry: one listing has a hundred entries, and `time` divides by a hundred calls.
    found["listing of a lower directory, an entry"] = min(kernel.time([one]) for one in listing)
    found["lookup of a lower file"] = kernel.time(
        each("lookup", lambda directory, name: (Opcode.LOOKUP, directory, name + b"\0"))
    )
    known = each("lookup", lambda directory, name: (Opcode.LOOKUP, directory, name + b"\0"))
    found["lookup of a known file"] = kernel.time(known)
    found["lookup of what does not exist"] = kernel.time(
        each("lookup", lambda directory, name: (Opcode.LOOKUP, directory, name + b"-\0"))
    )
    nodes = [kernel.number(node, body[:-1]) for _, node, body in known]
    found["attributes, known"] = kernel.time([(Opcode.GETATTR, node, bytes(16)) for node in nodes])
    # The kernel requests the pages that a file has. For a read of 128 KiB, malloc(3) would create and remove a mapping each time.
    page = protocol.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0)
    reading = each("read", lambda directory, name: (Opcode.READ, kernel.number(directory, name), page))
    found["first read of a lower file"] = kernel.time(reading)
    capability = [
        (int(Opcode.GETXATTR), node, protocol.GETXATTR_IN.pack(24, 0) + _CAPABILITY) for node in nodes
    ]
    found["security.capability of a lower file"] = kernel.time(capability, fails=True)

    made = kernel.ask(Opcode.MKDIR, 1, protocol.MKDIR_IN.pack(0o755, 0o22) + b"new\0")
    assert isinstance(made, bytes)
    new = protocol.ENTRY_OUT.unpack_from(made)[0]
    names = [b"n%d\0" % number for number in range(_WANTED)]
    creating = protocol.MKNOD_IN.pack(0o100644, 0, 0o22, 0)
    found["create"] = kernel.time([(Opcode.MKNOD, new, creating + name) for name in names])
    nodes = [kernel.number(new, name[:-1]) for name in names]
    asked = protocol.GETXATTR_IN.pack(24, 0) + _CAPABILITY
    found["security.capability of a new file"] = kernel.time(
        [(Opcode.GETXATTR, node, asked) for node in nodes], fails=True
    )
    writing = protocol.WRITE_IN.pack(0, 0, 1000, 0, 0, os.O_WRONLY, 0) + bytes(1000)
    found["first write of a new file"] = kernel.time([(Opcode.WRITE, node, writing) for node in nodes])
    found["attributes after a write"] = kernel.time([(Opcode.GETATTR, node, bytes(16)) for node in nodes])

    def setting(valid: int, mode: int = 0) -> bytes:
        uid, gid = os.getuid(), os.getgid()
        return protocol.SETATTR_IN.pack(valid, 0, 0, 0, 0, 7, 7, 0, 0, 0, 0, mode, 0, uid, gid, 0)

    for what, body in (
        ("chown", setting(protocol.FATTR_UID | protocol.FATTR_GID)),
        ("utimes", setting(protocol.FATTR_ATIME | protocol.FATTR_MTIME)),
        ("chmod", setting(protocol.FATTR_MODE, 0o100640)),
    ):
        found[f"{what} of a new file"] = kernel.time([(Opcode.SETATTR, node, body) for node in nodes])
    found["unlink of a new file"] = kernel.time([(Opcode.UNLINK, new, name) for name in names])
    found["forgetting an unlinked file"] = kernel.time(
        [(Opcode.FORGET, node, struct.pack("=Q", 100)) for node in nodes]
    )
    chmod = setting(protocol.FATTR_MODE, 0o100640)
    found["chmod of a lower file"] = kernel.time(
        each("chmod", lambda at, name: (Opcode.SETATTR, kernel.number(at, name), chmod))
    )
    found["first write of a lower file"] = kernel.time(
        each("append", lambda at, name: (Opcode.WRITE, kernel.number(at, name), writing))
    )
    found["unlink of a lower file"] = kernel.time(
        each("unlink", lambda at, name: (Opcode.UNLINK, at, name + b"\0"))
    )
    return found


def main() -> None:
    """Print the table, for layers in the directory named on the command line."""
    base = tempfile.mkdtemp(dir=sys.argv[1], prefix="unionfs-bench-")
    try:
        lower, upper, work, index, mount = (
            os.path.join(base, name) for name in ("lower", "upper", "work", "index", "mount")
        )
        for path in (lower, upper, work, index, mount):
            os.mkdir(path, 0o700)
        lower_files(lower)
        options = f"lowerdir={lower},upperdir={upper},workdir={work},volatile"
        if "--unindexed" not in sys.argv:
            options += f",index_dir={index},immutable"
        source = source_from_options(parse_options([options]), mount)
        build_indexes(source, wait=True)
        fs = open_stack(source)
        try:
            for what, microseconds in measure(Kernel(fs)).items():
                sys.stdout.write(f"{what:42}{microseconds:8.1f}\n")
        finally:
            fs.close()
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()

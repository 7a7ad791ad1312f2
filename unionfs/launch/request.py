"""Receives the request of the launcher (unionfs/launch/protocol.py) and validates it; `server_process` calls it."""

from __future__ import annotations

import binascii
import fcntl
import json
import os
import socket

from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any
from unionfs.assemble import LayerSource, StackSource
from unionfs.errors import UnionError
from unionfs.formats.whiteout import ALL_MARKS, NO_MARKS, MarkPolicy
from unionfs.launch.protocol import BATCH, SEALS, VERSION
from unionfs.options import Server, Serving

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer_index.fetcher import Fetcher

_MAX_PACKET = 1 << 16
_POLICIES = {"none": NO_MARKS, "all": ALL_MARKS, "aufs": MarkPolicy(overlay=False, aufs=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The launcher's request, decoded."""

    stack: StackSource
    #: None for both: the stack is only to be read.
    fuse_fd: int | None
    user_namespace_fd: int | None
    #: A seccomp filter: an array of struct sock_filter.
    filter: bytes | None
    serving: Serving
    #: The directory in which later writable layers will be.
    later_fd: int | None = None
    #: The next upper and work directory, which a freeze begins.
    next_fds: tuple[int, int] | None = None


def receive(channel: socket.socket) -> Request:
    """Receive the request.

    Raises:
        UnionError: the request does not have the form above.
        EOFError: the launcher closed the socket first.
    """
    packet, fds, _, _ = socket.recv_fds(channel, _MAX_PACKET, 1)
    if not packet:
        raise EOFError("the launcher closed the socket")
    try:
        try:
            header = json.loads(packet)
            if header["version"] != VERSION:
                raise UnionError(
                    f"launcher uses protocol version {header['version']}, this server {VERSION}: install both from one release"
                )
            count = int(header["descriptors"])
            if not fds:
                raise ValueError("a packet has no request")
            message = json.loads(_read_sealed(fds[0]))
        finally:
            for fd in fds:
                os.close(fd)
        return _decode(message, _receive_descriptors(channel, count))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UnionError(f"malformed request from the launcher: {error!r}") from None


def _read_sealed(fd: int) -> bytes:
    """Return the contents of the memfd *fd*.

    Raises:
        ValueError: *fd* is not a memfd, or its sender can still change it.
    """
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
    except OSError:  # EINVAL: not a memfd
        sealed = False
    if not sealed:
        raise ValueError("the request is not in a sealed memfd")
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _receive_descriptors(channel: socket.socket, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        data, fds, flags, _ = socket.recv_fds(channel, 16, BATCH)
        for fd in fds:
            os.set_inheritable(fd, False)
        found += fds
        if flags & socket.MSG_CTRUNC:
            # The kernel dropped the descriptors that did not fit (unix(7)). Waiting for them would never end.
            raise UnionError(
                f"only {len(found)} of {count} descriptors arrived: raise the limit on open files"
            )
        if not data:
            raise EOFError("the launcher closed the socket")
        if not fds:
            raise ValueError("a packet has no descriptors")
    if len(found) > count:
        raise ValueError(f"got {len(found)} descriptors instead of {count}")
    return found


def _optional_count(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise ValueError(f"not a count: {value!r}")
    return value


def _optional_program(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"not a seccomp program: {value!r}")
    program = binascii.a2b_base64(value, strict_mode=True)
    if not program or len(program) % 8:
        raise ValueError(f"not a seccomp program: {len(program)} bytes")
    return program


def _fetcher(fd: int) -> Fetcher:
    from unionfs.layer_index.fetcher import Fetcher  # most stacks need none

    return Fetcher(socket.socket(fileno=fd))


def _serving(server: object, open_requests: object) -> Serving:
    if not isinstance(open_requests, bool):
        raise TypeError(f"not a boolean: {open_requests!r}")
    serving = Serving(server=Server(server), open_requests=open_requests)
    if serving.server is Server.PYFUSE3 and not open_requests:
        raise ValueError("server pyfuse3 requires open_requests")
    return serving


def _decode(message: dict[str, Any], descriptors: list[int]) -> Request:
    def take(index: object) -> int:
        # Python would accept -1 for the last one, and true for the second.
        if type(index) is not int or not 0 <= index < len(descriptors):
            raise ValueError(f"no descriptor {index!r} among {len(descriptors)}")
        return descriptors[index]

    def take_optional(index: object) -> int | None:
        return None if index is None else take(index)

    program = _optional_program(message.get("filter"))
    following = message.get("next")
    serving = _serving(message.get("server", "auto"), message.get("open_requests", True))
    lowers = tuple(
        LayerSource(
            fd=take(layer["fd"]),
            policy=_POLICIES[layer["marks"]],
            squash=bool(layer["squash"]),
            cross=tuple(os.fsencode(path).strip(b"/") for path in layer["cross"]),
            skeleton=bool(layer.get("skeleton", False)),
            indexed=bool(layer.get("indexed", False)),
            unchanging=bool(layer.get("indexed", False)),
            earlier=bool(layer.get("earlier", False)),
            relocation=bool(layer.get("relocation", False)),
            work_fd=take_optional(layer.get("work")),
            archive_index_fd=take_optional(layer.get("archive_index")),
            chunks_fd=take_optional(layer.get("chunks")),
            fetched=_optional_count(layer.get("fetched")) or 0,
        )
        for layer in message["layers"]
    )
    if any(lower.skeleton for lower in lowers[:-1]):
        raise ValueError("the skeleton is not the last layer")
    fetcher_fd = take_optional(message.get("fetcher"))
    stack = StackSource(
        lowers=lowers,
        upper_fd=take_optional(message["upper"]),
        work_fd=take_optional(message["work"]),
        index_fd=take_optional(message.get("index")),
        volatile=bool(message["volatile"]),
        records_below=not message["volatile"],
        size=_optional_count(message.get("size")),
        inodes=_optional_count(message.get("inodes")),
        fetcher=None if fetcher_fd is None else _fetcher(fetcher_fd),
        hidden=tuple((int(device), int(inode)) for device, inode in message["hidden"]),
    )
    return Request(
        stack=stack,
        fuse_fd=take_optional(message["fuse"]),
        user_namespace_fd=take_optional(message["user_namespace"]),
        filter=program,
        serving=serving,
        later_fd=take_optional(message.get("later")),
        next_fds=None if following is None else (take(following[0]), take(following[1])),
    )

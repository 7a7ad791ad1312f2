"""The file-descriptor form of starting the server: everything it may touch comes as a descriptor over one
socket. The launcher's end is sandbox/runtime/unionfs_server.py.

The launcher makes a SOCK_SEQPACKET pair and starts ``python -m unionfs --serve-fd N``. It then sends a packet of JSON::

    {"version": 3, "descriptors": COUNT}

With the packet comes one descriptor (SCM_RIGHTS): a sealed memfd that holds the request. A packet is at most as long as the
send buffer (net.core.wmem_default, 208 KiB), which thousands of layers exceed; a memfd has no such limit. The request is JSON, too::

    {"fuse": I, "user_namespace": I,
     "layers": [{"fd": I, "marks": "none"|"all"|"aufs", "squash": BOOL, "cross": [PATH, ...],
                 "skeleton": BOOL, "indexed": BOOL}, ...],   # top first
     "upper": I, "work": I, "index": I, "hidden": [[DEV, INO], ...], "volatile": BOOL,
     "size": BYTES, "inodes": COUNT, "filter": BASE64,
     "server": "auto"|"direct"|"pyfuse3", "open_requests": BOOL}

where each I is an index into the COUNT descriptors that follow in packets of at most 64 (the kernel takes up to
SCM_MAX_FD, 253; unix(7)); the last layer may be the ``skeleton``, which holds the mount points; ``indexed`` layers are
changed by nobody, and an index of them is kept in the directory ``index``; ``filter`` is the
seccomp program that the server puts itself under; ``upper``, ``work``, ``index``, ``size``, ``inodes`` and ``filter`` may be null,
and the latter four left out, as may ``skeleton`` and ``indexed``, and ``server`` and ``open_requests`` (the options of that name).
The server answers ``ready {"server": WHICH, "reason": TEXT, "times": {"loaded": T, "asked": T, "ready": T}}`` when the mount can be
used, with the reason for which "auto" has become "pyfuse3" and the times (CLOCK_MONOTONIC, nanoseconds) at which it was loaded, had
the request and was ready, or ``error: TEXT``; and while it serves, once each, ``full: size`` and ``full: inodes`` when that bound is
first reached, and ``closed: PATH`` for each directory of a layer that a request needed and the server may not search.
The end of the socket is the end of the server.
"""

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
from unionfs.options import Server, Serving

VERSION = 3
_MAX_PACKET = 1 << 16
_SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_BATCH = 64
_POLICIES = {"none": NO_MARKS, "all": ALL_MARKS, "aufs": MarkPolicy(overlay=False, aufs=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the launcher asked for."""

    stack: StackSource
    fuse_fd: int
    user_namespace_fd: int
    #: A seccomp program, as the kernel takes it.
    filter: bytes | None
    serving: Serving


def receive(channel: socket.socket) -> Request:
    """Receive the request.

    Raises:
        UnionError: it is not of the form above.
        EOFError: the launcher went away first.
    """
    packet, fds, _, _ = socket.recv_fds(channel, _MAX_PACKET, 1)
    if not packet:
        raise EOFError("the launcher went away")
    try:
        try:
            header = json.loads(packet)
            if header["version"] != VERSION:
                raise UnionError(
                    f"launcher speaks version {header['version']}, this server {VERSION}: install both from one release"
                )
            count = int(header["descriptors"])
            if not fds:
                raise ValueError("a packet without the request")
            message = json.loads(_read_sealed(fds[0]))
        finally:
            for fd in fds:
                os.close(fd)
        return _decode(message, _receive_descriptors(channel, count))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UnionError(f"malformed request from the launcher: {error!r}") from None


def _read_sealed(fd: int) -> bytes:
    """Return what the memfd *fd* holds.

    Raises:
        ValueError: it is none whose sender has given up changing it.
    """
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALED == _SEALED
    except OSError:  # EINVAL: no memfd
        sealed = False
    if not sealed:
        raise ValueError("the request is not in a sealed memfd")
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _receive_descriptors(channel: socket.socket, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        data, fds, flags, _ = socket.recv_fds(channel, 16, _BATCH)
        for fd in fds:
            os.set_inheritable(fd, False)
        found += fds
        if flags & socket.MSG_CTRUNC:
            # The kernel has dropped those that did not fit; waiting for them would last for ever (unix(7)).
            raise UnionError(
                f"only {len(found)} of {count} descriptors arrived: raise the limit on open files"
            )
        if not data:
            raise EOFError("the launcher went away")
        if not fds:
            raise ValueError("a packet without descriptors")
    if len(found) > count:
        raise ValueError(f"{len(found)} descriptors instead of {count}")
    return found


def _optional_count(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise ValueError(f"no count: {value!r}")
    return value


def _optional_program(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"no program: {value!r}")
    program = binascii.a2b_base64(value, strict_mode=True)
    if not program or len(program) % 8:
        raise ValueError(f"no program: {len(program)} bytes")
    return program


def _serving(server: object, open_requests: object) -> Serving:
    if not isinstance(open_requests, bool):
        raise TypeError(f"no truth value: {open_requests!r}")
    serving = Serving(server=Server(server), open_requests=open_requests)
    if serving.server is Server.PYFUSE3 and not open_requests:
        raise ValueError("pyfuse3 cannot do without open requests")
    return serving


def _decode(message: dict[str, Any], descriptors: list[int]) -> Request:
    def take(index: object) -> int:
        # Python would take -1 for the last one, and true for the second.
        if type(index) is not int or not 0 <= index < len(descriptors):
            raise ValueError(f"no descriptor {index!r} among {len(descriptors)}")
        return descriptors[index]

    def take_optional(index: object) -> int | None:
        return None if index is None else take(index)

    program = _optional_program(message.get("filter"))
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
        )
        for layer in message["layers"]
    )
    if any(lower.skeleton for lower in lowers[:-1]):
        raise ValueError("the skeleton is not the last layer")
    stack = StackSource(
        lowers=lowers,
        upper_fd=take_optional(message["upper"]),
        work_fd=take_optional(message["work"]),
        index_fd=take_optional(message.get("index")),
        volatile=bool(message["volatile"]),
        size=_optional_count(message.get("size")),
        inodes=_optional_count(message.get("inodes")),
        hidden=tuple((int(device), int(inode)) for device, inode in message["hidden"]),
    )
    return Request(
        stack=stack,
        fuse_fd=take(message["fuse"]),
        user_namespace_fd=take(message["user_namespace"]),
        filter=program,
        serving=serving,
    )

"""The protocol between the launcher and the server: the request, declared here for both, and the server's messages.

The launcher imports this module at each start, so it imports nothing that takes time. The launcher makes a SOCK_SEQPACKET pair,
starts ``python -m unionfs --serve-fd N``, and sends a packet of JSON::

    {"version": 6, "descriptors": COUNT}

The packet carries one descriptor (SCM_RIGHTS): a sealed memfd that contains the request. A packet is at most as long as the
send buffer (net.core.wmem_default, 208 KiB), which thousands of layers exceed; a memfd has no such limit. The request is JSON,
too::

    {"fuse": I, "user_namespace": I,
     "layers": [{"fd": I, "marks": "none"|"all"|"aufs", "squash": BOOL, "cross": [PATH, ...],
                 "skeleton": BOOL, "indexed": BOOL, "earlier": BOOL, "relocation": BOOL, "work": I,
                 "archive_index": I, "chunks": I, "fetched": N}, ...],   # top first
     "upper": I, "work": I, "later": I, "next": [I, I], "index": I, "hidden": [[DEV, INO], ...], "volatile": BOOL,
     "size": BYTES, "inodes": COUNT, "filter": BASE64, "fetcher": I,
     "server": "auto"|"direct"|"pyfuse3", "open_requests": BOOL}

Each I is an index into the COUNT descriptors. These follow in packets of at most 64 descriptors (the kernel accepts up to
SCM_MAX_FD, 253; unix(7)).

* The first layers may be ``earlier`` ones: they were the writable layer of the sandbox, and count as changes. ``work`` is the
  work directory that such a layer had; readers of changes need it. The last of them may be a ``relocation``: in it, objects
  that ``sandbox apply`` moved in the layers below are at their old paths (unionfs/changes/relocation.py).
* ``later`` is a directory on the file system of ``upper``, in which the launcher will create the next writable layers.
* ``next`` is an upper and a work directory for ``unionfs changes --freeze`` or ``--relocate``, which begins them.
* The last layer may be the ``skeleton``, which contains the mount points.
* A layer with ``archive_index`` is an archive: ``fd`` is that of the archive, this one that of its index, which the launcher made.
* A layer with ``chunks`` is fetched in parts: ``fd`` is that of its data, this one that of its table of chunks, and ``fetched`` its
  number in requests. ``fetcher`` is a SOCK_SEQPACKET socket to the process that fetches (layer_index/archive_chunks.py).
* ``indexed`` layers never change. The server keeps an index of them in the directory ``index``.
* ``filter`` is the seccomp filter that the server installs for itself.
* ``upper``, ``work``, ``later``, ``next``, ``index``, ``size``, ``inodes`` and ``filter`` may be null. ``unionfs changes``,
  which serves nothing, receives the same request with null for ``fuse``; ``user_namespace`` may be null there, too.
* ``index``, ``size``, ``inodes``, ``filter``, ``skeleton``, ``indexed``, ``relocation``, ``archive_index``, ``chunks``, ``fetcher``, ``server`` and ``open_requests`` may be omitted. The
  latter two are the options of the same name.

The server sends ``ready {"server": WHICH, "times": {"loaded": T, "asked": T, "ready": T}}`` when the mount can be used. The
times (CLOCK_MONOTONIC, nanoseconds) are those at which the server was loaded, had received the request, and was ready. If it
cannot serve, it sends ``error: TEXT`` instead.

While it serves, it sends, once each, ``full: size`` and ``full: inodes`` when that limit is first reached, and ``closed: PATH``
for each directory of a layer that a request needed and the server may not search. When the launcher closes its end of the
socket, the server ends.

Meanwhile the launcher may send requests, each one packet of JSON with descriptors. The server answers each with
``done {...}``, which contains ``errno`` (a name) and ``error`` (a text) if the request failed::

    {"do": "stamp"}                                       -> {"stamp": N}     UnionFs.search_stamp
    {"do": "link"} and a memfd                            -> {"linked": N, "more": BOOL}
                                                             UnionFs.link_remaining_names, UnionFs.leave_index
    {"do": "freeze", "searched": N} and upper, work       -> {}               UnionFs.freeze

The memfd has the paths, each ended by a zero byte, at most MOST_PATHS. Programs wait for the server meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Mapping, Sequence

from unionfs._stdlib.dataclasses import dataclass

VERSION = 6
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
BATCH = 64
"""Descriptors in one packet."""
DONE = "done "
"""The beginning of the server's answer to a request while it serves."""
BEGUN = "unionfs/stack"
"""A file in the work directory that a freeze has begun. If it is missing, the former layer is still the writable one."""
MAX_CONTROL = 4096
"""The most bytes of such a request."""
MOST_PATHS = 25
"""The most paths of a "link" request. A link takes some 0.1 ms. Each request of a program may wait for one "link" request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedLayer:
    """A layer in the request to the server."""

    fd: int
    #: The whiteouts that count in it: "none", "aufs" or "all".
    marks: str
    #: Show owners that are not mapped in the sandbox as 0.
    squash: bool
    cross: tuple[str, ...] = ()
    #: The layer never changes, so the server may keep an index of it.
    indexed: bool = False
    #: This is the skeleton: created for each start, below all other layers, whose whiteouts do not hide its mount points.
    skeleton: bool = False
    #: This was the writable layer of the sandbox, before it was frozen; with its work directory, which only readers need.
    earlier: bool = False
    work_fd: int | None = None
    #: An earlier layer that no program has written: objects that were moved in the layers below are at their old paths in it.
    relocation: bool = False
    #: The layer is an archive, *fd*, and this is a descriptor of its index.
    archive_index_fd: int | None = None
    #: The archive is fetched in parts: its table of chunks, and its number in requests to the fetcher.
    chunks_fd: int | None = None
    fetched: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedStack:
    """The layers that the server serves, and how. The caller owns the descriptors."""

    #: Top first.
    layers: Sequence[ServedLayer]
    upper_fd: int | None
    work_fd: int | None
    hidden: Sequence[tuple[int, int]]
    volatile: bool
    #: "auto", "direct" or "pyfuse3".
    server: str
    open_requests: bool
    #: The directory in which the next writable layers will be created; None if this one is never frozen.
    later_fd: int | None = None
    #: The upper and work directory that ``unionfs changes --freeze`` or ``--relocate`` begins.
    next_fds: tuple[int, int] | None = None
    #: A socket to the process that fetches contents; None if no layer needs one.
    fetcher_fd: int | None = None
    #: The directory in which the server stores indexes of layers.
    index_fd: int | None = None
    #: The most bytes and objects of the writable layer; None for no limit.
    size: int | None = None
    inodes: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The server's message that its mount can be used."""

    #: "direct" or "pyfuse3".
    server: str
    #: The time of each step; see `timeline`.
    times: Mapping[str, int]

    @classmethod
    def parse(cls, text: str) -> Ready | None:
        """Return the content of a "ready " message, None if *text* is not a valid one."""
        try:
            import json

            message = json.loads(text.removeprefix("ready "))
            times = {str(name): int(at) for name, at in message["times"].items()}
            return cls(str(message["server"]), times)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def sealed_memfd(content: bytes) -> int:
    """Return a memfd with *content*, sealed against changes."""
    fd = os.memfd_create("request", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def send_request(
    channel: socket.socket,
    fuse_fd: int | None,
    user_namespace_fd: int | None,
    stack: ServedStack,
    program: bytes | None,
) -> None:
    """Send the request: the descriptors, the layers, and *program*, the seccomp filter for the server, if there is one.

    Raises:
        OSError: the server is gone; EMFILE: no descriptor is free; ETOOMANYREFS: this user has more descriptors in flight than a
            process may open (unix(7)).
    """
    # Imported here so that the server starts before these imports.
    import binascii
    import json

    descriptors: list[int] = []

    def index(fd: int | None) -> int | None:
        if fd is None:
            return None
        descriptors.append(fd)
        return len(descriptors) - 1

    message = {
        "fuse": index(fuse_fd),
        "user_namespace": index(user_namespace_fd),
        "layers": [
            {
                "fd": index(layer.fd),
                "marks": layer.marks,
                "squash": layer.squash,
                "cross": layer.cross,
                "skeleton": layer.skeleton,
                "indexed": layer.indexed,
                "earlier": layer.earlier,
                "relocation": layer.relocation,
                "work": index(layer.work_fd),
                "archive_index": index(layer.archive_index_fd),
                "chunks": index(layer.chunks_fd),
                "fetched": layer.fetched,
            }
            for layer in stack.layers
        ],
        "upper": index(stack.upper_fd),
        "work": index(stack.work_fd),
        "later": index(stack.later_fd),
        "next": None if stack.next_fds is None else [index(fd) for fd in stack.next_fds],
        "index": index(stack.index_fd),
        "fetcher": index(stack.fetcher_fd),
        "hidden": list(stack.hidden),
        "volatile": stack.volatile,
        "server": stack.server,
        "open_requests": stack.open_requests,
        "size": stack.size,
        "inodes": stack.inodes,
        "filter": None if program is None else binascii.b2a_base64(program, newline=False).decode(),
    }
    header = {"version": VERSION, "descriptors": len(descriptors)}
    request_fd = sealed_memfd(json.dumps(message).encode())
    try:
        socket.send_fds(channel, [json.dumps(header).encode()], [request_fd], socket.MSG_NOSIGNAL)
    finally:
        os.close(request_fd)
    for start in range(0, len(descriptors), BATCH):
        socket.send_fds(channel, [b"fds"], descriptors[start : start + BATCH], socket.MSG_NOSIGNAL)

"""The launcher's request is decoded, or rejected with a reason."""

from __future__ import annotations

import json
import os
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.runtime.unionfs_server import Server
from unionfs.errors import UnionError
from unionfs.formats.whiteout import ALL_MARKS, NO_MARKS
from unionfs.launch.protocol import VERSION, ServedLayer, ServedStack, sealed_memfd
from unionfs.launch.request import Request, receive
from unionfs.options import Server as Which
from unionfs.options import Serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Return the launcher's end and the server's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def null() -> Iterator[int]:
    """Return a descriptor, copies of which are sent."""
    fd = os.open(os.devnull, os.O_RDONLY)
    yield fd
    os.close(fd)


def send(launcher: socket.socket, request: dict[str, Any]) -> None:
    """Send *request* as the launcher does: version and number of descriptors in the packet, the rest in a sealed memfd."""
    header = {key: request[key] for key in ("version", "descriptors") if key in request}
    fd = sealed_memfd(
        json.dumps({key: value for key, value in request.items() if key not in header}).encode()
    )
    socket.send_fds(launcher, [json.dumps(header).encode()], [fd])
    os.close(fd)


def message(**changes: Any) -> dict[str, Any]:
    """Return a request for one lower layer and a writable one, with five descriptors."""
    layer = {"fd": 2, "marks": "none", "squash": True, "cross": ["/usr/", "home"]}
    return {
        "version": VERSION,
        "descriptors": 5,
        "fuse": 0,
        "user_namespace": 1,
        "layers": [layer],
        "upper": 3,
        "work": 4,
        "hidden": [[7, 12]],
        "volatile": True,
    } | changes


def test_a_request_is_decoded_with_its_descriptors(ends: Ends, null: int) -> None:
    launcher, server = ends
    send(launcher, message())
    socket.send_fds(launcher, [b"x"], [null] * 5)
    request = receive(server)
    stack = request.stack
    descriptors = descriptors_of(request)
    try:
        assert len(set(descriptors)) == 5
        assert not any(os.get_inheritable(fd) for fd in descriptors)
        layer = stack.lowers[0]
        assert (layer.policy, layer.squash, layer.cross) == (NO_MARKS, True, (b"usr", b"home"))
        assert stack.hidden == ((7, 12),)
        assert stack.volatile
    finally:
        for fd in descriptors:
            os.close(fd)


def test_layers_that_nobody_changes_come_with_a_place_for_their_index(ends: Ends, null: int) -> None:
    launcher, server = ends
    layers = [{"fd": 2, "marks": "aufs", "squash": False, "cross": [], "indexed": True}]
    send(launcher, message(descriptors=6, layers=layers, index=5))
    socket.send_fds(launcher, [b"x"], [null] * 6)
    request = receive(server)
    index_fd = request.stack.index_fd
    assert index_fd is not None
    for fd in (*descriptors_of(request), index_fd):
        os.close(fd)
    assert (request.stack.lowers[0].indexed, request.stack.lowers[0].unchanging) == (True, True)


@pytest.mark.parametrize(
    ("sent", "taken"),
    [({}, None), ({"filter": None}, None), ({"filter": "BgAAAAAA/38="}, b"\x06\0\0\0\0\0\xff\x7f")],
)
def test_a_filter_of_system_calls_may_come_with_it(
    ends: Ends, null: int, sent: dict[str, object], taken: bytes | None
) -> None:
    launcher, server = ends
    send(launcher, message(**sent))
    socket.send_fds(launcher, [b"x"], [null] * 5)
    request = receive(server)
    for fd in descriptors_of(request):
        os.close(fd)
    assert request.filter == taken


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (7, "not a seccomp program: 7"),
        ("", "not a seccomp program: 0 bytes"),
        ("AAAA", "not a seccomp program: 3 bytes"),
        ("no base64", "base64"),
    ],
)
def test_what_is_no_filter_is_refused(ends: Ends, program: object, reason: str) -> None:
    launcher, server = ends
    send(launcher, message(descriptors=0, filter=program))
    with pytest.raises(UnionError, match=reason):
        receive(server)


def test_more_descriptors_than_one_packet_holds_come_in_several(ends: Ends, null: int) -> None:
    launcher, server = ends
    count = 150
    layers = [{"fd": 2 + i, "marks": "all", "squash": False, "cross": []} for i in range(count - 2)]
    send(launcher, message(descriptors=count, layers=layers, upper=None, work=None, hidden=[]))
    for start in range(0, count, 64):
        socket.send_fds(launcher, [b"x"], [null] * min(64, count - start))
    request = receive(server)
    try:
        assert len(request.stack.lowers) == count - 2
        assert request.stack.lowers[0].policy == ALL_MARKS
        assert request.stack.upper_fd is None
    finally:
        for fd in descriptors_of(request):
            os.close(fd)


def descriptors_of(request: Request) -> list[int]:
    """Return the descriptor indexes in *request*."""
    stack = request.stack
    found = [request.fuse_fd, request.user_namespace_fd, stack.upper_fd, stack.work_fd]
    return [fd for fd in [*found, *(layer.fd for layer in stack.lowers)] if fd is not None]


@pytest.mark.parametrize(
    "packet",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        json.dumps(message(descriptors="many")).encode(),
        json.dumps(message(descriptors=None)).encode(),
        json.dumps({"descriptors": 0}).encode(),
    ],
)
def test_a_packet_that_is_no_request_is_refused(ends: Ends, packet: bytes) -> None:
    launcher, server = ends
    launcher.send(packet)
    with pytest.raises(UnionError, match="malformed request from the launcher"):
        receive(server)


def _layer(**changes: Any) -> dict[str, Any]:
    return {"fd": 0, "marks": "none", "squash": False, "cross": []} | changes


@pytest.mark.parametrize(
    "change",
    [
        {"fuse": 0},
        {"fuse": -1},
        {"fuse": "0"},
        {"fuse": None},
        {"layers": None},
        {"layers": [3]},
        {"layers": [{"fd": 0}]},
        {"layers": [_layer()]},
        {"layers": [_layer(marks="some")]},
        {"layers": [_layer(cross=[3])]},
        {"hidden": [[1]]},
        {"hidden": [["x", "y"]]},
        {"upper": 1},
    ],
    ids=str,
)
def test_a_request_whose_parts_do_not_fit_is_refused(ends: Ends, change: dict[str, Any]) -> None:
    launcher, server = ends
    send(launcher, message(descriptors=0) | {"layers": [], "hidden": []} | change)
    with pytest.raises(UnionError, match="malformed request from the launcher"):
        receive(server)


@pytest.mark.parametrize("index", [-1, 2, True, "0", 0.0])
def test_a_descriptor_is_named_by_its_place_among_those_sent_and_nothing_else(
    ends: Ends, null: int, index: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, server = ends
    received: list[int] = []
    monkeypatch.setattr(os, "set_inheritable", lambda fd, _inheritable: received.append(fd))
    send(launcher, message(descriptors=2, layers=[], upper=None, work=None, fuse=index))
    socket.send_fds(launcher, [b"x"], [null] * 2)
    with pytest.raises(UnionError, match="malformed request from the launcher"):
        receive(server)
    assert len(received) == 2
    for fd in received:  # the server would end now, but the test continues
        os.close(fd)


def test_a_packet_without_descriptors_is_refused_rather_than_waited_out(ends: Ends) -> None:
    launcher, server = ends
    send(launcher, message())
    launcher.send(b"x")
    with pytest.raises(UnionError, match="a packet has no descriptors"):
        receive(server)


def test_another_version_is_refused_before_any_descriptor_is_awaited(ends: Ends) -> None:
    launcher, server = ends
    send(launcher, message(version=VERSION + 1))
    with pytest.raises(
        UnionError, match=f"launcher uses protocol version {VERSION + 1}, this server {VERSION}"
    ):
        receive(server)


@pytest.mark.parametrize(
    "sent",
    [lambda _end: None, lambda end: send(end, message())],
    ids=["before the request", "before the descriptors"],
)
def test_a_launcher_that_goes_away_ends_the_server_quietly(
    ends: Ends, sent: Callable[[socket.socket], object]
) -> None:
    launcher, server = ends
    sent(launcher)
    launcher.close()
    with pytest.raises(EOFError):
        receive(server)


@pytest.mark.parametrize(
    ("sent", "serving"),
    [
        ({}, Serving()),
        ({"server": "pyfuse3"}, Serving(server=Which.PYFUSE3)),
        ({"server": "direct", "open_requests": False}, Serving(server=Which.DIRECT, open_requests=False)),
    ],
)
def test_how_it_is_served_may_come_with_it(
    ends: Ends, null: int, sent: dict[str, object], serving: Serving
) -> None:
    launcher, server = ends
    send(launcher, message() | sent)
    socket.send_fds(launcher, [b"x"], [null] * 5)
    request = receive(server)
    for fd in descriptors_of(request):
        os.close(fd)
    assert request.serving == serving


@pytest.mark.parametrize(
    "sent",
    [{"server": "fast"}, {"open_requests": 0}, {"server": "pyfuse3", "open_requests": False}],
)
def test_a_way_of_serving_that_there_is_not_is_refused(
    ends: Ends, null: int, sent: dict[str, object]
) -> None:
    launcher, server = ends
    send(launcher, message(descriptors=0, **sent))
    with pytest.raises(UnionError, match="malformed request from the launcher"):
        receive(server)


def test_a_launcher_of_another_release_is_told_to_install_both_from_one(ends: Ends) -> None:
    """Version 2 had the whole request in the packet."""
    launcher, server = ends
    launcher.send(json.dumps(message(version=2)).encode())
    with pytest.raises(
        UnionError, match=f"launcher uses protocol version 2, this server {VERSION}: install both"
    ):
        receive(server)


def test_a_packet_without_the_request_is_refused(ends: Ends) -> None:
    launcher, server = ends
    launcher.send(json.dumps({"version": VERSION, "descriptors": 0}).encode())
    with pytest.raises(UnionError, match="a packet has no request"):
        receive(server)


def test_a_request_that_could_be_changed_while_it_is_read_is_refused(ends: Ends, null: int) -> None:
    launcher, server = ends
    unsealed = os.memfd_create("request", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for fd in (unsealed, null):
            socket.send_fds(launcher, [json.dumps({"version": VERSION, "descriptors": 0}).encode()], [fd])
            with pytest.raises(UnionError, match="the request is not in a sealed memfd"):
                receive(server)
    finally:
        os.close(unsealed)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raise the limit on open files to the hard limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(("layers", "cross"), [(3000, 0), (1, 20_000)], ids=["layers", "mount points"])
def test_a_request_of_the_launcher_arrives_whole_however_long_it_is(
    ends: Ends, null: int, layers: int, cross: int
) -> None:
    """The socket's buffer holds 208 KiB, and one packet 253 descriptors."""
    launcher, server = ends
    most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // 2  # here, both ends are in one process
    layers = min(layers, most)
    paths = tuple(f"mnt/{number:05}/{'x' * 20}" for number in range(cross))
    stack = ServedStack(
        layers=[ServedLayer(fd=null, marks="none", squash=True, cross=paths) for _ in range(layers)],
        upper_fd=null,
        work_fd=null,
        hidden=(),
        volatile=True,
        server="direct",
        open_requests=True,
    )
    sender = Server()
    sender._socket = launcher
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sender.serve, null, null, stack, None)
        request = receive(server)
        sent.result()
    for fd in descriptors_of(request):
        os.close(fd)
    assert len(request.stack.lowers) == layers
    assert request.stack.lowers[-1].cross == tuple(path.encode() for path in paths)

"""The descriptors of the launcher's request: all arrive, or the request is rejected."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.mount.support import environment
from unionfs.errors import UnionError
from unionfs.launch.protocol import VERSION, sealed_memfd
from unionfs.launch.request import receive

if TYPE_CHECKING:
    from collections.abc import Iterator

    Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Return the launcher's end and the server's. Received descriptors are closed afterwards."""
    before = set(os.listdir("/proc/self/fd"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.settimeout(60)  # a missing request makes the test fail instead of hang
        yield ours, theirs
    for name in set(os.listdir("/proc/self/fd")) - before:
        try:
            os.close(int(name))
        except OSError:
            continue  # the one that listed the directory


def send(launcher: socket.socket, count: int, **changes: Any) -> None:
    """Send a request that announces three descriptors, and *count* of them."""
    layer = {"fd": 2, "marks": "none", "squash": False, "cross": []}
    request = {
        "fuse": 0,
        "user_namespace": 1,
        "layers": [layer],
        "upper": None,
        "work": None,
        "hidden": [],
        "volatile": False,
    }
    fd = sealed_memfd(json.dumps(request | changes).encode())
    socket.send_fds(launcher, [json.dumps({"version": VERSION, "descriptors": 3}).encode()], [fd])
    os.close(fd)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        socket.send_fds(launcher, [b"x"], [null] * count)
    finally:
        os.close(null)


@pytest.mark.parametrize("index", [-1, 3, True, 1.0, "1"], ids=repr)
@pytest.mark.parametrize("role", ["fuse", "user_namespace"])
def test_an_index_that_names_no_descriptor_is_refused(ends: Ends, role: str, index: object) -> None:
    launcher, server = ends
    send(launcher, 3, **{role: index})
    with pytest.raises(UnionError, match=r"malformed request from the launcher: .*no descriptor"):
        receive(server)


@pytest.mark.parametrize("role", ["upper", "work"])
def test_a_directory_that_may_be_absent_is_no_other_than_the_one_that_was_named(
    ends: Ends, role: str
) -> None:
    launcher, server = ends
    send(launcher, 3, **{role: -1})
    with pytest.raises(UnionError, match="no descriptor -1 among 3"):
        receive(server)


def test_more_descriptors_than_announced_are_refused(ends: Ends) -> None:
    launcher, server = ends
    send(launcher, 4)
    with pytest.raises(UnionError, match="4 descriptors instead of 3"):
        receive(server)


def test_a_packet_without_descriptors_is_refused(ends: Ends) -> None:
    launcher, server = ends
    send(launcher, 1)
    launcher.send(b"x")
    with pytest.raises(UnionError, match="a packet has no descriptors"):
        receive(server)


def test_descriptors_for_which_there_is_no_room_are_not_waited_for(ends: Ends) -> None:
    launcher, server = ends
    send(launcher, 3)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The kernel allocates the lowest free number, so this leaves room for one descriptor.
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))
    try:
        with pytest.raises(
            UnionError, match="only 1 of 3 descriptors arrived: raise the limit on open files"
        ):
            receive(server)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_launcher_is_told_why_its_request_is_refused() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            server = subprocess.Popen(
                [sys.executable, "-m", "unionfs", "--serve-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment(),
                stderr=subprocess.DEVNULL,
            )
        ours.settimeout(60)
        ours.send(b"{}")
        assert ours.recv(1000).startswith(b"error: malformed request from the launcher")
    assert server.wait(60) == 1


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("MemoryError", b"error: the server is out of memory"),
        (
            "ImportError('libfuse3.so.4: failed to map')",
            b"error: the server cannot be loaded: libfuse3.so.4: failed to map",
        ),
    ],
)
def test_the_launcher_is_told_what_keeps_the_server_from_being_loaded(failure: str, said: bytes) -> None:
    """The server starts while other processes start, so it may be the one that finds no memory."""
    script = (
        "import sys\n"
        "from unionfs import cli\n"
        "class Nothing:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'unionfs.fuse.direct.loop': raise {failure}\n"
        "sys.meta_path.insert(0, Nothing())\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            server = subprocess.Popen(
                [sys.executable, "-c", script, "--serve-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment(),
                stderr=subprocess.PIPE,
            )
        ours.settimeout(60)
        assert ours.recv(1000) == said
    assert (server.communicate(timeout=60)[1], server.returncode) == (b"", 1)


@pytest.mark.parametrize("role", ["fuse", "user_namespace"])
def test_a_server_refuses_a_request_without_a_mount(role: str) -> None:
    """Only `unionfs changes` receives such a request."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            server = subprocess.Popen(
                [sys.executable, "-m", "unionfs", "--serve-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment(),
                stderr=subprocess.PIPE,
            )
        ours.settimeout(60)
        send(ours, 3, **{role: None})
        assert ours.recv(1000) == b"error: malformed request from the launcher: it has no mount"
    assert (server.communicate(timeout=60)[1], server.returncode) == (b"", 1)

"""The server's side of requests that arrive while it serves."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unionfs.freezing import LOWER, FreezingClient
from unionfs.launch.control import Control
from unionfs.launch.protocol import DONE, MOST_PATHS, sealed_memfd
from unionfs.upper.format import ANY_FORMAT

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY


class Asking:
    """The launcher's end of the socket, and a client of the union."""

    def __init__(self, tmp_path: Path) -> None:
        self.client = FreezingClient(tmp_path, [LOWER], ANY_FORMAT)
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs = theirs
        self.control = Control(theirs, self.client.fs)

    def ask(self, request: Any, *fds: int) -> dict[str, Any]:
        socket.send_fds(self.ours, [json.dumps(request).encode()], fds)
        for fd in fds:
            os.close(fd)
        assert self.control.handle()
        answer = self.ours.recv(4096).decode()
        assert answer.startswith(DONE)
        result = json.loads(answer.removeprefix(DONE))
        assert isinstance(result, dict)
        return result


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    made = Asking(tmp_path)
    yield made
    made.ours.close()
    made.theirs.close()
    made.client.close()


def directories(tmp_path: Path) -> tuple[int, int]:
    for name in ("next-upper", "next-work"):
        os.mkdir(tmp_path / name)
    return os.open(tmp_path / "next-upper", _OPEN_DIR), os.open(tmp_path / "next-work", _OPEN_DIR)


def is_open(path: Path) -> bool:
    """Return whether this process has a descriptor of *path*."""
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return any(os.path.lexists(link) and os.readlink(link) == str(path) for link in links)


def test_the_layer_is_frozen(asking: Asking, tmp_path: Path) -> None:
    asking.client.write("hard1", b"TWO")
    stamp = asking.ask({"do": "stamp"})["stamp"]
    assert asking.ask({"do": "link"}, sealed_memfd(b"nothing\0d/hard2\0"))["linked"] == 1
    assert asking.ask({"do": "freeze", "searched": stamp}, *directories(tmp_path)) == {}
    asking.client.write("a", b"UPPER")
    assert (tmp_path / "next-upper" / "a").read_bytes() == b"UPPER a"
    assert (asking.client.upper / "d" / "hard2").read_bytes()[:3] == b"TWO"


def test_a_layer_with_names_that_are_no_links_yet_is_not_frozen(asking: Asking, tmp_path: Path) -> None:
    stamp = asking.ask({"do": "stamp"})["stamp"]
    asking.client.write("hard1", b"TWO")
    answer = asking.ask({"do": "freeze", "searched": stamp}, *directories(tmp_path))
    assert answer["errno"] == "EBUSY"
    assert not is_open(tmp_path / "next-upper")


def test_a_directory_that_is_not_empty_is_refused(asking: Asking, tmp_path: Path) -> None:
    fds = directories(tmp_path)
    (tmp_path / "next-upper" / "x").touch()
    answer = asking.ask({"do": "freeze", "searched": asking.client.fs.search_stamp}, *fds)
    assert (answer["errno"], answer["error"]) == ("ENOTEMPTY", "the new upperdir is not empty")
    assert not is_open(tmp_path / "next-upper")
    asking.client.write("a", b"still writable")


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"do": "burn"},
        {"do": "freeze"},
        {"do": "freeze", "searched": "1"},
        [],
        "x",
        {"do": []},
        {"do": "link"},
    ],
)
def test_a_malformed_request_is_an_error_and_serving_goes_on(asking: Asking, request_: Any) -> None:
    assert asking.ask(request_)["errno"] == "EPROTO"
    assert "stamp" in asking.ask({"do": "stamp"})


def test_too_many_paths_at_once_are_refused(asking: Asking) -> None:
    answer = asking.ask({"do": "link"}, sealed_memfd(b"a\0" * (MOST_PATHS + 1)))
    assert answer["errno"] == "EPROTO"


def test_the_end_of_the_launcher_is_noticed(asking: Asking) -> None:
    asking.ours.close()
    assert not asking.control.handle()


def test_a_request_of_a_launcher_that_is_gone_is_not_executed(asking: Asking, tmp_path: Path) -> None:
    """Another command may rely on the record, in which the layer is still the writable one."""
    fds = directories(tmp_path)
    message = {"do": "freeze", "searched": asking.client.fs.search_stamp}
    socket.send_fds(asking.ours, [json.dumps(message).encode()], fds)
    for fd in fds:
        os.close(fd)
    asking.ours.close()
    assert not asking.control.handle()
    assert not is_open(tmp_path / "next-upper")
    assert os.listdir(tmp_path / "next-work") == []

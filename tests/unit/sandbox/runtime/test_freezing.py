"""Requests about the writable layer: what the server is asked, and what the record says at each moment."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.kernel.idmaps import single_map
from sandbox.plan import IdPlan
from sandbox.runtime.control import Request, RequestError
from sandbox.runtime.freezing import LayerRequests
from sandbox.state.sandbox_directory import RunDirectory
from sandbox.state.stack_record import RecordedLayer, RecordedStack

IDS = IdPlan(uid_map=single_map(os.geteuid()), gid_map=single_map(os.getegid()), helpers=None, single=True)


class Recording:
    """A server that notes what it is asked, and the record at that moment."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.asked: list[tuple[Any, int]] = []
        self.recorded: list[RecordedStack | None] = []
        self.fails = False

    def ask(self, request: Any, fds: list[int]) -> None:
        self.recorded.append(stack_of(self.home))
        if self.fails:
            raise BrokenPipeError(32, "Broken pipe")
        self.asked.append((request, len(fds)))


def stack_of(home: Path) -> RecordedStack | None:
    return RecordedStack.read(json.loads((home / "state.json").read_text()), str(home))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[RunDirectory]:
    made = RunDirectory(str(tmp_path), IDS, resume=True, layers=(RecordedLayer(kind="dir", path="/"),))
    yield made
    made.close()


def request(name: str, count: int = 0, **more: Any) -> Request:
    ours, theirs = socket.socketpair()
    theirs.close()
    return Request(ours, name, {"request": name, **more}, [os.open("/", os.O_PATH) for _ in range(count)])


def end(asked: Request) -> None:
    asked.close()
    asked.client.close()


def test_the_next_layer_is_recorded_before_the_freeze_and_is_the_writable_one_after_it(
    home: RunDirectory, tmp_path: Path
) -> None:
    server = Recording(tmp_path)
    requests = LayerRequests(home, server)  # type: ignore[arg-type]
    asked = request("freeze", 2, searched=7, directory=f"{tmp_path}/later/1")
    requests.begin(asked)
    assert server.asked == [({"do": "freeze", "searched": 7}, 2)]
    (during,) = server.recorded
    assert during is not None
    assert (during.writable, during.next) == (str(tmp_path), f"{tmp_path}/later/1")
    assert requests.done({}) == {"layers": [str(tmp_path)]}
    after = stack_of(tmp_path)
    assert after is not None
    assert (after.writable, after.earlier, after.next) == (f"{tmp_path}/later/1", (str(tmp_path),), None)
    end(asked)


@pytest.mark.parametrize("fails", ["server", "answer"])
def test_a_freeze_that_fails_leaves_the_record_as_it_was(
    home: RunDirectory, tmp_path: Path, fails: str
) -> None:
    before = stack_of(tmp_path)
    server = Recording(tmp_path)
    requests = LayerRequests(home, server)  # type: ignore[arg-type]
    asked = request("freeze", 2, searched=7, directory=f"{tmp_path}/later/1")
    if fails == "server":
        server.fails = True
        with pytest.raises(RequestError, match="cannot be asked"):
            requests.begin(asked)
    else:
        requests.begin(asked)
        refused = {"errno": "EBUSY", "error": "hard links"}
        assert requests.done(refused) == refused
    assert stack_of(tmp_path) == before
    end(asked)


def test_other_requests_are_passed_on_with_their_answers(home: RunDirectory, tmp_path: Path) -> None:
    server = Recording(tmp_path)
    requests = LayerRequests(home, server)  # type: ignore[arg-type]
    for asked in (request("stamp"), request("link", 1)):
        requests.begin(asked)
        assert requests.done({"n": 1}) == {"n": 1}
        end(asked)
    assert [message["do"] for message, _ in server.asked] == ["stamp", "link"]


@pytest.mark.parametrize(
    "asked",
    [
        ("burn", 0, {}),
        ("stamp", 1, {}),
        ("link", 0, {}),
        ("freeze", 1, {"directory": "{home}/later/1"}),
        ("freeze", 2, {"searched": 7}),
        ("freeze", 2, {"searched": 7, "directory": 1}),
        ("freeze", 2, {"searched": 7, "directory": "{home}"}),
        ("freeze", 2, {"searched": 7, "directory": "{home}/later/.."}),
        ("freeze", 2, {"searched": 7, "directory": "/elsewhere/later/1"}),
        ("freeze", 2, {"searched": 7, "directory": "later/1"}),
        ("freeze", 2, {"directory": "{home}/later/1"}),
        ("freeze", 2, {"searched": [[]], "directory": "{home}/later/1"}),
    ],
)
def test_a_malformed_request_reaches_no_server(
    home: RunDirectory, tmp_path: Path, asked: tuple[str, int, dict[str, Any]]
) -> None:
    server = Recording(tmp_path)
    name, count, more = asked
    if isinstance(more.get("directory"), str):
        more = {**more, "directory": more["directory"].replace("{home}", str(tmp_path))}
    made = request(name, count, **more)
    with pytest.raises(RequestError):
        LayerRequests(home, server).begin(made)  # type: ignore[arg-type]
    assert server.recorded == []
    end(made)

"""Transfers run four at once, and the first failure ends the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from sandbox.images.registry.failures import CancelledError, RegistryError
from sandbox.images.registry.transfers import AT_ONCE, run_transfers
from tests.unit.sandbox.images.registry.clients import client_of, content, digest_of, served
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Handle, Reply, Request

Serve = Callable[[Handle], FaultyServer]


def test_results_are_in_the_order_of_the_transfers() -> None:
    def result(number: int) -> int:
        time.sleep(0.05 * (5 - number))
        return number

    assert run_transfers([partial(result, number) for number in range(6)], lambda: None) == list(range(6))
    assert run_transfers([], lambda: None) == []


def test_four_run_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def transfer() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    run_transfers([transfer] * 12, lambda: None)
    assert most == AT_ONCE == 4


def test_the_first_failure_cancels_and_starts_no_further_transfer() -> None:
    cancelled = threading.Event()
    started = []

    def waiting() -> None:
        started.append(1)
        if not cancelled.wait(60):
            raise AssertionError("was not cancelled")
        raise CancelledError("cancelled")

    def failing() -> None:
        while len(started) < 3:
            time.sleep(0.001)
        raise RegistryError("the cause")

    with pytest.raises(RegistryError, match="the cause"):
        run_transfers([waiting, waiting, waiting, failing, waiting, waiting], cancelled.set)
    assert len(started) == 3


def test_an_interrupt_of_the_user_cancels_and_waits_for_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = threading.Event()
    ended = threading.Event()

    def transfer() -> None:
        cancelled.wait(60)
        ended.set()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_transfers([transfer], cancelled.set)
    assert ended.is_set()


def test_blobs_are_downloaded_at_once_and_a_missing_one_ends_the_others(serve: Serve, tmp_path: Path) -> None:
    blobs = [content(200_000, seed) for seed in range(6)]
    digests = [digest_of(data) for data in blobs]
    everything = {f"blobs/{digest}": data for digest, data in zip(digests, blobs, strict=True)}
    server = serve(served(everything))

    with ExitStack() as opened:
        files = [
            opened.enter_context(open(tmp_path / str(number), "w+b", buffering=0)) for number in range(6)
        ]
        names = list(zip(digests, files, strict=True))
        with client_of(server) as client:
            run_transfers(
                [partial(client.download, digest, 200_000, file.fileno()) for digest, file in names],
                client.cancel,
            )
        assert [(tmp_path / str(number)).read_bytes() for number in range(6)] == blobs

        def stalling(request: Request) -> Reply:
            if digests[3] in request.path:
                return Reply(404)
            return Reply() if request.path == "/v2/" else Reply(body=blobs[0], cut=1000, stall=True)

        for file in files:
            file.truncate(0)
        server.handle = stalling
        begin = time.monotonic()
        with client_of(server, stall=60) as client, pytest.raises(RegistryError, match=digests[3]):
            run_transfers(
                [partial(client.download, digest, 200_000, file.fileno()) for digest, file in names],
                client.cancel,
            )
        assert time.monotonic() - begin < 10

"""The worker pool starts a thread for each waiting job, and survives errors and the limit of threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.unit.unionfs.fuse.async_server import PATIENCE
from unionfs.fuse.direct.worker_pool import WorkerPool

if TYPE_CHECKING:
    from tests.support.output import Complaints


def test_no_more_threads_are_made_than_wait_at_once() -> None:
    threads, done = WorkerPool(2), threading.Semaphore(0)
    names: list[int] = []

    def work() -> None:
        names.append(threading.get_ident())
        done.release()

    for _ in range(50):
        assert threads.run(work)
    for _ in range(50):
        assert done.acquire(timeout=PATIENCE)
    assert len(set(names)) <= 2


def test_no_work_waits_for_another_while_there_may_be_more_threads() -> None:
    threads, gate, begun = WorkerPool(3), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        begun.release()
        assert gate.wait(PATIENCE)

    done = threading.Event()
    threads.run(done.set)
    assert done.wait(PATIENCE)
    for _ in range(3):
        assert threads.run(work)
    for _ in range(3):
        assert begun.acquire(timeout=PATIENCE)
    gate.set()


def test_what_a_thread_raises_ends_neither_it_nor_the_server(complaints: Complaints) -> None:
    complaints.expect_log("work in a thread failed")
    threads, done = WorkerPool(1), threading.Event()

    def fail() -> None:
        raise ValueError("a bug")

    threads.run(fail)
    threads.run(done.set)
    assert done.wait(PATIENCE)


def test_a_system_that_allows_no_threads_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert WorkerPool().run(lambda: None) is False


def test_threads_are_had_where_nothing_can_be_imported_any_more() -> None:
    """A confined server may be unable to read Python's standard library."""
    script = (
        "import sys, threading, unionfs.fuse.direct.loop\n"
        "from unionfs.fuse.direct.worker_pool import WorkerPool\n"
        "sys.meta_path.clear()\n"
        "done = threading.Event()\n"
        "assert WorkerPool().run(done.set)\n"
        "assert done.wait(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

"""Ending processes that no pid namespace ends: descendants that fork, and processes with a given root."""

from __future__ import annotations

import os
import signal
import time

import pytest

from sandbox.kernel import mounts, process
from sandbox.kernel.cgroups import CgroupFiles, base
from sandbox.runtime.process import reaping
from tests.kernel.support import in_child


def wait_for_descendants(count: int) -> None:
    deadline = time.monotonic() + 60
    while len(process._descendants((), None)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def fork_tree(depth: int) -> None:
    """Fork a tree of processes, each in a session of its own. The processes between the root and the leaves exit."""
    os.setsid()
    for _ in range(2):
        if os.fork() == 0:
            if depth:
                fork_tree(depth - 1)
            signal.pause()
    if depth % 2:
        os._exit(0)
    signal.pause()


def test_descendants_end_with_their_orphans():
    def inside() -> bool:
        process.become_subreaper()
        if os.fork() == 0:
            fork_tree(3)
        wait_for_descendants(20)
        process.end_descendants()
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        return False

    assert in_child(inside) == 0


def test_spared_processes_stay_with_their_descendants():
    def inside() -> bool:
        process.become_subreaper()
        spared = os.fork()
        if spared == 0:
            if os.fork() == 0:
                signal.pause()
            signal.pause()
        if os.fork() == 0:
            signal.pause()
        wait_for_descendants(3)
        process.end_descendants(spare=(spared,))
        left = len(process._descendants((), None))
        process.end_descendants()
        return left == 2

    assert in_child(inside) == 0


def test_a_fork_bomb_comes_to_an_end():
    """Each child exists before its parent exits. A counter bounds the number of processes."""

    def bomb(places: int) -> None:
        while True:
            os.read(places, 1)
            if os.fork() == 0:
                os.setsid()
                continue
            os.write(filler, b"x")
            os._exit(0)

    reader, filler = os.pipe()

    def inside() -> bool:
        process.become_subreaper()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.write(filler, b"x" * 40)
        for _ in range(30):
            if os.fork() == 0:
                bomb(reader)
        wait_for_descendants(20)
        process.end_descendants(timeout=60)
        return process._descendants((), None) == []

    try:
        assert in_child(inside) == 0
    finally:
        os.close(reader)
        os.close(filler)


@pytest.mark.userns
def test_processes_are_found_by_the_name_of_their_root(in_namespaces, open_directory):
    """No other process is found: the parent, in the same mount namespace, has another root."""

    def inside() -> object:
        target = os.open(open_directory, os.O_PATH)
        mounts._libc.mount("tmpfs:mark", f"/proc/self/fd/{target}", "tmpfs", 0)
        pid = os.fork()
        if pid == 0:
            os.chroot(open_directory)
            signal.pause()
        other = os.fork()
        if other == 0:
            signal.pause()
        deadline = time.monotonic() + 60
        while process._root_source(pid) != "tmpfs:mark" and time.monotonic() < deadline:
            time.sleep(0.005)
        process.end_rooted("tmpfs:mark")
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, os.WNOHANG)[1]) if process.start_time(pid) else -9
        there = os.waitpid(other, os.WNOHANG) == (0, 0)
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
        return ended, there

    assert in_namespaces(inside, kinds=("mount",)) == [-9, True]


def test_start_time_distinguishes_processes_and_detects_ended_ones():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    assert process.start_time(pid) == process.start_time(pid)
    assert process.start_time(pid) is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert process.start_time(pid) is None


def test_processes_of_a_cgroup_are_killed_without_pidfd_send_signal_too(monkeypatch):
    pid = os.fork()
    if pid == 0:
        signal.pause()

    class Listing(CgroupFiles):
        def read(self, path: str) -> str:
            return "" if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) else str(pid)

    with monkeypatch.context() as patch:
        patch.delattr(signal, "pidfd_send_signal", raising=False)
        try:
            base.kill_processes(Listing(), ["/cgroup"], timeout=60)
        finally:
            ended = os.waitpid(pid, os.WNOHANG)
            if ended[0] == 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(ended[1]) == -signal.SIGKILL


@pytest.mark.parametrize("ending", [True, False])
def test_time_runs_out_only_while_no_process_ends(monkeypatch: pytest.MonkeyPatch, *, ending: bool) -> None:
    """Thousands of processes that wait for a processor end one by one. Together they take longer than one process may."""
    left = [process._Stat(pid=pid, parent=1, state="S", start=pid) for pid in range(1 << 22, (1 << 22) + 50)]
    clock = iter(range(10_000))
    monkeypatch.setattr(process.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(process.time, "sleep", lambda _: None)

    def members() -> list[process._Stat]:
        if ending:
            del left[:1]
        return list(left)

    if ending:
        process._end(members, None, timeout=10)
        assert next(clock) > 40
    else:
        with pytest.raises(TimeoutError, match="did not end after SIGKILL: 4194304"):
            process._end(members, None, timeout=10)


def test_process_1_looks_for_signals_while_children_end_without_end() -> None:
    def inside() -> bool:
        started = [os.fork() or os._exit(3) for _ in range(201)]
        for pid in started:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        program = started[-1]
        family = reaping.Children(program, None, -1)
        codes = []
        while not codes or codes[-1] is None:
            codes.append(family.reap())
            assert family.more == (codes[-1] is None)
        return len(codes) >= 4 and codes[-1] == 3

    assert in_child(inside) == 0

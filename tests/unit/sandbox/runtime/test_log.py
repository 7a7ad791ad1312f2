"""The log of a sandbox in the background: rotation, a full disk, and the pipes."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from sandbox.lifecycle.log_reading import _Files
from sandbox.runtime.log import LogWriter, OutputLog
from sandbox.state.log_files import decode


def texts(directory: Path) -> list[str]:
    """Return the texts of all lines in *directory*, oldest first."""
    files = _Files(str(directory))
    found = [line.text.decode() for line in files.lines()]
    files.close()
    return found


def test_the_oldest_lines_are_removed_by_rotation(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path), largest=1000, files=3)
    for number in range(200):
        writer.write("stdout", f"line {number}\n".encode())
    writer.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    found = texts(tmp_path)
    assert 40 <= len(found) < 200
    assert found == [f"line {number}" for number in range(200 - len(found), 200)]


def test_who_follows_a_log_loses_and_repeats_nothing_at_rotations(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path), largest=20000, files=3)
    writer.write("stdout", b"line 0\n")
    files, finished = _Files(str(tmp_path)), threading.Event()
    found: list[str] = []

    def follow() -> None:
        while True:
            last = finished.is_set()
            found.extend(line.text.decode() for line in files.lines())
            if last:
                return

    following = threading.Thread(target=follow)
    following.start()
    for number in range(1, 5000):
        writer.write("stdout", f"line {number}\n".encode())
        while len(found) < number - 200:  # two files have room for more lines than that
            pass
    finished.set()
    following.join(60)
    files.close()
    writer.close()
    assert found == [f"line {number}" for number in range(5000)]


def test_on_a_full_disk_lines_are_lost_whole_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LogWriter(str(tmp_path))
    writer.write("stdout", b"before\n")
    really = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 60:
            return really(fd, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        writer.write("stdout", b"one\ntwo\n")
        writer.write("stderr", b"three\n")
    writer.write("stdout", b"after\n")
    writer.close()
    lines = [decode(line) for line in (tmp_path / "log").read_bytes().split(b"\n")[:-1]]
    assert [(line.stream, line.text) for line in lines if line is not None] == [
        ("stdout", b"before"),
        ("sandbox", b"3 lines are lost: the disk was full"),
        ("stdout", b"after"),
    ]


def test_the_pipes_lead_to_the_log_until_their_ends(tmp_path: Path) -> None:
    reader, own = os.pipe()
    log = OutputLog(reader)
    log.begin(str(tmp_path))
    os.write(log.outputs[0], b"out\n")
    os.write(log.outputs[1], b"err\n")
    for fd in log.interest():
        log.handle(fd)
    log.close_outputs()
    assert len(log.interest()) == 2
    log.take_over()
    assert len(log.interest()) == 3
    os.write(own, b"sandbox: warning: last\n")
    log.finish()
    log.finish()
    assert log.interest() == {}
    os.close(own)
    assert sorted(texts(tmp_path)) == ["err", "out", "sandbox: warning: last"]


def test_a_program_that_prints_without_end_holds_nothing_up(tmp_path: Path) -> None:
    reader, own = os.pipe()
    log = OutputLog(reader)
    log.begin(str(tmp_path))
    writer, stop = log.outputs[0], threading.Event()

    def flood() -> None:
        while not stop.is_set():
            os.write(writer, b"x" * 1000 + b"\n")

    flooding = threading.Thread(target=flood)
    flooding.start()
    for _ in range(3):
        log.handle(next(fd for fd in log.interest() if fd != reader))  # it returns
    stop.set()
    while flooding.is_alive():
        for fd in log.interest():
            log.handle(fd)
    flooding.join()
    log.finish()
    os.close(own)

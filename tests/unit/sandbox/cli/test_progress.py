"""The progress of reading an archive: a bar on a terminal, a few lines elsewhere, and nothing for a short operation."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from sandbox.cli import progress
from sandbox.cli.progress import ArchiveProgress

MIB = 1 << 20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the simulated time, which the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def follow(clock: list[float], seconds: int, path: str = "/a/base.tar") -> None:
    """Report the reading of 10 MiB in *seconds*."""
    shown = ArchiveProgress()
    shown.begin("unpack", path, 10 * MIB)
    for second in range(seconds):
        shown.update(10 * MIB * second // seconds)
        clock[0] += 1
    shown.end()


def test_what_is_quick_shows_nothing(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    follow(clock, 5)
    assert capfd.readouterr().err == ""


def test_without_a_terminal_there_are_lines_at_growing_distances(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    follow(clock, 100)
    assert capfd.readouterr().err.splitlines() == [
        "sandbox: unpack base.tar: 5 % of 10.5MB, 105kB/s, 01:35 left",
        "sandbox: unpack base.tar: 10 % of 10.5MB, 105kB/s, 01:30 left",
        "sandbox: unpack base.tar: 20 % of 10.5MB, 105kB/s, 01:20 left",
        "sandbox: unpack base.tar: 40 % of 10.5MB, 105kB/s, 01:00 left",
        "sandbox: unpack base.tar: 80 % of 10.5MB, 105kB/s, 00:20 left",
        "sandbox: unpack base.tar: ended after 100 s",
    ]


def test_names_of_archives_give_no_orders_to_the_terminal(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    follow(clock, 7, "/a/\x1b[2J\n.tar")
    assert capfd.readouterr().err.startswith("sandbox: unpack \\u001B[2J\\u000A.tar: ")


SCRIPT = """
import sys, threading, time
from sandbox.cli.progress import ArchiveProgress
shown = ArchiveProgress()
shown.begin("unpack", "/a/base.tar", 10 << 20)
for step in range(25):
    shown.update(step * (10 << 20) // 25)
    time.sleep(0.1)
shown.end()
assert threading.active_count() == 1
assert "multiprocessing" not in sys.modules
"""


def test_a_terminal_has_a_bar_with_bytes_rate_and_time_left_that_goes_at_the_end() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=theirs) as process:
        os.close(theirs)
        text = b""
        try:
            while data := os.read(ours, 4096):
                text += data
        except OSError:
            pass  # EIO: the other end is closed
        os.close(ours)
    assert process.returncode == 0, text
    frames = text.decode().split("\r")
    assert any("unpack base.tar:" in frame and "/10.5M [" in frame and "<00:0" in frame for frame in frames)
    assert "B/s" in text.decode()
    assert frames[-1].strip() == ""


def test_nothing_of_the_library_is_imported_before_it_is_needed() -> None:
    code = "import sys, sandbox.cli.progress; sys.exit('tqdm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

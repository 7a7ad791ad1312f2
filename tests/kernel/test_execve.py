"""Steps of the program's process before execve(2), each in a forked child."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.kernel import _libc, constants, process
from sandbox.runtime.messages import Channel, SetupFailed
from sandbox.runtime.process import execve
from sandbox.runtime.process.failures import run_guarded
from tests.kernel.support import in_child


def test_process_is_not_dumpable_again_after_setting_its_score() -> None:
    def action() -> bool:
        process.set_dumpable(False)
        execve._set_oom_score(900)
        forbidden = _libc.prctl(constants.PR_GET_DUMPABLE) == 0
        return forbidden and Path("/proc/self/oom_score_adj").read_text() == "900\n"

    assert in_child(action) == 0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="which machine setarch(8) is to show")
def test_keyring_is_left_under_a_personality_of_another_machine():
    # With the system call numbers of that machine, the call would be accept4(2).
    code = "from sandbox.kernel import process; raise SystemExit(0 if process.leave_session_keyring() else 1)"
    done = subprocess.run(["setarch", "i686", sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == 0


def test_lack_of_memory_before_the_program_runs_is_reported():
    ours, theirs = Channel.pair()

    def exhaust() -> int:
        raise MemoryError

    pid = os.fork()
    if pid == 0:
        run_guarded(theirs, exhaust)
    theirs.close()
    try:
        message = ours.receive()
    finally:
        ours.close()
        os.waitpid(pid, 0)
    assert isinstance(message, SetupFailed)
    assert (message.errno, message.text) == (errno.ENOMEM, "Cannot allocate memory")

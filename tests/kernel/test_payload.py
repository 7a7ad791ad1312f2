"""Steps of the program's own process, each in a forked child."""

from __future__ import annotations

from pathlib import Path

from sandbox.kernel import _libc, process
from sandbox.runtime import payload
from tests.kernel.support import in_child


def test_process_that_has_set_its_score_can_be_traced_by_nobody_again() -> None:
    def action() -> bool:
        process.set_dumpable(False)
        payload._set_oom_score(900)
        forbidden = _libc.prctl(_libc.PR_GET_DUMPABLE) == 0
        return forbidden and Path("/proc/self/oom_score_adj").read_text() == "900\n"

    assert in_child(action) == 0

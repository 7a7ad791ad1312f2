"""A process in a gate keeps nothing of its parent: no lock, and no pipe whose end another process waits for."""

from __future__ import annotations

import os

import pytest

from sandbox.network.gate import make_gate, process_in

pytestmark = pytest.mark.userns


def test_a_process_in_a_gate_keeps_no_other_descriptor() -> None:
    gate = make_gate()
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with process_in(gate):
            os.close(writer)
            assert os.read(reader, 1) == b""  # BlockingIOError, if the process has the other end
    finally:
        os.close(reader)
        gate.close()

"""Messages about a failed start, a killed process 1, and a machine without a trampoline."""

from __future__ import annotations

import errno

import pytest

from sandbox.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, HostError, SetupError
from sandbox.kernel import trampoline
from sandbox.runtime import outcome, trampoline_file
from sandbox.runtime.messages import ExecFailed, SetupFailed
from tests.unit.sandbox.facts import host, plan
from unionfs._stdlib.dataclasses import replace

SPEC = '[root]\nlayers = ["dir:/"]\n[process]\nuser = "web"\n'


def test_step_that_is_a_setting_is_named_with_its_place() -> None:
    error = outcome.setup_error(
        plan(SPEC), SetupFailed("process.user", "", 0, "no such user", "", "name another")
    )
    assert ":4:" in error.message
    assert error.message.endswith("process.user: no such user")
    assert error.hint == "name another"


def test_failure_of_process_1_while_the_program_runs_is_not_called_a_failed_step() -> None:
    error = outcome.failure_of_process_1(
        SetupFailed("set-up", "set-up", errno.EINVAL, "Invalid argument", "")
    )
    assert error.message == "process 1 of the sandbox: it failed: invalid argument"
    assert error.hint is not None
    assert "prlimit(2)" in error.hint


def test_command_that_is_missing_and_one_that_cannot_be_executed_have_the_statuses_of_a_shell() -> None:
    assert outcome.command_error(ExecFailed("x", errno.ENOENT, "")).exit_code == EXIT_NOT_FOUND
    assert outcome.command_error(ExecFailed("x", errno.EACCES, "")).exit_code == EXIT_NOT_EXECUTABLE


def test_killed_process_1_with_a_single_id_may_have_been_limited_by_the_program() -> None:
    whole = plan(SPEC)
    single = replace(whole, ids=replace(whole.ids, single=True))
    assert "prlimit" not in outcome.why_killed(whole, 9, overstayed=False)
    assert "prlimit" in outcome.why_killed(single, 9, overstayed=False)
    assert "process.stop_timeout" in outcome.why_killed(single, 9, overstayed=True)


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.ENOENT, HostError, "scripts/build-trampolines"),
        (errno.EACCES, SetupError, "vm.memfd_noexec=1"),
        (errno.EMFILE, SetupError, "ulimit -n"),
    ],
)
def test_machine_on_which_no_trampoline_can_be_had_is_told_why(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], hint: str
) -> None:
    def fail(_machine: str) -> int:
        raise OSError(number, "failed")

    monkeypatch.setattr(trampoline, "create", fail)
    with pytest.raises(kind) as raised:
        trampoline_file.create_trampoline(host().machine)
    assert hint in (getattr(raised.value, "hint", None) or "")

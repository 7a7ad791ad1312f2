"""Test `sandbox.errors`: messages, exit statuses, and advice for failed system calls."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from sandbox.errors import (
    CommandError,
    HostError,
    ImageError,
    SandboxError,
    SetupError,
    SpecError,
    StateError,
    describe_errno,
)
from sandbox.spec import Diagnostic


@pytest.mark.parametrize("kind", [HostError, StateError, ImageError])
def test_our_own_failures_exit_with_125(kind: type[SandboxError]) -> None:
    error = kind("something is wrong", hint="mend it")
    assert (error.exit_code, str(error)) == (125, "something is wrong")
    assert error.render() == "something is wrong\n      hint: mend it"


def test_an_error_without_hint_is_one_line() -> None:
    assert SandboxError("something is wrong").render() == "something is wrong"


def test_a_spec_error_shows_every_diagnostic() -> None:
    error = SpecError(
        [Diagnostic(file="a", message="first"), Diagnostic(file="a", message="second", hint="do")]
    )
    assert str(error) == error.render() == "a: first\na: second\n      hint: do"
    assert "\x1b[" in error.render(color=True)
    assert len(error.diagnostics) == 2


def test_a_setup_error_names_step_operation_path_and_reason() -> None:
    error = SetupError.from_os_error(
        "mount /proc", "mount proc", OSError(errno.EPERM, "Operation not permitted", "/p")
    )
    assert str(error) == "mount /proc: mount proc /p: operation not permitted (EPERM)"
    assert error.step == "mount /proc"
    assert error.hint is not None
    assert "too revealing" in error.hint


@pytest.mark.parametrize(
    ("step", "operation", "path", "text"),
    [
        ("open /a/b", "open", "/a/b", "open /a/b: refused (EACCES)"),
        ("open /dev/fuse", "open /dev/fuse", "/dev/fuse", "open /dev/fuse: refused (EACCES)"),
        ("mount proc on /proc", "mount proc", "/proc", "mount proc on /proc: refused (EACCES)"),
        ("layer dir:/a", "open", "/a", "layer dir:/a: open: refused (EACCES)"),
        ("open /a/b", "open", "/a", "open /a/b: /a: refused (EACCES)"),
        ("reopen", "open", "/a", "reopen: open /a: refused (EACCES)"),
    ],
)
def test_a_setup_error_repeats_no_part(step: str, operation: str, path: str, text: str) -> None:
    assert str(SetupError.from_os_error(step, operation, OSError(errno.EACCES, "refused", path))) == text


def test_the_error_for_a_file_that_cannot_be_opened_names_the_id_without_permission() -> None:
    advice = describe_errno("open", errno.EACCES)
    assert advice is not None
    assert advice.startswith(f"user {os.geteuid()} of this machine")
    assert "{" not in advice


def test_a_setup_error_with_a_self_explanatory_errno_has_no_hint() -> None:
    error = SetupError.from_os_error("step", "mount proc", OSError(errno.EIO, "Input/output error"))
    assert str(error) == "step: mount proc: input/output error (EIO)"
    assert error.hint is None


def test_a_setup_error_of_an_os_error_without_errno_still_describes_the_failure() -> None:
    assert str(SetupError.from_os_error("step", "fork", OSError("odd"))) == "step: fork: odd"


def test_command_errors_exit_as_a_shell_does() -> None:
    missing = CommandError.not_found("frob")
    assert (missing.exit_code, str(missing)) == (127, "frob: command not found in the sandbox")
    refused = CommandError.not_executable("/etc/motd", PermissionError(errno.EACCES, "Permission denied"))
    assert (refused.exit_code, str(refused)) == (126, "/etc/motd: cannot be executed: permission denied")
    assert refused.hint is not None
    assert "noexec" in refused.hint


@pytest.mark.parametrize(
    ("operation", "number", "words"),
    [
        ("unshare", errno.EPERM, "kernel.unprivileged_userns_clone"),
        ("unshare", errno.ENOSPC, "user.max_user_namespaces"),
        ("newuidmap", errno.EPERM, "/etc/subuid"),
        ("newuidmap", errno.ENOENT, "uidmap"),
        ("mount fuse", errno.EPERM, "FUSE"),
        ("open /dev/fuse", errno.ENOENT, "modprobe fuse"),
        ("open /dev/fuse", errno.EACCES, "chmod 666 /dev/fuse"),
        ("open /dev/fuse", errno.EPERM, "--device /dev/fuse"),
        ("mount proc", errno.EPERM, "unmask"),
        ("mount tmpfs", errno.ENOSPC, "fs.mount-max"),
        ("fork", errno.EAGAIN, "ulimit -u"),
        ("write", errno.ENOSPC, "no space left"),
        ("set-up", errno.EFBIG, "ulimit -f"),
        ("set-up", errno.ENOMEM, "out of memory"),
    ],
)
def test_advice_names_the_thing_to_change(operation: str, number: int, words: str) -> None:
    advice = describe_errno(operation, number)
    assert advice is not None
    assert words in advice


def test_advice_for_the_object_wins_over_advice_for_the_call() -> None:
    assert describe_errno("mount proc", errno.EPERM) != describe_errno("mount", errno.EPERM)
    assert describe_errno("mount anything", errno.EPERM) == describe_errno("mount", errno.EPERM)


def test_there_is_no_advice_for_a_self_explanatory_errno() -> None:
    assert describe_errno("read", errno.EIO) is None


def test_importing_the_errors_imports_nothing_slow() -> None:
    code = "import sys; import sandbox.errors; print(*{'typing', 'dataclasses', 're', 'sandbox.spec'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_advice_about_a_cgroup_needs_no_service_manager() -> None:
    advice = describe_errno("write cgroup", errno.EACCES)
    assert advice is not None
    assert "sandbox doctor" in advice
    assert "systemd" not in advice

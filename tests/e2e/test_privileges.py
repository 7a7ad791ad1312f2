"""The privileges of a program are exactly those of the file: every capability set, and everything that it inherits."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from sandbox.kernel.capabilities import DEFAULT, mask
from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

whole_map = pytest.mark.skipif(
    os.geteuid() != 0 and not has_subordinate_ids(), reason="this account has a single id"
)
NET_RAW, CHOWN, NONE, ALL = mask({"NET_RAW"}), mask({"CHOWN"}), 0, mask(DEFAULT)


def sets(launcher: Launcher, security: str, user: str = "0") -> dict[str, int]:
    spec = f'{HOST_ROOT}[process]\nuser = "{user}"\n[security]\n{security}\n'
    found = launcher.probe(spec)["capabilities"]
    return {name.removeprefix("Cap"): int(value, 16) for name, value in found.items()}


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        ("", ALL),
        ('capabilities.add = ["NET_RAW"]', ALL | NET_RAW),
        ('capabilities.drop = ["CHOWN"]', ALL & ~CHOWN),
        ('capabilities = { drop = ["all"], add = ["CHOWN"] }', CHOWN),
        ('capabilities.drop = ["all"]', NONE),
    ],
)
def test_capability_sets_of_root_are_equal_except_the_inheritable_and_ambient_ones(
    launcher: Launcher, security: str, expected: int
) -> None:
    assert sets(launcher, security) == {
        "Bnd": expected,
        "Prm": expected,
        "Eff": expected,
        "Inh": NONE,
        "Amb": NONE,
    }


@whole_map
@pytest.mark.parametrize(
    ("security", "bounding", "had"),
    [
        ("", ALL, NONE),
        ('capabilities.add = ["NET_RAW"]', ALL | NET_RAW, NET_RAW),
        ('capabilities = { drop = ["all"], add = ["CHOWN"] }', CHOWN, CHOWN),
    ],
)
def test_capability_sets_of_another_user_are_those_of_the_file_and_kept_over_exec(
    launcher: Launcher, security: str, bounding: int, had: int
) -> None:
    assert sets(launcher, security, "33") == {"Bnd": bounding, "Prm": had, "Eff": had, "Inh": had, "Amb": had}


def test_program_ends_with_process_one_even_outside_of_its_pid_namespace(launcher: Launcher) -> None:
    script = (
        "import ctypes\n"
        "number = ctypes.c_int()\n"
        "ctypes.CDLL(None).prctl(2, ctypes.byref(number), 0, 0, 0)\n"
        "print(number.value)\n"
    )
    assert launcher.up(command=["/usr/bin/python3", "-c", script]).out == f"{int(signal.SIGKILL)}\n"


def test_no_signal_is_ignored_or_blocked_for_any_caller(launcher: Launcher) -> None:
    def ignore_everything() -> None:
        for number in (signal.SIGTSTP, signal.SIGTTOU, signal.SIGPIPE, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    script = "grep -E '^Sig(Ign|Blk)' /proc/self/status"
    done = subprocess.run(
        launcher.arguments(HOST_ROOT, ["sh", "-c", script]),
        env=launcher.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        preexec_fn=ignore_everything,
    )
    assert [int(line.split()[1], 16) for line in done.stdout.splitlines()] == [0, 0], done.stderr


def test_descriptors_of_the_callers_process_are_not_passed_on(launcher: Launcher) -> None:
    reader, writer = os.pipe()
    done = subprocess.run(
        launcher.arguments(HOST_ROOT, ["sh", "-c", "ls /proc/self/fd"]),
        env=launcher.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        pass_fds=[reader, writer],
    )
    os.close(reader)
    os.close(writer)
    assert done.stdout.split() == ["0", "1", "2", "3"]  # the last descriptor is that of the listing

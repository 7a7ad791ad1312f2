"""Plugins for every test: requirements as markers, the check for leaks, and that for unexpected output; shared fixtures."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

pytest_plugins = [
    "pytester",
    "tests.support.requirements",
    "tests.support.leaks",
    "tests.support.output",
    "tests.support.podman",
]

# The tested programs would inherit signals that nohup(1), or a shell in the background, has set to SIG_IGN. A handler,
# unlike SIG_IGN, is reset by execve(2).
for number in (signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="session")
def debian_rootfs() -> str:
    """Return the path of a tar with a small Debian root file system. Use it with `pytest.mark.rootfs`.

    It is $SANDBOX_TEST_ROOTFS where that is set, else scripts/mkrootfs makes it once for the account.
    """
    from tests.support import (
        requirements,
    )  # not at the top: pytest must first rewrite the plugin's assertions

    if (lack := requirements.missing("rootfs")) is not None:
        pytest.fail(f"the fixture debian_rootfs goes with pytest.mark.rootfs: needs {lack}", pytrace=False)
    given = os.environ.get("SANDBOX_TEST_ROOTFS")
    if given:
        return given
    done = subprocess.run(
        [os.path.join(PROJECT, "scripts", "mkrootfs")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return done.stdout.strip()

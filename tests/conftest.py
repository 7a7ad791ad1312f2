"""What holds for every test: needs as markers, nothing left behind, no unexpected complaint; and fixtures
that several tiers use.
"""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

pytest_plugins = ["pytester", "tests.support.requirements", "tests.support.leaks", "tests.support.output"]

# What nohup(1), or a shell in the background, has us ignore, the programs that are tested would ignore as well: a handler, unlike
# SIG_IGN, does not pass through exec.
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
    from tests.support import requirements  # not above: pytest has yet to rewrite the plugin's assertions

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

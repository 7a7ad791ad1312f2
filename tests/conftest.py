"""What holds for every test: needs as markers, nothing left behind, no unexpected complaint; and fixtures
that several tiers use.
"""

from __future__ import annotations

import os
import subprocess

import pytest

pytest_plugins = ["pytester", "tests.support.requirements", "tests.support.leaks", "tests.support.output"]

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

"""pjdfstest, which tests the POSIX semantics of system calls, on a mount and on the file system below it.

$PJDFSTEST is a built checkout of https://github.com/pjd/pjdfstest. One run takes a minute or two, and mostly sleeps. The
suite runs in every configuration that the launcher uses.
"""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.configurations import CONFIGURATIONS, Configuration
from tests.mount.support import scratch
from tests.support.tree import Dir, File, Tree

pytestmark = [
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.fusermount,
    pytest.mark.pjdfstest,
    pytest.mark.timeout(1200),
]

#: Number of scripts that run at the same time. They mostly sleep.
_AT_ONCE = 4
#: The suite has 8,827 assertions for ext4 on Linux. A much lower number means that its output was not parsed.
_AT_LEAST = 8000

_PLAN = re.compile(r"1\.\.(\d+)")
_ASSERTION = re.compile(r"(?P<failed>not )?ok (?P<number>\d+)")

#: The result of each assertion, by script and number.
Results = dict[tuple[str, int], bool]


def scripts() -> list[str]:
    """Return the test scripts, relative to the suite's directory of them."""
    top = Path(os.environ["PJDFSTEST"], "tests")
    return sorted(str(path.relative_to(top)) for path in top.glob("*/*.t"))


def directory_of(script: str) -> str:
    """Return the name of the directory of *script* alone."""
    return script.replace("/", "-")


def run_script(script: str, top: str, tools: str) -> Results:
    """Run one script below *top*. Announced assertions without a result have failed."""
    done = subprocess.run(
        ["sh", os.path.join(os.environ["PJDFSTEST"], "tests", script)],
        cwd=os.path.join(top, directory_of(script)),
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        umask=0o022,
        timeout=600,
        check=False,
    )
    plan = _PLAN.search(done.stdout)
    assert plan is not None, f"{script} announced nothing and ended with {done.returncode}: {done.stdout!r}"
    results = {(script, number): False for number in range(1, int(plan[1]) + 1)}
    for line in done.stdout.splitlines():
        if (match := _ASSERTION.match(line)) is not None:
            results[script, int(match["number"])] = match["failed"] is None
    return results


def run_suite(top: str) -> Results:
    """Run every script below *top*."""
    faulthandler.cancel_dump_traceback_later()  # pytest would dump tracebacks after a minute
    with tools_directory() as tools, ThreadPoolExecutor(_AT_ONCE) as pool:
        results: Results = {}
        for part in pool.map(lambda script: run_script(script, top, tools), scripts()):
            results.update(part)
        return results


@contextmanager
def tools_directory() -> Iterator[str]:
    """Make a directory with a df(1) that reports a union, and a tmpfs below it, as ext4.

    The suite reads the type from df(1), and omits assertions for unknown types.
    """
    with scratch() as tools:
        Path(tools, "df").write_text(
            f"#!/bin/sh\n{shutil.which('df')} \"$@\" | sed -E 's/ (fuse[.]unionfs|tmpfs) / ext4 /'\n"
        )
        os.chmod(os.path.join(tools, "df"), 0o755)
        yield tools


@pytest.fixture(scope="module")
def plain() -> Results:
    """Run the suite in a directory beside those of the unions."""
    with scratch() as top:
        os.chmod(top, 0o755)
        for script in scripts():
            os.mkdir(os.path.join(top, directory_of(script)))
        return run_suite(top)


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_a_union_passes_every_assertion_that_the_file_system_below_passes(
    plain: Results, base: str, configuration: Configuration
) -> None:
    os.chmod(base, 0o755)
    # Each script runs in a merged directory with entries of its own. Its first change copies the directory up.
    upper_half: Tree = {
        directory_of(script): Dir({"above": File(b"a"), "both": File(b"a")}) for script in scripts()
    }
    lower_half: Tree = {
        directory_of(script): Dir({"below": File(b"b"), "both": Dir()}) for script in scripts()
    }
    with configuration.union(base, upper_half, lower_half) as union:
        results = run_suite(union.path)

    assert len(results) >= _AT_LEAST
    assert results.keys() == plain.keys()
    assert [name for name, held in results.items() if plain[name] and not held] == []

"""A start that really runs out of descriptors or disk space: one error, and nothing is left.

`test_faults` lets one call fail. Here the resource stays exhausted while the launcher cleans up. It also causes failures
without a failing call, such as descriptors that the kernel drops from a message. Without --long each account of
scripts/test tries a third of the amounts.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.e2e.support import PATIENCE, Launcher
from tests.e2e.test_faults import SHARE, Machine, completed, machine  # noqa: F401 - a fixture

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: Mounts a state directory $1 with space for $2 objects and runs the rest. Then prints what is left there, adds space, and
#: runs it again.
_ON_A_SMALL_DISK = """
state=$1 inodes=$2; shift 2
mount -t tmpfs -o mode=0700,size=50m,nr_inodes=$inodes none "$state"
"$@"; first=$?
find "$state"/run "$state"/images/archives "$state"/filters -mindepth 1 -maxdepth 1 \\( -name 'faulty-*' -o -name '*.new' \\) 2>/dev/null
mount -o remount,nr_inodes=0 "$state"
case $("$@") in fine*) ;; *) echo the next start fails ;; esac
exit $first
"""


def starve(machine: Machine, amounts: Sequence[int]) -> None:  # noqa: F811
    """Start with each number of descriptors in *amounts*, some of which suffice and some of which do not."""
    problems, outcomes = [], set()
    for amount in amounts:
        place = machine.directory / f"descriptors-{amount}"
        place.mkdir()
        launcher = Launcher(place)
        launcher.prefix = machine.prefix
        command = ["prlimit", f"--nofile={amount}", *launcher.arguments(str(machine.spec))]
        done = completed(command, launcher.environ)
        if "error while loading shared libraries" in done.stdout + done.stderr:
            # The sandbox has started. The server lacks descriptors for the program's files, and replies with an error.
            assert "sandbox: " not in done.stderr, done
            continue
        outcomes.add(done.returncode == 0)
        if (problem := machine.judge(f"{amount} descriptors", launcher, done)) is not None:
            problems.append(problem)
    assert problems == []
    assert outcomes == {True, False}


def test_too_few_descriptors_are_one_error(machine: Machine) -> None:  # noqa: F811
    starve(machine, [*range(8 + 3 * SHARE, 36, 9), 128 if machine.has_network else 64])


@pytest.mark.long
def test_every_number_of_descriptors_that_is_too_small_is_one_error(machine: Machine) -> None:  # noqa: F811
    starve(machine, [*range(6, 48), 128 if machine.has_network else 64])


@pytest.mark.root
def test_a_full_disk_is_one_error_and_the_next_start_finds_room(machine: Machine) -> None:  # noqa: F811
    # For each of the two files, half of the amounts at which a further step fails.
    fill(machine, [6, 10, 13, 17, 20, 23, 32, 34, 38, 39, 40][machine.name == "joined" :: 2])


@pytest.mark.root
@pytest.mark.long
def test_a_disk_that_is_full_after_any_number_of_objects_is_one_error(machine: Machine) -> None:  # noqa: F811
    fill(machine, range(3, 50))


def fill(machine: Machine, amounts: Sequence[int]) -> None:  # noqa: F811
    """Start with space for each number of files and directories in *amounts*, and then again with enough."""
    problems = []
    for amount in amounts:
        place = machine.directory / f"objects-{amount}"
        place.mkdir()
        launcher = Launcher(place)
        launcher.prefix = machine.prefix
        launcher.state.mkdir()
        inside = ["sh", "-c", _ON_A_SMALL_DISK, "sh", str(launcher.state), str(amount)]
        command = ["unshare", "--mount", *inside, *launcher.arguments(str(machine.spec))]
        done = completed(command, launcher.environ, seconds=PATIENCE + 30)
        if (problem := machine.judge(f"room for {amount}", launcher, done)) is not None:
            problems.append(problem)
    assert problems == []

"""Random histories of one file in every configuration that the launcher uses, as fsx makes them.

tests/e2e/test_range_exerciser.py does the same in sandboxes. test_xfstests.py runs fsx itself.
"""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path

import pytest

from tests.mount.configurations import ARCHIVED, CONFIGURATIONS, NOT_VARIED, OPTION_OF, Configuration
from tests.mount.range_exerciser import Exerciser
from tests.mount.support import scratch
from tests.support.tree import File, Tree
from unionfs.launch.protocol import ServedStack

_LOWER: Tree = {"lower": os.urandom(200_000), "sparse": File(b"x" * 5000 + bytes(200_000) + b"y" * 3000)}

each_configuration = pytest.mark.parametrize(
    "configuration", [*CONFIGURATIONS.values(), *ARCHIVED.values()], ids=[*CONFIGURATIONS, *ARCHIVED]
)


def exercise(configuration: Configuration, base: str, seed: int, count: int) -> None:
    """Do *count* random operations each on a new, a lower and a sparse file. Compare them again after a remount."""
    with configuration.union(base, _LOWER) as union:
        exercisers = [Exerciser(f"{union.path}/{name}", seed) for name in ("new", "lower", "sparse")]
        try:
            for exerciser in exercisers:
                exerciser.run(count)
                if configuration.direct:
                    assert exerciser.refused <= {"zero range"}  # by tmpfs
        finally:
            for exerciser in exercisers:
                exerciser.close()
        union.remount()
        for exerciser in exercisers:
            exerciser.verify()


def test_each_request_field_is_set_in_one_configuration_and_unset_in_another() -> None:
    fields = set(ServedStack.__annotations__)
    assert fields == OPTION_OF.keys() | NOT_VARIED
    for option in OPTION_OF.values():
        among = {option in each.options.split(",") for each in CONFIGURATIONS.values()}
        assert among == {True, False}, option
    assert {each.indexed for each in CONFIGURATIONS.values()} == {True, False}


@pytest.mark.once
@pytest.mark.fusermount
@each_configuration
def test_a_file_has_the_contents_that_random_operations_gave_it(
    configuration: Configuration, base: str
) -> None:
    exercise(configuration, base, seed=1, count=150)


@pytest.mark.long
@pytest.mark.fusermount
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("parent", ["", "/dev/shm"], ids=["disk", "tmpfs"])
@each_configuration
def test_a_file_has_the_contents_that_thousands_of_random_operations_gave_it(
    configuration: Configuration, parent: str
) -> None:
    if parent and not os.access(parent, os.W_OK):
        pytest.skip(f"{parent} cannot be written")
    faulthandler.cancel_dump_traceback_later()  # pytest would dump tracebacks after a minute
    for seed in range(2):
        with scratch(parent or None) as base:
            exercise(configuration, base, seed, count=4_000)


def test_the_exerciser_finds_a_wrong_byte(tmp_path: Path) -> None:
    exerciser = Exerciser(str(tmp_path / "f"), seed=1, lacks=frozenset(("truncate", "reopen")))
    exerciser.run(30)
    with open(tmp_path / "f", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(AssertionError, match="the first difference"):
        exerciser.verify()
    exerciser.close()

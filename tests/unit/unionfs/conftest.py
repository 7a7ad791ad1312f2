"""Fixtures for tests of unionfs without a mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.unit.unionfs.support import Union
from unionfs.formats.whiteout import ALL_MARKS, MarkPolicy, WhiteoutFormat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tree import Tree
    from unionfs.upper.format import WantedFormat


class MakeUnion(Protocol):
    """Creates a union of trees, ordered top first."""

    def __call__(
        self,
        *lowers: Tree,
        upper: Tree | None = ...,
        whiteouts: WhiteoutFormat | None = ...,
        form: WantedFormat | None = ...,
        policy: MarkPolicy = ...,
        size: int | None = ...,
        inodes: int | None = ...,
    ) -> Union:
        """Write the trees, and open the stack."""


@pytest.fixture(autouse=True)
def _no_umask() -> Iterator[None]:
    """Set umask 0: the kernel has applied the umask of the caller already."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def make_union(tmp_path: Path) -> Iterator[MakeUnion]:
    """Return a function that creates a union. The unions are closed at the end of the test."""
    made: list[Union] = []

    def make(
        *lowers: Tree,
        upper: Tree | None = {},  # noqa: B006 - only read
        whiteouts: WhiteoutFormat | None = None,
        form: WantedFormat | None = None,
        policy: MarkPolicy = ALL_MARKS,
        size: int | None = None,
        inodes: int | None = None,
    ) -> Union:
        base = tmp_path / f"union{len(made)}"
        base.mkdir()
        made.append(
            Union(
                base,
                lowers or ({},),
                upper,
                whiteouts=whiteouts,
                form=form,
                policy=policy,
                more={"size": size, "inodes": inodes},
            )
        )
        return made[-1]

    yield make
    for union in made:
        union.close()


@pytest.fixture(params=list(WhiteoutFormat), ids=lambda form: form.value)
def whiteouts(request: pytest.FixtureRequest) -> WhiteoutFormat:
    """Return each format of deletion marks."""
    form = request.param
    assert isinstance(form, WhiteoutFormat)
    return form

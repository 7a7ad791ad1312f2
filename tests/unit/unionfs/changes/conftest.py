"""Fixtures of the tests of `unionfs changes`: a union, and a function that writes and tests the layer of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from tests.unit.unionfs.changes.archives import (
    LOWER,
    differences,
    facts_on_disk,
    links_in,
    links_on_disk,
    listed,
    unpack_layer,
    without_marks,
    without_sockets,
    written,
    xattrs_of,
)
from tests.unit.unionfs.changes.earlier import Judge, compare_all
from tests.unit.unionfs.changes.trees import shown_by
from tests.unit.unionfs.freezing import EarlierClient
from tests.unit.unionfs.operations import FORMS, copy_tree
from unionfs.formats.xattrs import is_private

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.unionfs.conftest import MakeUnion
    from tests.unit.unionfs.support import Union
    from unionfs.upper.format import WantedFormat


@pytest.fixture(params=sorted(FORMS))
def form(request: pytest.FixtureRequest) -> WantedFormat:
    """Return each format of a writable layer."""
    return FORMS[request.param]


@pytest.fixture
def union(make_union: MakeUnion, form: WantedFormat) -> Union:
    """Return a union over LOWER."""
    return make_union(LOWER, form=form)


@pytest.fixture
def client(tmp_path: Path, form: WantedFormat) -> Iterator[EarlierClient]:
    """Return a union over LOWER that can be frozen. One file is deleted."""
    opened = EarlierClient(tmp_path, [LOWER], form)
    opened.unlink("a")
    yield opened
    opened.close()


@pytest.fixture
def judge(client: EarlierClient, tmp_path: Path) -> Judge:
    """Return a function that compares the changes of the client with what is expected."""
    base = tmp_path / "base"
    copy_tree(client.lowers[-1], base)

    def judge(*expected: str) -> None:
        compare_all(client, base, list(expected))
        client.reopen()
        compare_all(client, base, list(expected))

    return judge


class Layer(Protocol):
    """Writes the layer of a union, tests it, and returns its members by path."""

    def __call__(self, union: Union) -> dict[bytes, tarfile.TarInfo]:
        """Test and return the members."""


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    """Return a function that unpacks the layer of a union over a copy of its lower tree, and compares that with the union."""

    def check(union: Union) -> dict[bytes, tarfile.TarInfo]:
        archive = written(union, "layer")
        assert written(union, "layer") == archive, "two runs give different bytes"
        target = tmp_path / "unpacked"
        (lower,) = union.lowers
        copy_tree(lower, target)
        unpack_layer(archive, target)
        shown = without_marks(without_sockets(shown_by(union)))
        assert differences(shown, without_marks(without_sockets(facts_on_disk(target)))) == {}
        assert links_on_disk(target) == links_in(union, shown)
        members = listed(archive)
        assert [name for info in members.values() for name in xattrs_of(info) if is_private(name)] == []
        return members

    return check

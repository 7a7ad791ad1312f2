"""Discarding changes of a union whose writable layer was frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.unionfs.changes.discarding import discard_from
from tests.unit.unionfs.changes.earlier import since
from tests.unit.unionfs.changes.trees import compare
from unionfs.errors import UnionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.unionfs.changes.earlier import Judge
    from tests.unit.unionfs.freezing import EarlierClient


def test_what_the_writable_layer_alone_changes_can_be_discarded(client: EarlierClient, judge: Judge) -> None:
    client.write("d/a", b"!")
    client.rename("e", "moved")
    client.freeze_running()
    client.write("b", b"!")
    client.write("d/b", b"!")
    client.write("moved/a", b"!")
    client.unlink("s")
    client.rename("d/sub", "sub")
    client.create("new", b"")
    discarded = discard_from(client, "/b", "/moved/a", "/s", "/sub", "/new")
    assert {(row.kind, row.path) for row in discarded} == {
        ("C", b"b"),
        ("C", b"moved/a"),
        ("D", b"s"),
        ("R", b"sub"),
        ("A", b"new"),
    }
    judge("C d/a", "C d/b", "R e -> moved")
    client.write("moved/a", b"again")
    assert since(client, "/moved/a") == "same"


@pytest.mark.parametrize(
    ("change", "path", "named"),
    [
        (lambda client: client.write("d/a", b"!!"), "/d/a", "/d/a"),
        (lambda client: client.write("d/b", b"!"), "/d", "/d/a"),
        (lambda client: client.unlink("new"), "/new", "/new"),
        (lambda client: client.write("new", b"!"), "/new", "/new"),
        (lambda client: client.rename("moved", "again"), "/again", "/again"),
        (lambda client: client.unlink("moved/a"), "/e/a", "/e/a"),
        (lambda client: client.write("b", b"!"), "/", "/a"),
    ],
    ids=[
        "changed twice",
        "beside",
        "created and removed",
        "created",
        "moved twice",
        "in a moved directory",
        "all",
    ],
)
def test_what_an_earlier_layer_changes_cannot_be_discarded(
    client: EarlierClient, change: Callable[[EarlierClient], object], path: str, named: str
) -> None:
    client.write("d/a", b"!")
    client.create("new", b"new")
    client.rename("e", "moved")
    client.freeze_running()
    change(client)
    before = compare(client)
    with pytest.raises(UnionError) as caught:
        discard_from(client, path)
    assert str(caught.value) == f"{named}: an earlier layer of the sandbox has this change"
    assert [(row.kind, row.path) for row in compare(client)] == [(row.kind, row.path) for row in before]

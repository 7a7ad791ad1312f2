"""What the tests of earlier layers share: changes as text, and facts about them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from tests.unit.unionfs.changes.archives import (
    differences,
    facts_on_disk,
    links_in,
    links_on_disk,
    unpack_layer,
    without_marks,
    without_sockets,
    written,
)
from tests.unit.unionfs.changes.trees import below_of, check, compare, facts, shown_by
from tests.unit.unionfs.operations import copy_tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.unionfs.freezing import EarlierClient


class Judge(Protocol):
    """Compares the changes with what is expected, and with full trees; before and after a remount."""

    def __call__(self, *expected: str) -> None:
        """Expect the rows *expected*."""


def rows(client: EarlierClient) -> list[str]:
    """Return the changes, but for that of the fixture, as text."""
    found = []
    for row in compare(client):
        moved = f"{os.fsdecode(row.old_path or b'')} -> " if row.kind == "R" else ""
        found.append(f"{row.kind} {moved}{os.fsdecode(row.path)}")
    assert found.count("D a") == 1
    found.remove("D a")
    return sorted(found)


def compare_all(client: EarlierClient, base: Path, expected: list[str]) -> None:
    """Compare the changes with *expected* and with full trees; and unpack the layer over a copy of the tree *base*."""
    assert rows(client) == sorted(expected)
    shown = shown_by(client)
    check(compare(client), below_of(client), shown)
    target = base.with_name(f"unpacked{len(os.listdir(base.parent))}")
    copy_tree(base, target)
    unpack_layer(written(client, "layer"), target)
    shown = without_marks(without_sockets(shown))
    assert differences(shown, without_marks(without_sockets(facts_on_disk(target)))) == {}
    assert links_on_disk(target) == links_in(client, shown)


def all_facts(client: EarlierClient) -> list[dict[str, Any]]:
    """Return the changes with facts, after the records of the last request were made."""
    client.end_request()
    return facts(client)


def fact(client: EarlierClient, kind: str, path: str) -> dict[str, Any]:
    """Return the facts about the change of *kind* at *path*."""
    (found,) = (value for value in all_facts(client) if (value["kind"], value["path"]) == (kind, path))
    return found


def since(client: EarlierClient, path: str) -> str:
    """Return whether the old object of the changed file *path* is still as it was."""
    return str(fact(client, "C", path)["old"]["since"])

"""What a directory becomes when some rows of changes are applied: a model in memory, without any order of steps.

Objects are nodes with an identity, so all moved and deleted ones are first detached at once, and then the moved and new ones
attached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sandbox.changes.rows import Change
from tests.support.tree import Entry


@dataclass(eq=False, slots=True)
class Node:
    """One object."""

    entry: Entry
    children: dict[bytes, Node] = field(default_factory=dict)


def expected(
    before: Mapping[bytes, Entry], after: Mapping[bytes, Entry], rows: Iterable[Change]
) -> dict[bytes, Entry]:
    """Return the tree *before*, as of `snapshot`, with *rows* applied, all of which lead to *after*."""
    model = _Model(before)
    rows = sorted(rows, key=lambda row: row.path)
    for row in rows:
        if row.kind in "DR":
            model.detach(row.path if row.kind == "D" else row.from_path)
        for old in row.replaced:
            model.detach(old.path)
    for row in rows:
        if row.kind == "C":
            assert row.old is not None
            node = model.by_old_path[row.old.path.strip(b"/")]
            node.entry = after[row.path.strip(b"/") or b"."]
            assert node.entry.type == "dir" or not node.children, f"{row.path!r} has entries"
    moved = [model.by_old_path[row.from_path.strip(b"/")] for row in rows if row.from_path is not None]
    for node in model.detached:
        assert node in moved or not node.children, "a deleted directory has entries"
    for row in rows:
        if row.kind == "R":
            model.attach(row.path, moved.pop(0))
        elif row.kind == "A":
            model.attach(row.path, Node(after[row.path.strip(b"/")]))
    return model.flat()


class _Model:
    def __init__(self, before: Mapping[bytes, Entry]) -> None:
        self.root = Node(before[b"."])
        self.by_old_path = {b"": self.root}
        #: Deleted and moved objects.
        self.detached: list[Node] = []
        for path in sorted(before):
            if path != b".":
                node = self.by_old_path[path] = Node(before[path])
                parent, _, name = path.rpartition(b"/")
                self.by_old_path[parent].children[name] = node

    def detach(self, path: bytes | None) -> None:
        """Take the object with the old *path* out of its directory."""
        assert path is not None
        parent, _, name = path.strip(b"/").rpartition(b"/")
        self.detached.append(self.by_old_path[parent].children.pop(name))

    def attach(self, path: bytes, node: Node) -> None:
        """Put *node* at *path*, where nothing is."""
        parent, _, name = path.strip(b"/").rpartition(b"/")
        directory = self.root
        for part in filter(None, parent.split(b"/")):
            directory = directory.children[part]
        assert directory.entry.type == "dir"
        assert name not in directory.children, f"something is at {path!r}"
        directory.children[name] = node

    def flat(self) -> dict[bytes, Entry]:
        """Return the tree by path."""
        found = {b".": self.root.entry}
        pending = [(b"", self.root)]
        while pending:
            path, node = pending.pop()
            for name, child in node.children.items():
                at = path + b"/" + name if path else name
                found[at] = child.entry
                pending.append((at, child))
        return found

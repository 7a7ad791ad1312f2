"""When an object of the union was made: like its inode number, a property of the object and not of its copies."""

from __future__ import annotations

from unionfs import _libc
from unionfs.layer.objects import Named
from unionfs.layer.objects import birth_time_ns as birth_time_of
from unionfs.nodes import DirNode, FileNode, Node
from unionfs.tree import Tree


def birth_time_ns(tree: Tree, node: Node) -> int | None:
    """Return when *node* was made, in nanoseconds since the epoch; None where no file system recorded it.

    A copy has the birth time of its original, as long as the layers below have that under a name of the copy.
    """
    if isinstance(node, DirNode):
        # The part that the inode number is from.
        part = node.parts[1] if node.upper is not None and len(node.parts) > 1 else node.parts[0]
        return None if part.foreign else _libc.birth_time_ns(part.fd())
    if node.foreign:
        return None
    ref = _original(tree, node) if node.ino != node.identity else None
    return birth_time_of(ref or node.ref)


def _original(tree: Tree, node: FileNode) -> Named | None:
    """Return the lower file that *node* is a copy of, where the layers below have it under a name of *node*."""
    for directory, name in node.names:
        found = tree.below(directory, name)
        if found is None or found.is_dir:
            continue
        parts = directory.parts if directory.upper is None else directory.parts[1:]
        ref = parts[found.sources[0]].entry(name)
        info = ref.stat()
        if tree.numbers.number((info.st_dev, info.st_ino)) == node.ino:
            return ref
    return None

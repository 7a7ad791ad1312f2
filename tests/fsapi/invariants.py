"""What holds of the tables of a union between any two requests (docs/unionfs/internals.md, "Inodes and lookup counts")."""

from __future__ import annotations

import os
from collections.abc import Mapping

from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.layer.objects import DescriptorRef, PathRef
from unionfs.types import ROOT_INO
from unionfs.vfs.filesystem import UnionFs


def check_invariants(fs: UnionFs, told: Mapping[int, int] | None = None) -> None:
    """Look at every table of *fs*; *told*: how many lookups the kernel holds of each number."""
    tree = fs.inode_table
    fds = tree.layers[0].fds
    assert len(fds) <= fds.capacity
    assert all(directory._fd >= 0 for directory in fds._open)
    nodes: dict[int, Inode] = dict(tree._by_ino)
    assert nodes[ROOT_INO] is tree.root
    for ino, node in nodes.items():
        assert node.ino == ino
        if isinstance(node, DirectoryInode):
            _check_directory(nodes, node)
        else:
            _check_file(fs, nodes, node)
        if told is not None and ino != ROOT_INO:
            assert node.lookups == told.get(ino, 0), ino
            # A node that nobody was told of is there for those below it.
            assert node.lookups or (isinstance(node, DirectoryInode) and node.children), ino
    if told is not None:
        assert {ino for ino, count in told.items() if count} <= nodes.keys()
    for number, file in tree._renumbered.items():
        assert file.identity == number != file.ino
        assert nodes.get(file.ino) is file
    for handle in fs.handles._files.values():
        assert handle in handle.node.handles
        os.fstat(handle.fd)
    fds.trim()  # what this needed itself


def _check_directory(nodes: Mapping[int, Inode], node: DirectoryInode) -> None:
    for name, child in node.children.items():
        assert nodes.get(child.ino) is child, name
        if isinstance(child, DirectoryInode):
            assert (child.parent, child.name) == (node, name)
        else:
            assert (node, name) in child.names
    assert node.parts
    assert all(not part.layer.writable for part in node.parts[1:])
    if node.removed:
        assert not node.children
        return
    if node.parent is not None:
        assert nodes.get(node.parent.ino) is node.parent
        assert node.parent.children.get(node.name) is node
    if node.upper is not None:
        assert node.parent is None or node.parent.upper is node.upper.parent
        assert node.upper.path() == node.path().strip(b"/")


def _check_file(fs: UnionFs, nodes: Mapping[int, Inode], node: FileInode) -> None:
    assert len(set(node.names)) == len(node.names)
    for directory, name in node.names:
        assert directory.children.get(name) is node
        assert nodes.get(directory.ino) is directory
    if node.is_mount_point:
        return
    assert fs.inode_table._of_identity(node.identity) is node
    found = node.ref.stat()
    assert fs.inode_table.numbers.number((found.st_dev, found.st_ino)) == node.identity
    if not node.layer.writable:
        return
    if not node.names:
        assert isinstance(node.ref, DescriptorRef) or node.indexed
    elif not node.indexed:
        assert isinstance(node.ref, PathRef)
        places = [(directory.upper, name) for directory, name in node.names]
        assert (node.ref.directory, node.ref.name) in places

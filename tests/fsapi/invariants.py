"""Check the invariants of a union's tables between two requests (docs/unionfs/internals.md, "Inodes and lookup counts")."""

from __future__ import annotations

import os
from collections.abc import Mapping

from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.layer.objects import DescriptorRef, PathRef
from unionfs.types import ROOT_INO
from unionfs.vfs.filesystem import UnionFs


def check_invariants(fs: UnionFs, told: Mapping[int, int] | None = None) -> None:
    """Check all tables of *fs*. *told*: the kernel's lookup count of each inode number."""
    tree = fs.inode_table
    fds = tree.layers[0].fds
    assert len(fds) <= fds.capacity
    assert all(directory._fd >= 0 for directory in fds._open)
    inodes: dict[int, Inode] = dict(tree._by_ino)
    assert inodes[ROOT_INO] is tree.root
    for ino, inode in inodes.items():
        assert inode.ino == ino
        if isinstance(inode, DirectoryInode):
            _check_directory(inodes, inode)
        else:
            _check_file(fs, inodes, inode)
        if told is not None and ino != ROOT_INO:
            assert inode.lookups == told.get(ino, 0), ino
            # An inode with lookup count 0 is kept for its children only.
            assert inode.lookups or (isinstance(inode, DirectoryInode) and inode.children), ino
    if told is not None:
        assert {ino for ino, count in told.items() if count} <= inodes.keys()
    for number, file in tree._renumbered.items():
        assert file.identity == number != file.ino
        assert inodes.get(file.ino) is file
    for handle in fs.handles._files.values():
        assert handle in handle.inode.handles
        if handle.contents is None:
            os.fstat(handle.fd)
        else:
            assert handle.fd < 0
    fds.trim()  # descriptors that this function opened


def _check_directory(inodes: Mapping[int, Inode], inode: DirectoryInode) -> None:
    for name, child in inode.children.items():
        assert inodes.get(child.ino) is child, name
        if isinstance(child, DirectoryInode):
            assert (child.parent, child.name) == (inode, name)
        else:
            assert (inode, name) in child.names
    assert inode.parts
    assert all(not part.layer.writable for part in inode.parts[1:])
    if inode.removed:
        assert not inode.children
        return
    if inode.parent is not None:
        assert inodes.get(inode.parent.ino) is inode.parent
        assert inode.parent.children.get(inode.name) is inode
    if inode.upper is not None:
        assert inode.parent is None or inode.parent.upper is inode.upper.parent
        assert inode.upper.path() == inode.path().strip(b"/")


def _check_file(fs: UnionFs, inodes: Mapping[int, Inode], inode: FileInode) -> None:
    assert len(set(inode.names)) == len(inode.names)
    for directory, name in inode.names:
        assert directory.children.get(name) is inode
        assert inodes.get(directory.ino) is directory
    if inode.is_mount_point:
        return
    assert fs.inode_table._of_identity(inode.identity) is inode
    found = inode.ref.stat()
    assert fs.inode_table.numbers.number((found.st_dev, found.st_ino)) == inode.identity
    if not inode.layer.writable:
        return
    if not inode.names:
        assert isinstance(inode.ref, DescriptorRef) or inode.indexed
    elif not inode.indexed:
        assert isinstance(inode.ref, PathRef)
        places = [(directory.upper, name) for directory, name in inode.names]
        assert (inode.ref.directory, inode.ref.name) in places

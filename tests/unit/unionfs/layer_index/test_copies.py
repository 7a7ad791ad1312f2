"""Copy-up copies the current state of a layer that changed after its index was built."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.unionfs.layer_index.stacks import Layers
from unionfs.layer_index import build
from unionfs.vfs.attributes import Change


@pytest.mark.parametrize("name", ["f", "d"])
def test_attributes_that_an_object_got_after_its_index_was_made_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Such an attribute may be an ACL: a copy without it would grant access to others."""
    monkeypatch.setattr(build, "_TICK_NS", 0)
    layers = Layers(tmp_path, {"f": b"x", "d": {}})
    layers.unchanging = False
    layers.open(writable=True).close()
    os.setxattr(layers.paths[0] / name, "user.late", b"!")
    fs = layers.open(writable=True, build=False)
    inode = fs.inode_table.lookup(fs.inode_table.root, name.encode())
    inode.lookups += 1
    assert fs.xattrs.list(inode.ino) == [], "nobody has looked yet, and it is in no directory's times"
    fs.attributes.change(inode.ino, Change(mode=0o700), None)
    assert os.getxattr(tmp_path / "upper" / name, "user.late") == b"!"
    assert fs.xattrs.list(inode.ino) == ["user.late"]
    fs.close()

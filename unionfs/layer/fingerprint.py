"""Names for layers and stacks of layers that no other ones have. Records about lower layers are valid for such a name only."""

from __future__ import annotations

import os
from collections.abc import Sequence

from unionfs import _libc
from unionfs.layer.directory import Layer

_ONCE = b"once-"
_EARLIER = b"earlier-"


def fingerprint(layers: Sequence[Layer]) -> bytes:
    """Return a name for the lower layers *layers*, top first, that no other stack has. It names them bottom first.

    An inode number alone does not identify a directory: the roots of all tmpfs have the same, and ext4 reuses the number of a
    removed directory. Together with the id of the file system and the birth time, it does, and all three stay the same when the
    contents of the layer change. If a file system has no id or no birth times, the name contains random bytes and never recurs,
    because records about another layer would show wrong contents.

    An earlier layer needs neither: the records belong to a writable layer, below which the earlier ones never change. A relocation
    has no part in the name: it is added later, and keeps what the records are about where it was.
    """
    named = [layer for layer in reversed(layers) if not layer.relocation]
    return b" ".join(_layer_name(layer, earlier=layer.earlier) for layer in named)


def with_layer_on_top(below: bytes, layer: Layer) -> bytes:
    """Return the name of the stack that has *layer*, which is going to be an earlier layer, on top of the one named *below*."""
    return b" ".join(filter(None, (below, _layer_name(layer, earlier=True))))


def recurs(name: bytes) -> bool:
    """Return whether the next mount gives the stack of layers with the name *name* the same name."""
    return not any(layer.startswith(_ONCE) for layer in name.split(b" "))


def _layer_name(layer: Layer, *, earlier: bool) -> bytes:
    if layer.lasting_name is not None:
        return layer.lasting_name
    fd = layer.root.fd()
    file_system = os.fstatvfs(fd).f_fsid
    born = _libc.birth_time_ns(fd)
    if not file_system or born is None:
        if earlier:
            return b"%s%d" % (_EARLIER, layer.root.stat().st_ino)
        return _ONCE + os.urandom(8).hex().encode()
    return b"%x:%d:%d" % (file_system, layer.root.stat().st_ino, born)

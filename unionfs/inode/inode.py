"""Nodes: the identities that the kernel knows by number, apart from the names and the layers through which
they are reached.

Invariants (unionfs/README.md, "Identity"):

* a node is in the table as long as the kernel may name it (``lookups``) or a directory node has children in
  the table, so every ancestor of a node in the table is in the table;
* ``DirectoryInode.children[name] is node`` exactly if ``(directory, name)`` is in ``node.names`` (or is the parent
  and name of a directory);
* a file node without names is unlinked and reached through a :class:`~unionfs.layer.directory.DescriptorRef` reference.
"""

from __future__ import annotations

import errno
import os
import stat

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.inode.directory_offsets import DirectoryOffsets
    from unionfs.inode.handles import FileHandle
    from unionfs.layer.directory import Layer, LayerDir
    from unionfs.layer.objects import DescriptorRef, PathRef
    from unionfs.types import Ino


class _Node:
    """What directories and other objects have in common."""

    __slots__ = ("foreign", "info", "ino", "lookups", "reply", "xattrs")

    def __init__(self, ino: Ino, info: os.stat_result) -> None:
        """Make a node of number *ino* whose attributes on disk are *info*."""
        self.ino = ino
        #: Attributes on disk as last read; None after a change, and of a file where a reply says the same.
        self.info: os.stat_result | None = info
        #: How many times the kernel was told this number and has not yet forgotten it.
        self.lookups = 0
        #: Whatever the rim built from ``info`` to answer with; dropped together with it.
        self.reply: object = None
        #: The names of its extended attributes that may be shown, once asked for.
        self.xattrs: frozenset[str] | None = None
        #: A file that another file system is mounted on: shown, but without contents.
        self.foreign = False

    # Every node has ``layer``, the layer that its attributes come from, and ``ref``, which reaches the object
    # there.

    def touch(self) -> None:
        """Forget the attributes: they have changed on disk."""
        self.info = None
        self.reply = None


class FileInode(_Node):
    """Anything that is not a directory."""

    __slots__ = (
        "data",
        "handles",
        "identity",
        "indexed",
        "kind",
        "layer",
        "metacopy",
        "names",
        "privileged",
        "ref",
    )

    def __init__(
        self, ino: Ino, info: os.stat_result, layer: Layer, ref: PathRef | DescriptorRef, identity: Ino
    ) -> None:
        """Make a node for an object of *layer*, reached through *ref*; *identity* is what it is on disk, as a number."""
        super().__init__(ino, info)
        self.kind = stat.S_IFMT(info.st_mode)
        self.layer = layer
        self.ref = ref
        self.identity = identity
        #: The names in the union through which it has been seen.
        self.names: list[tuple[DirectoryInode, bytes]] = []
        #: Open handles; at copy-up each is moved to the copy.
        self.handles: tuple[FileHandle, ...] = ()
        #: Writing must take set-id bits or capabilities away first; None while nobody has looked.
        self.privileged: bool | None = None
        #: A copied-up hard link that names in lower layers still lead to; the index counts them (index.py).
        self.indexed = False
        #: A copy without contents; they are those of ``data``, a file of a layer below (None: it is not there).
        self.metacopy = False
        self.data: PathRef | None = None

    @property
    def contents(self) -> PathRef | DescriptorRef:
        """What reaches the contents.

        Raises:
            OSError: EIO, if the layer below that should have them has not.
        """
        if not self.metacopy:
            return self.ref
        if self.data is None:
            raise OSError(errno.EIO, "the layer below has not the contents of this copy of its metadata")
        return self.data


class DirectoryInode(_Node):
    """A directory: the stack of layer directories that make it."""

    __slots__ = ("children", "listed", "name", "parent", "parts", "positions")

    def __init__(
        self,
        ino: Ino,
        info: os.stat_result,
        parts: list[LayerDir],
        parent: DirectoryInode | None,
        name: bytes,
    ) -> None:
        """Make a node for the directory *name* of *parent* (None: the root), merged from *parts*, top first."""
        super().__init__(ino, info)
        self.parts = parts
        #: None for the root and for a removed directory.
        self.parent = parent
        self.name = name
        self.children: dict[bytes, FileInode | DirectoryInode] = {}
        #: The one list of its names with their offsets, which all readers share, once one has read it; and the attributes
        #: at the time of that list.
        self.positions: DirectoryOffsets | None = None
        self.listed: os.stat_result | None = None

    @property
    def ref(self) -> LayerDir:
        """The topmost directory: names merge, attributes are its alone."""
        return self.parts[0]

    @property
    def layer(self) -> Layer:
        """The layer of the topmost directory."""
        return self.parts[0].layer

    @property
    def upper(self) -> LayerDir | None:
        """The directory of the writable layer, if this directory is there."""
        top = self.parts[0]
        return top if top.layer.writable else None

    @property
    def skeleton(self) -> LayerDir | None:
        """The directory of the skeleton, if this directory is there."""
        last = self.parts[-1]
        return last if last.layer.skeleton else None

    @property
    def merged(self) -> bool:
        """Tell whether more than one layer contributes."""
        return len(self.parts) > 1 or self.parts[0].merged

    @property
    def removed(self) -> bool:
        """Tell whether this directory was removed while the kernel still knows it."""
        return self.parent is None and self.name != b""

    def path(self) -> bytes:
        """Return the path in the union, for messages."""
        names: list[bytes] = []
        at: DirectoryInode | None = self
        while at is not None and at.parent is not None:
            names.append(at.name)
            at = at.parent
        return b"/" + b"/".join(reversed(names))


#: What the kernel knows by a number.
Inode = FileInode | DirectoryInode

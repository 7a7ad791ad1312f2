"""Inodes: the objects that the kernel identifies by number, independent of the names and layers through which they are reached.

Invariants (docs/unionfs/internals.md, "Inodes and lookup counts"):

* an inode is in the table as long as its lookup count is above 0 or, for a directory, it has children in the table. Therefore
  every ancestor of an inode in the table is in the table;
* ``DirectoryInode.children[name] is inode`` exactly if ``(directory, name)`` is in ``inode.names`` (for a directory: is its
  parent and name);
* a file inode without names is unlinked, and is reached through a :class:`~unionfs.layer.objects.DescriptorRef`.
"""

from __future__ import annotations

import errno
import os
import stat

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionfs.inode.directory_offsets import DirectoryOffsets
    from unionfs.inode.handles import FileHandle
    from unionfs.layer.directory import Layer, LayerDir
    from unionfs.layer.objects import DescriptorRef, PathRef
    from unionfs.types import Ino


class _InodeState:
    """The state common to directories and other objects."""

    __slots__ = ("info", "ino", "is_mount_point", "lookups", "reply", "xattrs")

    def __init__(self, ino: Ino, info: os.stat_result) -> None:
        """Create the inode *ino* with the attributes *info* on disk."""
        self.ino = ino
        #: The attributes on disk as last read. None after a change, and for a file whose ``reply`` contains the same facts.
        self.info: os.stat_result | None = info
        #: The lookup count: how often replies gave this number to the kernel, minus the lookups that it has forgotten.
        self.lookups = 0
        #: The reply that the FUSE front end built from ``info``; it is dropped together with it.
        self.reply: object = None
        #: The names of its extended attributes that may be shown; None until they are read.
        self.xattrs: frozenset[str] | None = None
        #: A file on which another file system is mounted: it is shown, but without contents.
        self.is_mount_point = False

    # Both subclasses have ``layer``, the layer that provides the attributes, and ``ref``, a reference to the object in that
    # layer.

    def touch(self) -> None:
        """Drop the cached attributes, because they have changed on disk."""
        self.info = None
        self.reply = None


class FileInode(_InodeState):
    """An object that is not a directory."""

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
        """Create an inode for an object of *layer* that is reached through *ref*. *identity* is the number of the object on
        disk.
        """
        super().__init__(ino, info)
        self.kind = stat.S_IFMT(info.st_mode)
        self.layer = layer
        self.ref = ref
        self.identity = identity
        #: The names in the union under which it has been looked up.
        self.names: list[tuple[DirectoryInode, bytes]] = []
        #: Open handles; copy-up moves each to the copy.
        self.handles: tuple[FileHandle, ...] = ()
        #: Whether a write must first remove set-id bits or capabilities; None if that is not known yet.
        self.privileged: bool | None = None
        #: A copied-up hard link, to which names in lower layers still refer; the link index counts them (upper/link_index.py).
        self.indexed = False
        #: A metadata-only copy. Its contents are those of ``data``, a file of a layer below (None: that file does not exist).
        self.metacopy = False
        self.data: PathRef | None = None

    @property
    def contents(self) -> PathRef | DescriptorRef:
        """Return a reference to the object that has the contents.

        Raises:
            OSError: EIO if the contents should be in a layer below but are not there.
        """
        if not self.metacopy:
            return self.ref
        if self.data is None:
            raise OSError(errno.EIO, "no lower layer has the contents of this metadata copy")
        return self.data


class DirectoryInode(_InodeState):
    """A directory, merged from directories of several layers."""

    __slots__ = ("children", "listed", "name", "offsets", "parent", "parts")

    def __init__(
        self,
        ino: Ino,
        info: os.stat_result,
        parts: list[LayerDir],
        parent: DirectoryInode | None,
        name: bytes,
    ) -> None:
        """Create an inode for the directory *name* of *parent* (None: the root), merged from *parts*, top first."""
        super().__init__(ino, info)
        self.parts = parts
        #: None for the root and for a removed directory.
        self.parent = parent
        self.name = name
        self.children: dict[bytes, FileInode | DirectoryInode] = {}
        #: The names and their offsets, shared by all readers, once the directory has been listed; and its attributes at that
        #: time.
        self.offsets: DirectoryOffsets | None = None
        self.listed: os.stat_result | None = None

    @property
    def ref(self) -> LayerDir:
        """Return the topmost directory: names merge, but attributes come from it alone."""
        return self.parts[0]

    @property
    def layer(self) -> Layer:
        """Return the layer of the topmost directory."""
        return self.parts[0].layer

    @property
    def upper(self) -> LayerDir | None:
        """Return the part in the writable layer, or None if there is none."""
        top = self.parts[0]
        return top if top.layer.writable else None

    @property
    def base(self) -> LayerDir | None:
        """Return the topmost part that the sandbox has never written, or None if there is none."""
        for part in self.parts:
            if not (part.layer.has_changes or part.layer.skeleton):
                return part
        return None

    @property
    def skeleton(self) -> LayerDir | None:
        """Return the part in the skeleton, or None if there is none."""
        last = self.parts[-1]
        return last if last.layer.skeleton else None

    @property
    def original(self) -> LayerDir:
        """Return the part that provides the inode number and the birth time."""
        return original_part(self.parts)

    @property
    def merged(self) -> bool:
        """Return whether several layers contribute."""
        return len(self.parts) > 1 or self.parts[0].merged

    @property
    def removed(self) -> bool:
        """Return whether this directory was removed while the kernel still refers to it."""
        return self.parent is None and self.name != b""

    def path(self) -> bytes:
        """Return the path in the union, for messages."""
        names: list[bytes] = []
        at: DirectoryInode | None = self
        while at is not None and at.parent is not None:
            names.append(at.name)
            at = at.parent
        return b"/" + b"/".join(reversed(names))


def original_part(parts: Sequence[LayerDir]) -> LayerDir:
    """Return the part of a directory that neither copy-up nor freezing changes: the topmost that this mount did not write.

    If this mount wrote all parts, it is the first one that it wrote.
    """
    for part in parts:
        if not (part.layer.writable or part.layer.frozen):
            return part
    return parts[-1]


#: An object that the kernel identifies by an inode number.
Inode = FileInode | DirectoryInode

"""The table of inodes: a lookup of a name in a directory adds an inode, and the table drops it when the kernel forgets it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from unionfs.formats.whiteout import NAME_MAX
from unionfs.inode.inode import DirectoryInode, FileInode, Inode, original_part
from unionfs.inode.numbers import Identity, InodeNumbers
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.metacopy import find_contents, is_metacopy, relocated_file
from unionfs.layer.objects import DescriptorRef, PathRef
from unionfs.layer.resolve import Resolved, first, merge, resolve
from unionfs.layer.resolve import roots as shown_roots
from unionfs.types import ROOT_INO, Ino, Mark
from unionfs.upper.link_index import LinkIndex


class InodeTable:
    """All inodes of one mount over a stack of layers. `unionfs.assemble` creates the table, `UnionFs` closes it."""

    def __init__(
        self, layers: Sequence[Layer], index: LinkIndex | None, roots: Sequence[LayerDir] | None = None
    ) -> None:
        """Create the root over *layers*, ordered top first.

        Args:
            layers: the layers of the mount.
            index: the link index of the writable layer, if there is one.
            roots: the root directories to merge, where several layers are read as one (layer_index/merged_directory.py).
        """
        self.layers = layers
        self.index = index
        #: Called with the attributes of each nameless object of the writable layer that the table drops.
        self.on_nameless_dropped: Callable[[os.stat_result], None] | None = None
        #: Called with the numbers of all inodes when attributes that replies contained may be wrong.
        self.on_attributes_invalid: Callable[[list[Ino]], None] | None = None
        self.numbers = InodeNumbers()
        # Not the skeleton, which each mount has in another place: it must not change numbers that the link index records.
        for layer in reversed(layers):
            if not layer.skeleton:
                self.numbers.announce(layer.device)
        self._by_ino: dict[Ino, Inode] = {}
        #: Copied-up files, and others whose number differs from the number of the object on disk, by the latter.
        self._renumbered: dict[Ino, FileInode] = {}
        given = [layer.root for layer in layers] if roots is None else roots
        parts = shown_roots(given)
        for position, part in enumerate(parts):
            part.layer.below = tuple(each for each in parts[position + 1 :] if not each.skeleton)
        #: Directories of the skeleton from which a name was removed. They are kept, because a new object would read the name
        #: again.
        self._changed_skeleton: set[LayerDir] = set()
        self.root = DirectoryInode(ROOT_INO, parts[0].info(), parts, None, b"")
        self._by_ino[ROOT_INO] = self.root
        #: Inodes that this request created, or that lost a child in it. They may be unused after it.
        self._unsettled: list[Inode] = []

    def __len__(self) -> int:
        """Return the number of inodes in the table."""
        return len(self._by_ino)

    # -- from numbers to inodes --------------------------------------------------------------------

    def inode(self, ino: int) -> Inode:
        """Return the inode *ino*.

        Raises:
            OSError: ESTALE if the kernel sends a number that no reply contained, or that it has forgotten.
        """
        inode = self._by_ino.get(ino)  # type: ignore[call-overload]
        if inode is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return inode  # type: ignore[no-any-return]

    def directory(self, ino: int) -> DirectoryInode:
        """Return the directory *ino*; ENOTDIR if it is another object."""
        inode = self.inode(ino)
        if not isinstance(inode, DirectoryInode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return inode

    def file(self, ino: int) -> FileInode:
        """Return the non-directory *ino*; EISDIR if it is a directory."""
        inode = self.inode(ino)
        if not isinstance(inode, FileInode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return inode

    # -- from names to inodes ----------------------------------------------------------------------

    def lookup(self, directory: DirectoryInode, name: bytes) -> Inode:
        """Return the inode of *name* in *directory*; ENOENT if there is none."""
        inode: Inode | None = directory.children.get(name)
        if inode is None:
            parts = directory.parts
            top = first(parts, name)
            if top is None:
                # The kernel passes names of up to 1024 bytes to a FUSE server (FUSE_NAME_MAX).
                if len(name) > NAME_MAX:
                    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            if top[1] is Mark.OTHER:
                return self.add_file(directory, name, parts[top[0]].entry(name))
            found = resolve(parts, name)
            assert found is not None
            places = found.places(parts, name)
            inode = self._add_directory(directory, name, [part.child(at) for part, at in places])
        return inode

    def exists(self, directory: DirectoryInode, name: bytes) -> bool:
        """Return whether *directory* has *name*."""
        return name in directory.children or resolve(directory.parts, name) is not None

    def below(self, directory: DirectoryInode, name: bytes) -> Resolved[LayerDir] | None:
        """Resolve *name* over the lower layers of *directory* alone: the result would be visible if the upper layer had no such
        name.

        The skeleton is left out, because no mark of the upper layer hides it (:meth:`drop_from_skeleton`).
        """
        return resolve([part for part in directory.parts if not (part.layer.writable or part.skeleton)], name)

    def drop_from_skeleton(self, directory: DirectoryInode, name: bytes) -> None:
        """Remove *name* from the skeleton's part of *directory*, until the next mount generates the skeleton again."""
        skeleton = directory.skeleton
        if skeleton is not None and skeleton.mark(name) is not None:
            skeleton.note(name, None)
            self._changed_skeleton.add(skeleton)

    def listing(self, directory: DirectoryInode) -> dict[bytes, bool]:
        """Return every name in *directory*, and whether it is a directory."""
        return merge(directory.parts)

    def is_empty(self, directory: DirectoryInode) -> bool:
        """Return whether *directory* has no entries."""
        return not merge(directory.parts)

    def _add_directory(self, parent: DirectoryInode, name: bytes, parts: list[LayerDir]) -> DirectoryInode:
        for part in parts:
            part.reachable()
        info = parts[0].info()
        # A merged directory has the number of its topmost lower part, so that copy-up, freezing and a remount do not change it.
        original = original_part(parts)
        origin = info if original is parts[0] else original.info()
        return self._attach_directory(
            DirectoryInode(
                self._unique(self.numbers.number((origin.st_dev, origin.st_ino))), info, parts, parent, name
            )
        )

    def add_new_directory(self, parent: DirectoryInode, name: bytes, part: LayerDir) -> DirectoryInode:
        """Add an inode for the directory *part*, which was just created as *name* of *parent*."""
        info = part.stat()
        ino = self._unique(self.numbers.number((info.st_dev, info.st_ino)))
        return self._attach_directory(DirectoryInode(ino, info, [part], parent, name))

    def _attach_directory(self, inode: DirectoryInode) -> DirectoryInode:
        assert inode.parent is not None
        self._by_ino[inode.ino] = inode
        self._unsettled.append(inode)
        inode.parent.children[inode.name] = inode
        return inode

    def add_file(self, directory: DirectoryInode, name: bytes, ref: PathRef) -> FileInode:
        """Add *name* in *directory* to the inode of the object that *ref* reaches. All names of one object share one inode."""
        info = ref.info()
        if stat.S_ISDIR(info.st_mode):
            # Another process replaced a file of a layer by a directory: harmless, but not the object that was listed.
            raise OSError(errno.ENOENT, "the layer changed while mounted", name)
        layer = ref.layer
        if layer.relocation:
            found = relocated_file(ref, info, _parts_below(directory, ref.directory))
            if found is not None:
                ref, info, layer = found, found.info(), found.layer
        is_mount_point = info.st_dev != ref.directory.device and ref.directory.is_mount_point(name)
        number = ino = self.numbers.number((info.st_dev, info.st_ino))
        if self.index is not None and not is_mount_point:
            origin = self.index.origin(ref, info) if layer.writable or layer.frozen else ino
            if layer.frozen and origin is None:
                origin = ino
            known = layer.writable and self.index.has(info.st_ino)
            if layer.writable and origin is not None and not known and self.index.find(origin) is not None:
                origin = None  # another copy stands for the original (changes/discarder.py)
            if origin is not None:
                ino = origin
                if not layer.writable:
                    self._drop_stale_facts(ino, ref)
                    # A file with one name in a frozen layer may have had another one that was deleted while the file was open.
                    known = info.st_nlink > 1 or self.index.lower_names(ino) > 0
                copied = self.index.find(ino) if known else None
                if copied is not None:
                    ref, info, layer = copied, copied.stat(), copied.directory.layer
                    number = self.numbers.number((info.st_dev, info.st_ino))
        inode = self._of_identity(number)
        if inode is None:
            inode = FileInode(self._unique(ino), info, layer, ref, number)
            inode.is_mount_point = is_mount_point
            if layer.policy.metacopy and not is_mount_point and is_metacopy(ref, info):
                inode.metacopy = True
                inode.data = find_contents(ref, _parts_below(directory, ref.directory))
            inode.indexed = self.index is not None and layer.writable and self.index.has(info.st_ino)
            self._by_ino[inode.ino] = inode
            self._unsettled.append(inode)
            if not is_mount_point:
                self._identify(inode)
        elif ref.layer is inode.layer:
            _reach_by_name(inode, ref)
        inode.names.append((directory, name))
        directory.children[name] = inode
        return inode

    def add_new_file(
        self, directory: DirectoryInode, name: bytes, ref: PathRef, info: os.stat_result
    ) -> FileInode:
        """Add an inode for the object *ref* of the writable layer, with attributes *info*, which was just created as *name*.

        No inode and no record of the object can exist yet, so neither is looked up.
        """
        inode = self.add_unnamed_file(ref, info)
        inode.names.append((directory, name))
        directory.children[name] = inode
        return inode

    def add_unnamed_file(self, ref: PathRef | DescriptorRef, info: os.stat_result) -> FileInode:
        """Add an inode without names for the new object *ref* of the writable layer, with attributes *info*."""
        number = self.numbers.number((info.st_dev, info.st_ino))
        inode = FileInode(self._unique(number), info, ref.layer, ref, number)
        self._by_ino[inode.ino] = inode
        self._unsettled.append(inode)
        self._identify(inode)
        return inode

    def _drop_stale_facts(self, ino: Ino, ref: PathRef) -> None:
        """Drop the link index's records of *ino* if they describe another object than *ref*, which now has that number."""
        assert self.index is not None
        if self.index.is_about(ino, ref.birth_time_ns):
            return
        self.leave_index(ino, self.index.drop)

    def leave_index(self, ino: Ino, remove: Callable[[Ino], None]) -> None:
        """Call *remove* to remove the copy *ino* from the link index, and reach the copy by a name instead.

        Raises:
            OSError: it cannot be removed.
        """
        assert self.index is not None
        copied, identity = self.index.find(ino), self.index.identity(ino)
        inode = None if identity is None else self._of_identity(self.numbers.number(identity))
        if inode is None or copied is None:
            remove(ino)
            return
        names = [PathRef(at.upper, name) for at, name in inode.names if at.upper is not None]
        entries = [each for each in names if each.directory.mark(each.name) is Mark.OTHER]
        ref = entries[0] if entries else copied.pinned()
        try:
            remove(ino)
        except OSError:
            if isinstance(ref, DescriptorRef):
                ref.close()
            raise
        inode.ref, inode.indexed = ref, False
        inode.touch()

    def lower_path(self, directory: DirectoryInode) -> bytes:
        """Return the path of *directory* in the layers below the writable one, in the form of a redirect: with a leading slash,
        empty for the root.
        """
        names: list[bytes] = []
        at = directory
        while at.parent is not None:
            redirect = at.upper.redirected() if at.upper is not None else None
            if redirect is not None and redirect.startswith(b"/"):
                return b"/".join([redirect, *reversed(names)])
            names.append(redirect or at.name)
            at = at.parent
        return b"".join(b"/" + name for name in reversed(names))

    def base_path(self, directory: DirectoryInode) -> bytes:
        """Return the path of *directory* in the layers below the earlier ones, which have it, in the form of :meth:`lower_path`."""
        part = directory.base if len(self.layers) > 1 and self.layers[1].earlier else None
        if part is None:
            return self.lower_path(directory)
        return b"/" + part.path() if part.parent is not None else b""  # these layers have no redirects

    def _unique(self, ino: Ino) -> Ino:
        # The number is taken if two layers are the same directory, or if the recorded origin of another object has it. Two
        # objects must never share an inode.
        return ino if ino not in self._by_ino else self.numbers.fresh()

    # -- changes -----------------------------------------------------------------------------------

    def reidentify(
        self, inode: FileInode, layer: Layer, ref: PathRef | DescriptorRef, identity: Identity
    ) -> None:
        """Record that copy-up has made *inode* the object *identity* of *layer*. Its inode number stays."""
        if self._renumbered.get(inode.identity) is inode:
            del self._renumbered[inode.identity]
        inode.layer, inode.ref, inode.identity = layer, ref, self.numbers.number(identity)
        inode.is_mount_point = False  # the copy is an ordinary file
        self._identify(inode)
        inode.touch()

    def _identify(self, inode: FileInode) -> None:
        if inode.ino != inode.identity:
            self._renumbered[inode.identity] = inode

    def _of_identity(self, number: Ino) -> FileInode | None:
        inode = self._by_ino.get(number)
        if isinstance(inode, FileInode) and inode.identity == number and not inode.is_mount_point:
            return inode
        return self._renumbered.get(number)

    def recorded_number(self, inode: FileInode) -> Ino:
        """Return the number in the records of the link index about *inode*, a lower file or the copy of one.

        The next mount gives the lower file that number.
        """
        assert self.index is not None
        return inode.identity if inode.layer.frozen else self.index.recorded(inode.ino)

    def names_elsewhere(self, inode: FileInode, links: int) -> int:
        """Return how many names *inode*, a lower file with *links* links on disk, has if none of them is known."""
        lost = self.index.lost_names(inode.ino) if self.index is not None else 0
        # A file of a lower layer that is reached by a descriptor lost all known names before its layer was frozen.
        return links - lost if lost or isinstance(inode.ref, DescriptorRef) else 0

    def attach(self, inode: FileInode, directory: DirectoryInode, name: bytes) -> None:
        """Record that *name* in *directory* is now a name of *inode*."""
        if directory.upper is not None:
            _reach_by_name(inode, PathRef(directory.upper, name))
        inode.names.append((directory, name))
        directory.children[name] = inode

    def detach(self, directory: DirectoryInode, name: bytes) -> None:
        """Record that *directory* no longer has *name*. Do nothing if no inode has that name."""
        inode = directory.children.pop(name, None)
        self._unsettled.append(directory)
        if isinstance(inode, FileInode):
            inode.names.remove((directory, name))
        elif isinstance(inode, DirectoryInode):
            inode.parent = None

    def move(self, old: DirectoryInode, old_name: bytes, new: DirectoryInode, new_name: bytes) -> None:
        """Record that the inode *old_name* in *old* is now *new_name* in *new*."""
        inode = old.children.pop(old_name)
        self._unsettled.append(old)
        if isinstance(inode, FileInode):
            inode.names.remove((old, old_name))
            inode.names.append((new, new_name))
        else:
            inode.parent, inode.name = new, new_name
        new.children[new_name] = inode

    def forget(self, ino: int, count: int) -> bool:
        """Subtract *count* from the lookup count of *ino*. Drop the inode, and then its ancestors, if nothing needs them any
        more.

        Returns whether the kernel no longer refers to the inode.
        """
        inode = self._by_ino.get(ino)  # type: ignore[call-overload]
        if inode is None:
            return True
        inode.lookups = max(0, inode.lookups - count)
        self._drop_unused(inode)
        return bool(inode.lookups == 0)

    def settle(self) -> None:
        """Drop the inodes of this request that no reply gave to the kernel: the request failed, or only resolved them on its
        path.
        """
        unsettled, self._unsettled = self._unsettled, []
        for inode in unsettled:
            self._drop_unused(inode)

    def drop_if_unused(self, inode: Inode) -> None:
        """Drop *inode* if no reply gave it to the kernel."""
        self._drop_unused(inode)

    def _drop_unused(self, start: Inode) -> None:
        inode: Inode | None = start if self._by_ino.get(start.ino) is start else None
        while inode is not None and inode.lookups == 0 and inode is not self.root:
            if isinstance(inode, DirectoryInode):
                # A directory that had two names of a file may have been dropped with the first of them.
                if inode.children or self._by_ino.get(inode.ino) is not inode:
                    return
                parent = inode.parent
                if parent is not None:
                    del parent.children[inode.name]
                else:
                    self._release_object(inode)
                del self._by_ino[inode.ino]
                inode = parent
            else:
                assert isinstance(inode, FileInode)
                self._drop_file(inode)
                return

    def _drop_file(self, inode: FileInode) -> None:
        del self._by_ino[inode.ino]
        if self._renumbered.get(inode.identity) is inode:
            del self._renumbered[inode.identity]
        self._release_object(inode)
        names, inode.names = inode.names, []
        for directory, name in names:
            if directory.children.get(name) is inode:
                del directory.children[name]
        for directory, _ in names:
            self._drop_unused(directory)

    def nameless(self) -> Iterator[os.stat_result]:
        """Yield the attributes of all objects of the writable layer in the table that have no name any more."""
        for inode in self._by_ino.values():
            info = _nameless(inode)
            if info is not None:
                yield info

    def nameless_inodes(self) -> list[Inode]:
        """Return the inodes of all objects of the writable layer that have no name any more."""
        return [inode for inode in self._by_ino.values() if _nameless(inode) is not None]

    def _release_object(self, inode: Inode) -> None:
        """Close the descriptor that keeps the object of *inode*, if it has no name."""
        if self.on_nameless_dropped is not None:
            info = _nameless(inode)
            if info is not None:
                self.on_nameless_dropped(info)
        if isinstance(inode, DirectoryInode):
            inode.parts[0].close()  # a removed directory was pinned
        elif isinstance(inode.ref, DescriptorRef):
            inode.ref.close()

    def touch_all(self) -> None:
        """Drop all cached attributes, because the layer index that provided them is wrong."""
        for inode in self._by_ino.values():
            inode.touch()
            inode.xattrs = None
        if self.on_attributes_invalid is not None:
            self.on_attributes_invalid(list(self._by_ino))

    def oldest(self, count: int) -> list[Ino]:
        """Return up to *count* of the inodes that have been in the table for longest, and move them to its end.

        It moves *count* inodes, but does not return those that are in use, or needed only as ancestors of others.
        """
        named: list[Ino] = []
        for ino in list(islice(self._by_ino, count)):
            inode = self._by_ino[ino] = self._by_ino.pop(ino)
            if inode.lookups and not (
                isinstance(inode, FileInode) and any(not each.internal for each in inode.handles)
            ):
                named.append(ino)
        return named

    def close(self) -> None:
        """Close the descriptors that keep unlinked objects."""
        for inode in self._by_ino.values():
            if isinstance(inode, FileInode) and isinstance(inode.ref, DescriptorRef):
                inode.ref.close()
            elif isinstance(inode, DirectoryInode) and inode.removed:
                inode.parts[0].close()
        self._by_ino.clear()
        self._renumbered.clear()


def _nameless(inode: Inode) -> os.stat_result | None:
    """Return the attributes of *inode* if it is an object of the writable layer that only the server's descriptor keeps."""
    if isinstance(inode, DirectoryInode):
        top = inode.parts[0]
        return top.stat() if inode.removed and top.layer.writable else None
    if not isinstance(inode.ref, DescriptorRef) or not inode.layer.writable:
        return None
    info = os.fstat(inode.ref.fd)
    return info if info.st_nlink == 0 else None


def _reach_by_name(inode: FileInode, ref: PathRef) -> None:
    """Close the descriptor through which *inode* was reached while it had no known name, and reach it through *ref* instead."""
    if isinstance(inode.ref, DescriptorRef):
        inode.ref.close()
        inode.ref = ref


def _parts_below(directory: DirectoryInode, part: LayerDir) -> list[LayerDir]:
    """Return the parts of *directory* below *part*, without the skeleton, which has no contents.

    Return none if *part* is not one of them, as for a directory of the link index.
    """
    if part not in directory.parts:
        return []
    return [each for each in directory.parts[directory.parts.index(part) + 1 :] if not each.skeleton]

"""The table of nodes: from a directory and a name to a node, and back to nothing when the kernel forgets it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from unionfs.formats.whiteout import NAME_MAX
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.inode.numbers import Identity, InodeNumbers
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.metacopy import find_contents, is_metacopy
from unionfs.layer.objects import DescriptorRef, PathRef, birth_time_ns
from unionfs.layer.resolve import Resolved, first, merge, resolve
from unionfs.layer.resolve import roots as shown_roots
from unionfs.types import ROOT_INO, Ino, Mark
from unionfs.upper.link_index import LinkIndex


class InodeTable:
    """All nodes of one mount over a stack of layers."""

    def __init__(
        self, layers: Sequence[Layer], index: LinkIndex | None, roots: Sequence[LayerDir] | None = None
    ) -> None:
        """Build the root over *layers*, ordered top first; *index* belongs to the writable one, if there is
        one. *roots*: of the layers, where some are taken together (layer_index/merged_directory.py).
        """
        self.layers = layers
        self.index = index
        #: Told of each object of the writable layer without names that is let go.
        self.on_gone: Callable[[os.stat_result], None] | None = None
        #: Called with the numbers of all nodes when what was said of their attributes does not hold.
        self.on_touched: Callable[[list[Ino]], None] | None = None
        self.numbers = InodeNumbers()
        for layer in reversed(layers):
            self.numbers.announce(layer.device)
        self._by_ino: dict[Ino, Inode] = {}
        #: Copied-up files, and others whose number is not that of what they are on disk, by the latter.
        self._renumbered: dict[Ino, FileInode] = {}
        given = [layer.root for layer in layers] if roots is None else roots
        parts = shown_roots(given)
        for position, part in enumerate(parts):
            part.layer.below = tuple(each for each in parts[position + 1 :] if not each.skeleton)
        #: Directories of the skeleton that lack a name by now: kept, as they would be read with that name again.
        self._changed_skeleton: set[LayerDir] = set()
        self.root = DirectoryInode(ROOT_INO, parts[0].info(), parts, None, b"")
        self._by_ino[ROOT_INO] = self.root
        #: Nodes that were made in this request, or lost a child: perhaps nothing needs them after it.
        self._unsettled: list[Inode] = []

    def __len__(self) -> int:
        """Return the number of nodes in the table."""
        return len(self._by_ino)

    # -- from numbers to nodes ---------------------------------------------------------------------

    def node(self, ino: int) -> Inode:
        """Return the node of number *ino*.

        Raises:
            OSError: ESTALE, if the kernel names a number that it was not told or has forgotten.
        """
        node = self._by_ino.get(ino)  # type: ignore[call-overload]
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node  # type: ignore[no-any-return]

    def directory(self, ino: int) -> DirectoryInode:
        """Return the directory of number *ino*; ENOTDIR if it is something else."""
        node = self.node(ino)
        if not isinstance(node, DirectoryInode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return node

    def file(self, ino: int) -> FileInode:
        """Return the non-directory of number *ino*; EISDIR if it is a directory."""
        node = self.node(ino)
        if not isinstance(node, FileInode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return node

    # -- from names to nodes -----------------------------------------------------------------------

    def lookup(self, directory: DirectoryInode, name: bytes) -> Inode:
        """Return the node of *name* in *directory*; ENOENT where there is none."""
        node: Inode | None = directory.children.get(name)
        if node is None:
            parts = directory.parts
            top = first(parts, name)
            if top is None:
                # The kernel lets names of up to 1024 bytes through to a FUSE server (FUSE_NAME_MAX).
                if len(name) > NAME_MAX:
                    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            if top[1] is Mark.OTHER:
                return self.add_file(directory, name, parts[top[0]].entry(name))
            found = resolve(parts, name)
            assert found is not None
            places = found.places(parts, name)
            node = self._add_directory(directory, name, [part.child(at) for part, at in places])
        return node

    def exists(self, directory: DirectoryInode, name: bytes) -> bool:
        """Tell whether *directory* has *name*."""
        return name in directory.children or resolve(directory.parts, name) is not None

    def below(self, directory: DirectoryInode, name: bytes) -> Resolved[LayerDir] | None:
        """Resolve *name* over the lower layers of *directory* alone: what would show again if the upper layer
        had nothing there. Without the skeleton, which no mark of the upper layer hides (:meth:`drop_from_skeleton`).
        """
        return resolve([part for part in directory.parts if not (part.layer.writable or part.skeleton)], name)

    def drop_from_skeleton(self, directory: DirectoryInode, name: bytes) -> None:
        """Let the skeleton have *name* in *directory* no more, until it is made anew for the next mount."""
        skeleton = directory.skeleton
        if skeleton is not None and skeleton.mark(name) is not None:
            skeleton.note(name, None)
            self._changed_skeleton.add(skeleton)

    def listing(self, directory: DirectoryInode) -> dict[bytes, bool]:
        """Return every name in *directory*, and whether it is a directory."""
        return merge(directory.parts)

    def is_empty(self, directory: DirectoryInode) -> bool:
        """Tell whether *directory* has no entries."""
        return not merge(directory.parts)

    def _add_directory(self, parent: DirectoryInode, name: bytes, parts: list[LayerDir]) -> DirectoryInode:
        for part in parts:
            part.reachable()
        info = parts[0].info()
        # The number of a merged directory is that of its topmost lower part: copy-up of the directory and a
        # remount leave it alone.
        origin = info if len(parts) == 1 or not parts[0].layer.writable else parts[1].info()
        return self._attach_directory(
            DirectoryInode(
                self._unique(self.numbers.number((origin.st_dev, origin.st_ino))), info, parts, parent, name
            )
        )

    def add_new_directory(self, parent: DirectoryInode, name: bytes, part: LayerDir) -> DirectoryInode:
        """Attach a node for the directory *part*, which was made as *name* just now."""
        info = part.stat()
        ino = self._unique(self.numbers.number((info.st_dev, info.st_ino)))
        return self._attach_directory(DirectoryInode(ino, info, [part], parent, name))

    def _attach_directory(self, node: DirectoryInode) -> DirectoryInode:
        assert node.parent is not None
        self._by_ino[node.ino] = node
        self._unsettled.append(node)
        node.parent.children[node.name] = node
        return node

    def add_file(self, directory: DirectoryInode, name: bytes, ref: PathRef) -> FileInode:
        """Attach the node of the object that *ref* reaches as *name* in *directory*, the same node for every
        name of one object.
        """
        info = ref.info()
        if stat.S_ISDIR(info.st_mode):
            # Somebody replaced a file of a layer by a directory under our hands: harmless, but not what was
            # listed.
            raise OSError(errno.ENOENT, "layer changed while mounted", name)
        layer = ref.layer
        foreign = info.st_dev != ref.directory.device and ref.directory.is_mount_point(name)
        number = ino = self.numbers.number((info.st_dev, info.st_ino))
        if self.index is not None and not foreign:
            if not layer.writable:
                self._drop_stale_facts(ino, ref)
            origin = self.index.origin(ref, info) if layer.writable else ino
            if origin is not None:
                ino = origin
                known = self.index.holds(info.st_ino) if layer.writable else info.st_nlink > 1
                copied = self.index.find(origin) if known else None
                if copied is not None:
                    ref, info, layer = copied, copied.stat(), copied.directory.layer
                    number = self.numbers.number((info.st_dev, info.st_ino))
        node = self._of_identity(number)
        if node is None:
            node = FileInode(self._unique(ino), info, layer, ref, number)
            node.foreign = foreign
            if layer.policy.metacopy and not foreign and is_metacopy(ref, info):
                node.metacopy = True
                node.data = find_contents(ref, _parts_below(directory, ref.directory))
            node.indexed = self.index is not None and layer.writable and self.index.holds(info.st_ino)
            self._by_ino[node.ino] = node
            self._unsettled.append(node)
            if not foreign:
                self._identify(node)
        elif ref.layer is node.layer:
            _reach_by_name(node, ref)
        node.names.append((directory, name))
        directory.children[name] = node
        return node

    def add_new_file(
        self, directory: DirectoryInode, name: bytes, ref: PathRef, info: os.stat_result
    ) -> FileInode:
        """Attach a node for the object of the writable layer that *ref* reaches, with attributes *info*, made as *name*
        just now: nobody knows it, and nothing is recorded of it.
        """
        node = self.add_unnamed_file(ref, info)
        node.names.append((directory, name))
        directory.children[name] = node
        return node

    def add_unnamed_file(self, ref: PathRef | DescriptorRef, info: os.stat_result) -> FileInode:
        """Attach a node for the new object *ref* of the writable layer, with attributes *info*, under no name."""
        number = self.numbers.number((info.st_dev, info.st_ino))
        node = FileInode(self._unique(number), info, ref.layer, ref, number)
        self._by_ino[node.ino] = node
        self._unsettled.append(node)
        self._identify(node)
        return node

    def _drop_stale_facts(self, ino: Ino, ref: PathRef) -> None:
        """Drop what the index says of *ino*, if that is about another object than *ref*, which has the number now."""
        assert self.index is not None
        if self.index.is_about(ino, lambda: birth_time_ns(ref)):
            return
        copied = self.index.find(ino)
        if copied is not None:
            info = copied.stat()
            node = self._of_identity(self.numbers.number((info.st_dev, info.st_ino)))
            if node is not None:
                names = [PathRef(at.upper, name) for at, name in node.names if at.upper is not None]
                entries = [each for each in names if each.directory.mark(each.name) is Mark.OTHER]
                node.indexed = False
                node.ref = entries[0] if entries else copied.pinned()
                node.touch()
        self.index.drop(ino)

    def lower_path(self, directory: DirectoryInode) -> bytes:
        """Return where the layers below the writable one have *directory*, as a redirect says it: with a leading
        slash, empty for the root.
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

    def _unique(self, ino: Ino) -> Ino:
        # Taken where two layers are the same directory, or by an object whose origin says it has this number:
        # never share a node.
        return ino if ino not in self._by_ino else self.numbers.fresh()

    # -- changes -----------------------------------------------------------------------------------

    def reidentify(
        self, node: FileInode, layer: Layer, ref: PathRef | DescriptorRef, identity: Identity
    ) -> None:
        """Record that *node* is now the object *identity* of *layer*: it has been copied up. Its number
        stays.
        """
        if self._renumbered.get(node.identity) is node:
            del self._renumbered[node.identity]
        node.layer, node.ref, node.identity = layer, ref, self.numbers.number(identity)
        self._identify(node)
        node.touch()

    def _identify(self, node: FileInode) -> None:
        if node.ino != node.identity:
            self._renumbered[node.identity] = node

    def _of_identity(self, number: Ino) -> FileInode | None:
        node = self._by_ino.get(number)
        if isinstance(node, FileInode) and node.identity == number and not node.foreign:
            return node
        return self._renumbered.get(number)

    def attach(self, node: FileInode, directory: DirectoryInode, name: bytes) -> None:
        """Record that *name* in *directory* is now one of *node*'s."""
        if directory.upper is not None:
            _reach_by_name(node, PathRef(directory.upper, name))
        node.names.append((directory, name))
        directory.children[name] = node

    def detach(self, directory: DirectoryInode, name: bytes) -> None:
        """Record that *directory* has no *name* any more; does nothing where no node was attached to it."""
        node = directory.children.pop(name, None)
        self._unsettled.append(directory)
        if isinstance(node, FileInode):
            node.names.remove((directory, name))
        elif isinstance(node, DirectoryInode):
            node.parent = None

    def move(self, old: DirectoryInode, old_name: bytes, new: DirectoryInode, new_name: bytes) -> None:
        """Record that what was *old_name* in *old* is *new_name* in *new*."""
        node = old.children.pop(old_name)
        self._unsettled.append(old)
        if isinstance(node, FileInode):
            node.names.remove((old, old_name))
            node.names.append((new, new_name))
        else:
            node.parent, node.name = new, new_name
        new.children[new_name] = node

    def forget(self, ino: int, count: int) -> bool:
        """Take back *count* lookups of *ino*; drop the node, and then its ancestors, when nothing needs them
        any more. Returns whether the kernel does not know it any more.
        """
        node = self._by_ino.get(ino)  # type: ignore[call-overload]
        if node is None:
            return True
        node.lookups = max(0, node.lookups - count)
        self._drop_unused(node)
        return bool(node.lookups == 0)

    def settle(self) -> None:
        """Drop the nodes of this request that no reply told the kernel of: it failed, or only looked on its way."""
        unsettled, self._unsettled = self._unsettled, []
        for node in unsettled:
            self._drop_unused(node)

    def drop_if_unused(self, node: Inode) -> None:
        """Drop *node* if the kernel was not told of it after all."""
        self._drop_unused(node)

    def _drop_unused(self, start: Inode) -> None:
        node: Inode | None = start if self._by_ino.get(start.ino) is start else None
        while node is not None and node.lookups == 0 and node is not self.root:
            if isinstance(node, DirectoryInode):
                # One that held two names of a file may have gone with the first of them.
                if node.children or self._by_ino.get(node.ino) is not node:
                    return
                parent = node.parent
                if parent is not None:
                    del parent.children[node.name]
                else:
                    self._let_go(node)
                del self._by_ino[node.ino]
                node = parent
            else:
                assert isinstance(node, FileInode)
                self._drop_file(node)
                return

    def _drop_file(self, node: FileInode) -> None:
        del self._by_ino[node.ino]
        if self._renumbered.get(node.identity) is node:
            del self._renumbered[node.identity]
        self._let_go(node)
        names, node.names = node.names, []
        for directory, name in names:
            if directory.children.get(name) is node:
                del directory.children[name]
        for directory, _ in names:
            self._drop_unused(directory)

    def nameless(self) -> Iterator[os.stat_result]:
        """Give the attributes of the known objects of the writable layer that have no name any more."""
        for node in self._by_ino.values():
            info = _nameless(node)
            if info is not None:
                yield info

    def _let_go(self, node: Inode) -> None:
        """Close the descriptor that holds *node*, if it has no name."""
        if self.on_gone is not None:
            info = _nameless(node)
            if info is not None:
                self.on_gone(info)
        if isinstance(node, DirectoryInode):
            node.parts[0].close()  # removed: it was pinned
        elif isinstance(node.ref, DescriptorRef):
            node.ref.close()

    def touch_all(self) -> None:
        """Forget all attributes: what they were taken from does not hold."""
        for node in self._by_ino.values():
            node.touch()
            node.xattrs = None
        if self.on_touched is not None:
            self.on_touched(list(self._by_ino))

    def oldest(self, count: int) -> list[Ino]:
        """Name *count* of the nodes that have been known for longest, which from now on count as the newest.

        Those that are in use, or only known as ancestors of others, are among those looked at but not named.
        """
        named: list[Ino] = []
        for ino in list(islice(self._by_ino, count)):
            node = self._by_ino[ino] = self._by_ino.pop(ino)
            if node.lookups and not (
                isinstance(node, FileInode) and any(not each.ours for each in node.handles)
            ):
                named.append(ino)
        return named

    def close(self) -> None:
        """Release the descriptors that unlinked objects hold."""
        for node in self._by_ino.values():
            if isinstance(node, FileInode) and isinstance(node.ref, DescriptorRef):
                node.ref.close()
            elif isinstance(node, DirectoryInode) and node.removed:
                node.parts[0].close()
        self._by_ino.clear()
        self._renumbered.clear()


def _nameless(node: Inode) -> os.stat_result | None:
    """Return the attributes of *node*, if it is an object of the writable layer that only we hold."""
    if isinstance(node, DirectoryInode):
        top = node.parts[0]
        return top.stat() if node.removed and top.layer.writable else None
    if not isinstance(node.ref, DescriptorRef) or not node.layer.writable:
        return None
    info = os.fstat(node.ref.fd)
    return info if info.st_nlink == 0 else None


def _reach_by_name(node: FileInode, ref: PathRef) -> None:
    """Give the descriptor back through which *node* was reached while none of its names was known."""
    if isinstance(node.ref, DescriptorRef):
        node.ref.close()
        node.ref = ref


def _parts_below(directory: DirectoryInode, part: LayerDir) -> list[LayerDir]:
    """Return the parts of *directory* below *part*, without the skeleton, which has no contents; none where *part* is not
    one of them, as with the index's.
    """
    if part not in directory.parts:
        return []
    return [each for each in directory.parts[directory.parts.index(part) + 1 :] if not each.skeleton]

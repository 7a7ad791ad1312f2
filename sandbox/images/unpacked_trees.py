"""Keep unpacked trees in a directory, each under a key: complete, locked while in use, and removed under the ids of its files.

    BASE/KEY/lock       processes that use the tree have a shared lock on it
    BASE/KEY/ids        the id maps under which the tree was unpacked, as JSON
    BASE/KEY/tree       the tree
    BASE/KEY/index      the layer index of the file system server
    BASE/SOURCE-NODE.new, BASE/SOURCE.importing   a tree that is being made, and the lock of the process that makes it
    BASE/.removed-RANDOM    a tree that is being removed

A tree is built in a directory of its own and renamed into place, and renamed again before it is removed. So every tree with a
key is complete.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import ExitStack, contextmanager, suppress

from sandbox.as_container_root import chown_to_root
from sandbox.errors import SandboxError, SetupError
from sandbox.kernel.trees import synchronize_file_system
from sandbox.plan import IdPlan
from sandbox.state.layer_records import ids_as_json, ids_from_json
from sandbox.state.locks import claim, has_name, probe
from sandbox.state.node import this_place
from sandbox.state.removal import REMOVED, ReservedDescriptors, remove_directory
from sandbox.state.trusted_files import read_json
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.hashlib import sha256

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """An unpacked tree in use, and the shared lock that prevents its removal.

    :meth:`UnpackedTrees.open` creates it, and the caller closes it.
    """

    #: The directory of the layer in the store.
    place: str
    tree_fd: int
    lock_fd: int
    #: The directory in which the file system server may store a layer index; None if the layer was made without one.
    index_fd: int | None = None
    #: Messages about objects that were not unpacked; empty unless this call has made the layer.
    notices: tuple[str, ...] = ()
    #: Of an archive that is mounted: descriptors of its index and of the archive.
    members_fd: int | None = None
    archive_fd: int | None = None
    #: Of a layer that is fetched in part, whose archive is the data: the table of its chunks.
    chunks_fd: int | None = None
    #: What identifies its content, if that was not compared with the diff id.
    content: str = ""

    def close(self) -> None:
        """Close the descriptors, which releases the lock."""
        os.close(self.tree_fd)
        os.close(self.lock_fd)
        for fd in (self.index_fd, self.members_fd, self.archive_fd, self.chunks_fd):
            if fd is not None:
                os.close(fd)


class UnpackedTrees:
    """The unpacked trees in one directory."""

    def __init__(self, base: str) -> None:
        """Use the directory *base*, which need not exist yet."""
        self.base = base

    def names(self, prefix: str = "") -> list[str]:
        """Return the keys of all complete trees that begin with *prefix*."""
        try:
            names = os.listdir(self.base)
        except FileNotFoundError:
            return []
        return [
            name
            for name in names
            if name.startswith(prefix)
            and not name.startswith(".")
            and not name.endswith((".new", ".importing"))
        ]

    def open(self, name: str, notices: tuple[str, ...] = ()) -> StoredLayer | None:
        """Open the tree of the key *name*; return None if there is none."""
        place = os.path.join(self.base, name)
        with ExitStack() as undo:

            def open_part(part: str, flags: int) -> int | None:
                try:
                    fd = os.open(os.path.join(place, part), flags)
                except FileNotFoundError:
                    return None
                undo.callback(os.close, fd)
                return fd

            lock_fd = open_part("lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if lock_fd is None:
                return None
            fcntl.flock(lock_fd, fcntl.LOCK_SH)
            tree_fd = open_part("tree", _OPEN_PATH)
            if tree_fd is None:  # the layer was removed between open and flock
                return None
            index_fd = open_part("index", _OPEN_PATH)
            undo.pop_all()
        return StoredLayer(place=place, tree_fd=tree_fd, lock_fd=lock_fd, index_fd=index_fd, notices=notices)

    @contextmanager
    def importing(self, source: str) -> Iterator[int]:
        """Take the lock of *source* and yield its descriptor; wait for another process that makes the same tree.

        Afterwards, remove what killed processes have left.
        """
        from sandbox.images.import_lock import import_lock, sweep

        os.makedirs(self.base, mode=0o700, exist_ok=True)
        with import_lock(self.base, source) as lock:
            yield lock
        sweep(self.base, lambda left: self.discard(self.building(left)))

    def make(
        self, source: str, ids: IdPlan, fill: Callable[[str, int], str], *, lock: int, step: str
    ) -> None:
        """Make the tree of *source* under *ids* and publish it under the key that *fill* returns.

        *fill* is called with the directory that is being built and a descriptor of the empty tree, which belongs to root of
        *ids*. *lock* is the descriptor of :meth:`importing`; *step* names the tree in messages.

        Raises:
            SandboxError: *fill* has raised it, or the tree cannot be written to the disk.
        """
        with self.new_tree(source, ids, lock=lock, step=step) as tree:
            tree.publish(fill(tree.place, tree.fd))

    @contextmanager
    def new_tree(self, source: str, ids: IdPlan, *, lock: int, step: str) -> Iterator[NewTree]:
        """Yield a new tree of *source*, which is removed afterwards unless it was published. Arguments are those of :meth:`make`.

        Raises:
            SandboxError: its directory cannot be made.
        """
        place = self.building(source)
        self.discard(place)
        with ReservedDescriptors(lock) as reserved, ExitStack() as undo:
            tree = None
            try:
                tree = self._begin(place, ids, undo, step)
                yield tree
            finally:
                if tree is None or not tree.is_published:
                    undo.close()
                    reserved.release()
                    with suppress(OSError, SandboxError):  # the next import discards it first
                        self.discard(place)

    def _begin(self, place: str, ids: IdPlan, undo: ExitStack, step: str) -> NewTree:
        os.mkdir(place, 0o700)
        tree = os.path.join(place, "tree")
        os.mkdir(tree, 0o755)
        os.chmod(tree, 0o755)
        with open(os.path.join(place, "ids"), "x", encoding="utf-8") as record:
            json.dump(ids_as_json(ids), record)
        with open(os.path.join(place, "lock"), "xb"):
            pass
        os.mkdir(os.path.join(place, "index"), 0o700)
        fds = []
        for path in (tree, os.path.join(place, "index")):
            fds.append(os.open(path, _OPEN_DIR))
            undo.callback(os.close, fds[-1])
        chown_to_root(ids, *fds)
        return NewTree(self, place, fds[0], fds[1], step)

    def building(self, source: str) -> str:
        """Return the directory in which this node makes the tree of *source*."""
        # On a network file system, flock(2) may not work between nodes, so each node builds in its own directory.
        return os.path.join(self.base, f"{source}-{own_node()}.new")

    def publish(self, building: str, name: str) -> bool:
        """Rename the tree to *name*; return False if another node has created a tree of that name meanwhile."""
        try:
            os.rename(building, os.path.join(self.base, name))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        return True

    def discard(self, place: str) -> None:
        """Remove the directory *place* of a tree, under the ids that its files belong to."""
        remove_directory(place, ids_of_layer(place))

    def discard_unused(self, name: str) -> bool:
        """Remove the tree of the key *name* unless a process uses it; return whether it was removed.

        Raises:
            SandboxError: this account no longer has the ids that its files belong to.
        """
        place = os.path.join(self.base, name)
        try:
            lock_fd = os.open(os.path.join(place, "lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not has_name(lock_fd, os.path.join(place, "lock")):
                return (
                    False  # another process has removed the tree, and perhaps a third one has made it again
                )
            removed = os.path.join(self.base, f"{REMOVED}{os.urandom(4).hex()}")
            os.rename(place, removed)
            self.discard(removed)
        except BlockingIOError:
            return False
        finally:
            os.close(lock_fd)
        return True

    def interrupted(self) -> list[str]:
        """Return the directories that interrupted imports of this node, and interrupted removals, have left."""
        try:
            names = sorted(os.listdir(self.base))
        except OSError:
            return []
        found = [os.path.join(self.base, name) for name in names if name.startswith(REMOVED)]
        for name in names:
            if not name.endswith(".new"):
                continue
            source, dash, node = name.removesuffix(".new").rpartition("-")
            if (not dash or node == own_node()) and probe(self._lock_of(source or node)) != "held":
                found.append(os.path.join(self.base, name))
        return found

    def remove_interrupted(self) -> list[str]:
        """Remove the directories that interrupted imports of this node, and interrupted removals, have left; return their paths.

        Raises:
            SandboxError: a directory cannot be removed.
        """
        from sandbox.images.import_lock import sweep

        gone = []
        for place in self.interrupted():
            name = os.path.basename(place)
            if name.startswith(REMOVED):
                self.discard(place)
                gone.append(place)
                continue
            name = name.removesuffix(".new")
            lock, fd = claim(self._lock_of(name.rpartition("-")[0] or name))
            try:
                if lock != "held":
                    self.discard(place)
                    gone.append(place)
            finally:
                if fd >= 0:
                    os.close(fd)
        sweep(self.base, lambda left: self.discard(self.building(left)))
        return gone

    def _lock_of(self, source: str) -> str:
        return os.path.join(self.base, f"{source}.importing")


class NewTree:
    """A tree that is being made. :meth:`UnpackedTrees.new_tree` creates it, and closes its descriptors."""

    def __init__(self, trees: UnpackedTrees, place: str, fd: int, index_fd: int, step: str) -> None:
        """Make the tree *fd* in the directory *place*; *index_fd* is the directory of its index, *step* names it in messages."""
        self._trees = trees
        self._index_fd = index_fd
        self._step = step
        self.place = place
        self.fd = fd
        #: Whether the tree has its key.
        self.is_published = False

    def publish(self, name: str) -> None:
        """Give the complete tree the key *name*, unless another node has made it meanwhile.

        Raises:
            SetupError: it cannot be written to the disk.
        """
        # The rename that publishes the layer may reach the disk before the layer's content: after a power failure, the
        # layer would have empty files. If only the rename is lost, the layer is made again.
        try:
            synchronize_file_system(self._index_fd)
        except OSError as error:
            raise SetupError.from_os_error(self._step, "write to the disk", error) from None
        self.is_published = self._trees.publish(self.place, name)


def ids_of_layer(place: str) -> IdPlan | None:
    """Return the ids under which the layer in the directory *place* was unpacked; None if they are not recorded."""
    try:
        return ids_from_json(read_json(os.path.join(place, "ids")))
    except (OSError, ValueError):
        return None


def key_of_ids(ids: IdPlan, unpacking: int) -> str:
    """Return the part of a key for *ids* and for the version *unpacking* of the code that unpacks."""
    return digest([unpacking, list(map(str, ids.uid_map)), list(map(str, ids.gid_map))])


def own_node() -> str:
    """Return the digest of this node's identity."""
    return digest(repr(this_place().node))


def digest(facts: object) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of *facts*, a JSON value."""
    return sha256(json.dumps(facts).encode()).hexdigest()[:16]

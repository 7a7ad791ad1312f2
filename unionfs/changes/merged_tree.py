"""One merged tree, read without a mount: the union, or layers below the writable one.

:class:`MergedTree` resolves names by the rules of :mod:`unionfs.layer.resolve` and returns an :class:`Entry` for each. It has
no table of inodes: it reads each object once, and a walk of millions of objects keeps only the directories on its way.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from unionfs._stdlib.typing import NamedTuple
from unionfs.changes.opened_file import OpenedFile
from unionfs.changes.origins import Origins
from unionfs.formats.xattrs import shown_name, stored_name
from unionfs.inode.numbers import InodeNumbers
from unionfs.layer.directory import LayerDir
from unionfs.layer.metacopy import find_contents, is_metacopy, relocated_file
from unionfs.layer.objects import NO_XATTR, PathRef
from unionfs.layer.ownership import Ownership
from unionfs.layer.resolve import merge, resolve
from unionfs.types import Ino, Mark
from unionfs.upper.link_records import LinkRecords

#: Labels of security modules: the host's policy sets them, not the program.
LABELS = frozenset(("security.selinux", "security.apparmor", "security.SMACK64"))
#: Errors of an object that its server has removed, or replaced by one of another type, since it was found.
GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ESTALE))
#: The exceptions of an object that was removed, or whose directory was replaced by another object.
VANISHED = (FileNotFoundError, NotADirectoryError)
_ACLS = frozenset(("system.posix_acl_access", "system.posix_acl_default"))


class Entry(NamedTuple):
    """One object of a merged tree. It owns no descriptor."""

    #: The topmost object with the name, or the copy to which the link index leads.
    ref: PathRef | LayerDir
    #: Its attributes on disk.
    info: os.stat_result
    #: Owner, group and mode (with the type) that the mount shows.
    uid: int
    gid: int
    mode: int
    #: The directories that contribute, top first; empty for a non-directory.
    parts: tuple[LayerDir, ...] = ()
    #: Of a non-directory: the parts of its directory in the layers below its own.
    below: tuple[LayerDir, ...] = ()
    #: A file of the layers below that a relocation shows at its old path.
    relocated: bool = False

    @property
    def is_dir(self) -> bool:
        """Whether the object is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether the object is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_change(self) -> bool:
        """Whether the writable layer or an earlier one has the object."""
        layer = self.ref.layer
        return layer.writable or layer.earlier or self.relocated  # `has_changes` takes longer

    @property
    def change_parts(self) -> list[LayerDir]:
        """The parts in the writable layer and in earlier ones, top first."""
        return [part for part in self.parts if part.layer.has_changes]

    @property
    def base_parts(self) -> tuple[LayerDir, ...]:
        """The parts in the other layers, which the sandbox has not changed, top first."""
        return tuple(part for part in self.parts if not part.layer.has_changes)


class MergedTree:
    """A merged tree. It borrows the layers; :class:`unionfs.changes.compared_stack.ComparedStack` opens and closes them."""

    def __init__(
        self,
        roots: Sequence[LayerDir],
        numbers: InodeNumbers,
        ownership: Ownership,
        records: LinkRecords | None = None,
        origins: Origins | None = None,
        *,
        acls: bool = True,
    ) -> None:
        """Read the tree of the root directories *roots*, top first.

        *records* are those of the writable layer among them, and *origins* those of copies. *acls*: access control lists are shown.
        """
        self._numbers = numbers
        self._ownership = ownership
        self._records = records
        self._origins = origins
        self._acls = acls
        self._fds = roots[0].layer.fds
        self.root = self._directory(tuple(roots))
        #: The names of the path that :meth:`at` has last looked up, and what was found.
        self._trail: list[tuple[bytes, Entry]] = []

    # -- names -------------------------------------------------------------------------------------

    def names(self, parts: Sequence[LayerDir]) -> list[bytes]:
        """Return the names in the directory that *parts* contribute to, sorted; none if it cannot be read."""
        try:
            return sorted(merge(parts))
        except (*VANISHED, PermissionError):
            return []

    def find(self, parts: Sequence[LayerDir], name: bytes) -> Entry | None:
        """Return the object *name* of the directory that *parts* contribute to; None if there is none.

        An object that disappears meanwhile, because its server runs, does not exist either.
        """
        self._fds.trim()  # no descriptor is in use between two calls
        try:
            return self._find(parts, name)
        except VANISHED:
            return None

    def find_top(self, parts: Sequence[LayerDir], name: bytes) -> Entry | None:
        """Return what :meth:`find` does, sooner if the writable layer has the name and it is not that of a directory."""
        self._fds.trim()
        mark = parts[0].mark(name)
        if (
            mark is not Mark.OTHER or not parts[0].layer.writable
        ):  # from an earlier layer, the link index may lead to a copy
            return self.find(parts, name)
        try:
            ref = parts[0].entry(name)
            return self._entry(ref, ref.info(), below=tuple(parts[1:]))
        except VANISHED:
            return None

    def _find(self, parts: Sequence[LayerDir], name: bytes) -> Entry | None:
        found = resolve(parts, name)
        if found is None:
            return None
        if found.is_dir:
            return self._directory(tuple(part.child(at) for part, at in found.places(parts, name)))
        top = found.sources[0]
        ref = parts[top].entry(name)
        info, relocated = ref.info(), False
        if ref.layer.relocation:
            place = relocated_file(ref, info, [part for part in parts[top + 1 :] if not part.skeleton])
            if place is not None:
                ref, info, relocated = place, place.info(), True
        if not ref.layer.writable and self._records is not None:
            number = self.number(info)
            # A file with one name may have had another one that was deleted while it was open (inode/table.py).
            known = info.st_nlink > 1 or self._records.lower_names(number) > 0
            copy = self._records.find(number) if known else None
            # A file that was made in the layer since may have the number of the one that was copied.
            if copy is not None and self._records.is_about(number, ref.birth_time_ns):
                ref, info, top, relocated = copy, copy.stat(), -1, False
        return self._entry(ref, info, below=tuple(parts[top + 1 :]), relocated=relocated)

    def _directory(self, parts: tuple[LayerDir, ...]) -> Entry:
        for part in parts:
            part.reachable()
        return self._entry(parts[0], parts[0].info(), parts)

    def _entry(
        self,
        ref: PathRef | LayerDir,
        info: os.stat_result,
        parts: tuple[LayerDir, ...] = (),
        below: tuple[LayerDir, ...] = (),
        *,
        relocated: bool = False,
    ) -> Entry:
        uid, gid, mode = self._ownership.visible(info, ref.layer)
        return Entry(ref, info, uid, gid, mode, parts, below, relocated)

    def at(self, path: bytes) -> Entry | None:
        """Return the object at *path*, which has no leading slash; None if there is none. No symbolic link is followed.

        The directories of the last path are kept, so that they are not read again for the next path in them.
        """
        names = [name for name in path.split(b"/") if name]
        known = 0
        for name, (kept, _) in zip(names[:-1], self._trail, strict=False):
            if name != kept:
                break
            known += 1
        del self._trail[known:]
        entry = self._trail[-1][1] if self._trail else self.root
        for name in names[known:]:
            found = self.find(entry.parts, name) if entry.is_dir else None
            if found is None:
                return None
            entry = found
            self._trail.append((name, entry))
        return entry

    def walk(self, top: Entry, path: bytes, *, complete: bool = False) -> Iterator[tuple[bytes, Entry]]:
        """Yield every object below the directory *top*, which is at *path*, with its path; a directory before its entries.

        Raises:
            PermissionError: *complete* is requested, and a directory cannot be read.
        """
        pending = [(path, top)]
        while pending:
            at, entry = pending.pop()
            if entry is not top:
                yield at, entry
            if entry.is_dir:
                pending += reversed(self._children(entry, at, complete=complete))

    def _children(self, entry: Entry, path: bytes, *, complete: bool) -> list[tuple[bytes, Entry]]:
        at, found = path, []
        try:
            names = sorted(merge(entry.parts))
            for name in names:
                at = joined(path, name)
                child = self.find(entry.parts, name)
                if child is not None:
                    found.append((at, child))
        except VANISHED:
            return []  # removed meanwhile
        except PermissionError as error:
            if complete:
                raise PermissionError(error.errno, error.strerror, os.fsdecode(b"/" + at)) from None
        return found

    # -- identity ----------------------------------------------------------------------------------

    def number(self, info: os.stat_result) -> Ino:
        """Return the inode number that the mount shows for the object on disk with the attributes *info*."""
        return self._numbers.number((info.st_dev, info.st_ino))

    def origin(self, entry: Entry, is_base: Callable[[Ino], bool]) -> Ino | None:
        """Return the inode number of the object that *entry* is a copy of, in the layers that were never writable.

        None if it is not known to be a copy. *is_base* is that of :meth:`unionfs.changes.origins.Origins.of`.
        """
        if self._origins is None or not entry.is_change or not isinstance(entry.ref, PathRef):
            return None
        if entry.relocated:
            return self.number(entry.info)
        self._fds.trim()
        try:
            return self._origins.of(entry.ref, entry.info, entry.below, is_base)
        except VANISHED:
            return None  # removed meanwhile

    @staticmethod
    def may_be_copy(entry: Entry) -> bool:
        """Return whether the regular file *entry* has any extended attribute, as each copy has that knows what it is a copy of.

        True for any other object.
        """
        if entry.relocated or not entry.is_file:
            return True
        entry.ref.layer.fds.trim()
        try:
            return bool(entry.ref.list_xattrs())
        except OSError as error:
            if error.errno not in NO_XATTR and error.errno not in GONE:
                raise
            return False

    # -- contents ----------------------------------------------------------------------------------

    def metadata_copy_of(self, entry: Entry) -> PathRef | None:
        """Return the file of a layer below that has the contents of *entry*; None if *entry* has its contents itself.

        Raises:
            OSError: EIO if *entry* is a metadata-only copy without contents.
        """
        ref = entry.ref
        if not (isinstance(ref, PathRef) and ref.layer.policy.metacopy and is_metacopy(ref, entry.info)):
            return None
        found = find_contents(ref, [part for part in entry.below if not part.skeleton])
        if found is None:
            raise OSError(errno.EIO, "the contents of this metadata-only copy are missing", ref.name)
        return found

    def open(self, entry: Entry) -> OpenedFile:
        """Open the contents of the regular file *entry* for reading; the caller closes them."""
        assert isinstance(entry.ref, PathRef)
        self._fds.trim()
        return OpenedFile(self.metadata_copy_of(entry) or entry.ref)

    @staticmethod
    def target(entry: Entry) -> bytes:
        """Return the target of the symbolic link *entry*."""
        assert isinstance(entry.ref, PathRef)
        return entry.ref.readlink()

    # -- extended attributes -----------------------------------------------------------------------

    def attributes(self, entry: Entry) -> dict[str, bytes]:
        """Return the extended attributes that the mount shows of *entry*, without labels of security modules."""
        self._fds.trim()
        ref = entry.ref
        override = ref.layer.policy.override_stat
        found: dict[str, bytes] = {}
        try:
            stored = ref.list_xattrs()
        except OSError as error:
            if error.errno not in NO_XATTR:
                raise
            return found
        for name in stored:
            shown = shown_name(name, override=override)
            if shown is None or shown in LABELS or (shown in _ACLS and not self._acls):
                continue
            try:
                found[shown] = ref.get_xattr(stored_name(shown, override=override))
            except OSError as error:
                if error.errno not in NO_XATTR:
                    raise
        return found


def joined(path: bytes, name: bytes) -> bytes:
    """Return the path of *name* in the directory at *path*; paths have no leading slash, that of the root is empty."""
    return path + b"/" + name if path else name


@contextmanager
def naming(path: bytes) -> Iterator[None]:
    """Give errors of reading the object at *path* this path: they have that of a layer, or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), os.fsdecode(b"/" + path)) from None

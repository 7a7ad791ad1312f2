"""The link index: records hard links and inode numbers of copied-up objects.

It keeps hard links together, and inode numbers constant over copy-up, forgetting and remounts. It is in the work directory
(``WORK/unionfs``) and belongs to the upper layer. It records these facts:

* **origin**: each copied-up regular file has the attribute ``user.unionfs.origin=GENERATION:NUMBER``, its inode number
  before the copy-up.
* **copies**: an additional link ``index/NUMBER.COUNT.BORN`` of the copy. Each copied-up lower file with several names has
  one. So has each copied-up object that is not a regular file, as Linux has no ``user.*`` attributes on those, until its layer
  is about to be frozen (upper/origin_log.py). COUNT is how many of its lower names are not yet links of the copy. A lookup of
  such a name finds the copy by the number. The visible link count is that of the copy, minus the index's own link, plus COUNT.
* **lost names**: an empty file ``index/NUMBER-COUNT.BORN``. COUNT names of a lower file without a copy have been deleted.
  The visible link count is that of the lower file minus COUNT.

BORN is the birth time of the lower object, and is omitted if unknown. The owner of a layer may replace files between two
mounts, and the new files may get the inode numbers of the old ones. If a lookup meets an object with another birth time, it
drops the recorded fact.

GENERATION identifies the stack of lower layers under which the facts were recorded. Under another stack, they are dropped.
So they are at each mount if a layer cannot be recognized (layer/fingerprint.py). Then a change of a copy makes all its known
names links of it, so that the change is not lost under the name that the program used.
Entries with a NUMBER that is valid for this mount only begin with ``t``, and are dropped at the next mount.

The methods take inode numbers of the running mount. A file of a frozen layer (vfs/freezing.py) keeps the number that it had
before. The next mount cannot know that number, and gives it the one of the object on disk. The records contain the latter.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress

from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.fingerprint import recurs, with_layer_on_top
from unionfs.layer.objects import NO_XATTR, DescriptorRef, PathRef, follows
from unionfs.types import Ino
from unionfs.upper.link_records import (
    COPY,
    INDEX,
    LOST,
    OPEN_DIR,
    ORIGIN_XATTR,
    PASSING,
    STACK_FILE,
    LinkRecords,
    born_suffix,
    count_in,
    read_stack,
)
from unionfs.upper.origin_log import Origin, append_origins, read_origins, remove_origins

#: The temporary name of a link that is about to become an entry; no entry has this name.
_NEW = b"new"


class LinkIndex(LinkRecords):
    """The link index of one writable layer. It owns the descriptor of its directory, and caches all entries.

    The mount creates and closes it.
    """

    def __init__(
        self, upper: Layer, home_fd: int, fingerprint: bytes, unpublished: Collection[int] = ()
    ) -> None:
        """Open the index in *home_fd*, the directory ``unionfs`` in the work directory.

        Args:
            upper: the writable layer, on the same file system.
            home_fd: borrowed; its entries ``index`` and ``stack`` are created if missing.
            fingerprint: identifies the lower layers; facts recorded over others are dropped.
            unpublished: inode numbers of copies that got no name because the server was killed; their entries are dropped.
        """
        try:
            os.mkdir(INDEX, 0o700, dir_fd=home_fd)
        except FileExistsError:
            pass
        directory = LayerDir(upper, None, INDEX)
        directory.adopt(os.open(INDEX, OPEN_DIR, dir_fd=home_fd))
        super().__init__(directory)
        self._fingerprint = fingerprint
        #: Whether the next mount over the same layers reads the records; otherwise it drops them.
        self.lasts = recurs(fingerprint)
        #: The numbers in the records of objects of the running mount that have another number there.
        self._recorded: dict[Ino, Ino] = {}
        #: Copies whose inode numbers nothing else could record, as far as :meth:`complete_copies` has seen them.
        self._need_entries: set[Ino] = set()
        #: Changes when a search for the lower names that are not yet links of their copies may have missed one.
        self.search_stamp = 0
        try:
            self._generation = self._read_stack(home_fd, fingerprint)
            self._logged = read_origins(home_fd)
            self._load(unpublished)
        except OSError:
            self._directory.close()
            raise

    def _read_stack(self, home_fd: int, fingerprint: bytes) -> bytes:
        try:
            generation, stored = read_stack(home_fd)
            if stored == fingerprint and generation:
                return generation
        except FileNotFoundError:
            pass
        for name in os.listdir(self._directory.proc_path()):
            os.unlink(name, dir_fd=self._directory.fd())
        remove_origins(home_fd)
        generation = os.urandom(4).hex().encode()
        self._write_stack(home_fd, generation, fingerprint)
        return generation

    @staticmethod
    def _write_stack(home_fd: int, generation: bytes, fingerprint: bytes) -> None:
        temporary = STACK_FILE + b".new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        try:
            with open(os.open(temporary, flags, 0o600, dir_fd=home_fd), "wb") as file:
                file.write(generation + b"\n" + fingerprint)
            os.rename(temporary, STACK_FILE, src_dir_fd=home_fd, dst_dir_fd=home_fd)
        except OSError:
            with suppress(OSError):  # on a full disk it would only take up room
                os.unlink(temporary, dir_fd=home_fd)
            raise

    def _load(self, unpublished: Collection[int]) -> None:
        for name, inode in self._entries():
            if name.startswith(PASSING):
                os.unlink(name, dir_fd=self._directory.fd())
            elif (
                (match := COPY.fullmatch(name)) is not None
                and inode not in unpublished
                and (match[3] != b"0" or self._links(name) > 1)  # no other name leads to it
            ):
                self._know(Ino(int(match[2], 16)), name, inode)
            elif (match := LOST.fullmatch(name)) is not None:
                self._lost[Ino(int(match[2], 16))] = name
            else:
                os.unlink(name, dir_fd=self._directory.fd())
        for number in self._lost.keys() & self._copies.keys():
            # A crash happened after the copy-up and before the removal of the lost-names entry.
            os.unlink(self._lost.pop(number), dir_fd=self._directory.fd())

    def _links(self, entry: bytes) -> int:
        return os.stat(entry, dir_fd=self._directory.fd(), follow_symlinks=False).st_nlink

    # -- origins -----------------------------------------------------------------------------------

    def recorded(self, ino: Ino) -> Ino:
        """Return the number that the records contain for *ino*."""
        return self._recorded.get(ino, ino)

    def _record_as(self, ino: Ino, number: Ino | None) -> Ino:
        if number is None or number == self.recorded(ino):
            return self.recorded(ino)
        self._recorded[ino], self._shown[number] = number, ino
        return number

    def set_origin(self, fd: int, ino: Ino, number: Ino | None = None) -> None:
        """Record on the open file *fd* that its inode number is *ino*; *number* is as for :meth:`add`.

        This has no effect if the file system supports no user attributes: then the number changes at the next mount.
        """
        number = self._record_as(ino, number)
        try:
            os.setxattr(fd, ORIGIN_XATTR, b"%s:%x" % (self._generation, number))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise

    # -- copies ------------------------------------------------------------------------------------

    def drop(self, ino: Ino) -> None:
        """Drop the facts about *ino*: the object no longer exists."""
        self.remove(ino)
        self._drop_lost(ino)

    def add(
        self,
        ino: Ino,
        dirfd: int,
        name: bytes,
        lower_names: int,
        *,
        lasting: bool,
        born: int | None = None,
        number: Ino | None = None,
    ) -> PathRef:
        """Link the finished copy *name* of *dirfd* into the index.

        Args:
            ino: its inode number.
            dirfd: the directory that it is in.
            name: its name there.
            lower_names: how many names of the lower object are not links of it.
            lasting: whether the number identifies the same object at the next mount.
            born: the birth time of the lower object.
            number: the number that the next mount will give the lower object; None: the one that is recorded already, or *ino*.
        """
        number = self._record_as(ino, number)
        entry = b"%s%x.%d%s" % (b"" if lasting else PASSING, number, max(0, lower_names), born_suffix(born))
        if lower_names > 0:
            self.search_stamp += 1
        fd = self._directory.fd()
        self.remove(ino)  # left by a copy-up that a crash interrupted before its last step
        inode = os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_ino
        os.link(name, entry, src_dir_fd=dirfd, dst_dir_fd=fd, follow_symlinks=False)
        self._know(ino, entry, inode)
        return PathRef(self._directory, entry)

    def replace(self, ino: Ino, copy: PathRef) -> PathRef | None:
        """Replace the entry of *ino*, which has no lower names, by another link of *copy*, and return a reference to the
        new entry.

        *copy* has its name already. On an error the entry is removed, and the result is None. Then the inode number changes
        at the next mount.
        """
        entry = self._copies[ino]
        fd = self._directory.fd()
        try:
            inode = copy.stat().st_ino
            os.link(copy.name, _NEW, src_dir_fd=copy.directory.fd(), dst_dir_fd=fd, follow_symlinks=False)
            os.rename(_NEW, entry, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            with suppress(OSError):
                os.unlink(_NEW, dir_fd=fd)
            self.remove(ino)
            return None
        self._know(ino, entry, inode)
        return PathRef(self._directory, entry)

    def lose_lower_name(self, ino: Ino) -> PathRef | None:
        """Record that one lower name of the copy *ino* was deleted or became a link of the copy.

        Returns:
            A reference by the entry's new name; None if the index has no entry for *ino*.
        """
        old = self._copies.get(ino)
        if old is None:
            return None
        new = _counting(COPY, old, -1)
        fd = self._directory.fd()
        try:
            os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            return PathRef(
                self._directory, old
            )  # the lower name is gone already; a count that is too high is harmless
        self._copies[ino] = new
        return PathRef(self._directory, new)

    def remove(self, ino: Ino) -> None:
        """Remove the copy *ino* from the index: its last name was deleted, or the copy-up failed."""
        name = self._copies.get(ino)
        if name is None:
            return
        try:
            os.unlink(name, dir_fd=self._directory.fd())
        except OSError:
            return  # no name leads to it; the next copy-up of the same object tries again
        del self._copies[ino]
        self._numbers.pop(self._inodes.pop(ino), None)

    # -- lost names --------------------------------------------------------------------------------

    def lose_name(
        self, ino: Ino, *, lasting: bool, born: int | None = None, number: Ino | None = None
    ) -> None:
        """Record that one more name of the lower file *ino*, which has no copy and the birth time *born*, was deleted. *number* is
        as for :meth:`add`.

        The name is gone already. If the record cannot be made, the visible link count stays too high, which is harmless.
        """
        old = self._lost.get(ino)
        fd = self._directory.fd()
        try:
            if old is not None:
                new = _counting(LOST, old, 1)
                os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
            else:
                number = self._record_as(ino, number)
                new = b"%s%x-1%s" % (b"" if lasting else PASSING, number, born_suffix(born))
                os.close(
                    os.open(new, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
                )
        except OSError:
            return
        self._lost[ino] = new

    def settle_lost_names(self, ino: Ino) -> None:
        """Drop the fact about lost names of *ino*: it has been copied up, and the copy's entry counts them."""
        self._drop_lost(ino)

    def _drop_lost(self, ino: Ino) -> None:
        entry = self._lost.pop(ino, None)
        if entry is not None:
            with suppress(OSError):  # the next mount drops it, because the copy has an entry
                os.unlink(entry, dir_fd=self._directory.fd())

    # -- the next writable layer -------------------------------------------------------------------

    def may_miss_names(self, searched: int | None) -> bool:
        """Return whether lower names may exist that are not links of their copies.

        *searched*: :attr:`search_stamp` before a search for such names. Links were made at all names that it found. If the
        stamp is still the same, the entries count names that the union does not show.
        """
        counted = [entry for entry in self._copies.values() if count_in(COPY, entry)]
        if self.search_stamp != searched:
            return bool(counted)
        # Another process does not search for numbers that are valid for this mount only.
        return any(entry.startswith(PASSING) for entry in counted)

    def complete_copies(self, most: int) -> list[Ino]:
        """Return up to *most* copies that need no entry: no lower name leads to them, and something else can record their inode
        numbers, even if the layer is not frozen then: they themselves, or the file ``origins``.
        """
        found: list[Ino] = []
        for ino, entry in self._copies.items():
            if len(found) == most:
                break
            if ino in self._need_entries or count_in(COPY, entry):
                continue
            ref = PathRef(self._directory, entry)
            if self._records_origin(ref) or ref.birth_time_ns() is not None:
                found.append(ino)
            else:
                self._need_entries.add(ino)
        return found

    def log_origins(self, home_fd: int, copies: Iterable[Ino]) -> None:
        """Append the inode numbers of those of *copies* that do not record it themselves to the file ``origins`` in *home_fd*, the
        directory ``unionfs`` in the work directory of their layer.

        Raises:
            OSError: it cannot be written.
        """
        lasting: list[tuple[int, Origin]] = []
        for ino in copies:
            entry, inode = self._copies[ino], self._inodes[ino]
            ref = PathRef(self._directory, entry)
            if self._records_origin(ref):
                continue
            born = ref.birth_time_ns()
            self._logged[inode] = Origin(ino, born)
            if not entry.startswith(PASSING):
                lasting.append((inode, Origin(self.recorded(ino), born)))
        append_origins(home_fd, lasting)

    @staticmethod
    def _records_origin(ref: PathRef) -> bool:
        try:
            return bool(os.getxattr(ref.proc_path(), ORIGIN_XATTR, follow_symlinks=False))
        except OSError:
            return False

    def unlink_copy(self, ino: Ino) -> None:
        """Remove the entry of the copy *ino*. Its inode number stays known if it records it, or after :meth:`log_origins`.

        Raises:
            OSError: the entry cannot be removed.
        """
        os.unlink(self._copies[ino], dir_fd=self._directory.fd())
        del self._copies[ino]
        self._numbers.pop(self._inodes.pop(ino), None)

    def move(self, home_fd: int, to: int, layer: Layer) -> None:
        """Move the index, without copies, from the directory *home_fd* to *to*, that of the new writable *layer*.

        The previous writable layer becomes the topmost lower one. *home_fd* keeps an empty index, and the file ``origins``, with
        which other programs can still read the origins in that layer.

        Raises:
            OSError: *to* has an index already, or cannot be written.
        """
        fingerprint = with_layer_on_top(self._fingerprint, self._directory.layer)
        self._write_stack(to, self._generation, fingerprint)
        try:
            os.rename(INDEX, INDEX, src_dir_fd=home_fd, dst_dir_fd=to)
        except OSError:
            with suppress(OSError):  # the launcher takes a layer with this file for the writable one
                os.unlink(STACK_FILE, dir_fd=to)
            raise
        with suppress(OSError):
            os.mkdir(INDEX, 0o700, dir_fd=home_fd)
        self._fingerprint, self.lasts = fingerprint, recurs(fingerprint)
        self._directory.layer = layer

    # -- names that lead to a lower file again -----------------------------------------------------

    def is_empty(self) -> bool:
        """Return whether there are no records of copies or lost names."""
        return not (self._copies or self._lost)

    def gain_name(self, ino: Ino) -> bool:
        """Record that one more lower name is going to lead to *ino*, because the upper layer will no longer hide it. Return False
        if there is no record of *ino*.

        The caller shows the name afterwards: a count that is too high is harmless, one that is too low may lose a copy.
        """
        entries, form, change = (self._copies, COPY, 1) if ino in self._copies else (self._lost, LOST, -1)
        old = entries.get(ino)
        if old is None:
            return False
        new = _counting(form, old, change)
        if form is LOST and count_in(LOST, new) == 0:
            os.unlink(old, dir_fd=self._directory.fd())
            del self._lost[ino]
        else:
            fd = self._directory.fd()
            os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
            entries[ino] = new
        return True

    def lose_names(self, ino: Ino, count: int, *, lasting: bool, born: int | None) -> None:
        """Record that *count* names of the lower file *ino*, of which there is no record, are deleted. If that fails, the visible
        link count is too high.
        """
        entry = b"%s%x-%d%s" % (b"" if lasting else PASSING, ino, count, born_suffix(born))
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(OSError):
            os.close(os.open(entry, flags, 0o600, dir_fd=self._directory.fd()))
            self._lost[ino] = entry

    def release(self, ino: Ino, links: int) -> None:
        """Remove the entry of the copy *ino*, so that the names that only the entry leads to the copy show the lower file again.

        The other ones of its *links* lower names stay hidden, and are counted as deleted.
        """
        entry = self._copies[ino]
        fd = self._directory.fd()
        os.unlink(entry, dir_fd=fd)
        del self._copies[ino]
        self._numbers.pop(self._inodes.pop(ino), None)
        match = COPY.fullmatch(entry)
        assert match is not None
        hidden = links - int(match[3])
        if 0 < hidden < links:
            lost = b"%s-%d%s" % (match[1][:-1], hidden, match[4])
            with suppress(OSError):
                os.close(
                    os.open(lost, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
                )
                self._lost[ino] = lost

    @staticmethod
    def clear_origin(ref: PathRef | DescriptorRef) -> None:
        """Forget the inode number of *ref*, which is no longer the copy of another object."""
        try:
            os.removexattr(ref.proc_path(), ORIGIN_XATTR, follow_symlinks=follows(ref))
        except OSError as error:
            if error.errno not in NO_XATTR:
                raise

    def prune(self) -> None:
        """Remove the entries of copies that have no other name."""
        for ino, lower_names, copy in list(self.copies()):
            if not lower_names and self._links(copy.name) == 1:
                self.remove(ino)


def _counting(form: re.Pattern[bytes], entry: bytes, change: int) -> bytes:
    """Return the name of *entry* with its count changed by *change*."""
    match = form.fullmatch(entry)
    assert match is not None
    return b"%s%d%s" % (match[1], max(0, int(match[3]) + change), match[4])

"""Opens a stack for comparison: the union, and the layers below that the sandbox has not changed. A server may be using them.

The writable layer may lie on earlier ones, which were writable until they were frozen (vfs/freezing.py). Their objects are
changes, too. The union is compared with the layers below the earlier ones.

Nothing is written and no lock is taken, so `unionfs changes` works beside a running server. A change that happens meanwhile is
seen or not; each object is seen whole, because the server publishes each by one rename.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from unionfs._stdlib.dataclasses import dataclass
from unionfs.assemble import StackSource, lower_layers
from unionfs.changes.merged_tree import MergedTree
from unionfs.changes.moves_below import MovesBelow, read_moves
from unionfs.changes.origins import Origins
from unionfs.errors import UnionError
from unionfs.inode.numbers import InodeNumbers
from unionfs.layer.directory import Layer
from unionfs.layer.fd_cache import FdCache
from unionfs.layer.fingerprint import fingerprint
from unionfs.layer.ownership import SAME_IDS, Ownership
from unionfs.layer.resolve import roots
from unionfs.upper.below_facts import BelowFacts, read_facts
from unionfs.upper.format import upper_policy
from unionfs.upper.link_records import LinkRecords
from unionfs.upper.workdir import HOME, used_by_kernel

#: The maximum of directories that stay open.
_MOST_FDS = 512


@dataclass(slots=True)
class ComparedStack:
    """The two trees of a comparison, and what the work directories record. :meth:`close` closes the layers."""

    union: MergedTree
    #: The layers that were never writable.
    below: MergedTree
    #: Top first: the writable layer, the earlier ones, those of *below*.
    layers: list[Layer]
    #: The records of the link indexes of the writable layer and of the earlier ones, top first. None: there are none.
    all_records: list[LinkRecords | None]
    #: What the layers of *below* had when the writable layer or an earlier one first hid or copied it; None if it was not
    #: recorded.
    facts: BelowFacts | None
    #: The moves that were made in the layers of *below* since the lowest earlier layer was written.
    moves_below: MovesBelow

    @property
    def records(self) -> LinkRecords | None:
        """The records of the writable layer's link index; None if there are none."""
        return self.all_records[0]

    @property
    def earlier(self) -> list[Layer]:
        """The earlier layers, top first."""
        return [layer for layer in self.layers if layer.earlier]

    def close(self) -> None:
        """Close the layers and the link indexes."""
        for layer in self.layers:
            layer.close()
        if self.layers:
            fds = self.layers[0].fds
            fds.capacity = 0
            fds.trim()
        for records in self.all_records:
            if records is not None:
                records.close()


def open_stack_to_compare(source: StackSource) -> ComparedStack:
    """Open the layers of *source*, whose descriptors it takes over.

    Raises:
        UnionError: there is no writable layer, or a layer below the earlier ones may have redirects.
        OSError: a directory cannot be read.
    """
    if source.upper_fd is None or source.work_fd is None:
        raise UnionError("only a writable layer has changes: give upperdir and workdir")
    fds = FdCache(_MOST_FDS)
    with ExitStack() as undo, ExitStack() as done:
        works = [source.work_fd, *(lower.work_fd for lower in source.lowers if lower.earlier)]
        for fd in (*works, source.index_fd):
            if fd is not None:
                done.callback(os.close, fd)
        layers = _open_layers(source, source.upper_fd, fds)
        for layer in layers:
            undo.callback(layer.close)
        top, lowers, base = layers[0], layers[1:], [layer for layer in layers if not layer.has_changes]
        if len(base) < len(lowers) and any(layer.policy.redirect for layer in base):
            raise UnionError(
                "a layer below an earlier writable layer may have redirects: read it without them"
            )
        top.policy = upper_policy(source.upper_fd, source.form, shared=used_by_kernel(source.work_fd))
        numbers = InodeNumbers()
        for layer in reversed(layers):
            numbers.announce(layer.device)
        shown_base, shown = (roots([layer.root for layer in each]) for each in (base, layers))
        for parts in (shown_base, shown):
            for position, part in enumerate(parts):
                part.layer.below = tuple(parts[position + 1 :])
        homes = [None if work_fd is None else open_home(work_fd) for work_fd in works]
        opened = [home_fd for home_fd in homes if home_fd is not None]
        for fd in opened:
            done.callback(os.close, fd)
        records: list[LinkRecords | None] = []
        for position, home_fd in enumerate(homes):
            found = None
            if home_fd is not None:
                found = LinkRecords.read(layers[position], home_fd, fingerprint(lowers[position:]))
            if found is not None:
                undo.callback(found.close)
            records.append(found)
        facts = read_facts(*reversed(opened)) if len(opened) == len(homes) else None
        moves_below = MovesBelow()
        for layer, home_fd in zip(layers, homes, strict=False):
            if layer.relocation and home_fd is not None:
                moves_below = read_moves(home_fd)
        if facts is not None:
            facts.paths_of = moves_below.paths_of
        ownership = Ownership(source.ids)
        acls = source.acl and source.ids == SAME_IDS and not top.policy.override_stat
        origins = Origins(list(zip(layers, records, strict=False)), numbers)
        union = MergedTree(shown, numbers, ownership, records[0], origins, acls=acls)
        below = MergedTree(shown_base, numbers, ownership, acls=acls)
        undo.pop_all()
    return ComparedStack(union, below, layers, records, facts, moves_below)


def _open_layers(source: StackSource, upper_fd: int, fds: FdCache) -> list[Layer]:
    """Return the layers of *source*, top first, but for the skeleton. They take over its descriptors."""
    with ExitStack() as undo:
        for fd in (upper_fd, *(lower.fd for lower in source.lowers)):
            undo.callback(os.close, fd)
        lowers = lower_layers(source, fds)
        undo.pop_all()
    layers = [Layer(upper_fd, fds, writable=True)]
    for layer in lowers:
        if layer.skeleton:
            layer.close()
        else:
            layers.append(layer)
    return layers


def open_home(work_fd: int) -> int | None:
    """Open our directory in the work directory; None if no server of ours has used it."""
    try:
        return os.open(HOME, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work_fd)
    except FileNotFoundError:
        return None

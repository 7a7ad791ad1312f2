"""Opens a stack for comparison: the union and the layers below the writable one, which a server may be using meanwhile.

Nothing is written and no lock is taken, so `unionfs changes` works beside a running server. A change that happens meanwhile is
seen or not; each object is seen whole, because the server publishes each by one rename.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from unionfs._stdlib.dataclasses import dataclass
from unionfs.assemble import StackSource, lower_layers
from unionfs.changes.merged_tree import MergedTree
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
    """The two trees of a comparison, and what the work directory records. :meth:`close` closes the layers."""

    union: MergedTree
    below: MergedTree
    layers: list[Layer]
    records: LinkRecords | None
    #: What the layers below had when the writable layer first hid or copied it; None if it was not recorded.
    facts: BelowFacts | None

    def close(self) -> None:
        """Close the layers and the link index."""
        for layer in self.layers:
            layer.close()
        if self.layers:
            fds = self.layers[0].fds
            fds.capacity = 0
            fds.trim()
        if self.records is not None:
            self.records.close()


def open_stack_to_compare(source: StackSource) -> ComparedStack:
    """Open the layers of *source*, whose descriptors it takes over.

    Raises:
        UnionError: there is no writable layer.
        OSError: a directory cannot be read.
    """
    if source.upper_fd is None or source.work_fd is None:
        raise UnionError("only a writable layer has changes: give upperdir and workdir")
    fds = FdCache(_MOST_FDS)
    with ExitStack() as undo:
        lowers = []
        for layer in lower_layers(source, fds):
            if layer.skeleton:
                layer.close()
            else:
                lowers.append(layer)
        top = Layer(source.upper_fd, fds, writable=True)
        for layer in (top, *lowers):
            undo.callback(layer.close)
        top.policy = upper_policy(source.upper_fd, source.form, shared=used_by_kernel(source.work_fd))
        numbers = InodeNumbers()
        for layer in reversed([top, *lowers]):
            numbers.announce(layer.device)
        shown_below = roots([layer.root for layer in lowers])
        shown = roots([top.root, *(layer.root for layer in lowers)])
        for parts in (shown_below, shown):
            for position, part in enumerate(parts):
                part.layer.below = tuple(parts[position + 1 :])
        ownership = Ownership(source.ids)
        records = facts = None
        home_fd = open_home(source.work_fd)
        if home_fd is not None:
            undo.callback(os.close, home_fd)
            records = LinkRecords.read(top, home_fd, fingerprint(lowers))
            facts = read_facts(home_fd)
        acls = source.acl and source.ids == SAME_IDS and not top.policy.override_stat
        union = MergedTree(shown, numbers, ownership, records, acls=acls)
        below = MergedTree(shown_below, numbers, ownership, acls=acls)
        undo.pop_all()
    if home_fd is not None:
        os.close(home_fd)
    os.close(source.work_fd)
    if source.index_fd is not None:
        os.close(source.index_fd)
    return ComparedStack(union, below, [top, *lowers], records, facts)


def open_home(work_fd: int) -> int | None:
    """Open our directory in the work directory; None if no server of ours has used it."""
    try:
        return os.open(HOME, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work_fd)
    except FileNotFoundError:
        return None

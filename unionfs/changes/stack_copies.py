"""Stacks for the commands that change a writable layer without a mount: copies of their descriptors, and which parts they need."""

from __future__ import annotations

import os
from collections.abc import Iterator

from unionfs._stdlib.dataclasses import replace
from unionfs.assemble import StackSource
from unionfs.upper.below_facts import FACTS_FILE
from unionfs.upper.workdir import HOME


def without_mount(source: StackSource, work_fd: int) -> StackSource:
    """Return *source*, with the work directory *work_fd*, without what only a mount needs. No limit of the layer applies."""
    return replace(
        source,
        lowers=tuple(lower for lower in source.lowers if not lower.skeleton),
        index_fd=None,
        volatile=False,
        size=None,
        inodes=None,
        records_below=os.path.lexists(b"/proc/self/fd/%d/%s/%s" % (work_fd, HOME, FACTS_FILE)),
    )


def duplicate(source: StackSource) -> StackSource:
    """Return *source*, which has a writable layer and no index, with descriptors of its own."""
    assert source.upper_fd is not None
    assert source.work_fd is not None
    return replace(
        source,
        lowers=tuple(
            replace(
                lower,
                fd=os.dup(lower.fd),
                work_fd=_duplicate(lower.work_fd),
                archive_index_fd=_duplicate(lower.archive_index_fd),
                chunks_fd=_duplicate(lower.chunks_fd),
            )
            for lower in source.lowers
        ),
        upper_fd=os.dup(source.upper_fd),
        work_fd=os.dup(source.work_fd),
    )


def _duplicate(fd: int | None) -> int | None:
    return None if fd is None else os.dup(fd)


def descriptors(source: StackSource) -> Iterator[int]:
    """Yield all descriptors of *source*."""
    for lower in source.lowers:
        fds = (lower.fd, lower.work_fd, lower.archive_index_fd, lower.chunks_fd)
        yield from (fd for fd in fds if fd is not None)
    yield from (fd for fd in (source.upper_fd, source.work_fd, source.index_fd) if fd is not None)

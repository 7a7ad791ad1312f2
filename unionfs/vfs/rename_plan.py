"""Plan a rename before anything is changed. Pure.

The kernel checks the types. This module checks that a replaced directory is empty, as rename(2) requires.
"""

from __future__ import annotations

import errno

from unionfs._stdlib.typing import NamedTuple

#: Flags of renameat2(2) that a client may pass (linux/fs.h).
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

KNOWN_FLAGS = RENAME_NOREPLACE | RENAME_EXCHANGE


class End(NamedTuple):
    """The source or target of a rename, as the union shows it."""

    #: The union has an object of that name.
    exists: bool
    is_dir: bool = False
    #: It is a directory with contents from lower layers.
    merged_below: bool = False
    #: The object itself is in the writable layer.
    in_upper: bool = False
    #: Without the writable layer's entry, a lower layer would show an object of that name.
    lower_has_name: bool = False
    #: It is a directory without entries; only determined for a target that is replaced.
    empty: bool = True


class RenamePlan(NamedTuple):
    """The steps of a rename, in order."""

    copy_up: bool
    #: The moved directory needs a redirect to its place in the lower layers.
    redirect: bool
    #: The moved directory must hide a lower directory of its new name. In an exchange, this is the new place of the first
    #: one. A directory with a redirect does so by itself.
    opaque: bool
    #: The same for the second directory of an exchange.
    copy_up_second: bool
    redirect_second: bool
    opaque_second: bool
    exchange: bool
    whiteout: bool


def plan_rename(source: End, target: End, flags: int, *, redirects: bool) -> RenamePlan:
    """Plan the rename of *source* to *target*; *redirects*: the writable layer can hold redirects.

    Raises:
        OSError: EINVAL for flags that are unknown or exclude each other. EEXIST, ENOENT, ENOTEMPTY, EISDIR and ENOTDIR as
            in renameat2(2). EXDEV for a directory with contents from lower layers if redirects are not possible: the caller
            then copies it.
    """
    if flags & ~KNOWN_FLAGS or flags == KNOWN_FLAGS:
        _fail(errno.EINVAL)
    if not source.exists:
        _fail(errno.ENOENT)
    exchange = bool(flags & RENAME_EXCHANGE)
    if flags & RENAME_NOREPLACE and target.exists:
        _fail(errno.EEXIST)
    if exchange and not target.exists:
        _fail(errno.ENOENT)
    if target.exists and not exchange:
        if target.is_dir and not source.is_dir:
            _fail(errno.EISDIR)
        if source.is_dir and not target.is_dir:
            _fail(errno.ENOTDIR)
        if target.is_dir and not target.empty:
            _fail(errno.ENOTEMPTY)
    if (source.merged_below or (exchange and target.merged_below)) and not redirects:
        _fail(errno.EXDEV)
    return RenamePlan(
        copy_up=not source.in_upper,
        redirect=source.merged_below,
        opaque=source.is_dir and target.lower_has_name and not source.merged_below,
        copy_up_second=exchange and not target.in_upper,
        redirect_second=exchange and target.merged_below,
        opaque_second=exchange and target.is_dir and source.lower_has_name and not target.merged_below,
        exchange=exchange,
        whiteout=not exchange and source.lower_has_name,
    )


def _fail(number: int) -> None:
    raise OSError(number, f"rename refused: {errno.errorcode[number]}")

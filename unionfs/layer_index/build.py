"""Builds a layer index: reads every directory of the layers once, and renames the file into place when it is complete."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from unionfs._stdlib.typing import BinaryIO
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer_index.format import HEADER, ROOT_PAGE, Row, Source, encode_header, encode_page
from unionfs.layer_index.scan import CannotIndexError, Found, Parts, examine, roots, scan
from unionfs.layer_index.store import NAME, Store, Wanted
from unionfs.types import Mark

_LOCK = b"lock"
_NEW = b".new-"
_HALF_MADE = rb"\.new-[0-9a-f]{16}"
#: The maximum of indexes in one directory; beyond it, the oldest are removed.
_MOST_FILES = 64
#: Nanoseconds within which a change may leave the timestamp of a directory as it was: more than a tick of the slowest kernels.
_TICK_NS = 50_000_000
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _ChangingError(Exception):
    """A layer changed just now: an index could describe the state before or after the change."""


def build(
    store: Store, layers: Sequence[Wanted], *, wait: bool, go_on: Callable[[], None] = lambda: None
) -> bool:
    """Build all indexes that *store* lacks to read *layers*, top first. Return False if some are still missing.

    *wait*: wait for another process that is building, instead of leaving the work to it. *go_on* is called between two
    directories.

    Raises:
        OSError: a layer cannot be read, or the store cannot be written.
    """
    if not store.usable:
        return False
    lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=store.fd)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks: at worst, two processes build the same index, one of them in vain
        _tidy(store)
        # A layer that cannot be indexed splits the others into separate stacks. Each iteration settles at least one stack.
        for _ in range(2 * len(layers) + 1):
            missing = store.plan(layers).missing
            if not missing:
                return True
            if not _make(store, missing[0], go_on):
                return False
        return False
    finally:
        os.close(lock)


def _tidy(store: Store) -> None:
    """Remove unfinished files of a killed builder, and the oldest indexes beyond the limit. Call it under the lock.

    Other files stay, because the user may have chosen a directory that contains other things.
    """
    found = []
    with os.scandir(b"/proc/self/fd/%d" % store.fd) as entries:
        for entry in entries:
            name = entry.name
            if re.fullmatch(_HALF_MADE, name):
                os.unlink(name, dir_fd=store.fd)
            elif re.fullmatch(NAME, name):
                found.append((entry.stat(follow_symlinks=False).st_mtime_ns, name))
    for _, name in sorted(found)[: -_MOST_FILES + 1]:
        with suppress(OSError):
            os.unlink(name, dir_fd=store.fd)


def _make(store: Store, run: Sequence[Wanted], go_on: Callable[[], None]) -> bool:
    layers = [each.layer for each in run]
    checked = any(each.checked for each in run)
    name, temporary = store.name(layers), _NEW + os.urandom(8).hex().encode()
    fd = os.open(temporary, _CREATE, 0o600, dir_fd=store.fd)
    try:
        for _ in range(2):
            key = store.key(layers)
            with open(fd, "wb", closefd=False) as file:
                file.seek(0)
                file.truncate()
                try:
                    _write(file, key, layers, time.time_ns() - _TICK_NS if checked else None, go_on)
                except _ChangingError:
                    time.sleep(2 * _TICK_NS / 1e9)
                    continue
            if store.key(layers) == key:
                os.rename(temporary, name, src_dir_fd=store.fd, dst_dir_fd=store.fd)
                return True
        os.unlink(temporary, dir_fd=store.fd)
        return False
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=store.fd)
        raise
    finally:
        os.close(fd)


def _write(
    file: BinaryIO, key: bytes, layers: Sequence[Layer], newest: int | None, go_on: Callable[[], None]
) -> None:
    """Write the index of *layers*, or the fact that there is none, to the empty *file*.

    Raises:
        _ChangingError: a directory is newer than *newest*, in nanoseconds since the epoch.
    """
    file.seek(HEADER.size + len(key))
    refused = None
    try:
        table = _write_pages(file, layers, newest, go_on)
    except CannotIndexError as error:
        refused, table = error.layer, b""
        file.seek(HEADER.size + len(key))
        file.truncate()
    file.write(table)
    length = file.tell()
    file.seek(0)
    file.write(encode_header(key, table, length=length, refused=refused))


def _write_pages(
    file: BinaryIO, layers: Sequence[Layer], newest: int | None, go_on: Callable[[], None]
) -> bytes:
    fds = layers[0].fds
    parts, opaque = roots([layer.root for layer in layers])
    table: dict[int, bytes] = {}
    pending: list[tuple[int, Parts]] = [(ROOT_PAGE, parts)]
    following = ROOT_PAGE + 1

    def put(number: int, rows: Iterable[Row], sources: Sequence[Source], layer: int) -> None:
        try:
            blob, table[number] = encode_page(file.tell(), rows, sources)
        except ValueError as error:
            raise CannotIndexError(layer, str(error)) from None
        file.write(blob)

    def rows_of(parts: Parts) -> Iterator[Row]:
        nonlocal following
        for found in scan(parts):
            yield _row(found, following)
            if found.is_dir:
                pending.append((following, found.parts))
                following += 1
            fds.trim()  # no descriptor is in use between two names

    root = Found(b"", Mark.OPAQUE_DIRECTORY if opaque else Mark.DIRECTORY, parts)
    put(0, [_row(root, ROOT_PAGE)], (), 0)
    while pending:
        number, parts = pending.pop()
        sources = [_source(*part) for part in parts]
        if newest is not None and any(max(each.ctime_ns, each.mtime_ns) > newest for each in sources):
            raise _ChangingError
        put(number, rows_of(parts), sources, parts[0][0])
        go_on()
    return b"".join(table[number] for number in range(following))


def _source(layer: int, directory: LayerDir) -> Source:
    info = directory.stat()
    return Source(layer, info.st_ino, info.st_ctime_ns, info.st_mtime_ns)


def _row(found: Found, page: int) -> Row:
    if not found.parts:
        return Row(found.name, found.mark)
    info, no_xattrs, target = examine(found)
    attributes = (
        info.st_mode, info.st_nlink, info.st_uid, info.st_gid, info.st_ino, info.st_size, info.st_blocks, info.st_rdev,
        info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns,
    )  # fmt: skip
    is_dir = found.is_dir
    merged = is_dir and len(found.parts) > 1
    return Row(
        found.name, found.mark, attributes, page if is_dir else 0, found.layer, no_xattrs, merged, target
    )

"""The index files in a directory given for them: finds the file for a stack, and decides whether to trust it.

A trusted file belongs to root or to the server's user, and no other user may write to it. Its checksums match, and it has the
expected key. The key identifies the reader's credentials, because the visible owners and attributes depend on them. For each
layer it also contains the file system, its root's inode number, birth time and timestamps, and how the layer is read.
"""

from __future__ import annotations

import bisect
import mmap
import os
import re
import stat
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from unionfs import _libc
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.hashlib import sha256
from unionfs._stdlib.typing import NamedTuple, Self
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer_index.format import HEADER, VERSION, DamagedError, LayerIndex
from unionfs.layer_index.merged_directory import Stack

_SUFFIX = b".index"
#: The form of the file names.
NAME = rb"[0-9a-f]{40}\.index"
#: Seconds after which another attempt is made to index a layer that could not be indexed.
_RETRY_AFTER = 24 * 3600
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: The escape sequence for blanks and backslashes in mountinfo (proc_pid_mountinfo(5)).
_ESCAPED = rb"\\([0-7]{3})"


class Wanted(NamedTuple):
    """A lower layer, and whether it is to be indexed."""

    layer: Layer
    indexed: bool
    #: The layer may change between two mounts: each directory is compared with the index at its first use.
    checked: bool = True


class Plan:
    """How lower layers are read. `Store.plan` creates it."""

    def __init__(self) -> None:
        """Start empty."""
        #: The root directories, top first, of single layers and of stacks that are read as one.
        self.roots: list[LayerDir] = []
        self.stacks: list[Stack] = []
        #: Groups of adjacent layers, top first, for which an index is wanted but missing.
        self.missing: list[tuple[Wanted, ...]] = []


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """Facts from /proc about this process and its mounts. A confined process can no longer read them."""

    #: Ids, capabilities and the maps of the user namespace: they decide which owners and attributes this process sees.
    credentials: bytes
    #: Sorted.
    mount_points: tuple[bytes, ...]

    @classmethod
    def read(cls) -> Self:
        """Read the facts.

        Raises:
            OSError: /proc cannot be read.
        """
        return cls(_credentials(), _mount_points())


def is_safe(fd: int) -> bool:
    """Return whether only root and the server's user can change the object of the descriptor *fd*."""
    info = os.fstat(fd)
    return info.st_uid in (0, os.geteuid()) and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


class Store:
    """The indexes in one directory. It owns the directory's descriptor and the mapped files; `UnionFs.close` closes it."""

    def __init__(self, directory_fd: int, facts: ProcessFacts | None = None) -> None:
        """Use the directory *directory_fd*, which is closed with the store.

        A directory to which other users may write is neither read nor written. *facts* are read from /proc if they are None.
        """
        self.fd = directory_fd
        self._maps: list[mmap.mmap] = []
        self._identities: dict[Layer, bytes] = {}
        self._facts = ProcessFacts.read() if facts is None else facts
        self.usable = is_safe(directory_fd) and _libc.have_openat2()

    def close(self) -> None:
        """Close the directory, and unmap the indexes that were read from it."""
        for each in self._maps:
            each.close()
        self._maps.clear()
        os.close(self.fd)

    def plan(self, layers: Iterable[Wanted]) -> Plan:
        """Decide how *layers*, top first, are read: adjacent layers that have an index are read as one."""
        plan = Plan()
        run: list[Wanted] = []
        mounts = self._facts.mount_points
        for each in layers:
            if (
                self.usable
                and each.indexed
                and not each.layer.cross
                and not _contains_mounts(each.layer, mounts)
            ):
                run.append(each)
            else:
                self._read_run(tuple(run), plan)
                run.clear()
                plan.roots.append(each.layer.root)
        self._read_run(tuple(run), plan)
        return plan

    def _read_run(self, run: tuple[Wanted, ...], plan: Plan) -> None:
        if not run:
            return
        stack = self._open(run)
        if isinstance(stack, Stack):
            plan.stacks.append(stack)
            plan.roots.append(stack.root)
        elif stack is None:
            plan.missing.append(run)
            plan.roots += [each.layer.root for each in run]
        else:  # the layer that cannot be indexed splits the others
            self._read_run(run[:stack], plan)
            plan.roots.append(run[stack].layer.root)
            self._read_run(run[stack + 1 :], plan)

    def _open(self, run: tuple[Wanted, ...]) -> Stack | int | None:
        """Return the layers *run* as one stack, the position of the layer that cannot be indexed, or None if there
        is no index.
        """
        layers = [each.layer for each in run]
        index = self.read(layers)
        if index is None:
            return None
        if index.refused is not None:
            return index.refused
        name = self.name(layers)

        def on_distrust() -> None:
            with suppress(OSError):  # the next mount builds it again
                os.unlink(name, dir_fd=self.fd)

        checked = frozenset(place for place, each in enumerate(run) if each.checked)
        try:
            return Stack(layers, index, checked=checked, on_distrust=[on_distrust])
        except DamagedError:
            on_distrust()
            return None

    def read(self, layers: Sequence[Layer]) -> LayerIndex | None:
        """Return the index of *layers*, top first, or None if there is none that is trusted."""
        try:
            fd = os.open(self.name(layers), _OPEN, dir_fd=self.fd)
        except OSError:
            return None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or not is_safe(fd) or info.st_size < HEADER.size:
                return None
            content = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
            self._maps.append(content)
            index = LayerIndex(content, self.key(layers), len(layers))
        except (OSError, ValueError):
            return None
        finally:
            os.close(fd)
        if index.refused is not None and time.time() - info.st_mtime > _RETRY_AFTER:
            return None
        return index

    def name(self, layers: Sequence[Layer]) -> bytes:
        """Return the file name for *layers*. It stays the same when their contents change."""
        about = b"\n".join([self._facts.credentials, *map(self._identity, layers)])
        return sha256(about).hexdigest()[:40].encode() + _SUFFIX

    def key(self, layers: Sequence[Layer]) -> bytes:
        """Return the key that an index of *layers* must have at this moment."""
        return b"\n".join(
            [
                b"%d" % VERSION,
                self._facts.credentials,
                *(self._identity(layer) + b" " + _times(layer) for layer in layers),
            ]
        )

    def _identity(self, layer: Layer) -> bytes:
        found = self._identities.get(layer)
        if found is None:
            found = self._identities[layer] = _identity(layer)
        return found


def _identity(layer: Layer) -> bytes:
    """Return bytes that identify the directory *layer*, and how it is read."""
    fd = layer.root.fd()
    info = os.fstat(fd)
    file_system = os.fstatvfs(fd).f_fsid
    where = b"%x" % file_system if file_system else b"device-%x" % info.st_dev
    born = _libc.birth_time_ns(fd)
    hidden = b",".join(b"%x:%d" % identity for identity in sorted(layer.hidden))
    return b"%s:%d:%d:%s:%s" % (where, info.st_ino, born or 0, repr(layer.policy).encode(), hidden)


def _times(layer: Layer) -> bytes:
    info = os.fstat(layer.root.fd())
    return b"%d:%d" % (info.st_ctime_ns, info.st_mtime_ns)


def _credentials() -> bytes:
    found = [b"%d:%d:%a" % (os.geteuid(), os.getegid(), sorted(os.getgroups()))]
    for path in ("/proc/self/uid_map", "/proc/self/gid_map"):
        with open(path, "rb") as file:
            found.append(b",".join(file.read().split()))
    with open("/proc/self/status", "rb") as file:
        found += [line.split()[1] for line in file if line.startswith(b"CapEff:")]
    return b" ".join(found)


def _mount_points() -> tuple[bytes, ...]:
    with open("/proc/self/mountinfo", "rb") as file:
        fields = [line.split(b" ", 5)[4] for line in file]
    return tuple(
        sorted({re.sub(_ESCAPED, lambda match: bytes([int(match[1], 8)]), point) for point in fields})
    )


def _contains_mounts(layer: Layer, points: Sequence[bytes]) -> bool:
    """Return whether something is mounted below the root of *layer*, by its path in this process's mount namespace."""
    path = os.readlink(b"/proc/self/fd/%d" % layer.root.fd()).rstrip(b"/") + b"/"
    at = bisect.bisect_left(points, path)
    # If the layer is "/", the comparison also finds "/" itself, which is a mount point.
    return any(point.startswith(path) and point != path for point in points[at : at + 2])

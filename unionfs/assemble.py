"""Opens the layers of a stack and assembles a :class:`~unionfs.vfs.filesystem.UnionFs` from them. Rejects stacks that cannot
work.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs.copyup.copyup import CopyUp
from unionfs.errors import UnionError
from unionfs.formats.whiteout import ALL_MARKS, MarkPolicy
from unionfs.inode.numbers import Identity
from unionfs.inode.table import InodeTable
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.fd_cache import FdCache
from unionfs.layer.fingerprint import fingerprint
from unionfs.layer.ownership import SAME_IDS, IdPolicy, Ownership, maps_every_id
from unionfs.options import Options
from unionfs.upper.format import ANY_FORMAT, WantedFormat, lower_policy, upper_policy
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.permissions import NativePermissions, OverridePermissions, owns_single_id
from unionfs.upper.quota import Quota
from unionfs.upper.upper import Upper
from unionfs.vfs.filesystem import UnionFs, WritableParts
from unionfs.vfs.names import Names

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer_index.fetcher import Fetcher
    from unionfs.layer_index.merged_directory import Stack
    from unionfs.layer_index.store import ProcessFacts, Wanted

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READABLE = os.R_OK | os.X_OK
#: Descriptors that are reserved for open files, the connection and Python itself.
_RESERVED_FDS = 256
#: The maximum of directories that stay open while an index is built.
_BUILDING_FDS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSource:
    """One lower layer to open: a descriptor of its root, and how to read it."""

    fd: int
    policy: MarkPolicy = ALL_MARKS
    squash: bool = False
    cross: tuple[bytes, ...] = ()
    #: Keep an index of the layer and trust it. Its directories are compared with the index at their first use, unless
    #: ``unchanging``: then no process can change them.
    indexed: bool = False
    unchanging: bool = False
    #: The bottom layer, generated for this mount alone. No mark of another layer hides it (layer/resolve.py). Records about the
    #: stack outlast it, so it is not part of the stack's fingerprint, and it has no index.
    skeleton: bool = False
    #: The layer was the writable one, until it was frozen (vfs/freezing.py). Such layers are the first of the lower ones. They
    #: are read like the writable one, whatever *policy* is, and have no index.
    earlier: bool = False
    #: An earlier layer in which objects that were moved in the layers below are at their old paths (changes/relocation.py).
    relocation: bool = False
    #: The layer is an archive: *fd* is that of the archive, this one that of its index (layer_index/archive_layer.py).
    archive_index_fd: int | None = None
    #: The archive is fetched in parts: its table of chunks, and its number in requests to the fetcher.
    chunks_fd: int | None = None
    fetched: int = 0
    #: The work directory of an earlier layer: `unionfs changes` reads its records, a mount does not.
    work_fd: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSource:
    """A stack to open. `open_stack` takes over the descriptors."""

    #: Top first, beginning with the earlier layers.
    lowers: tuple[LayerSource, ...]
    upper_fd: int | None = None
    work_fd: int | None = None
    #: The directory for indexes of layers (layer_index/store.py).
    index_fd: int | None = None
    form: WantedFormat = ANY_FORMAT
    ids: IdPolicy = SAME_IDS
    volatile: bool = False
    #: Record what the layers below have where the upper layer hides or copies it first (upper/below_facts.py).
    records_below: bool = True
    static_nlink: bool = False
    #: The maximum of bytes and objects in the upper layer; None: no limit.
    size: int | None = None
    inodes: int | None = None
    #: Support POSIX access control lists, if owners are stored and shown unchanged.
    acl: bool = True
    #: The process that fetches contents. The caller closes it.
    fetcher: Fetcher | None = None
    #: Directories that appear empty wherever they occur in a lower layer.
    hidden: tuple[Identity, ...] = ()
    #: Whether this process has a single id, and the facts on which indexes depend. None: opening the stack reads them from
    #: /proc.
    single_id: bool | None = None
    facts: ProcessFacts | None = None


def import_for(source: StackSource) -> None:
    """Import the modules that opening *source* needs, because a confined process may be unable to read their files."""
    for lower in source.lowers:
        if lower.archive_index_fd is not None:
            from unionfs.layer_index.archive_layer import import_for_archive

            import_for_archive(lower.fd, fetched=lower.chunks_fd is not None)


def with_process_facts(source: StackSource) -> StackSource:
    """Return *source* with all facts that opening it needs from /proc, because a confined process cannot read /proc.

    Raises:
        OSError: /proc cannot be read.
    """
    facts = None
    if source.index_fd is not None:
        from unionfs.layer_index.store import ProcessFacts

        facts = ProcessFacts.read()
    single_id = owns_single_id() if source.upper_fd is not None else None
    return replace(source, single_id=single_id, facts=facts)


def raise_fd_limit() -> int:
    """Raise the soft limit on open files to the hard limit, and return the new soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass
    return soft


def open_stack(source: StackSource) -> UnionFs:
    """Open the layers of *source* and return the file system.

    Raises:
        UnionError: the layers cannot be combined.
        OSError: a directory cannot be read or written.
    """
    limit = raise_fd_limit()
    fds = FdCache(min(4096, (limit - _RESERVED_FDS) // 2))
    with ExitStack() as undo:
        for taken in (
            *(lower.fd for lower in source.lowers),
            *(lower.work_fd for lower in source.lowers),
            *(lower.archive_index_fd for lower in source.lowers),
            *(lower.chunks_fd for lower in source.lowers),
            source.upper_fd,
            source.work_fd,
            source.index_fd,
        ):
            if taken is not None:
                undo.callback(os.close, taken)
        fs = _join(source, fds, undo)
        undo.pop_all()
    for unneeded in (source.work_fd, *(lower.work_fd for lower in source.lowers)):
        if unneeded is not None:
            os.close(unneeded)
    return fs


def lower_layers(source: StackSource, fds: FdCache) -> list[Layer]:
    """Return the lower layers of *source*, top first. They take over the descriptors of their root directories.

    Raises:
        UnionError: an earlier layer is below another one.
        OSError: the format of an earlier layer cannot be read.
    """
    order = [lower.earlier for lower in source.lowers]
    if order != sorted(order, reverse=True):
        raise UnionError("an earlier writable layer is below another layer: give the earlier layers first")
    policies = [
        upper_policy(lower.fd, source.form, shared=False) if lower.earlier else lower.policy
        for lower in source.lowers
    ]
    layers = [
        _archive(lower, lower.archive_index_fd, fds, number, source.fetcher)
        if lower.archive_index_fd is not None
        else Layer(
            lower.fd,
            fds,
            policy=policy,
            squash=lower.squash,
            skeleton=lower.skeleton,
            earlier=lower.earlier,
            cross=lower.cross,
            hidden=source.hidden,
        )
        for number, (lower, policy) in enumerate(zip(source.lowers, policies, strict=True))
    ]
    for layer, lower in zip(layers, source.lowers, strict=True):
        layer.relocation = lower.relocation
    return layers


def _archive(lower: LayerSource, index_fd: int, fds: FdCache, number: int, fetcher: Fetcher | None) -> Layer:
    from unionfs.layer_index.archive_layer import ArchiveLayer, Fetched  # most stacks have none

    fetched = None
    if lower.chunks_fd is not None:
        if fetcher is None:
            raise UnionError("a layer has to be fetched, and there is no process that does it")
        fetched = Fetched(lower.chunks_fd, lower.fetched, fetcher)
    return ArchiveLayer(lower.fd, index_fd, fds, number=number, fetched=fetched)


def _wanted(source: StackSource, layers: Sequence[Layer]) -> list[Wanted]:
    from unionfs.layer_index.store import Wanted

    return [
        Wanted(
            layer,
            lower.indexed and not (lower.skeleton or lower.earlier or lower.archive_index_fd is not None),
            not lower.unchanging,
        )
        for layer, lower in zip(layers, source.lowers, strict=True)
    ]


def _join(source: StackSource, fds: FdCache, undo: ExitStack) -> UnionFs:
    layers = lower_layers(source, fds)
    roots, store = [layer.root for layer in layers], None
    stacks: list[Stack] = []
    if source.index_fd is not None:
        from unionfs.layer_index.store import Store

        store = Store(source.index_fd, source.facts)
        plan = store.plan(_wanted(source, layers))
        roots, stacks = plan.roots, plan.stacks
    ownership = Ownership(source.ids)
    if source.upper_fd is None or source.work_fd is None:
        acls = source.acl and source.ids == SAME_IDS
        inode_table = _inode_table(layers, None, roots, stacks)
        return UnionFs(
            inode_table, ownership, None, static_nlink=source.static_nlink, acls=acls, layer_indexes=store
        )
    top = Layer(source.upper_fd, fds, writable=True)
    upper = Upper(
        top, source.work_fd, source.form, single_id=source.single_id, records_below=source.records_below
    )
    undo.callback(upper.close)
    lasting = [layer for layer, lower in zip(layers, source.lowers, strict=True) if not lower.skeleton]
    index = LinkIndex(top, upper.workdir.home_fd, fingerprint(lasting), upper.workdir.unpublished)
    undo.callback(index.close)
    upper.workdir.clear_leftovers()
    inode_table = _inode_table([top, *layers], index, [top.root, *roots], stacks)
    log = upper.below_facts
    if log is not None and log.is_new and roots and not (roots[0].layer.skeleton or roots[0].layer.earlier):
        log.note(b"/", roots[0].info())  # the root is never copied up: the layer begins with one
    permissions = OverridePermissions() if top.policy.override_stat else NativePermissions()
    quota = None
    if source.size is not None or source.inodes is not None:
        quota = Quota(top, source.size, source.inodes)
        quota.nameless, inode_table.on_nameless_dropped = inode_table.nameless, quota.nameless_dropped
        upper.marks.on_mark, upper.on_record = quota.marked, quota.recorded
    acls = source.acl and source.ids == SAME_IDS and not top.policy.override_stat
    copy_up = CopyUp(
        inode_table, upper, index, ownership, permissions, durable=not source.volatile, acls=acls, quota=quota
    )
    names = Names(inode_table, upper, index, copy_up, ownership, permissions, quota)
    parts = WritableParts(
        upper=upper, index=index, copy_up=copy_up, names=names, permissions=permissions, quota=quota
    )
    return UnionFs(
        inode_table,
        ownership,
        parts,
        volatile=source.volatile,
        static_nlink=source.static_nlink,
        acls=acls,
        layer_indexes=store,
    )


def _inode_table(
    layers: Sequence[Layer], index: LinkIndex | None, roots: Sequence[LayerDir], stacks: Sequence[Stack]
) -> InodeTable:
    inode_table = InodeTable(layers, index, roots)
    for stack in stacks:
        stack.on_distrust.append(inode_table.touch_all)
    return inode_table


def build_indexes(source: StackSource, *, wait: bool, go_on: Callable[[], None] = lambda: None) -> bool:
    """Build the layer indexes that *source* wants and lacks. The caller keeps the descriptors.

    Returns False if some are still missing: the store cannot be used, a layer changes, or another process is building them and
    *wait* is False. *go_on* is called between two directories.

    Raises:
        OSError: a layer cannot be read, or the index cannot be written.
    """
    if source.index_fd is None:
        return False
    from unionfs.layer_index.build import build
    from unionfs.layer_index.store import Store

    raise_fd_limit()  # a directory of many layers needs a descriptor in each
    with ExitStack() as done:
        fds = FdCache(_BUILDING_FDS)
        # These layers use the caller's descriptors and do not close them.
        layers = lower_layers(source, fds)
        done.callback(_close_all, fds)
        store = Store(os.dup(source.index_fd), source.facts)
        done.callback(store.close)
        return build(store, _wanted(source, layers), wait=wait, go_on=go_on)


def lacks_indexes(source: StackSource) -> bool:
    """Return whether *source* wants a layer index that does not exist. The caller keeps the descriptors."""
    if source.index_fd is None:
        return False
    from unionfs.layer_index.store import Store

    store = Store(os.dup(source.index_fd), source.facts)
    try:
        copy = lower_layers(source, FdCache(0))
        plan = store.plan(_wanted(source, copy))
        return store.usable and bool(plan.missing)
    finally:
        store.close()


def _close_all(fds: FdCache) -> None:
    fds.capacity = 0
    fds.trim()


def source_from_options(options: Options, mountpoint: str | None) -> StackSource:
    """Open the directories that the command line names. *mountpoint* is None if the stack is only to be read.

    Raises:
        UnionError: a directory is missing, not a directory or unreadable, or one contains another or the mount point.
    """
    squash = options.squash_unmapped and not maps_every_id()
    with ExitStack() as undo:

        def open_directory(path: str, role: str, access: int) -> int:
            try:
                fd = os.open(path, _OPEN_DIR)
                undo.callback(os.close, fd)
                if not os.access(f"/proc/self/fd/{fd}", access, effective_ids=True):
                    wanted = "written" if access & os.W_OK else "read"
                    raise UnionError(
                        f"{role} {path} cannot be {wanted} by this user: use another directory, or change its mode"
                    )
            except OSError as error:
                raise UnionError(f"{role} {path}: {error.strerror}") from None
            return fd

        lowers = [(path, open_directory(path, "lowerdir", _READABLE)) for path in options.lowerdirs]
        mount_fd = None if mountpoint is None else open_directory(mountpoint, "mount point", os.X_OK)
        access = _READABLE if mountpoint is None else _READABLE | os.W_OK
        named = list(lowers)
        upper_fd = work_fd = None
        if options.upperdir is not None and options.workdir is not None:
            upper_fd = open_directory(options.upperdir, "upperdir", access)
            work_fd = open_directory(options.workdir, "workdir", access)
            _refuse_inside(
                [("upperdir " + options.upperdir, upper_fd)], [("workdir " + options.workdir, work_fd)]
            )
            _refuse_inside(
                [("workdir " + options.workdir, work_fd)], [("upperdir " + options.upperdir, upper_fd)]
            )
            writable = [("upperdir " + options.upperdir, upper_fd), ("workdir " + options.workdir, work_fd)]
            lower_named = [("lowerdir " + path, fd) for path, fd in lowers]
            _refuse_inside(writable, lower_named)
            _refuse_inside(lower_named, writable)
            named += [(options.upperdir, upper_fd), (options.workdir, work_fd)]
        index_fd = None
        if options.index_dir is not None:
            index_fd = open_directory(options.index_dir, "index_dir", _READABLE | os.W_OK)
            _refuse_index_dir(options.index_dir, index_fd)
            # Each new index would change a layer that contains the directory.
            _refuse_inside(
                [("index_dir " + options.index_dir, index_fd)], [("layer " + path, fd) for path, fd in named]
            )
        if mountpoint is not None and mount_fd is not None:
            # A lookup in a layer that contains the mount point would make the server wait for itself, until SIGKILL.
            _refuse_inside(
                [("mount point " + mountpoint, mount_fd)], [("layer " + path, fd) for path, fd in named]
            )
        undo.pop_all()
    if mount_fd is not None:
        os.close(mount_fd)
    return StackSource(
        lowers=tuple(
            LayerSource(
                fd=fd,
                policy=lower_policy(fd, options.form),
                squash=squash,
                indexed=index_fd is not None,
                unchanging=options.immutable,
            )
            for _, fd in lowers
        ),
        index_fd=index_fd,
        upper_fd=upper_fd,
        work_fd=work_fd,
        form=options.form,
        ids=options.ids,
        volatile=options.volatile,
        # A layer that is not to outlast the mount is not written back.
        records_below=not options.volatile,
        static_nlink=options.static_nlink,
        size=options.size,
        inodes=options.inodes,
        acl=options.acl,
    )


def _refuse_index_dir(path: str, fd: int) -> None:
    from unionfs.layer_index.store import is_safe

    if not is_safe(fd):
        raise UnionError(
            f"index_dir {path} can be written by other users: use a directory of your own with mode 0700"
        )


def _refuse_inside(inner: list[tuple[str, int]], outer: list[tuple[str, int]]) -> None:
    """Raise UnionError if one of *inner* is, or is below, one of *outer*. Ancestors are compared by identity, not by path."""
    homes = {_identity(fd): name for name, fd in outer}
    for name, fd in inner:
        for ancestor in _ancestors(fd):
            if ancestor in homes:
                relation = "is the same directory as" if ancestor == _identity(fd) else "is inside"
                raise UnionError(f"{name} {relation} {homes[ancestor]}: use a directory outside it")


def _ancestors(fd: int) -> list[Identity]:
    found = [_identity(fd)]
    at = os.dup(fd)
    try:
        while True:
            up = os.open(b"..", _OPEN_DIR, dir_fd=at)
            os.close(at)
            at = up
            identity = _identity(at)
            if identity == found[-1]:
                return found
            found.append(identity)
    finally:
        os.close(at)


def _identity(fd: int) -> Identity:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino

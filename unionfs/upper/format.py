"""Determine which marks a writable layer can hold, and record their format in the layer.

Two extended attributes of the layer's root directory tell readers which marks to expect:

* ``user.unionfs.whiteouts``: ``overlay``, ``overlay-trusted`` or ``aufs``, the format chosen when the layer was empty. In
  the overlay formats, names that begin with ``.wh.`` are ordinary names. Root writes ``overlay-trusted``, like kernel
  OverlayFS without ``userxattr``: marks are ``trusted.overlay.*``, which only root can see.
* ``user.unionfs.features``: which of ``redirect``, ``metacopy`` and ``override_stat`` occur in the layer. It is set before
  the first such mark is made. Without it, a lookup would look for marks on every object, and take twice as long.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from unionfs import _libc
from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs.errors import UnionError
from unionfs.formats.whiteout import MarkPolicy, WhiteoutFormat
from unionfs.formats.xattrs import OPAQUE, TRUSTED_PREFIX, USER_PREFIX
from unionfs.layer.directory import Layer
from unionfs.layer.objects import NO_XATTR, at_path
from unionfs.upper.permissions import owns_single_id

_FORMAT_XATTR = "user.unionfs.whiteouts"
_FEATURES_XATTR = "user.unionfs.features"
_TRUSTED_FORMAT = "overlay-trusted"
_FEATURES = frozenset(("redirect", "metacopy", "override_stat"))
#: errno values which mean that the file system or this user cannot hold the mark.
_CANNOT = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS))
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFormat:
    """The format that the caller requests. For None, the recorded format is used, or else one that works."""

    whiteouts: WhiteoutFormat | None = None
    #: Write ``user.overlay.*`` also as root (``userxattr`` of kernel OverlayFS).
    user_marks: bool = False
    #: Rename directories of lower layers with a redirect; without, such a rename fails with EXDEV.
    redirect: bool = True
    #: Follow existing redirects and metacopies.
    follow: bool = True
    #: Copy only metadata if contents do not change.
    metacopy: bool = True
    #: Keep owners, modes and types in an attribute; None: if the server owns a single id.
    override_stat: bool | None = None


#: The recorded format, or else one that works.
ANY_FORMAT = WantedFormat()


class LayerFormat:
    """The format of one writable layer. :func:`open_format` creates it; the layer belongs to the caller."""

    def __init__(self, layer: Layer, whiteouts: WhiteoutFormat, prefix: str, *, marks: bool) -> None:
        """Describe *layer*. *prefix* is that of new marks; *marks* is whether the layer can hold any."""
        self._layer = layer
        self.whiteouts = whiteouts
        self.prefix = prefix
        self.marks = marks
        self.redirect = self.metacopy = False

    def use_feature(self, name: str) -> None:
        """Record that the layer has marks of the feature *name*; called before the first such mark is made."""
        if self.has_feature(name):
            return
        policy = self._layer.policy
        used = (_features(self.read(_FEATURES_XATTR)) & _FEATURES) | {name}
        self._record(_FEATURES_XATTR, ",".join(sorted(used)))
        self._layer.policy = replace(policy, **{name: True}, user_marks=bool(used & {"redirect", "metacopy"}))

    def has_feature(self, name: str) -> bool:
        """Return whether the layer's record contains the feature."""
        policy = self._layer.policy
        return bool(getattr(policy, name)) and (policy.user_marks or name == "override_stat")

    def _record(self, name: str, value: str) -> None:
        os.setxattr(self._layer.root.proc_path(), name, value.encode())

    def read(self, name: str) -> str | None:
        """Return the attribute *name* of the layer's root; None if it has none."""
        return _read(self._layer.root.proc_path(), name)

    def settle(self, wanted: WantedFormat, *, shared: bool, single_id: bool | None) -> None:
        """Decide which marks are honoured in the layer, and record the format.

        ``.wh.`` names are ordinary names only if none of them can be a mark: the overlay format was chosen when the layer
        was empty, and the layer was never written in another format since.

        Args:
            wanted: the requested format.
            shared: kernel OverlayFS has written to the layer, too; it does not record features.
            single_id: the server owns a single id; None reads that from /proc.
        """
        recorded = self.read(_FORMAT_XATTR)
        own = _TRUSTED_FORMAT if self._is_trusted() else self.whiteouts.value
        if recorded is None and not os.listdir(self._layer.root.proc_path()):
            with suppress(OSError):
                self._record(_FORMAT_XATTR, own)
                recorded = own
        elif recorded is not None and recorded != own and self.whiteouts is WhiteoutFormat.AUFS:
            with suppress(OSError):
                self._record(_FORMAT_XATTR, own)
        plain = recorded is not None and recorded != "aufs" and self.whiteouts is WhiteoutFormat.OVERLAY
        used = _features(self.read(_FEATURES_XATTR))
        self._layer.policy = _policy(
            used, plain=plain, marked=recorded is None or shared, follow=wanted.follow
        )
        self.redirect = wanted.redirect and self.marks
        self.metacopy = wanted.metacopy and self.marks
        self._settle_override(wanted.override_stat, single_id)

    def _settle_override(self, wanted: bool | None, single_id: bool | None) -> None:
        if wanted and not self.marks:
            raise UnionError(
                "upperdir cannot store owners: its file system has no user.* attributes; use xattr_permissions=0"
            )
        if wanted is None and self.marks:
            wanted = owns_single_id() if single_id is None else single_id
        if wanted:
            self.use_feature("override_stat")

    def _is_trusted(self) -> bool:
        return self.whiteouts is WhiteoutFormat.OVERLAY and self.prefix == TRUSTED_PREFIX


def open_format(
    layer: Layer, scratch_fd: int, wanted: WantedFormat, *, shared: bool, single_id: bool | None = None
) -> LayerFormat:
    """Determine what *layer* can hold, by trying it in the empty directory *scratch_fd* of the same file system.

    *shared* and *single_id* are those of :meth:`LayerFormat.settle`.

    Raises:
        UnionError: the requested or recorded format does not work here.
    """
    form = LayerFormat(layer, WhiteoutFormat.AUFS, USER_PREFIX, marks=False)
    recorded = form.read(_FORMAT_XATTR)
    whiteouts = wanted.whiteouts or _whiteouts_of(recorded)
    trusted = not wanted.user_marks and os.geteuid() == 0
    if recorded is not None:
        trusted = recorded == _TRUSTED_FORMAT
    form.prefix = TRUSTED_PREFIX if trusted else USER_PREFIX
    form.marks = _works(_try_mark, scratch_fd, form.prefix)
    if trusted and not form.marks:
        if recorded is not None:
            raise UnionError(
                "upperdir has marks of root (trusted.overlay.*), which this user cannot read: mount it as root"
            )
        form.prefix = USER_PREFIX
        form.marks = _works(_try_mark, scratch_fd, form.prefix)
    if whiteouts is not WhiteoutFormat.AUFS:
        if form.marks and _works(_try_whiteouts, scratch_fd, form.prefix):
            form.whiteouts = WhiteoutFormat.OVERLAY
        elif wanted.whiteouts is not None:
            raise UnionError("upperdir does not support overlay whiteouts: use whiteouts=aufs")
    form.settle(wanted, shared=shared, single_id=single_id)
    return form


def lower_policy(root_fd: int, wanted: WantedFormat) -> MarkPolicy:
    """Return which marks count in the lower layer with the root directory *root_fd*.

    The layer's own record is trusted if root or this user owns the directory. Kernel OverlayFS does the same: the user who
    names a directory as a layer vouches for it. *wanted* may turn redirects off (``redirect_dir=nofollow``), and may
    declare that all layers keep owners in attributes.
    """
    ours = os.fstat(root_fd).st_uid in (0, os.geteuid())
    recorded, features = (
        (None, None)
        if not ours
        else (_read(b"/proc/self/fd/%d" % root_fd, name) for name in (_FORMAT_XATTR, _FEATURES_XATTR))
    )
    used = _features(features) | ({"override_stat"} if wanted.override_stat else frozenset())
    plain = recorded not in (None, WhiteoutFormat.AUFS.value)
    return _policy(used, plain=plain, marked=recorded is None, follow=wanted.follow)


def upper_policy(root_fd: int, wanted: WantedFormat, *, shared: bool) -> MarkPolicy:
    """Return which marks count in the writable layer with the root directory *root_fd*, without preparing it for a mount.

    *shared*: kernel OverlayFS has written to the layer, too; it does not record features.
    """
    recorded, features = (
        _read(b"/proc/self/fd/%d" % root_fd, name) for name in (_FORMAT_XATTR, _FEATURES_XATTR)
    )
    plain = recorded not in (None, WhiteoutFormat.AUFS.value)
    marked = recorded is None or shared
    return _policy(_features(features), plain=plain, marked=marked, follow=wanted.follow)


def _features(recorded: str | None) -> frozenset[str]:
    return frozenset((recorded or "").split(","))


def _policy(used: frozenset[str], *, plain: bool, marked: bool, follow: bool) -> MarkPolicy:
    """Return which marks count in a layer with the features *used*.

    *plain*: ``.wh.`` names are ordinary names. *marked*: another program, which records no features, may have written to
    the layer. Then ``redirect`` and ``metacopy`` count in root's format (trusted.overlay), which no other user can forge.
    """
    return MarkPolicy(
        overlay=True,
        aufs=not plain,
        redirect=follow and (marked or "redirect" in used),
        metacopy=follow and (marked or "metacopy" in used),
        override_stat="override_stat" in used,
        user_marks=bool(used & {"redirect", "metacopy"}),
    )


def _read(path: bytes, name: str) -> str | None:
    try:
        return os.fsdecode(os.getxattr(path, name))
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        return None


def _whiteouts_of(recorded: str | None) -> WhiteoutFormat | None:
    if recorded == _TRUSTED_FORMAT:
        return WhiteoutFormat.OVERLAY
    try:
        return WhiteoutFormat(recorded)
    except ValueError:
        return None


def _works(attempt: Callable[[int, str], None], scratch_fd: int, prefix: str) -> bool:
    """Return whether *attempt* works. Without room for the attempt, assume that it does: nearly every file system supports it.

    The user may mount a full disk to make room. If the assumption is wrong, making a mark fails later.
    """
    try:
        attempt(scratch_fd, prefix)
    except OSError as error:
        if error.errno in _FULL:
            return True
        if error.errno not in _CANNOT:
            raise
        return False
    finally:
        for name in os.listdir(b"/proc/self/fd/%d" % scratch_fd):
            _remove(scratch_fd, os.fsencode(name))
    return True


def _remove(dirfd: int, name: bytes) -> None:
    info = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    (os.rmdir if stat.S_ISDIR(info.st_mode) else os.unlink)(name, dir_fd=dirfd)


def _try_mark(dirfd: int, prefix: str) -> None:
    """Mark a directory and a file.

    First mark the existing directory, which takes no room: so even a full disk reports that the process may not make such
    marks. Otherwise root of a user namespace would choose and record marks that it cannot even see.
    """
    scratch = b"/proc/self/fd/%d" % dirfd
    os.setxattr(scratch, prefix + OPAQUE, b"y")
    os.removexattr(scratch, prefix + OPAQUE)
    os.mkdir(b"directory", 0o700, dir_fd=dirfd)
    os.close(os.open(b"file", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dirfd))
    for name in (b"directory", b"file"):
        os.setxattr(at_path(dirfd, name), prefix + OPAQUE, b"y", follow_symlinks=False)


def _try_whiteouts(dirfd: int, _prefix: str) -> None:
    """Make a whiteout, and move it atomically.

    An unprivileged device 0:0 requires Linux 5.8 and a file system that supports it. Not all file systems support
    RENAME_EXCHANGE and RENAME_WHITEOUT.
    """
    os.mknod(b"device", stat.S_IFCHR, 0, dir_fd=dirfd)
    os.mkdir(b"directory", 0o700, dir_fd=dirfd)
    _libc.renameat2(dirfd, b"device", dirfd, b"directory", _libc.RENAME_EXCHANGE)
    _libc.renameat2(dirfd, b"device", dirfd, b"moved", _libc.RENAME_WHITEOUT)

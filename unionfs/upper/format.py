"""The form in which a writable layer records what it changes, found out when the layer is opened.

Two attributes on the layer's root say what a reader has to expect:

* ``user.unionfs.whiteouts``: ``overlay``, ``overlay-trusted`` or ``aufs``, the format that the layer was begun with
  when it was empty. In the overlay formats ``.wh.`` names are ordinary ones; in ``overlay-trusted``, which root
  writes as kernel OverlayFS reads it without ``userxattr``, marks are ``trusted.overlay.*``, which nobody else sees.
* ``user.unionfs.features``: which of ``redirect``, ``metacopy`` and ``override_stat`` occur in it. Asking each object
  for marks that cannot be there would cost as much as everything else about a lookup. Set before the first one.
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
#: errno values that mean "this file system, or this account, cannot hold that".
_CANNOT = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS))
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFormat:
    """What was asked for; None leaves it to what is recorded, and then to what works."""

    whiteouts: WhiteoutFormat | None = None
    #: Write ``user.overlay.*`` also as root (the kernel's ``userxattr``).
    user_marks: bool = False
    #: Rename directories of lower layers by a redirect; otherwise that is EXDEV.
    redirect: bool = True
    #: Honour redirects and copies of metadata that are there.
    follow: bool = True
    #: Copy metadata alone where contents do not change.
    metacopy: bool = True
    #: Keep owners, modes and types in an attribute; None: where the server owns a single id.
    override_stat: bool | None = None


#: Whatever is recorded, and then whatever works.
ANY_FORMAT = WantedFormat()


class LayerFormat:
    """What one writable layer can hold, and how."""

    def __init__(self, layer: Layer, whiteouts: WhiteoutFormat, prefix: str, *, marks: bool) -> None:
        """Describe *layer*: *prefix* of the marks it gets, if it can hold *marks* at all."""
        self._layer = layer
        self.whiteouts = whiteouts
        self.prefix = prefix
        self.marks = marks
        self.redirect = self.metacopy = False

    def use_feature(self, name: str) -> None:
        """Record, before the first such mark is made, that the layer has marks of the feature *name*."""
        if self.has_feature(name):
            return
        policy = self._layer.policy
        used = (_features(self.read(_FEATURES_XATTR)) & _FEATURES) | {name}
        self._record(_FEATURES_XATTR, ",".join(sorted(used)))
        self._layer.policy = replace(policy, **{name: True}, user_marks=bool(used & {"redirect", "metacopy"}))

    def has_feature(self, name: str) -> bool:
        """Return whether it is recorded that the layer has such marks."""
        policy = self._layer.policy
        return bool(getattr(policy, name)) and (policy.user_marks or name == "override_stat")

    def _record(self, name: str, value: str) -> None:
        os.setxattr(self._layer.root.proc_path(), name, value.encode())

    def read(self, name: str) -> str | None:
        """Return the attribute *name* of the layer's root; None where it has none."""
        return _read(self._layer.root.proc_path(), name)

    def settle(self, wanted: WantedFormat, *, shared: bool, single_id: bool | None) -> None:
        """Decide which marks are honoured in the layer, and record it.

        ``.wh.`` names are ordinary ones only where none can be a mark: the layer was empty when the overlay format
        was chosen for it, and it was never written in another since. *shared*: kernel OverlayFS has written to it,
        too, and keeps no record of features. *single_id*: the server owns a single id; None reads that from /proc.
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
            raise UnionError("upperdir cannot keep owners in attributes: its file system has no user.* ones")
        if wanted is None and self.marks:
            wanted = owns_single_id() if single_id is None else single_id
        if wanted:
            self.use_feature("override_stat")

    def _is_trusted(self) -> bool:
        return self.whiteouts is WhiteoutFormat.OVERLAY and self.prefix == TRUSTED_PREFIX


def open_format(
    layer: Layer, scratch_fd: int, wanted: WantedFormat, *, shared: bool, single_id: bool | None = None
) -> LayerFormat:
    """Find out what *layer* can hold, trying it in the empty directory *scratch_fd* of its file system.

    *shared* and *single_id* are those of :meth:`LayerFormat.settle`.

    Raises:
        UnionError: what was asked for, or recorded, does not work here.
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
                "upperdir was written by root, whose marks (trusted.overlay.*) this account cannot see: mount it as root"
            )
        form.prefix = USER_PREFIX
        form.marks = _works(_try_mark, scratch_fd, form.prefix)
    if whiteouts is not WhiteoutFormat.AUFS:
        if form.marks and _works(_try_whiteouts, scratch_fd, form.prefix):
            form.whiteouts = WhiteoutFormat.OVERLAY
        elif wanted.whiteouts is not None:
            raise UnionError("upperdir cannot hold overlay whiteouts: use whiteouts=aufs")
    form.settle(wanted, shared=shared, single_id=single_id)
    return form


def lower_policy(root_fd: int, wanted: WantedFormat) -> MarkPolicy:
    """Find out which marks count in the lower layer of the directory *root_fd*.

    What it records itself is believed where the directory is root's or our own, as with kernel OverlayFS: whoever names
    a directory as a layer vouches for it. *wanted* may say otherwise (``redirect_dir=nofollow``), and that all layers
    keep owners in attributes.
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


def _features(recorded: str | None) -> frozenset[str]:
    return frozenset((recorded or "").split(","))


def _policy(used: frozenset[str], *, plain: bool, marked: bool, follow: bool) -> MarkPolicy:
    """Say what counts in a layer with the features *used*.

    *plain*: ``.wh.`` names are ordinary ones. *marked*: somebody else may have written to it, who keeps no record;
    then ``redirect`` and ``metacopy`` count as root has them, which nobody else can forge.
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
    """Tell whether *attempt* works. Where there is no room to find out it is taken to, as nearly everywhere: somebody
    mounts this to make room, and a mark that cannot be made is an error later.
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

    First what is there already, which takes no room: who may make no such mark is told so on a full disk, too. Else root of a
    user namespace would take marks for its own, and record them, that it cannot even see.
    """
    scratch = b"/proc/self/fd/%d" % dirfd
    os.setxattr(scratch, prefix + OPAQUE, b"y")
    os.removexattr(scratch, prefix + OPAQUE)
    os.mkdir(b"directory", 0o700, dir_fd=dirfd)
    os.close(os.open(b"file", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dirfd))
    for name in (b"directory", b"file"):
        os.setxattr(at_path(dirfd, name), prefix + OPAQUE, b"y", follow_symlinks=False)


def _try_whiteouts(dirfd: int, _prefix: str) -> None:
    """Make a whiteout, and move it without a moment in between.

    An unprivileged device 0:0 wants Linux 5.8 and a file system that has it; RENAME_EXCHANGE and RENAME_WHITEOUT
    are not everywhere either.
    """
    os.mknod(b"device", stat.S_IFCHR, 0, dir_fd=dirfd)
    os.mkdir(b"directory", 0o700, dir_fd=dirfd)
    _libc.renameat2(dirfd, b"device", dirfd, b"directory", _libc.RENAME_EXCHANGE)
    _libc.renameat2(dirfd, b"device", dirfd, b"moved", _libc.RENAME_WHITEOUT)

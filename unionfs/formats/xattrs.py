"""Extended attributes that belong to union file systems: their names, their values, and how a program's own of
such a name are kept apart. Pure codecs.

A mark is never visible through the mount. A program that sets an attribute of such a name, as a union mounted on
this one does, gets it stored under an escaped name, as with kernel OverlayFS ("Nesting overlayfs mounts",
Documentation/filesystems/overlayfs.rst): ``user.overlay.X`` as ``user.overlay.overlay.X``.

In a layer that keeps owners in attributes (override.py), ``security.X`` is kept as
``user.containers.override_security.X``, as fuse-overlayfs does: its server may not set the former, and those that the
disk has are not for those inside.
"""

from __future__ import annotations

#: Prefixes of marks, user's or root's: the kernel reads the former when mounted with ``userxattr``.
USER_PREFIX = "user.overlay."
TRUSTED_PREFIX = "trusted.overlay."
_OVERLAY_PREFIXES = (USER_PREFIX, TRUSTED_PREFIX)
_OVERLAY_ESCAPE = "overlay."
#: The other attributes of union file systems.
_KEPT_PREFIX = "user.containers.override_"
_SECURITY_PREFIX = "security."
_OTHER_PREFIXES = ("user.fuseoverlayfs.", "user.unionfs.", _KEPT_PREFIX)
_OTHER_ESCAPE = "user.unionfs.escaped."
PRIVATE_PREFIXES = _OVERLAY_PREFIXES + _OTHER_PREFIXES

OPAQUE = "opaque"
REDIRECT = "redirect"
METACOPY = "metacopy"
WHITEOUT = "whiteout"

OPAQUE_XATTRS = (USER_PREFIX + OPAQUE, TRUSTED_PREFIX + OPAQUE, "user.fuseoverlayfs.opaque")
WHITEOUT_XATTRS = (USER_PREFIX + WHITEOUT, TRUSTED_PREFIX + WHITEOUT)
REDIRECT_XATTRS = (USER_PREFIX + REDIRECT, TRUSTED_PREFIX + REDIRECT)
METACOPY_XATTRS = (USER_PREFIX + METACOPY, TRUSTED_PREFIX + METACOPY)


def readable(names: tuple[str, ...], *, user_marks: bool) -> tuple[str, ...]:
    """Return those of the marks *names* that count in a layer: without *user_marks* root's only."""
    return names if user_marks else tuple(name for name in names if name.startswith(TRUSTED_PREFIX))


def is_private(name: str) -> bool:
    """Tell whether the attribute *name*, as a layer has it, is a union file system's own or an escaped one."""
    return name.startswith(PRIVATE_PREFIXES)


def stored_name(name: str, *, override: bool = False) -> str:
    """Return the name under which a layer keeps the attribute that the mount shows as *name*.

    *override*: the layer keeps owners in attributes.
    """
    if override and name.startswith(_SECURITY_PREFIX):
        return _KEPT_PREFIX + name
    for prefix in _OVERLAY_PREFIXES:
        if name.startswith(prefix):
            return prefix + _OVERLAY_ESCAPE + name[len(prefix) :]
    if name.startswith(_OTHER_PREFIXES):
        return _OTHER_ESCAPE + name
    return name


def shown_name(name: str, *, override: bool = False) -> str | None:
    """Return the name that the mount shows for the attribute *name* of a layer; None for one that is hidden.

    *override*: the layer keeps owners in attributes.
    """
    if override and name.startswith(_SECURITY_PREFIX):
        return None
    if override and name.startswith(_KEPT_PREFIX + _SECURITY_PREFIX):
        return name[len(_KEPT_PREFIX) :]
    if not name.startswith(PRIVATE_PREFIXES):
        return name
    for prefix in _OVERLAY_PREFIXES:
        if name.startswith(prefix + _OVERLAY_ESCAPE):
            return prefix + name[len(prefix + _OVERLAY_ESCAPE) :]
    if name.startswith(_OTHER_ESCAPE):
        return name[len(_OTHER_ESCAPE) :]
    return None


def parse_redirect(value: bytes) -> tuple[bool, tuple[bytes, ...]]:
    """Parse the value of a redirect: whether it is absolute, and its names.

    An absolute one (``/a/b``) is a path from the root of the layers below; a bare name is another name in the
    same directory of theirs.

    Raises:
        ValueError: neither of both; such a value is damaged, or somebody's attempt to lead us elsewhere.
    """
    absolute = value.startswith(b"/")
    names = tuple(value[1:].split(b"/")) if absolute else (value,)
    for name in names:
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise ValueError(f"redirect {value!r} is no path of a layer")
    return absolute, names

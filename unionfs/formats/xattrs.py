"""Extended attributes of union file systems: their names and values, and the escaping of other attributes of such names. Pure.

A mark is never visible through the mount. A program may set an attribute with the name of a mark, for example a union that is
mounted on this one. The layer then stores it under an escaped name, as kernel OverlayFS does ("Nesting overlayfs mounts",
Documentation/filesystems/overlayfs.rst): ``user.overlay.X`` as ``user.overlay.overlay.X``.

A layer that stores owners in attributes (override_stat.py) stores ``security.X`` as ``user.containers.override_security.X``, as
fuse-overlayfs does. The server of such a layer may not set ``security.X``, and processes in the sandbox must not see the
``security.*`` attributes on the disk.
"""

from __future__ import annotations

#: Prefixes of marks that any user may set, and that only root may set. The kernel reads the former when mounted with
#: ``userxattr``.
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
    """Return those of the mark attributes *names* that count in a layer: without *user_marks* only ``trusted.*``."""
    return names if user_marks else tuple(name for name in names if name.startswith(TRUSTED_PREFIX))


def is_private(name: str) -> bool:
    """Return whether the attribute *name* of a layer is a union file system's own, or an escaped one."""
    return name.startswith(PRIVATE_PREFIXES)


def stored_name(name: str, *, override: bool = False) -> str:
    """Return the name under which a layer stores the attribute that the mount shows as *name*.

    *override*: the layer stores owners in attributes.
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
    """Return the name under which the mount shows the attribute *name* of a layer, or None if it is hidden.

    *override*: the layer stores owners in attributes.
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
    """Parse the value of a redirect. Return whether it is absolute, and its names.

    An absolute redirect (``/a/b``) is a path from the root of the layers below. A bare name is another name in the same
    directory of those layers.

    Raises:
        ValueError: the value has neither form: it is damaged, or an attempt to redirect the server elsewhere.
    """
    absolute = value.startswith(b"/")
    names = tuple(value[1:].split(b"/")) if absolute else (value,)
    for name in names:
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise ValueError(f"redirect {value!r} is not a path in a layer")
    return absolute, names

"""The ``-o`` options of the command line, as fuse-overlayfs and mount(8) give them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from unionfs.errors import UnionError
from unionfs.whiteout import WhiteoutFormat

#: Options for the mount itself, handed to libfuse as they are.
_FUSE_OPTIONS = frozenset(
    "allow_other allow_root default_permissions ro rw suid nosuid dev nodev exec noexec atime noatime sync async dirsync".split()
)
_FUSE_VALUES = frozenset(("fsname", "subtype", "max_read"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for."""

    #: Lower layers as given: top first, as kernel OverlayFS orders them.
    lowerdirs: tuple[str, ...]
    upperdir: str | None = None
    workdir: str | None = None
    whiteouts: WhiteoutFormat | None = None
    volatile: bool = False
    #: Show owners that this user namespace does not map as 0.
    squash_unmapped: bool = False
    #: For libfuse.
    fuse: tuple[str, ...] = ()
    #: Not known here; to be mentioned and otherwise ignored, as callers of fuse-overlayfs rely on.
    ignored: tuple[str, ...] = field(default=())


def split_escaped(text: str, separator: str) -> list[str]:
    r"""Split *text* at *separator*, except where a backslash precedes it; ``\:``, ``\,`` and ``\\`` lose the
    backslash.
    """
    parts = [""]
    escaped = False
    for character in text:
        if escaped:
            if character not in (separator, "\\"):
                parts[-1] += "\\"
            parts[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == separator:
            parts.append("")
        else:
            parts[-1] += character
    if escaped:
        parts[-1] += "\\"
    return parts


def parse_options(texts: list[str]) -> Options:
    """Parse the values of all ``-o``.

    Raises:
        UnionError: an option lacks its value or has a wrong one, or the combination cannot be mounted.
    """
    values: dict[str, str] = {}
    flags: set[str] = set()
    fuse: list[str] = []
    ignored: list[str] = []
    for text in texts:
        for option in filter(None, split_escaped(text, ",")):
            key, equals, value = option.partition("=")
            if key in ("lowerdir", "upperdir", "workdir", "whiteouts"):
                if not value:
                    raise UnionError(f"option {key} needs a value: {key}=...")
                values[key] = value
            elif key in ("volatile", "squash_unmapped") and not equals:
                flags.add(key)
            elif (key in _FUSE_OPTIONS and not equals) or (key in _FUSE_VALUES and equals):
                fuse.append(option)
            else:
                ignored.append(option)
    if "lowerdir" not in values:
        raise UnionError("option lowerdir is missing: -o lowerdir=TOP:...:BOTTOM")
    if ("upperdir" in values) != ("workdir" in values):
        given, missing = ("upperdir", "workdir") if "upperdir" in values else ("workdir", "upperdir")
        raise UnionError(f"option {given} needs {missing}, an empty directory on the same file system")
    lowerdirs = tuple(filter(None, split_escaped(values["lowerdir"], ":")))
    if not lowerdirs:
        raise UnionError("option lowerdir names no directory")
    return Options(
        lowerdirs=lowerdirs,
        upperdir=values.get("upperdir"),
        workdir=values.get("workdir"),
        whiteouts=_whiteouts(values.get("whiteouts")),
        volatile="volatile" in flags,
        squash_unmapped="squash_unmapped" in flags,
        fuse=tuple(fuse),
        ignored=tuple(ignored),
    )


def _whiteouts(value: str | None) -> WhiteoutFormat | None:
    if value is None:
        return None
    try:
        return WhiteoutFormat(value)
    except ValueError:
        known = ", ".join(form.value for form in WhiteoutFormat)
        raise UnionError(f"option whiteouts={value} is unknown: use one of {known}") from None

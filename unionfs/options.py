"""Parses the ``-o`` options of the command line, in the forms of fuse-overlayfs, kernel OverlayFS and mount(8). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum

from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import TypeVar
from unionfs.errors import UnionError
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.layer.ownership import IdPolicy, IdRange
from unionfs.upper.format import WantedFormat

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Declared:
    """An option of ``-o``: its names, of which the first may take *value*, and a help text of one line."""

    names: tuple[str, ...]
    value: str
    help: str
    #: An option of the mount itself, which is passed on unchanged.
    of_mount: bool = False

    @property
    def usage(self) -> str:
        """Return how the option is written."""
        return ", ".join(f"{name}={self.value}" if self.value else name for name in self.names)


def _declared(names: str, value: str, text: str, *, of_mount: bool = False) -> Declared:
    return Declared(tuple(names.split()), value, text, of_mount)


DECLARED: tuple[Declared, ...] = (
    _declared(
        "lowerdir",
        "TOP:...:BOTTOM",
        "lower layers, top first (required); write \\: and \\, for : and , in a path",
    ),
    _declared("upperdir", "DIR", "the writable layer; without it, the mount is read-only"),
    _declared(
        "workdir", "DIR", "a separate directory on the file system of upperdir; required with upperdir"
    ),
    _declared("size", "BYTES[k|m|g|t]", "limit of the writable layer; writes beyond it fail with ENOSPC"),
    _declared("inodes", "COUNT", "limit of objects in the writable layer; ENOSPC beyond it"),
    _declared("volatile", "", "never sync the writable layer"),
    _declared("fsync", "0|1", "0: the same as volatile"),
    _declared(
        "whiteouts",
        "overlay|aufs",
        "format of deletion marks; default: that of the layer, or one that works",
    ),
    _declared(
        "redirect_dir",
        "on|follow|off|nofollow",
        "on: rename lower directories; follow, off: EXDEV; nofollow: ignore redirects",
    ),
    _declared(
        "metacopy", "on|off", "on: changing metadata does not copy the contents of files from 16 KiB on"
    ),
    _declared("userxattr", "", "write user.overlay.* attributes also as root"),
    _declared(
        "xattr_permissions", "0|1|2", "1, 2: store owner, mode and type in user.containers.override_stat"
    ),
    _declared(
        "uidmapping gidmapping",
        "DISK:SHOWN:COUNT:...",
        "map ids on disk to the ids that the mount shows, and back",
    ),
    _declared("squash_to_root", "", "show root as the owner of all objects"),
    _declared("squash_to_uid squash_to_gid", "ID", "show this user, or group, as the owner of all objects"),
    _declared("squash_unmapped", "", "show root instead of owners that the user namespace does not map"),
    _declared("static_nlink", "", "show the link count of directories as 1"),
    _declared("noacl", "", "disable access control lists"),
    _declared("index_dir", "DIR", "store an index of the lower layers in DIR, and use it"),
    _declared("index_build", "background|first", "build a missing index while serving (default), or before"),
    _declared("immutable", "", "lower layers never change: do not check the index; requires index_dir"),
    _declared("server", "auto|direct|pyfuse3", "the server that answers the kernel's requests"),
    _declared(
        "open_requests", "on|off", "off: no requests for open(2) and opendir(3); not with server=pyfuse3"
    ),
    _declared("debug", "", "stay in the foreground"),
    _declared("allow_other default_permissions", "", "see mount.fuse3(8)", of_mount=True),
    _declared("ro rw suid nosuid dev nodev exec noexec", "", "see mount(8)", of_mount=True),
    _declared("atime noatime diratime nodiratime sync async dirsync", "", "see mount(8)", of_mount=True),
    _declared("fsname subtype max_read", "VALUE", "see mount.fuse3(8)", of_mount=True),
)
"""Every option that is not ignored, in the order in which --help and the manual page list them."""


def _names(*, value: bool, of_mount: bool) -> frozenset[str]:
    found = (one.names for one in DECLARED if bool(one.value) == value and one.of_mount == of_mount)
    return frozenset(name for names in found for name in names)


_FUSE_OPTIONS = _names(value=False, of_mount=True)
_FUSE_VALUES = _names(value=True, of_mount=True)
_VALUES = _names(value=True, of_mount=False)
_FLAGS = _names(value=False, of_mount=False)
#: Options that are ignored without a warning: the server behaves so in any case, or they have no meaning here.
_IMPLIED = r"xino=(on|auto|off)|index=on|context=.*|(no)?lazytime|defaults|_netdev|(no)?auto|(no)?fail|(no)?user|x-.*|comment=.*"
_SIZE = r"(\d{1,15})([kKmMgGtT]?)"
#: The largest value that statfs(2) can report.
_LARGEST = (1 << 63) - 1
_MAX_ID = (1 << 32) - 2


#: The environment variable that disables optimizations of the direct server, to measure them: "NAME:NAME...".
DISABLE_VARIABLE = "UNIONFS_DISABLE"


class Server(Enum):
    """The server that answers the kernel's requests."""

    #: The direct server.
    AUTO = "auto"
    #: libfuse, through pyfuse3 and trio.
    PYFUSE3 = "pyfuse3"
    #: The server of this package, which reads and writes /dev/fuse itself.
    DIRECT = "direct"


class Optimization(Enum):
    """An optimization of the direct server, which can be disabled to measure its effect (docs/unionfs/speed.md)."""

    #: Poll briefly for the next request before sleeping.
    SPIN = "spin"
    #: Blocking disk I/O runs in threads.
    THREADS = "threads"
    #: The kernel caches names that do not exist.
    NEGATIVE = "negative"
    #: The kernel caches names and attributes until it needs the memory, instead of for a second.
    VALIDITY = "validity"
    #: The kernel keeps the cached contents of a file over open(2).
    CONTENTS = "contents"
    #: The kernel caches targets of symbolic links.
    SYMLINKS = "symlinks"
    #: The kernel sends no request at close(2).
    FLUSH = "flush"
    #: The kernel requests security.capability once, instead of before each write.
    KILLPRIV = "killpriv"
    #: Directory listings contain the attributes of all entries.
    READDIRPLUS = "readdirplus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How a mount is served."""

    server: Server = Server.AUTO
    #: The kernel sends a request for each open(2) and opendir(3). Without these requests, opening is free; this needs the
    #: direct server and Linux 5.1.
    open_requests: bool = True
    #: Optimizations of the direct server that are disabled.
    disabled: frozenset[Optimization] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The parsed options."""

    #: The lower layers as given: top first, as kernel OverlayFS orders them.
    lowerdirs: tuple[str, ...]
    upperdir: str | None = None
    workdir: str | None = None
    form: WantedFormat = field(default_factory=WantedFormat)
    ids: IdPolicy = field(default_factory=IdPolicy)
    volatile: bool = False
    #: Show owners that this user namespace does not map as 0.
    squash_unmapped: bool = False
    #: Show the link count of every directory as 1.
    static_nlink: bool = False
    #: POSIX ACLs.
    acl: bool = True
    #: The maximum of bytes and objects in the writable layer; None: no limit.
    size: int | None = None
    inodes: int | None = None
    #: The directory for indexes of the lower layers.
    index_dir: str | None = None
    #: Build the indexes before serving, instead of beside it for the next mount.
    index_first: bool = False
    #: The lower layers never change: their directories are not compared with the index.
    immutable: bool = False
    debug: bool = False
    serving: Serving = field(default_factory=Serving)
    #: Options of the mount itself.
    fuse: tuple[str, ...] = ()
    #: Unknown options. They are reported and otherwise ignored, because callers of fuse-overlayfs rely on that.
    ignored: tuple[str, ...] = field(default=())


def split_escaped(text: str, separator: str) -> list[str]:
    r"""Split *text* at *separator*, except after a backslash. ``\:``, ``\,`` and ``\\`` lose the backslash."""
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


def parse_options(texts: list[str], disabled: str = "") -> Options:
    """Parse the values of all ``-o`` options, and *disabled*, the value of `DISABLE_VARIABLE`.

    Raises:
        UnionError: an option lacks its value or has a wrong one, an optimization is unknown, or the combination cannot be mounted.
    """
    values: dict[str, str] = {}
    flags: set[str] = set()
    fuse: list[str] = []
    ignored: list[str] = []
    for text in texts:
        for option in filter(None, split_escaped(text, ",")):
            key, equals, value = option.partition("=")
            if key in _VALUES:
                if not value:
                    raise UnionError(f"option {key} needs a value: {key}=...")
                values[key] = value
            elif key in _FLAGS and not equals:
                flags.add(key)
            elif (key in _FUSE_OPTIONS and not equals) or (key in _FUSE_VALUES and equals):
                fuse.append(option)
            elif not re.fullmatch(_IMPLIED, option):
                ignored.append(option)
    if "lowerdir" not in values:
        unknown = f" (unknown options: {', '.join(ignored)})" if ignored else ""
        raise UnionError(f"option lowerdir is missing: add -o lowerdir=TOP:...:BOTTOM{unknown}")
    if ("upperdir" in values) != ("workdir" in values):
        given, missing = ("upperdir", "workdir") if "upperdir" in values else ("workdir", "upperdir")
        raise UnionError(
            f"option {given} requires {missing}: add {missing}=DIR, a separate directory on the same file system"
        )
    for key in ("index_build", "immutable"):
        if (key in values or key in flags) and "index_dir" not in values:
            raise UnionError(f"option {key} requires index_dir: add index_dir=DIR")
    for key in ("size", "inodes"):
        if key in values and "upperdir" not in values:
            raise UnionError(f"option {key} requires a writable layer: add upperdir=DIR,workdir=DIR")
    lowerdirs = tuple(filter(None, split_escaped(values["lowerdir"], ":")))
    if not lowerdirs:
        raise UnionError("option lowerdir contains no directory: use lowerdir=TOP:...:BOTTOM")

    def of(key: str, parse: Callable[[str, str], T]) -> T | None:
        return parse(key, values[key]) if key in values else None

    synced = of("fsync", _choice("0", "1", "true", "false"))
    return Options(
        lowerdirs=lowerdirs,
        # A colon needs no backslash here, but kernel OverlayFS removes one that it finds.
        upperdir=values["upperdir"].replace("\\:", ":") if "upperdir" in values else None,
        workdir=values["workdir"].replace("\\:", ":") if "workdir" in values else None,
        form=_form(values, user_marks="userxattr" in flags),
        ids=_ids(values, squash="squash_to_root" in flags),
        volatile="volatile" in flags or synced in ("0", "false"),
        squash_unmapped="squash_unmapped" in flags,
        static_nlink="static_nlink" in flags,
        acl="noacl" not in flags,
        size=of("size", _bytes),
        inodes=of("inodes", _count),
        index_dir=values.get("index_dir"),
        index_first=of("index_build", _choice("background", "first")) == "first",
        immutable="immutable" in flags,
        debug="debug" in flags,
        serving=_serving(values, disabled),
        fuse=tuple(fuse),
        ignored=tuple(ignored),
    )


def _form(values: dict[str, str], *, user_marks: bool) -> WantedFormat:
    def of(key: str, *known: str) -> str | None:
        return _choice(*known)(key, values[key]) if key in values else None

    whiteouts = of("whiteouts", *(form.value for form in WhiteoutFormat))
    redirect = of("redirect_dir", "on", "follow", "nofollow", "off")
    metacopy = of("metacopy", "on", "off")
    override = of("xattr_permissions", "0", "1", "2")
    return WantedFormat(
        whiteouts=None if whiteouts is None else WhiteoutFormat(whiteouts),
        user_marks=user_marks,
        redirect=redirect in (None, "on"),
        follow=redirect != "nofollow",
        metacopy=metacopy in (None, "on"),
        override_stat=None if override is None else override != "0",
    )


def _serving(values: dict[str, str], disabled: str) -> Serving:
    server = Server.AUTO
    if "server" in values:
        server = Server(_choice(*(each.value for each in Server))("server", values["server"]))
    open_requests = _choice("on", "off")("open_requests", values.get("open_requests", "on"))
    if open_requests == "off" and server is Server.PYFUSE3:
        raise UnionError("option open_requests=off does not work with server=pyfuse3: use server=direct")
    optimizations = _optimizations(disabled)
    if optimizations and server is Server.PYFUSE3:
        raise UnionError(f"{DISABLE_VARIABLE} does not work with server=pyfuse3: use server=direct")
    return Serving(server=server, open_requests=open_requests == "on", disabled=optimizations)


def _optimizations(text: str) -> frozenset[Optimization]:
    known = {each.value: each for each in Optimization}
    names = list(filter(None, text.split(":")))
    for name in names:
        if name not in known:
            raise UnionError(
                f"environment variable {DISABLE_VARIABLE}={text}: {name} is unknown: use names of {', '.join(known)}"
            )
    return frozenset(known[name] for name in names)


def _ids(values: dict[str, str], *, squash: bool) -> IdPolicy:
    default = 0 if squash else None

    def squashed(key: str) -> int | None:
        return _id(key, values[key]) if key in values else default

    return IdPolicy(
        uids=_ranges("uidmapping", values.get("uidmapping", "")),
        gids=_ranges("gidmapping", values.get("gidmapping", "")),
        squash_uid=squashed("squash_to_uid"),
        squash_gid=squashed("squash_to_gid"),
    )


def _choice(*known: str) -> Callable[[str, str], str]:
    def parse(key: str, value: str) -> str:
        if value not in known:
            raise UnionError(f"option {key}={value} has an unknown value: use one of {', '.join(known)}")
        return value

    return parse


def _number(key: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) <= 15):
        raise UnionError(f"option {key}={value} is not a number: use at most 15 digits")
    return int(value)


def _id(key: str, value: str) -> int:
    number = _number(key, value)
    if number > _MAX_ID:
        raise UnionError(f"option {key}={value} is not a user or group id: use 0 to {_MAX_ID}")
    return number


def _bytes(key: str, value: str) -> int:
    match = re.fullmatch(_SIZE, value)
    if match is None:
        raise UnionError(
            f"option {key}={value} is not a size: use a number of bytes, or a number with k, m, g or t"
        )
    size = int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[match[2].lower()]
    return min(_at_least_one(key, size), _LARGEST)


def _count(key: str, value: str) -> int:
    return _at_least_one(key, _number(key, value))


def _at_least_one(key: str, number: int) -> int:
    if number == 0:
        raise UnionError(f"option {key}=0 is too small: use 1 or more")
    return number


def _ranges(key: str, value: str) -> tuple[IdRange, ...]:
    """Parse ``DISK:SHOWN:COUNT[:DISK:SHOWN:COUNT]...``."""
    numbers = [_id(key, text) for text in value.split(":") if text]
    if len(numbers) % 3 or (value and not numbers):
        raise UnionError(
            f"option {key}={value} is not an id map: use DISK:SHOWN:COUNT, or several of them separated by colons"
        )
    return tuple(IdRange(*numbers[at : at + 3]) for at in range(0, len(numbers), 3))

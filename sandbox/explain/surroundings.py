"""Read facts about this machine that only a report needs: mount points and unix sockets. No function here raises."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.kernel.mountinfo import parse_mountinfo
from unionfs._stdlib.dataclasses import dataclass, field

_LISTENING = 0x10000  # __SO_ACCEPTCON of net.h, the flags field of /proc/net/unix; proc_net(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Mount points of the host, and the names of its listening unix sockets.

    The name of an abstract socket (unix(7)) has an @ in place of its leading NUL; other names are paths.
    """

    mounts: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    abstract_sockets: tuple[str, ...] = ()
    #: By the path of a device, how user 0 of the sandbox may open it: "rw", "r", "w" or "".
    devices: Mapping[str, str] = field(default_factory=dict)


def look(proc_root: str = "/proc", devices: Mapping[str, str] | None = None) -> Surroundings:
    """Read the facts from *proc_root*. *devices* are the results of opening devices, by path."""
    mounts = {entry.mount_point for entry in parse_mountinfo(_read(f"{proc_root}/self/mountinfo"))}
    names = listening_sockets(_read(f"{proc_root}/net/unix"))
    return Surroundings(
        mounts=tuple(sorted(mounts)),
        sockets=tuple(name for name in names if name.startswith("/")),
        abstract_sockets=tuple(name for name in names if name.startswith("@")),
        devices=devices or {},
    )


def listening_sockets(text: str) -> list[str]:
    """Return the names of listening sockets in *text*, the content of /proc/net/unix, without duplicates and sorted. Pure."""
    names = set()
    for line in text.splitlines()[1:]:
        # Num RefCount Protocol Flags Type St Inode Path; a path may contain blanks
        fields = line.split(None, 7)
        if len(fields) == 8 and _is_number(fields[3]) and int(fields[3], 16) & _LISTENING:
            names.add(fields[7])
    return sorted(names)


def _is_number(text: str) -> bool:
    return bool(text) and all(digit in "0123456789abcdefABCDEF" for digit in text)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""

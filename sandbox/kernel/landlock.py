"""Rules of Landlock: which files, TCP ports and processes outside a program reaches, whatever permissions say; landlock(7).

Rights are handled, that is refused but where a rule allows them, kind by kind: what is not asked for stays as it is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from sandbox.kernel import _libc
from unionfs._stdlib.dataclasses import dataclass

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_CHANGE_DIRECTORY = 0b1_1111_1111 << 4  # REMOVE_DIR to MAKE_SYM
_REFER = 1 << 13
_TRUNCATE = 1 << 14

FILES: Mapping[str, int] = {
    "read": _READ_FILE | _READ_DIR,
    "write": _WRITE_FILE | _CHANGE_DIRECTORY | _REFER | _TRUNCATE,
    "execute": _EXECUTE,
}
PORTS: Mapping[str, int] = {"bind": 1 << 0, "connect": 1 << 1}
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_SCOPES = 0b11  # abstract unix sockets, signals

NEEDED: Mapping[str, int] = {"read": 2, "execute": 2, "write": 3, "connect": 4, "bind": 4}
"""The version of the interface that can hold each. Version 1 cannot allow a rename between directories, nor can version 2 refuse
a change of a file's length."""

LINUX: Mapping[int, str] = {1: "5.13", 2: "5.19", 3: "6.2", 4: "6.7"}
"""The version of Linux that each came with."""

SCOPED = 6
"""The version from which on nothing outside can be signalled or connected to by an abstract socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is allowed. Of the kinds that are None nothing is refused. *scoped*: nothing outside is signalled or connected to
    by an abstract unix socket.
    """

    read: tuple[str, ...] | None = None
    write: tuple[str, ...] | None = None
    execute: tuple[str, ...] | None = None
    connect: tuple[int, ...] | None = None
    bind: tuple[int, ...] | None = None
    scoped: bool = False

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds that are restricted."""
        return tuple(kind for kind in NEEDED if getattr(self, kind) is not None)


def lacking(rules: Rules, version: int) -> tuple[str, ...]:
    """Return the kinds of *rules* that *version* of the interface cannot hold."""
    return tuple(kind for kind in rules.kinds() if NEEDED[kind] > version)


def make_ruleset(rules: Rules, opened: Iterable[tuple[str, int]], root_fd: int) -> int:
    """Return a descriptor of a ruleset that holds *rules*, whose paths are *opened*: a kind and a descriptor for each.

    *root_fd* is the root directory. The version of the kernel's interface must be enough (:func:`lacking`).
    """
    kinds = rules.kinds()
    files = sum(FILES[kind] for kind in kinds if kind in FILES)
    if files:
        files |= _REFER  # refused in any case where any right to files is handled
    ports = sum(PORTS[kind] for kind in kinds if kind in PORTS)
    scoped = _SCOPES if rules.scoped else 0
    # A kernel that does not know the last fields takes a structure without them.
    size = 24 if scoped else 16 if ports else 8
    ruleset = _libc.landlock_create_ruleset(files, ports, scoped, size)
    try:
        for kind, fd in opened:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            _libc.landlock_allow_beneath(
                ruleset, FILES[kind] if is_directory else FILES[kind] & _OF_A_FILE, fd
            )
        if files and rules.write is None:
            _libc.landlock_allow_beneath(ruleset, _REFER, root_fd)
        for kind, right in PORTS.items():
            for port in getattr(rules, kind) or ():
                _libc.landlock_allow_port(ruleset, right, port)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def restrict(ruleset: int) -> None:
    """Hold this process, and what it starts, to *ruleset*, and close it.

    Raises:
        OSError: EPERM without no_new_privs or CAP_SYS_ADMIN in this user namespace.
    """
    _libc.landlock_restrict_self(ruleset)
    os.close(ruleset)

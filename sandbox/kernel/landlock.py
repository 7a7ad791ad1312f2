"""Apply Landlock rules: which files, TCP ports and processes outside the sandbox a program may reach; landlock(7).

Landlock restricts on top of file permissions. It refuses the rights of a "handled" kind except where a rule allows them. Kinds
that the rules do not name are not handled, so they stay unrestricted.
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
"""The ABI version that each kind needs. Version 1 cannot allow renames between directories. Version 2 cannot restrict
truncation."""

LINUX: Mapping[int, str] = {1: "5.13", 2: "5.19", 3: "6.2", 4: "6.7"}
"""The Linux version that introduced each ABI version."""

SCOPED = 6
"""The ABI version that can restrict signals, and connections by abstract unix sockets, to processes outside the sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is allowed. None means that the kind is not restricted. With *scoped*, the program can neither send signals nor
    connect by abstract unix sockets to processes outside the sandbox.
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
    """Return the kinds of *rules* that ABI *version* cannot enforce."""
    return tuple(kind for kind in rules.kinds() if NEEDED[kind] > version)


def make_ruleset(rules: Rules, opened: Iterable[tuple[str, int]], root_fd: int) -> int:
    """Create a ruleset with *rules* and return its descriptor.

    Args:
        rules: the kernel's ABI version must support all of them (:func:`lacking`).
        opened: a kind and an open descriptor for each path of *rules*.
        root_fd: the root directory.
    """
    kinds = rules.kinds()
    files = sum(FILES[kind] for kind in kinds if kind in FILES)
    if files:
        files |= _REFER  # Landlock refuses it anyway as soon as any right to files is handled
    ports = sum(PORTS[kind] for kind in kinds if kind in PORTS)
    scoped = _SCOPES if rules.scoped else 0
    # A kernel that does not know the last fields takes a shorter structure.
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
    """Restrict this process and its descendants to *ruleset*, and close its descriptor.

    Raises:
        OSError: EPERM without no_new_privs or CAP_SYS_ADMIN in this user namespace.
    """
    _libc.landlock_restrict_self(ruleset)
    os.close(ruleset)

"""Looking a user up in the sandbox's own /etc/passwd and /etc/group, which are as hostile as any file of a
layer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping

from sandbox.kernel.mounts import open_in_root
from unionfs._stdlib.dataclasses import dataclass

#: Bytes of an account file that are looked at; a larger one is no account file.
_MAX_SIZE = 4 << 20
_MAX_ID = 2**32 - 2
#: setgroups(2): NGROUPS_MAX of limits.h, since Linux 2.6.4.
MAX_GROUPS = 65536
#: Fields of a line; passwd(5), group(5).
_PASSWD, _GROUP = 7, 4


class UnknownAccountError(Exception):
    """There is no such user or group in the sandbox; *number* says which of several."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who the program runs as."""

    uid: int
    gid: int
    home: str
    name: str | None
    #: Supplementary groups.
    groups: tuple[int, ...] = ()


def resolve(root_fd: int, user: int | str, group: int | str | None) -> Account:
    """Find *user* and *group*, each an id or a name.

    An id needs no entry; without one the group is 0 and the home is ``/``, as container engines have it.

    Raises:
        UnknownAccountError: a name is not there.
    """
    uid = user if isinstance(user, int) else _number(user)
    entry = next(
        (
            fields
            for fields in _entries(root_fd, "/etc/passwd", _PASSWD)
            if (fields[0] == user if uid is None else _number(fields[2]) == uid)
        ),
        None,
    )
    if uid is None:
        uid = _number(entry[2]) if entry else None
        if uid is None:
            raise UnknownAccountError(f"user {user} is not in the sandbox's /etc/passwd")
    gid = _number(entry[3]) if entry else 0
    if group is not None:
        gid = group if isinstance(group, int) else _find_group(root_fd, group)
    home = entry[5] if entry and entry[5].startswith("/") else "/"
    return Account(uid=uid, gid=gid or 0, home=home, name=entry[0] if entry else None)


def find_groups(root_fd: int, groups: tuple[int | str, ...]) -> tuple[int, ...]:
    """Return the ids of *groups*, each an id or a name.

    Raises:
        UnknownAccountError: with *number*, the index of a group whose name is not there.
    """
    numbers = _group_numbers(root_fd) if any(isinstance(group, str) for group in groups) else {}
    found = []
    for index, group in enumerate(groups):
        number = group if isinstance(group, int) else numbers.get(group)
        if number is None:
            raise UnknownAccountError(f"group {group} is not in the sandbox's /etc/group", index)
        found.append(number)
    return tuple(found)


def groups_of(root_fd: int, name: str) -> Mapping[int, str]:
    """Return the groups whose entries list the user *name*: names by id, in their order."""
    found: dict[int, str] = {}
    for fields in _entries(root_fd, "/etc/group", _GROUP):
        number = _number(fields[2])
        if number is not None and name in fields[3].split(","):
            found.setdefault(number, fields[0])
    return found


def _find_group(root_fd: int, name: str) -> int:
    return find_groups(root_fd, (name,))[0]


def _group_numbers(root_fd: int) -> Mapping[str, int]:
    numbers: dict[str, int] = {}
    for fields in _entries(root_fd, "/etc/group", _GROUP):
        number = _number(fields[2])
        if number is not None:
            numbers.setdefault(fields[0], number)  # as getgrnam(3): the first entry counts
    return numbers


def _entries(root_fd: int, path: str, width: int) -> Iterator[list[str]]:
    # As the C library reads it: lines end at a line feed and nowhere else.
    for line in _read(root_fd, path).split("\n"):
        fields = line.split(":")
        numbers = fields[2:4] if width == _PASSWD else fields[2:3]
        if len(fields) == width and fields[0] and "\0" not in line and None not in map(_number, numbers):
            yield fields


def _number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MAX_ID:
        return int(text)
    return None


def _read(root_fd: int, path: str) -> str:
    try:
        place = open_in_root(root_fd, path)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(
            os.fstat(place).st_mode
        ):  # a FIFO would block, a device would answer for the host
            return ""
        fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    finally:
        os.close(place)
    try:
        with open(fd, "rb") as file:
            content = file.read(_MAX_SIZE + 1)
    except OSError:
        return ""
    return content.decode("utf-8", "surrogateescape") if len(content) <= _MAX_SIZE else ""

"""Look up users and groups in the sandbox's own /etc/passwd and /etc/group, which are untrusted like every file of a layer."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping

from sandbox.kernel.open_paths import open_in_root
from unionfs._stdlib.dataclasses import dataclass

#: The largest account file that is read, in bytes. Larger files count as empty.
_MAX_SIZE = 4 << 20
_MAX_ID = 2**32 - 2
#: setgroups(2): NGROUPS_MAX of limits.h, since Linux 2.6.4.
MAX_GROUPS = 65536
#: The number of fields of a line; passwd(5), group(5).
_PASSWD, _GROUP = 7, 4


class UnknownAccountError(Exception):
    """A user or group does not exist in the sandbox; *number* is its index among several."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user and groups that the program runs as."""

    uid: int
    gid: int
    home: str
    name: str | None
    #: Supplementary groups.
    groups: tuple[int, ...] = ()


def resolve(root_fd: int, user: int | str, group: int | str | None) -> Account:
    """Return the account of *user* and *group*, each an id or a name.

    An id needs no entry. Without an entry the group is 0 and the home is ``/``, as in container engines.

    Raises:
        UnknownAccountError: a name does not exist.
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
        UnknownAccountError: a name does not exist; *number* is the index of the group.
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
    """Return the groups whose entries list the user *name*: names by id, in the order of the file."""
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
            numbers.setdefault(fields[0], number)  # the first entry counts, as in getgrnam(3)
    return numbers


def _entries(root_fd: int, path: str, width: int) -> Iterator[list[str]]:
    # As in the C library: only a line feed ends a line.
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
        # Open regular files only: a FIFO would block, and a device would return data of the host.
        if not stat.S_ISREG(os.fstat(place).st_mode):
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

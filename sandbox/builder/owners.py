"""Look up the owner of copied files: ids, or names in the /etc/passwd and /etc/group of the layers, which are not trusted."""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.spec.notation import shown

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.builder.union import Union

_MAX_SIZE = 4 << 20  # bytes of an account file; a larger one counts as empty
_MAX_ID = 2**32 - 2
_PASSWD, _GROUP = 7, 4  # fields of a line; passwd(5), group(5)


def owner_ids(owner: str, union: Union) -> tuple[int, int]:
    """Return the user and group id of *owner*, USER[:GROUP], each an id or a name; "" is root.

    As for the program of a sandbox, the group of a user without GROUP is that of its entry, else 0.

    Raises:
        ImageError: a name or an id does not exist.
        OSError: a layer cannot be read.
    """
    user, _, group = owner.partition(":")
    uid, gid = 0, 0
    if user:
        entry = _entry(union, "/etc/passwd", user, _PASSWD)
        uid = _id(user, entry, "user", "/etc/passwd")
        gid = (_number(entry[3]) if entry else None) or 0
    if group:
        entry = _entry(union, "/etc/group", group, _GROUP)
        gid = _id(group, entry, "group", "/etc/group")
    return uid, gid


def _id(name: str, entry: list[str] | None, what: str, path: str) -> int:
    number = _number(name if name.isdigit() else entry[2] if entry else "")
    if number is None:
        raise _unknown(what, name, path)
    return number


def _entry(union: Union, path: str, name: str, width: int) -> list[str] | None:
    """Return the fields of the first line for *name*, a name or an id; None if there is none."""
    for fields in _entries(union, path, width):
        if fields[0] == name or (name.isdigit() and _number(fields[2]) == int(name)):
            return fields
    return None


def _entries(union: Union, path: str, width: int) -> Iterator[list[str]]:
    content = union.read(path, _MAX_SIZE) or b""
    # As in the C library: only a line feed ends a line.
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) == width and fields[0]:
            yield fields


def _number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MAX_ID:
        return int(text)
    return None


def _unknown(what: str, name: str, path: str) -> ImageError:
    if name.isdigit():
        return ImageError(f"the {what} {shown(name)} is larger than the largest id, {_MAX_ID}")
    return ImageError(
        f"the {what} {shown(name)} is not in {path} of the layers so far",
        hint=f"write an id, or add the {what} in an earlier step",
    )

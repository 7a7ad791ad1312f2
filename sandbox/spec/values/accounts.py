"""Users and groups of the sandbox, as ids or names."""

from __future__ import annotations

from sandbox.spec.codecs import ID_MAX, check_bounds, mismatch, text_schema
from sandbox.spec.notation import shown
from sandbox.spec.patterns import pattern
from sandbox.spec.settings import Codec, Cursor, Invalid
from unionfs._stdlib.dataclasses import dataclass

# As useradd(8) of Debian. Whether the name exists is looked up later, in the sandbox's own /etc/passwd.
_ACCOUNT_NAME = pattern(r"[A-Za-z_][A-Za-z0-9_.-]*\$?")
_NUMBER = pattern(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class User:
    """A user of the sandbox and optionally a group: ids, or names in the sandbox's /etc/passwd and /etc/group."""

    user: int | str
    group: int | str | None = None


class UserCodec(Codec[User]):
    """A user id or name, optionally with a group: 1000, "1000:1000", "www-data", "www-data:adm"."""

    expects = "user"
    toml_types = ("integer", "string")

    def decode(self, value: object, _cursor: Cursor, /) -> User:
        if type(value) is int:
            check_bounds(value, 0, ID_MAX, str)
            return User(value)
        if not isinstance(value, str):
            raise mismatch(self, value)
        return parse_user(value)

    def encode(self, value: User, /) -> object:
        return value.user if value.group is None else f"{value.user}:{value.group}"

    def schema(self) -> dict[str, object]:
        return _schema()

    def describe(self) -> str:
        return 'an id, a name, "ID:ID" or "NAME:GROUP"'


class GroupCodec(Codec[int | str]):
    """A group id or name: 27, "27", "render"."""

    expects = "group"
    toml_types = ("integer", "string")

    def decode(self, value: object, _cursor: Cursor, /) -> int | str:
        if type(value) is int:
            check_bounds(value, 0, ID_MAX, str)
            return value
        if not isinstance(value, str):
            raise mismatch(self, value)
        group = _id_or_name(value)
        if group is None:
            raise Invalid(f"{shown(value)} is not a group", "write an id or a name")
        return group

    def schema(self) -> dict[str, object]:
        return _schema()

    def describe(self) -> str:
        return "an id or a name"


def parse_user(text: str) -> User:
    """Return the user that *text* names: an id, a name, "ID:ID" or "NAME:GROUP"; raise Invalid for any other text."""
    user, colon, group = text.partition(":")
    accounts = [_id_or_name(part) for part in ((user, group) if colon else (user,))]
    if None in accounts:
        raise Invalid(f"{shown(text)} is not a user", 'write an id, a name, "ID:ID" or "NAME:GROUP"')
    return User(*accounts)  # type: ignore[arg-type]


def _id_or_name(text: str) -> int | str | None:
    """Return *text* as an id or a name, or None if it is neither. Raise Invalid for a number above ID_MAX."""
    if _NUMBER.fullmatch(text):
        if len(text) > len(str(ID_MAX)) or int(text) > ID_MAX:
            raise Invalid(f"id {shown(text)} is larger than the largest id, {ID_MAX}", fragment=text)
        return int(text)
    return text if _ACCOUNT_NAME.fullmatch(text) else None


def _schema() -> dict[str, object]:
    return {"anyOf": [{"type": "integer", "minimum": 0, "maximum": ID_MAX}, text_schema()]}

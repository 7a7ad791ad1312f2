"""Values with a syntax of their own: a layer, a user, a command, a namespace, the target of a volume.

Each is a small frozen type where the language has more than a string to say, and the codec that reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sandbox.spec.codecs import (
    ID_MAX,
    NOT_ENFORCED,
    Boolean,
    HostPath,
    ListOf,
    SandboxPath,
    check_bounds,
    check_sandbox_path,
    expect_text,
    mismatch,
    resolve_host_path,
)
from sandbox.spec.decode import decode_table
from sandbox.spec.notation import nearest, quote, shown
from sandbox.spec.settings import Codec, Cursor, Invalid, setting

LayerKind = Literal["dir", "tar"]

_KINDS: dict[str, LayerKind] = {"dir": "dir", "tar": "tar"}
_PLANNED_KINDS = ("oci", "image")
_LAYER_HINT = 'write "dir:PATH" or "tar:PATH"'

# useradd(8) of Debian; the sandbox's own /etc/passwd decides whether the name exists.
_ACCOUNT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\$?")
_NUMBER = re.compile(r"[0-9]+")
_HOST_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_HOST_NAME_MAX = 64  # gethostname(2); DNS would allow 253

_MANAGED = ("/proc", "/sys", "/dev")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the root file system. `path` is absolute, on the host.

    `cross` names the mount points inside a directory layer, as paths in the layer, whose content is part of it.
    `immutable` promises that nobody changes the directory, so that it may be indexed.
    """

    kind: LayerKind
    path: str
    cross: tuple[str, ...] = ()
    immutable: bool = False


@dataclass(frozen=True, slots=True)
class User:
    """A user of the sandbox, and a group if one is given: numbers, or names of its own /etc/passwd and /etc/group."""

    user: int | str
    group: int | str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTable:
    """A layer written as a table: exactly one of the kinds, and for a directory what else is known of it."""

    dir: str | None = setting(HostPath(), doc="A directory of the host.", example="/")
    tar: str | None = setting(
        HostPath(), doc="A tar archive, plain or compressed with gzip or zstd.", example="base.tar.zst"
    )
    oci: str | None = setting(
        HostPath(), doc="An image in an OCI layout, as PATH:TAG.", example="./image:latest", enforced=False
    )
    image: str | None = setting(
        HostPath(), doc="An image of the local store.", example="debian", enforced=False
    )
    cross: tuple[str, ...] = setting(
        ListOf(SandboxPath(), distinct=True),
        doc="Mount points in the directory whose content is shown. All others appear as empty directories or files.",
        example=["/usr", "/home"],
        default=(),
    )
    immutable: bool = setting(
        Boolean(),
        doc="Promise that the directory does not change while it is used, so that its content may be indexed.",
        example=True,
        default=False,
    )


class LayerCodec(Codec[Layer]):
    """One string, "dir:PATH" or "tar:PATH", or a table with one of these keys and options."""

    expects = "layer"
    toml_types = ("string", "table")

    def decode(self, value: object, cursor: Cursor, /) -> Layer:
        if isinstance(value, str):
            return self._from_text(expect_text(self, value), cursor)
        if isinstance(value, dict):
            return self._from_table(value, cursor)
        raise mismatch(self, value, _LAYER_HINT)

    def _from_text(self, text: str, cursor: Cursor) -> Layer:
        kind, colon, path = text.partition(":")
        if not colon:
            raise Invalid(
                f"{shown(text)} does not say what kind of layer it is", f"write {quote('dir:' + text[:60])}"
            )
        if kind in _PLANNED_KINDS:
            raise Invalid(f"{quote(kind + ':')} is {NOT_ENFORCED}", _LAYER_HINT, fragment=kind + ":")
        if kind not in _KINDS:
            meant = nearest(kind, _KINDS)
            hint = f"did you mean {quote(meant + ':')}?" if meant else _LAYER_HINT
            raise Invalid(f"unknown kind of layer {shown(kind + ':')}", hint)
        return Layer(_KINDS[kind], resolve_host_path(path, cursor))

    def _from_table(self, table: dict[str, object], cursor: Cursor) -> Layer:
        before = len(cursor.problems.found)
        decoded = decode_table(LayerTable, table, cursor)
        kinds = [kind for kind in (*_KINDS, *_PLANNED_KINDS) if kind in table]
        if not kinds and len(cursor.problems.found) > before:
            return Layer("dir", "/")  # a misspelt kind, which is reported
        if len(kinds) != 1:
            found = f"found {' and '.join(kinds)}" if kinds else "found none"
            raise Invalid(f"expected one kind of layer, {found}", "write { dir = PATH } or { tar = PATH }")
        if kinds != ["dir"]:
            for key in ("cross", "immutable"):
                if key in table:
                    cursor.child(key).report("only a dir layer has this", "remove it", part="key")
        if len(cursor.problems.found) > before:
            return Layer("dir", "/")  # never handed out: the problems are
        if decoded.tar is not None:
            return Layer("tar", decoded.tar)
        return Layer("dir", decoded.dir or "/", decoded.cross, decoded.immutable)


class UserCodec(Codec[User]):
    """A user id or name, or either with a group: 1000, "1000:1000", "www-data", "www-data:adm"."""

    expects = "user"
    toml_types = ("integer", "string")

    def decode(self, value: object, _cursor: Cursor, /) -> User:
        if type(value) is int:
            check_bounds(value, 0, ID_MAX, str)
            return User(value)
        if not isinstance(value, str):
            raise mismatch(self, value)
        user, colon, group = value.partition(":")
        return User(self._account(user, value), self._account(group, value) if colon else None)

    def _account(self, part: str, text: str) -> int | str:
        if _NUMBER.fullmatch(part):
            if len(part) > len(str(ID_MAX)) or int(part) > ID_MAX:
                raise Invalid(f"id {shown(part)} is larger than {ID_MAX}", fragment=part)
            return int(part)
        if not _ACCOUNT_NAME.fullmatch(part):
            raise Invalid(f"{shown(text)} is not a user", 'write an id, a name, "ID:ID" or "NAME:GROUP"')
        return part


class CommandCodec(Codec[tuple[str, ...]]):
    """The words of a command, or one string for the shell."""

    expects = "array of strings or string"
    toml_types = ("array", "string")

    def __init__(self, words: ListOf[str]) -> None:
        self._words = words

    def decode(self, value: object, cursor: Cursor, /) -> tuple[str, ...]:
        if isinstance(value, str):
            text = expect_text(self, value)
            if not text.strip():
                raise Invalid("the command is empty", "write a command, or leave the key out for a shell")
            # The word after the text is $0 (sh(1)), so that process.args become $1 and following.
            return ("/bin/sh", "-c", text, "sh")
        if not isinstance(value, list):
            raise mismatch(self, value)
        words = self._words.decode(value, cursor)
        if not words or words[0] == "":
            raise Invalid("the command is empty", "write a command, or leave the key out for a shell")
        return words


class TerminalCodec(Codec["bool | Literal['auto']"]):
    """true, false, or "auto"."""

    expects = 'boolean or "auto"'
    toml_types = ("boolean", "string")
    choices = ("auto",)

    def decode(self, value: object, _cursor: Cursor, /) -> bool | Literal["auto"]:
        if isinstance(value, bool):
            return value
        if value == "auto":
            return "auto"
        if isinstance(value, str):
            raise Invalid(f"unknown value {shown(value)}", 'write true, false or "auto"')
        raise mismatch(self, value, 'write true, false or "auto"')


class NamespaceCodec(Codec[str]):
    """The word "private", and for some namespaces "host"."""

    expects = "string"
    toml_types = ("string",)

    def __init__(self, *, host: bool) -> None:
        self.choices = ("private", "host") if host else ("private",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        allowed = 'write "private" or "host"' if "host" in self.choices else 'write "private"'
        text = expect_text(self, value)
        if text in self.choices:
            return text
        if text == "host":
            raise Invalid(f'"host" is {NOT_ENFORCED}', allowed)
        kind, colon, _ = text.partition(":")
        if colon and kind in ("path", "sandbox"):
            raise Invalid(f"{quote(kind + ':')} is {NOT_ENFORCED}", allowed, fragment=kind + ":")
        meant = nearest(text, self.choices)
        raise Invalid(f"unknown value {shown(text)}", f"did you mean {quote(meant)}?" if meant else allowed)


class HostnameCodec(Codec[str]):
    """A host name: labels of letters, digits and inner hyphens (RFC 1123), at most 64 characters (gethostname(2))."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        if not all(_HOST_LABEL.fullmatch(label) for label in text.split(".")):
            raise Invalid(
                f"{shown(text)} is not a host name",
                "use letters, digits and inner hyphens, in labels separated by dots",
            )
        if len(text) > _HOST_NAME_MAX:
            raise Invalid(
                f"host name of {len(text)} characters", f"the kernel takes at most {_HOST_NAME_MAX}"
            )
        return text


class VolumeTargetCodec(Codec[str]):
    """Where a volume appears: a path in the sandbox that is not one of those that the launcher sets up itself."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        path = check_sandbox_path(expect_text(self, value))
        if path == "/":
            raise Invalid('a volume cannot be the root "/"', "use root.layers for what / holds")
        for managed in _MANAGED:
            if path == managed or path.startswith(managed + "/"):
                raise Invalid(
                    f"{shown(path)} is under {managed}, which the sandbox sets up itself",
                    "choose another target",
                )
        return path

"""Codecs of paths: those on the host may be relative to the file that names them; those in the sandbox are absolute."""

from __future__ import annotations

import posixpath

from sandbox.spec.codecs.scalars import expect_text, text_schema
from sandbox.spec.notation import shown
from sandbox.spec.settings import Codec, Context, Cursor, Invalid


class HostPath(Codec[str]):
    """A path on the host: absolute, relative to the directory of the environment file, or below ~."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, cursor: Cursor, /) -> str:
        return resolve_host_path(expect_text(self, value), cursor)

    def schema(self) -> dict[str, object]:
        return text_schema()

    def describe(self) -> str:
        return "host path"


class SandboxPath(Codec[str]):
    """An absolute path in the sandbox."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        return check_sandbox_path(expect_text(self, value))

    def schema(self) -> dict[str, object]:
        return text_schema("^/")

    def describe(self) -> str:
        return "sandbox path"


def check_sandbox_path(text: str) -> str:
    """Return *text* without repeated slashes and "." parts; raise Invalid unless it is absolute and free of ".."."""
    if not text.startswith("/"):
        raise Invalid(
            f"{shown(text)} is not an absolute path", "start it with /: it is a path in the sandbox"
        )
    if ".." in text.split("/"):
        raise Invalid(f'{shown(text)} contains ".."', 'write the path without ".."')
    # normpath() keeps exactly two leading slashes: POSIX allows a special meaning for them, which Linux does not use.
    return posixpath.normpath("/" + text.lstrip("/"))


def resolve_host_path(text: str, cursor: Cursor) -> str:
    """Return the absolute path of *text*, which is relative to the directory of the file that contains it.

    ".." stays as it is, because only the kernel can resolve it after a symlink.
    """
    context = cursor.context
    if not text:
        raise Invalid("the path is empty", 'write "." for the directory of this file')
    if text == "~" or text.startswith("~/"):
        text = _home(context) + text[1:]
    elif text.startswith("~"):
        raise Invalid(
            f"{shown(text)} is the home of another user",
            "write the absolute path, or ./~NAME for a file name that begins with ~",
        )
    path = posixpath.join(context.origins.directory(cursor.path), text)
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _home(context: Context) -> str:
    if not context.home or not context.home.startswith("/"):
        raise Invalid("~ needs HOME to be set to an absolute path", "set HOME, or write an absolute path")
    return context.home

"""Resolve the paths of COPY, ADD and WORKDIR: pure functions on text. No path leads out of the context or of the root."""

from __future__ import annotations

import posixpath
import re

from sandbox.images.build.patterns import Pattern, PatternError, has_wildcards
from sandbox.spec.notation import shown

_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(?::[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?")
_MODE = re.compile(r"[0-7]{1,5}")
_MAX_MODE = 0o7777


class PathError(Exception):
    """A path, owner or mode that cannot be used. *hint* is the remedy."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def copy_source(text: str) -> str:
    """Return the source *text* of a copy relative to the top, "" for the top itself. It may have wildcards.

    Raises:
        PathError: the source is empty, leads out of the context, or a wildcard is malformed.
    """
    if not text:
        raise PathError("the source is empty", 'write "." for the whole context')
    source = posixpath.normpath(text.lstrip("/") or ".")
    if source == ".." or source.startswith("../"):
        hint = "name a path below the context, or give a directory above it as the context"
        raise PathError(f"{shown(text)} leads out of the build context", hint)
    source = "" if source == "." else source
    for part in source.split("/"):
        if has_wildcards(part):
            try:
                Pattern(part)
            except PatternError as error:
                raise PathError(
                    f"{shown(text)} is malformed: {error}", 'write "\\[" for the character itself'
                ) from None
    return source


def copy_target(text: str, cwd: str) -> str:
    """Return the absolute path of the target *text* in *cwd*. It ends with a slash if the target is a directory for certain.

    Raises:
        PathError: the target is empty.
    """
    if not text:
        raise PathError("the target is empty", 'write "." for the working directory')
    path = absolute(text, cwd)
    is_directory = text.endswith("/") or posixpath.basename(text) in {".", ".."}
    return path if not is_directory or path == "/" else path + "/"


def absolute(text: str, cwd: str) -> str:
    """Return the absolute path of *text* in *cwd*, without "." and ".." parts and repeated slashes."""
    joined = posixpath.join("/", cwd, text)
    # normpath() keeps exactly two leading slashes, which mean nothing else on Linux.
    return posixpath.normpath("/" + joined.lstrip("/"))


def owner(text: str) -> str:
    """Return *text* if it is USER or USER:GROUP, each a name or an id.

    Raises:
        PathError: it is not.
    """
    if not _OWNER.fullmatch(text):
        raise PathError(f"{shown(text)} is not a user", "write an id or a name: USER or USER:GROUP")
    return text


def mode(text: str) -> int:
    """Return the permission bits that *text* has as octal digits, from 0 to 7777.

    Raises:
        PathError: it has none.
    """
    if not _MODE.fullmatch(text) or int(text, 8) > _MAX_MODE:
        raise PathError(f"{shown(text)} is not a mode", "write octal digits, such as 0755")
    return int(text, 8)

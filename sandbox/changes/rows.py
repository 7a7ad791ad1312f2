"""The rows of `unionfs changes --json` as values: `parse` validates them, `as_value` returns them for `sandbox diff --json`.

sandbox/changes/reader.py calls `parse` with the output of the child process. That process has no rights of the user, but it has
read the file system of an untrusted program. So no field is used before it has been validated. docs/json.md describes the
values for users, unionfs/changes/report.py those of the child process. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from sandbox.errors import SandboxError
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any, Literal, cast

Kind = Literal["A", "C", "D", "R"]
Type = Literal["file", "directory", "symlink", "fifo", "socket", "character-device", "block-device"]
Contents = Literal["binary", "large"]
Since = Literal["same", "touched", "changed", "unknown", "gone"]

VERSION = 1
"""The version of the rows, which the last line has."""

KINDS: tuple[Kind, ...] = ("A", "C", "D", "R")
_TYPES: tuple[Type, ...] = (
    *("file", "directory", "symlink", "fifo", "socket"),
    *("character-device", "block-device"),
)
_CONTENTS: tuple[Contents, ...] = ("binary", "large")
_SINCE: tuple[Since, ...] = ("same", "touched", "changed", "unknown", "gone")

_INT64 = (1 << 63) - 1
_UINT64 = (1 << 64) - 1
_ID = (1 << 32) - 2  # the largest uid; chown(2) takes the next number for "do not change"
_TIME = 1 << 94
"""More nanoseconds than 64 bits of seconds have."""

_NO_LINE_END = "\n\\ No newline at end of file"
"""The end of the last line of a file without a line end. Other lines of a diff contain no line end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldObject:
    """What the layers below the writable one have in place of a changed, deleted or moved object."""

    #: Its path in the layers below, with a leading slash.
    path: bytes
    #: Whether it is still what the server met when the writable layer first hid or copied it. With "gone" there is none any more.
    since: Since
    #: The lower layer that has it; 0 is the topmost. This field and all below are None if `since` is "gone".
    layer: int | None = None
    ino: int | None = None
    #: st_mode, with the type.
    mode: int | None = None
    size: int | None = None
    #: Times in nanoseconds.
    mtime: int | None = None
    ctime: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row: a path that was added (A), changed (C) or deleted (D), or to which an object was moved (R)."""

    kind: Kind
    #: Where the sandbox shows the object; of a deleted one, where the layers below have it. With a leading slash.
    path: bytes
    #: Of a moved object, where the layers below have it; otherwise None.
    from_path: bytes | None = None
    type: Type
    #: 0 for directories.
    size: int
    #: Permission bits, user and group as the sandbox shows them; None if the rows were read without facts.
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    #: Whether the file has capabilities; None also for deleted objects and for other types.
    capabilities: bool | None = None
    old: OldObject | None = None
    #: Of a moved object, with facts: what it replaces, with everything below that which has no row.
    replaced: tuple[OldObject, ...] = ()
    #: The lines of a unified diff without its header; None without texts, and for what has no text.
    diff: tuple[str, ...] | None = None
    #: Why there is no diff.
    contents: Contents | None = None


_HINT = "run the command again; if it fails again, report it"


class _Malformed(Exception):
    """A value that the child process must not print. The text describes it."""


def parse(lines: Iterable[bytes]) -> list[Change]:
    """Return the rows in *lines*, the output of `unionfs changes --json`, with or without --facts and --text.

    Raises:
        SandboxError: a line is malformed, or the last one is missing.
    """
    changes: list[Change] = []
    ended = False
    for number, line in enumerate(lines, 1):
        try:
            if ended:
                raise _Malformed("it follows the last one")
            value = _json_object(line)
            if "version" in value:
                _check_end(value, len(changes))
                ended = True
            else:
                changes.append(_change(value))
        except _Malformed as problem:
            raise SandboxError(
                f"the list of changes is damaged: line {number}: {problem}", hint=_HINT
            ) from None
    if not ended:
        raise SandboxError(
            f"the list of changes is incomplete: it ends after {len(changes)} row{'' if len(changes) == 1 else 's'}",
            hint=_HINT,
        )
    return changes


def text_of(path: bytes) -> str:
    """Return *path* as text; a byte that is not UTF-8 is a surrogate (PEP 383), which JSON escapes."""
    return path.decode("utf-8", "surrogateescape")


def as_value(change: Change) -> dict[str, Any]:
    """Return *change* for the JSON of `sandbox diff`."""
    value: dict[str, Any] = {
        "kind": change.kind,
        "path": text_of(change.path),
        "from": None if change.from_path is None else text_of(change.from_path),
        "type": change.type,
        "size": change.size,
    }
    if change.diff is not None:
        value["diff"] = list(change.diff)
    if change.contents is not None:
        value["contents"] = change.contents
    return value


# -- the fields of a row ---------------------------------------------------------------------------


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        # A ValueError is also raised for other encodings than ASCII, and for numbers with too many digits.
        raise _Malformed("it is not JSON") from None
    if not isinstance(value, dict):
        raise _Malformed("it is not a JSON object")
    return value


def _check_end(value: dict[str, Any], rows: int) -> None:
    if type(value["version"]) is not int or value["version"] != VERSION:
        raise _Malformed(f"version {_shown(value['version'])}, expected {VERSION}")
    expected = _number(value, "rows", _INT64)
    if expected != rows:
        raise _Malformed(f"rows is {expected}, but there are {rows}")


def _change(value: dict[str, Any]) -> Change:
    kind = cast(Kind, _word(value, "kind", KINDS))
    path = _path(value, "path")
    if path == b"/" and kind != "C":
        raise _Malformed(f'kind {kind} with path "/": the root can only change')
    from_path = _from_path(value, kind)
    has_facts = "mode" in value
    if has_facts and kind != "A" and "old" not in value:
        raise _Malformed("old is missing")
    diff = _diff(value["diff"]) if "diff" in value else None
    contents = cast(Contents, _word(value, "contents", _CONTENTS)) if "contents" in value else None
    if diff is not None and contents is not None:
        raise _Malformed("it has both diff and contents")
    return Change(
        kind=kind,
        path=path,
        from_path=from_path,
        type=cast(Type, _word(value, "type", _TYPES)),
        size=_number(value, "size", _INT64),
        mode=_number(value, "mode", 0o7777) if has_facts else None,
        uid=_number(value, "uid", _ID) if has_facts else None,
        gid=_number(value, "gid", _ID) if has_facts else None,
        capabilities=_flag(value, "capabilities") if "capabilities" in value else None,
        old=_old_object(value["old"], path if from_path is None else from_path, kind)
        if "old" in value
        else None,
        replaced=_replaced(value["replaced"], kind) if "replaced" in value else (),
        diff=diff,
        contents=contents,
    )


def _from_path(value: dict[str, Any], kind: Kind) -> bytes | None:
    if kind != "R":
        if "from" in value:
            raise _Malformed(f"kind {kind} with from")
        return None
    path = _path(value, "from")
    if path == b"/":
        raise _Malformed('from "/": the root cannot be moved')
    return path


def _replaced(value: object, kind: Kind) -> tuple[OldObject, ...]:
    """Return the objects in *value* that a moved object replaces."""
    if kind != "R" or not isinstance(value, list):
        raise _Malformed(f"kind {kind} with replaced {_shown(value)}")
    # The kind C allows any path.
    return tuple(_old_object(each, b"", "C") for each in value)


def _old_object(value: object, expected: bytes, kind: Kind) -> OldObject:
    """Return the old object in *value*: that of a new object is gone, and that of a changed one may be at another path.

    That of any other is at the path *expected*.
    """
    if not isinstance(value, dict):
        raise _Malformed(f"old is {_shown(value)}, not an object")
    path = _path(value, "path")
    since = cast(Since, _word(value, "since", _SINCE))
    if (since == "gone") != (kind == "A"):
        raise _Malformed(f"kind {kind} with since {since}")
    if path != expected and kind != "C":
        raise _Malformed(f"old has the path {_shown(text_of(path))}, expected {_shown(text_of(expected))}")
    if since == "gone":
        return OldObject(path=path, since=since)
    return OldObject(
        path=path,
        since=since,
        layer=_number(value, "layer", _INT64),
        ino=_number(value, "ino", _UINT64),
        mode=_number(value, "mode", 0o177777),
        size=_number(value, "size", _INT64),
        mtime=_number(value, "mtime", _TIME, least=-_TIME),
        ctime=_number(value, "ctime", _TIME, least=-_TIME),
    )


def _diff(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Malformed(f"diff is {_shown(value)}, not a list")
    lines: list[str] = []
    for line in value:
        if not isinstance(line, str):
            raise _Malformed(f"diff has {_shown(line)}, not text")
        text = line.removesuffix(_NO_LINE_END)
        if "\n" in text or not text.startswith((" ", "+", "-", "@@ ")):
            raise _Malformed(f"diff has {_shown(line)}, not a line of a unified diff")
        lines.append(text)
        if text != line:
            lines.append(_NO_LINE_END[1:])
    return tuple(lines)


def _path(value: dict[str, Any], key: str) -> bytes:
    """Return the path *key*: absolute, without ".", ".." and empty components."""
    text = _field(value, key)
    if not isinstance(text, str):
        raise _Malformed(f"{key} is {_shown(text)}, not text")
    try:
        path = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        raise _Malformed(f"{key} is {_shown(text)}, which no file name has") from None
    if not path.startswith(b"/"):
        raise _Malformed(f'{key} is {_shown(text)}, which does not begin with "/"')
    if b"\0" in path:
        raise _Malformed(f"{key} is {_shown(text)}, with a zero byte")
    inside = path + b"/"
    if path != b"/" and (b"//" in inside or b"/./" in inside or b"/../" in inside):
        raise _Malformed(f'{key} is {_shown(text)}, with an empty component, "." or ".."')
    return path


def _number(value: dict[str, Any], key: str, most: int, *, least: int = 0) -> int:
    number = _field(value, key)
    if type(number) is not int or not least <= number <= most:  # bool is an int for isinstance
        raise _Malformed(f"{key} is {_shown(number)}, not an integer from {least} to {most}")
    return number


def _flag(value: dict[str, Any], key: str) -> bool:
    flag = value[key]
    if not isinstance(flag, bool):
        raise _Malformed(f"{key} is {_shown(flag)}, not true or false")
    return flag


def _word(value: dict[str, Any], key: str, words: tuple[str, ...]) -> str:
    word = _field(value, key)
    if not isinstance(word, str) or word not in words:
        raise _Malformed(f"{key} is {_shown(word)}, not one of {', '.join(words)}")
    return word


def _field(value: dict[str, Any], key: str) -> object:
    try:
        return value[key]
    except KeyError:
        raise _Malformed(f"{key} is missing") from None


def _shown(value: object) -> str:
    """Return *value* for a message: short, and without line ends."""
    if isinstance(value, (dict, list)):
        return "a list" if isinstance(value, list) else "an object"
    try:
        text = json.dumps(value)
    except ValueError:  # an integer with too many digits for text
        return "a number"
    return text if len(text) <= 80 else f"{text[:77]}..."

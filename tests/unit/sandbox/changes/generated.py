"""Makes rows of changes: by hand for examples, and generated for properties."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import strategies as st

from sandbox.changes.rows import Change, Kind, parse

#: Colour, another line, the start of the line, right-to-left, a C1 control, a Unicode line end, a byte that is not UTF-8.
HOSTILE = "\x1b[31mE\nFAKE: line\r\t\u202e\x9b\u2028\udcff"


def change(kind: Kind, path: str, *, to: str | None = None, **others: Any) -> Change:
    """Return the row of *path*, of a file of 0 bytes; with *to*, that of a move from *path*. A slash at the end: a directory."""
    fields: dict[str, Any] = {"type": "directory" if path.endswith("/") else "file", "size": 0}
    old, new = (_encoded(name) for name in (path, path if to is None else to))
    return Change(kind=kind, path=new, from_path=None if to is None else old, **(fields | others))


def _encoded(path: str) -> bytes:
    return (path.rstrip("/") or "/").encode("utf-8", "surrogateescape")


def printed(rows: Sequence[object], *, count: int | None = None) -> list[bytes]:
    """Return what the child process prints: *rows* and the last line, whose number of rows is *count*."""
    end = {"version": 1, "rows": len(rows) if count is None else count}
    return [json.dumps(row).encode() + b"\n" for row in (*rows, end)]


def parsed(*rows: object) -> list[Change]:
    """Return the changes in *rows*."""
    return parse(printed(rows))


# -- strategies ------------------------------------------------------------------------------------

#: Names that are prefixes of each other, and that sort on either side of a slash.
plain_names = st.sampled_from(["a", "b", "a-", "ab", "c", "cc"])
#: Any characters that a name in the JSON of a row can have: all but surrogates, with some for bytes.
characters = st.one_of(
    st.characters(codec="utf-8", exclude_characters="/\0"),
    st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
    st.sampled_from(HOSTILE),
)
any_names = st.text(characters, min_size=1, max_size=8).filter(lambda name: name not in {".", ".."})


def paths_of(names: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Return paths of a few *names*."""
    return st.lists(names, min_size=1, max_size=5).map(lambda parts: _encoded("/" + "/".join(parts)))


def lists_of_changes(names: st.SearchStrategy[str] = plain_names) -> st.SearchStrategy[list[Change]]:
    """Return lists of changes with paths of *names*, each kind at most once for a path, in the order of the child process."""
    paths = paths_of(names)
    lines = st.text(characters, max_size=8).filter(lambda text: "\n" not in text)
    diffs = st.lists(st.tuples(st.sampled_from(" +-"), lines).map("".join)).map(tuple)
    changes = st.builds(
        Change,
        kind=st.sampled_from("ACDR"),
        path=paths,
        from_path=paths,
        type=st.sampled_from(["file", "directory", "symlink", "character-device"]),
        size=st.integers(0, 1 << 40),
        diff=st.none() | diffs,
        contents=st.sampled_from([None, None, None, "binary", "large"]),
    )
    return st.lists(
        changes.map(_consistent), unique_by=lambda change: (change.kind, change.path), max_size=30
    ).map(_sorted)


def _consistent(change: Change) -> Change:
    """Return *change* without the fields that its kind and type exclude."""
    from dataclasses import replace

    return replace(
        change,
        from_path=change.from_path if change.kind == "R" else None,
        size=0 if change.type == "directory" else change.size,
        diff=change.diff if change.type == "file" and change.kind != "R" and not change.contents else None,
        contents=change.contents if change.type == "file" and change.kind != "R" else None,
    )


def _sorted(changes: Iterable[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: (change.path, "DRAC".index(change.kind)))

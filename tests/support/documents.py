"""TOML documents in all syntactic forms, for hypothesis.

A document is generated as text from a tree of keys. Every key has any of its spellings. Every table is a header, dotted
keys or inline. Arrays may have several lines. Comments, blanks and both line ends are everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from sandbox.spec.notation import quote

Draw = Callable[[st.SearchStrategy[Any]], Any]

NAMES = st.one_of(
    st.sampled_from(
        [
            "a",
            "b",
            "c",
            "A-1",
            "_",
            "0",
            "1979-05-27",
            "true",
            "inf",
            "",
            " ",
            "a.b",
            "#",
            '"',
            "'",
            "é",
            "日本",
            "=]",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")

NUMBERS_AND_DATES = st.sampled_from(
    [
        *("0", "+1_000", "-17", "0xDEAD_beef", "0o755", "0b1101", "9223372036854775807"),
        *("1.5", "-0.0", "6.26e-34", "5e+22", "1_0.2_5", "inf", "-inf", "+nan", "true", "false"),
        *(
            "1979-05-27T07:32:00Z",
            "1979-05-27 07:32:00.999-07:00",
            "1979-05-27t07:32:00",
            "1979-05-27",
            "07:32:00.5",
        ),
    ]
)
TEXTS = st.one_of(
    st.text(st.sampled_from("ab \"'\\#=[]{},.\n\t$é日\U0001f40d"), max_size=8), st.text(max_size=6)
).filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text))
BLANKS = st.sampled_from(["", "", " ", "\t", "  "])
COMMENTS = st.sampled_from(["", "", "# x", "#", "# ]}\"'''\\ = [", '#"""'])


def spelling(draw: Draw, name: str) -> str:
    """Return *name* as a key: bare, basic or literal where each is possible."""
    forms = [quote(name), '"' + "".join(f"\\U{ord(char):08x}" for char in name) + '"']
    if name and set(name) <= BARE:
        forms.append(name)
    if "'" not in name and name.isprintable():
        forms.append(f"'{name}'")
    return str(draw(st.sampled_from(forms)))


def string(draw: Draw) -> str:
    """Return a string in one of the four forms."""
    text = draw(TEXTS)
    several_lines = "".join(char if char in "\n\t" else quote(char)[1:-1] for char in text)
    forms = [quote(text), f'"""{several_lines}"""', f'"""\n{several_lines}\\\n  """']
    # One or two quotes may touch the three that begin or end the string.
    before = draw(st.integers(0, 2))
    after = draw(st.integers(0, 2 if text else 2 - before))
    if '"' not in text:
        forms.append('"' * (3 + before) + several_lines + '"' * (after + 3))
    if "'" not in text and all(char.isprintable() or char in "\n\t" for char in text):
        forms.append("'" * (3 + before) + text + "'" * (after + 3))
        if "\n" not in text:
            forms.append(f"'{text}'")
    return str(draw(st.sampled_from(forms)))


def gap(draw: Draw) -> str:
    """Return text that may be between the elements of an array: blanks, comments, line ends."""
    lines = draw(st.integers(0, 2))
    return "".join(draw(BLANKS) + draw(COMMENTS) + "\n" for _ in range(lines)) + str(draw(BLANKS))


def value(draw: Draw, depth: int) -> str:
    kind = draw(st.sampled_from(["string", "number", "number"] + ["array", "table"] * (depth > 0)))
    if kind == "string":
        return string(draw)
    if kind == "number":
        return str(draw(NUMBERS_AND_DATES))
    if kind == "array":
        elements = [gap(draw) + value(draw, depth - 1) + gap(draw) for _ in range(draw(st.integers(0, 3)))]
        comma = "," + gap(draw) if elements and draw(st.booleans()) else gap(draw)
        return "[" + ",".join(elements) + comma + "]"
    pairs = [
        f"{draw(BLANKS)}{key}{draw(BLANKS)}={draw(BLANKS)}{value(draw, depth - 1)}{draw(BLANKS)}"
        for key in dotted_keys(draw, names(draw), depth)
    ]
    return "{" + ",".join(pairs) + (str(draw(BLANKS)) if not pairs else "") + "}"


def names(draw: Draw) -> list[str]:
    return list(draw(st.lists(NAMES, max_size=3, unique=True)))


def dotted_keys(draw: Draw, keys: list[str], depth: int) -> Iterator[str]:
    """Yield each of *keys* alone, or as the start of dotted keys that make a table of it."""
    for key in keys:
        inner = names(draw) if depth > 0 and draw(st.integers(0, 3)) == 0 else []
        if not inner:
            yield spelling(draw, key)
        for rest in dotted_keys(draw, inner, depth - 1):
            yield f"{spelling(draw, key)}{draw(BLANKS)}.{draw(BLANKS)}{rest}"


def table(draw: Draw, path: list[str], depth: int) -> str:
    """Return the statements of a table, without its header, and then those of the tables below it."""
    own = names(draw)
    text = ""
    for key in dotted_keys(draw, own, depth):
        line = f"{draw(BLANKS)}{key}{draw(BLANKS)}={draw(BLANKS)}{value(draw, depth)}{draw(BLANKS)}{draw(COMMENTS)}\n"
        text += line + gap(draw).rstrip(" \t")
    if depth == 0:
        return text
    for name in (name for name in names(draw) if name not in own):
        below = [*path, name]
        kind = draw(st.sampled_from(["table", "array", "implicit"]))
        if kind == "implicit":
            # [a.b.c] makes a.b, which has no header of its own.
            text += header(draw, [*below, draw(NAMES)], "[", "]") + "\n"
        elif kind == "table":
            text += header(draw, below, "[", "]") + draw(COMMENTS) + "\n" + table(draw, below, depth - 1)
        else:
            for _ in range(draw(st.integers(1, 3))):
                text += (
                    header(draw, below, "[[", "]]") + draw(COMMENTS) + "\n" + table(draw, below, depth - 1)
                )
    return text


def header(draw: Draw, path: list[str], opening: str, closing: str) -> str:
    dot = f"{draw(BLANKS)}.{draw(BLANKS)}"
    dotted = dot.join(spelling(draw, name) for name in path)
    return f"{draw(BLANKS)}{opening}{draw(BLANKS)}{dotted}{draw(BLANKS)}{closing}"


@st.composite
def documents(draw: Draw) -> str:
    text = gap(draw).rstrip(" \t") + table(draw, [], 3)
    return text.rstrip("\n") if draw(st.booleans()) else text

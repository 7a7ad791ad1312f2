"""Lines of a Containerfile: continuations, comments, directives, here-documents, and places."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import SpecError
from sandbox.images.build.here_documents import openings
from sandbox.images.build.source_text import MAX_INSTRUCTIONS, MAX_SIZE, Lines, decode, split


def lines_of(text: str, *, heredocs: bool = True) -> Lines:
    return split(decode(text.encode(), "f"), lambda _line: heredocs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("A b", ["A b"]),
        ("\n  A b\t\n", ["A b\t"]),
        ("A \\\nb", ["A b"]),
        ("A \\\n  b", ["A   b"]),
        ("A\\\nB c", ["AB c"]),
        ("A \\ \t\nb", ["A b"]),
        ("A \\\\\nB", ["A \\\\", "B"]),
        ("A \\\n# no\n  # no\n\n \t\nb \\\n\nc\nD", ["A b c", "D"]),
        ("A \\", ["A "]),
        ("\\\nA", ["A"]),
        ("\\\n\\\n", []),
        ("# a comment\n A # no comment", ["A # no comment"]),
        ("A\r\nB \\\r\nc\r\n", ["A", "B c"]),
        ("\ufeffA", ["A"]),
    ],
)
def test_a_text_has_the_instructions(text: str, expected: list[str]) -> None:
    assert [line.text for line in lines_of(text).lines] == expected


@pytest.mark.parametrize(
    ("text", "escape", "expected"),
    [
        ("# escape=`\nA `\nb\\\nC", "`", ["A b\\", "C"]),
        ("#escape = ` \nA", "`", ["A"]),
        ("# SYNTAX=x/y:1\n# check=skip=all\n# Escape=`\nA", "`", ["A"]),
        ("# unknown=1\n# escape=`\nA", "\\", ["A"]),
        ("\n# escape=`\nA", "\\", ["A"]),
        ("# a comment\n# escape=`\nA", "\\", ["A"]),
        ("A\n# escape=`\nB", "\\", ["A", "B"]),
    ],
)
def test_directives_are_at_the_beginning_only(text: str, escape: str, expected: list[str]) -> None:
    found = lines_of(text)
    assert found.escape == escape
    assert [line.text for line in found.lines] == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cat <<EOF", [("EOF", False, True)]),
        ("cat <<-EOF 3<<'B C'", [("EOF", True, True), ("B C", False, False)]),
        ("cat << EOF <<- 'X'", [("EOF", False, True), ("X", True, False)]),
        ('<<"A"B <<\\C', [("AB", False, False), ("C", False, True)]),
        ("a<<EOF", []),
        ("echo '<<A' \"<<B\" $((1<<C))", []),
        ("cat <<<here", []),
        ("cat <<", []),
        ("it's <<EOF", []),
        ('"a\\" <<A" <<B', [("B", False, True)]),
    ],
)
def test_a_line_opens_the_here_documents(line: str, expected: list[tuple[str, bool, bool]]) -> None:
    assert [(one.name, one.strip_tabs, one.expand) for one in openings(line)] == expected


def test_here_documents_follow_each_other() -> None:
    first, second = lines_of("A <<X <<-Y\nX \nX\n\tb\n\t\n\t\tY\nB").lines
    assert [heredoc.content for heredoc in first.heredocs] == ["X \n", "\tb\n\t\n"]
    assert [heredoc.text for heredoc in first.heredocs] == ["X \n", "b\n\n"]
    assert second.text == "B"


def test_here_documents_keep_comments_and_blank_lines() -> None:
    (line,) = lines_of("A <<X\n# x\\\n\n  X\nX").lines
    assert line.heredocs[0].content == "# x\\\n\n  X\n"


def test_an_instruction_without_here_documents_does_not_open_them() -> None:
    assert [line.text for line in lines_of("A <<X\nb\nX", heredocs=False).lines] == ["A <<X", "b", "X"]


@pytest.mark.parametrize("end", ["", "\n", "\nX ", "\n X", "\nx"])
def test_a_here_document_that_is_not_closed_is_refused(end: str) -> None:
    with pytest.raises(SpecError, match='f:1:3: the here-document "X" is not closed'):
        lines_of(f"A <<X{end}")


def test_a_file_that_is_too_large_is_refused() -> None:
    assert lines_of("#" * MAX_SIZE).lines == ()
    with pytest.raises(SpecError, match="larger than 512 KiB"):
        lines_of("#" * (MAX_SIZE + 1))


def test_a_file_with_too_many_instructions_is_refused() -> None:
    assert len(lines_of("A\n" * MAX_INSTRUCTIONS).lines) == MAX_INSTRUCTIONS
    with pytest.raises(SpecError, match="f:1001:1: more than 1000 instructions"):
        lines_of("A\n" * (MAX_INSTRUCTIONS + 1))


PART = st.sampled_from(["A", " ", "b", "\\\n", "\\ \n", "# c\n", "\n", "\t", "é", "\\", "\\\\\n", "<<X", "`"])


@settings(deadline=None)  # the machine may be busy
@given(st.lists(PART, max_size=30).map("".join))
def test_every_character_has_its_place_in_the_file(text: str) -> None:
    source = decode(text.encode(), "f")
    for line in split(source, lambda _line: False).lines:
        for index, char in enumerate(line.text):
            span = line.span(index, index + 1)
            assert source.text[span.start : span.end] == char
        whole = line.span(0, len(line.text))
        assert source.text[whole.start : whole.end].startswith(line.text[:1])
        assert source.text[whole.start : whole.end].endswith(line.text[-1:])


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=60))
def test_any_bytes_are_split_or_refused(data: bytes) -> None:
    try:
        lines = split(decode(data, "f"), lambda _line: True)
    except SpecError:
        return
    assert all(line.text.strip(" \t\v\f\r\n") for line in lines.lines)

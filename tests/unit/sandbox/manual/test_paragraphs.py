"""Test the paragraphs of descriptions and epilogs."""

from __future__ import annotations

from sandbox.manual.paragraphs import is_laid_out, paragraphs


def test_paragraphs_stand_between_empty_lines() -> None:
    assert paragraphs("\none\ntwo\n\n  \nthree\n") == ["one\ntwo", "three"]


def test_topic_begins_a_paragraph() -> None:
    assert paragraphs("levels: ok\nexit status: 0,\nor 1") == ["levels: ok", "exit status: 0,\nor 1"]
    assert paragraphs("A sentence\nof three words: here.") == ["A sentence\nof three words: here."]


def test_a_paragraph_with_aligned_text_is_preformatted() -> None:
    assert is_laid_out("in a file:  this")
    assert is_laid_out("examples:\n  sandbox up")
    assert not is_laid_out("one\ntwo three")

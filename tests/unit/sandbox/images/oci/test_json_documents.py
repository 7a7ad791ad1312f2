"""Documents of images are read in bounded time, and equal ones are written as equal bytes."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.oci.json_documents import DOCUMENT_LIMIT, INTEGER_LIMIT, NESTING_LIMIT, canonical, parse

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=5)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(each, order) for each in value]
    if isinstance(value, dict):
        items = [(key, shuffled(each, order)) for key, each in value.items()]
        order.shuffle(items)
        return dict(items)
    return value


@given(OBJECTS, st.randoms(use_true_random=False), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_equal_objects_are_written_as_equal_bytes(
    value: dict[str, Any], order: random.Random, indent: int | str | None, ascii_only: bool
) -> None:
    given_text = json.dumps(shuffled(value, order), indent=indent, ensure_ascii=ascii_only)
    read = parse(given_text.encode(), "doc").rest(())
    assert read == {key: each for key, each in value.items() if each is not None}
    assert canonical(read) == canonical(shuffled(read, order))
    assert json.loads(canonical(read)) == read


def test_canonical_json_is_sorted_utf_8_without_white_space() -> None:
    assert canonical({"b": [1, True, None], "a": {"ü": "\n", "A": 1.5}}) == (
        '{"a":{"A":1.5,"ü":"\\n"},"b":[1,true,null]}'.encode()
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(content: bytes) -> None:
    try:
        value = parse(content, "doc").rest(())
    except ImageError:
        return
    assert parse(canonical(value), "doc").rest(()) == value


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_json_nested_200_000_deep_is_refused_quickly(opening: bytes) -> None:
    begin = time.monotonic()
    with pytest.raises(ImageError, match="nested more than 64 deep"):
        parse(b'{"a":' + opening * 200_000, "doc")
    assert time.monotonic() - begin < 5


def test_nesting_up_to_the_limit_is_read_and_brackets_in_texts_do_not_count() -> None:
    within = b'{"a":' + b"[" * (NESTING_LIMIT - 1) + b"]" * (NESTING_LIMIT - 1) + b"}"
    assert "a" in parse(within, "doc")
    with pytest.raises(ImageError, match="nested"):
        parse(within.replace(b"[", b"[[", 1).replace(b"]", b"]]", 1), "doc")
    text = '["\\' * 500
    assert parse(canonical({"a": text, "b": [text]}), "doc").text("a") == text


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'"ab",', b"1234,", b'{"a":[]},', b'"\\"[",', b"1e9,"])
def test_the_largest_document_takes_bounded_time_and_memory(piece: bytes) -> None:
    count = (DOCUMENT_LIMIT - 20) // len(piece)
    content = b'{"a":[' + piece * count + b"0]}"
    begin = time.monotonic()
    parse(content, "doc")
    assert time.monotonic() - begin < 20
    tracemalloc.start()
    try:
        parse(content[: 1 << 20].rpartition(piece)[0] + b"0]}", "doc")
        assert tracemalloc.get_traced_memory()[1] < 60 << 20  # a quarter of the largest
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b'{"a":1', "not valid JSON"),
        (b"[]", "not an object"),
        (b'{"a":1,"b":{"c":1,"c":2}}', "'c' occurs twice"),
        (b'{"a":NaN}', "NaN is not a number"),
        (b'{"a":-Infinity}', "-Infinity is not a number"),
        (b'{"a":1e999}', "1e999 is too large"),
        (b'{"a":' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":"\\ud800"}', "not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a":"' + bytes(DOCUMENT_LIMIT) + b'"}', "more than 4194304 bytes"),
    ],
)
def test_a_malformed_document_is_refused_with_its_name(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        parse(content, "the index of x")
    assert caught.value.message.startswith("the index of x: ")


@pytest.mark.parametrize("value", ["true", "-1", "1.0", '"1"', str(INTEGER_LIMIT + 1), "null", "[]", "1e3"])
def test_a_size_is_an_integer_that_is_not_negative(value: str) -> None:
    fields = parse(f'{{"outer": [{{"size": {value}}}]}}'.encode(), "doc").objects("outer")[0]
    with pytest.raises(ImageError, match=r"outer\[0\]\.size is not an integer"):
        fields.integer("size")


def test_values_of_other_types_are_refused_with_the_path_of_the_field() -> None:
    fields = parse(b'{"a": {"b": [1, "x\\u0000y"], "c": "d", "e": {"f": 1}}, "g": [[]]}', "doc").inner("a")
    for read, path in (
        (lambda: fields.text("b"), "a.b is not a text"),
        (lambda: fields.text("missing"), "a.missing is missing"),
        (lambda: fields.texts("b"), r"a.b\[0\] is not a text"),
        (lambda: fields.texts("c"), "a.c is not an array"),
        (lambda: fields.inner("c"), "a.c is not an object"),
        (lambda: fields.text_map("e"), "a.e.f is not a text"),
        (lambda: fields.boolean("c"), "a.c is not a boolean"),
        (lambda: parse(b'{"g": [[]]}', "doc").objects("g"), r"g\[0\] is not an object"),
        (lambda: parse(b'{"g": "x\\u0000y"}', "doc").text("g"), "g contains a zero byte"),
    ):
        with pytest.raises(ImageError, match=path):
            read()

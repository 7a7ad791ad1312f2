"""Challenges of WWW-Authenticate headers are parsed as RFC 9110 writes them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.images.registry.challenge import Challenge, parse_challenges, preferred

token = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,8}", fullmatch=True)
value = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
challenge = st.tuples(token, st.dictionaries(token.map(str.lower), value, min_size=1, max_size=4))


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@given(st.lists(challenge, min_size=1, max_size=4), st.sampled_from([", ", ",", " , ,"]), st.booleans())
def test_what_is_written_by_the_grammar_is_parsed(
    challenges: list[tuple[str, dict[str, str]]], comma: str, in_one_header: bool
) -> None:
    headers = [
        f"{scheme} {comma.join(f'{name}={quoted(text)}' for name, text in parameters.items())}"
        for scheme, parameters in challenges
    ]
    expected = tuple(Challenge(scheme.lower(), parameters) for scheme, parameters in challenges)
    assert parse_challenges([comma.join(headers)] if in_one_header else headers) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        ("bearer realm=https", [("bearer", {"realm": "https"})]),
        (
            'Bearer realm="https://auth/token",service="reg",scope="repository:a/b:pull,push"',
            [
                (
                    "bearer",
                    {"realm": "https://auth/token", "service": "reg", "scope": "repository:a/b:pull,push"},
                )
            ],
        ),
        (
            'Negotiate YWJj==, Basic realm = "x", NTLM',
            [("negotiate", {}), ("basic", {"realm": "x"}), ("ntlm", {})],
        ),
        ('Basic realm="x", realm="y"', [("basic", {"realm": "x"})]),
        ('Basic realm="never closed', [("basic", {})]),
        ('=broken, Basic realm="x"', []),
        ('Basic realm="x" ; Bearer realm="y"', [("basic", {})]),
    ],
)
def test_examples(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, one.parameters) for one in parse_challenges([header])] == expected


@given(st.text(max_size=60))
def test_no_header_is_an_exception(header: str) -> None:
    for one in parse_challenges([header]):
        assert one.scheme == one.scheme.lower()


@pytest.mark.parametrize("piece", ['a="', "a ", "a=", ",", '\\"', 'Basic a="\\'])
def test_a_hostile_header_takes_no_time(piece: str) -> None:
    begin = time.process_time()
    parse_challenges([piece * 60000])
    assert time.process_time() - begin < 5


def test_bearer_is_preferred_and_needs_a_realm() -> None:
    basic, bearer = Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "https://auth"})
    assert preferred([basic, bearer]) == preferred([bearer, basic]) == bearer
    assert preferred([basic, Challenge("bearer", {})]) == basic
    assert preferred([Challenge("negotiate", {})]) is None

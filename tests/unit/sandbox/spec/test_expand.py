"""`sandbox.spec.expand`: references in strings."""

from __future__ import annotations

import pytest

from sandbox.spec.expand import expand
from sandbox.spec.settings import Invalid

ENVIRON = {"A": "alpha", "EMPTY": "", "REF": "${env:A}", "_x9": "y"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain $HOME $(cmd) $$ $", "plain $HOME $(cmd) $$ $"),
        ("${env:A}", "alpha"),
        ("<${env:A}${env:_x9}>", "<alphay>"),
        ("${env:A:-default}", "alpha"),
        ("${env:NO:-default}", "default"),
        ("${env:EMPTY:-default}", "default"),
        ("${env:EMPTY}", ""),
        ("${env:NO:-}", ""),
        ("${env:NO:-a:-b c\n}", "a:-b c\n"),
        ("${config_dir}/x", "/conf/x"),
        ("$${env:A}", "${env:A}"),
        ("$${", "${"),
        ("$$${env:A}", "$${env:A}"),
        ("${env:REF}", "${env:A}"),
    ],
)
def test_references_are_replaced_once(text: str, expanded: str) -> None:
    assert expand(text, ENVIRON, "/conf") == expanded


@pytest.mark.parametrize(
    ("text", "fragment", "message"),
    [
        ("x ${env:NO} y", "${env:NO}", "the environment variable NO is not set"),
        ("${A}", "${A}", 'unknown reference "${A}"'),
        ("${}", "${}", 'unknown reference "${}"'),
        ("${env:}", "${env:}", 'unknown reference "${env:}"'),
        ("${env:1}", "${env:1}", 'unknown reference "${env:1}"'),
        ("${env:A-b}", "${env:A-b}", 'unknown reference "${env:A-b}"'),
        ("${config_dir:-x}", "${config_dir:-x}", 'unknown reference "${config_dir:-x}"'),
        ("${env:A", "${", '"${" is not closed, or holds another reference'),
        ("${env:NO:-${env:A}}", "${", '"${" is not closed, or holds another reference'),
    ],
)
def test_a_bad_reference_is_an_error_that_names_it(text: str, fragment: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        expand(text, ENVIRON, "/conf")
    assert (caught.value.message, caught.value.fragment) == (message, fragment)
    assert caught.value.hint


def test_a_shell_variable_is_told_how_to_stay_one() -> None:
    with pytest.raises(Invalid) as caught:
        expand("echo ${PATH}", {}, "/")
    assert (
        caught.value.hint
        == "write $${PATH} for a literal ${PATH}, ${env:PATH} for a variable of this machine"
    )

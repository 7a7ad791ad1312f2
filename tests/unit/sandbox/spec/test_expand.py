"""Test `sandbox.spec.expand`: references in strings."""

from __future__ import annotations

import pytest

from sandbox.spec import parse
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
        ("${env:A", "${", '"${" is not closed, or contains another reference'),
        ("${env:NO:-${env:A}}", "${", '"${" is not closed, or contains another reference'),
    ],
)
def test_a_bad_reference_is_an_error_that_names_it(text: str, fragment: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        expand(text, ENVIRON, "/conf")
    assert (caught.value.message, caught.value.fragment) == (message, fragment)
    assert caught.value.hint


def test_the_hint_for_a_shell_variable_shows_how_to_keep_it_literal() -> None:
    with pytest.raises(Invalid) as caught:
        expand("echo ${PATH}", {}, "/")
    assert (
        caught.value.hint
        == "write $${PATH} for a literal ${PATH}, or ${env:PATH} for a variable of your environment"
    )


@pytest.mark.parametrize(
    ("text", "key", "fragment"),
    [
        ('root.layers = ["dir:$HOME/x"]', "root.layers[0]", "$HOME"),
        ('process.cwd = "/home/$USER"', "process.cwd", "$USER"),
        ('process.env.PATH = "$PATH:/x"', "process.env.PATH", "$PATH"),
        ('process.env.A = "/x:~/bin"', "process.env.A", "~"),
        ('process.env.A = "~"', "process.env.A", "~"),
        ('volumes = [{ type = "bind", source = "./$X", target = "/y" }]', "volumes[0].source", "$X"),
    ],
)
def test_text_that_only_a_shell_would_expand_is_a_warning_at_its_position(
    text: str, key: str, fragment: str
) -> None:
    spec = parse(_whole(text), path="/t.toml", environ={})
    (warning,) = spec.warnings
    assert (warning.severity, warning.key) == ("warning", key)
    assert warning.message == f"{fragment} is not expanded: no shell reads this value"
    assert "${env:" in (warning.hint or "")
    assert spec.unenforced == ()


@pytest.mark.parametrize(
    "text",
    [
        'process.command = "echo $HOME ~"',
        'process.command = ["sh", "-c", "echo $HOME"]',
        'process.env.A = "${env:HOME}/a~b/~c"',
        'process.env.A = "$${HOME} costs 5$ and $(x)"',
        'root.layers = ["dir:~/x"]',
        'sandbox.description = "$HOME"',
        'volumes = [{ type = "file", target = "/x", content = "$HOME" }]',
        'profile.a.process.env.A = "$HOME"',
    ],
)
def test_text_for_a_shell_and_references_of_the_language_cause_no_warning(text: str) -> None:
    assert parse(_whole(text), path="/t.toml", environ={"HOME": "/h"}).warnings == ()


def _whole(text: str) -> bytes:
    return (text if "root.layers" in text else f'{text}\nroot.layers = ["dir:/"]').encode()

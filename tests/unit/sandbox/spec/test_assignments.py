"""Test `sandbox.spec.assignments`: a value of KEY=VALUE is TOML if it is valid TOML for that key, else a string."""

from __future__ import annotations

import pytest

from sandbox.spec.assignments import parse_assignment, parse_value
from sandbox.spec.notation import KeyPath


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("limits.pids=8", ("limits", "pids"), 8),
        ("limits.memory=1G", ("limits", "memory"), "1G"),
        ('limits.memory="1G"', ("limits", "memory"), "1G"),
        (" limits.pids =8", ("limits", "pids"), 8),
        ('process.command=["a", "b"]', ("process", "command"), ["a", "b"]),
        ("process.command=make -C x=y", ("process", "command"), "make -C x=y"),
        ("volumes[0].read_only=true", ("volumes", 0, "read_only"), True),
        ("process.env={ A = 'b' }", ("process", "env"), {"A": "b"}),
        ("root.writable=", ("root", "writable"), ""),
        # A line break must neither insert another key nor end the value.
        ("process.command=1\nb = 2", ("process", "command"), "1\nb = 2"),
        ("process.env.A='x'\n[process]", ("process", "env", "A"), "'x'\n[process]"),
        # Text that tomllib refuses for any reason is a string.
        ("process.command=" + "[" * 5000, ("process", "command"), "[" * 5000),
        ("limits.pids=2024-13-45", ("limits", "pids"), "2024-13-45"),
    ],
)
def test_an_assignment_is_a_path_and_a_value(text: str, path: KeyPath, value: object) -> None:
    assert parse_assignment(text) == (path, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits.pids", '"limits.pids" is not KEY=VALUE'),
        ("=8", '"=8" has no key before the ='),
        (" =8", '" =8" has no key before the ='),
        ("limits..pids=8", '"limits..pids" is not a key path'),
    ],
)
def test_invalid_assignments_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        parse_assignment(text)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        (("process", "env", "PORT"), "8080", "8080"),  # takes only strings
        (("process", "umask"), "77", "77"),
        (("profile", "debug", "process", "env", "PORT"), "8080", "8080"),  # the same key in a profile
        (("process", "user"), "8080", 8080),  # takes strings and numbers
        (("limits", "pids"), "8", 8),
        (("no", "such", "key"), "8", 8),
        (("process", "env", "A"), "true", "true"),
        (("process", "env", "A"), '"true"', "true"),
    ],
)
def test_a_value_of_a_key_that_takes_only_strings_is_a_string(
    path: KeyPath, text: str, value: object
) -> None:
    found = parse_value(text, path)
    assert (type(found), found) == (type(value), value)

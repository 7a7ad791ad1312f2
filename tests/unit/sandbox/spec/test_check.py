"""Test `sandbox.spec.check`: a file alone, and with each of its profiles. The output of the verb is tested in cli/test_check.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.spec.check import check
from sandbox.spec.model import MAX_PROFILES

SPEC = '[root]\nlayers = ["dir:/"]\n'
BREAKS = '[profile.p]\nsandbox.hostname = "x"\nnamespaces.uts = "host"\n'


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_profiles_of_a_file_that_is_extended_are_checked() -> None:
    Path("base.toml").write_text(SPEC + BREAKS)
    Path("main.toml").write_text('extends = "base.toml"\n')
    (found,) = check("main.toml", environ={})
    assert (found.file, found.line, found.key) == ("base.toml", 4, "sandbox.hostname")
    assert found.message.endswith("(with --profile p)")


def test_only_the_selected_profile_is_checked() -> None:
    Path("main.toml").write_text(SPEC + BREAKS + "[profile.q]\n")
    assert check("main.toml", environ={}, profiles=["q"]) == []
    (found,) = check("main.toml", environ={}, profiles=["p"])
    assert "--profile" not in found.message


def test_mistakes_of_all_profiles_are_in_the_order_of_the_file() -> None:
    Path("main.toml").write_text(
        f'{SPEC}\n{BREAKS}\n[profile.q]\nlimits.swap = "1M"\n\n[limits]\nunknown = 1\n'
    )
    found = check("main.toml", environ={})
    assert [diagnostic.line for diagnostic in found] == [5, 9, 12]


def test_a_file_that_cannot_be_read_has_one_mistake() -> None:
    (found,) = check("absent.toml", environ={})
    assert (found.message, found.line) == ("no such file", None)


def test_profiles_that_become_known_with_another_profile_are_checked() -> None:
    Path("base.toml").write_text(f"{SPEC}[profile.b]\nlimits.swap = '1M'\n")
    Path("main.toml").write_text(
        'extends = "base.toml"\nsandbox.hostname = "x"\nnamespaces.uts = "host"\n'
        '[profile.p]\nnamespaces.uts = "private"\n'
    )
    found = check("main.toml", environ={})
    assert [(one.file, one.key) for one in found] == [
        ("base.toml", "limits.swap"),
        ("main.toml", "sandbox.hostname"),
    ]


def test_too_many_profiles_are_a_mistake() -> None:
    most = "".join(f"[profile.p{number}]\n" for number in range(MAX_PROFILES))
    Path("main.toml").write_text(SPEC + most)
    assert check("main.toml", environ={}) == []
    Path("main.toml").write_text(SPEC + most + "[profile.q]\n")
    (found,) = check("main.toml", environ={})
    assert (found.key, found.message) == ("profile", f"more than {MAX_PROFILES} profiles")

"""`sandbox --version`: the version, and the commit of a checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import sandbox
from sandbox.cli.main import main
from sandbox.cli.version import describe

VERSION = f"sandbox {sandbox.__version__}"


def git(top: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    command = ["git", "-C", str(top), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with one commit and a tag."""
    try:
        git(tmp_path, "init", "--quiet")
    except FileNotFoundError:
        pytest.skip("git is not installed: apt-get install git")
    (tmp_path / "pyproject.toml").touch()
    git(tmp_path, "add", "pyproject.toml")
    git(tmp_path, "commit", "--quiet", "--message=first")
    git(tmp_path, "tag", "v7")
    return tmp_path


def test_version_of_a_checkout_names_its_commit_and_changes(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert describe(str(checkout)) == f"{VERSION} (commit {commit})"
    (checkout / "pyproject.toml").write_text("x")
    assert describe(str(checkout)) == f"{VERSION} (commit {commit}-dirty)"


def test_version_of_an_installed_package_is_the_version_alone(checkout: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"  # in a directory below a checkout, as a virtual environment may be
    installed.mkdir()
    assert describe(str(installed)) == VERSION


def test_version_where_git_is_missing_or_fails_is_the_version_alone(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / ".git/HEAD").write_text("nothing")
    assert describe(str(checkout)) == VERSION
    monkeypatch.setenv("PATH", "/nonexistent")
    assert describe(str(checkout)) == VERSION


def test_version_is_printed_and_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(VERSION)

"""The run directory: its mode, when it is used, and the secret in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sandbox.state.run_directory import default_path, open_run_directory, prepare


def secret_of(path: str) -> bytes | None:
    return prepare(path, lambda _warning: None)[1]


def test_the_place_is_what_the_environment_names_or_one_of_the_user() -> None:
    assert default_path({"SANDBOX_RUN_DIR": "/x/../y"}, 7) == "/y"
    assert default_path({"SANDBOX_RUN_DIR": ""}, 7) == "/var/tmp/sandbox-7"
    assert default_path({}, 0) == "/var/tmp/sandbox-0"


def test_a_secret_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "above" / "run"
    secret = secret_of(str(path))
    assert secret is not None
    assert len(secret) == 32
    assert secret_of(str(path)) == secret
    assert [stat.S_IMODE(at.stat().st_mode) for at in (path, path / "key")] == [0o700, 0o600]
    assert os.listdir(path) == ["key"]
    assert secret_of(str(tmp_path / "other")) != secret


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o750, 0o777, 0o1777])
def test_a_directory_that_others_can_enter_is_not_used(tmp_path: Path, mode: int) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    assert secret_of(str(tmp_path / "run")) is None
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "dangling", "file", "fifo"])
def test_what_is_no_directory_is_not_used(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        path.symlink_to("real")
    elif kind == "dangling":
        path.symlink_to("real")
    elif kind == "file":
        path.write_bytes(bytes(32))
    else:
        os.mkfifo(path)
    assert secret_of(str(path)) is None
    assert not (tmp_path / "real" / "key").exists()


def test_a_directory_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret_of(str(tmp_path / "run")) is not None
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert open_run_directory(str(tmp_path / "run")) is None


@pytest.mark.parametrize("how", ["short", "long", "open to others", "with a second name", "a link", "a FIFO"])
def test_a_key_that_may_be_known_to_others_or_is_damaged_is_replaced(tmp_path: Path, how: str) -> None:
    path = tmp_path / "run"
    before = secret_of(str(path))
    assert before is not None
    key = path / "key"
    if how in ("short", "long"):
        key.write_bytes(before[:-1] if how == "short" else before + b"x")
    elif how == "open to others":
        key.chmod(0o640)
    elif how == "with a second name":
        os.link(key, tmp_path / "second")
    elif how == "a link":
        key.rename(tmp_path / "moved")
        key.symlink_to(tmp_path / "moved")
    else:
        key.unlink()
        os.mkfifo(key)
    after = secret_of(str(path))
    assert after is not None
    assert after != before
    assert secret_of(str(path)) == after
    assert os.listdir(path) == ["key"]


def test_a_key_that_cannot_be_replaced_is_none(tmp_path: Path) -> None:
    (tmp_path / "run" / "key").mkdir(parents=True)
    (tmp_path / "run").chmod(0o700)
    assert secret_of(str(tmp_path / "run")) is None
    assert os.listdir(tmp_path / "run") == ["key"]

"""Lock files: what is written is read, and what is damaged is refused with its path and the remedy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.errors import StateError
from sandbox.images.lock_file import read_lock, write_lock

ZEROS = f"sha256:{'0' * 64}"


def _edit(old: str, new: str) -> Callable[[Path], None]:
    def edit(lock: Path) -> None:
        assert old in lock.read_text()
        lock.write_text(lock.read_text().replace(old, new))

    return edit


def _write(content: bytes) -> Callable[[Path], None]:
    def write(lock: Path) -> None:
        lock.write_bytes(content)

    return write


def _twice(lock: Path) -> None:
    text = lock.read_text()
    lock.write_text(f"{text}[[sources]]{text.partition('[[sources]]')[2]}")


def _fifo(lock: Path) -> None:
    lock.unlink()
    os.mkfifo(lock)


def _directory(lock: Path) -> None:
    lock.unlink()
    lock.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "there is no lock file"),
    "empty": (_write(b""), "damaged"),
    "text": (_write(b"not toml at all \xff"), "damaged"),
    "nested": (_write(b"a = " + b"[" * 100_000), "damaged"),
    "large": (_write(b"#" * (2 << 20)), "damaged"),
    "a list": (_write(b"version = 1\nsources = 1\n"), "damaged"),
    "no digest": (_write(b'version = 1\n[[sources]]\nsource = "x"\n'), "damaged"),
    "numbers": (_write(b"version = 1\n[[sources]]\nsource = 1\ndigest = 2\n"), "damaged"),
    "a digest": (_edit("sha256:", "../../../"), "damaged"),
    "version": (_edit("version = 1", "version = 2"), "another version"),
    "twice": (_twice, "stands there twice"),
    "fifo": (_fifo, "lock.toml"),
    "directory": (_directory, "lock.toml"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_lock_file_that_is_damaged_is_refused_with_its_path(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    lock = tmp_path / "web.toml.lock.toml"
    write_lock(str(lock), {"tar:base.tar": ZEROS})
    damage(lock)
    with pytest.raises(StateError, match=message) as refused:
        read_lock(str(lock))
    assert refused.value.message.startswith(f"{lock}: ")
    assert "sandbox lock" in (refused.value.hint or "") or name in ("fifo", "directory")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.from_regex("sha256:[0-9a-f]{64}", fullmatch=True),
    )
)
def test_what_is_written_is_read(tmp_path: Path, digests: dict[str, str]) -> None:
    lock = tmp_path / "lock.toml"
    write_lock(str(lock), digests)
    assert read_lock(str(lock)) == digests
    assert os.listdir(tmp_path) == ["lock.toml"]


def test_a_lock_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock.toml"
    write_lock(str(lock), {"a": ZEROS})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StateError, match="no space left"):
        write_lock(str(lock), {"b": ZEROS})
    monkeypatch.undo()
    assert read_lock(str(lock)) == {"a": ZEROS}
    assert os.listdir(tmp_path) == ["lock.toml"]

"""The cache of compiled filters in the state directory: stored, found again, and ignored if not written by this user."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import HostError, SetupError
from sandbox.kernel import bpf, seccomp
from sandbox.kernel.capabilities import DEFAULT
from sandbox.plan import SeccompPlan
from sandbox.runtime import filters
from sandbox.seccomp import compiler, values
from sandbox.seccomp.builtin import default_filter
from sandbox.seccomp.values import MACHINES, changed

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers and names of x86_64")

MACHINE = "x86_64"
BASE = default_filter(MACHINES[MACHINE], DEFAULT)
PLAN = SeccompPlan(profile="default", filter=BASE)


class Compiler:
    """A compiler that counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the compiler."""
        self.count = 0
        self._compile = compiler.compile_filter
        monkeypatch.setattr(compiler, "compile_filter", self)

    def __call__(self, wanted: values.Filter) -> bytes:
        """Count the call and compile."""
        self.count += 1
        return self._compile(wanted)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    return Compiler(monkeypatch)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


SECRET = bytes(range(32))


def program(
    state: int,
    plan: SeccompPlan = PLAN,
    *,
    library: str = "2.6.0",
    machine: str = MACHINE,
    secret: bytes | None = SECRET,
) -> bytes:
    return filters.program_for(plan, state_fd=state, secret=secret, library=library, machine=machine)


def entry(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "filters").iterdir()
    return found


def test_a_filter_is_compiled_once(state: int, compiled: Compiler, tmp_path: Path) -> None:
    assert program(state) == program(state) == compiler.compile_filter(BASE)
    assert compiled.count == 2  # the second action is on the line above
    assert entry(tmp_path).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "filters").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "other",
    [
        {"library": "2.5.4"},
        {"machine": "i686"},
        {"plan": SeccompPlan(profile="default", filter=changed(BASE, ("keyctl",), ()))},
    ],
)
def test_what_decides_the_program_decides_which_is_used(
    state: int, compiled: Compiler, other: dict[str, Any]
) -> None:
    program(state)
    program(state, **other)
    assert compiled.count == 2


def test_an_entry_of_a_profile_says_nothing_of_how_it_is_called(state: int, compiled: Compiler) -> None:
    program(state)
    program(state, SeccompPlan(profile="/elsewhere", filter=BASE, log=True))
    assert compiled.count == 1


def head(path: Path, content: bytes, key: bytes = SECRET, name: str | None = None) -> bytes:
    text = (name or path.name).encode() + b"\0" + content
    return hashlib.blake2b(text, digest_size=32, key=key).hexdigest().encode() + b"\n"


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    everything = bpf.assemble([(0x06, 0, 0, bpf.ALLOW)])
    assert content == head(path, content[65:]) + content[65:]
    if how == "another program":
        path.write_bytes(content[:65] + everything)
    elif how == "with the digest of an earlier version":
        path.write_bytes(
            hashlib.sha256(path.name.encode() + everything).hexdigest().encode() + b"\n" + everything
        )
    elif how == "with a digest without a secret":
        path.write_bytes(head(path, everything, key=b"") + everything)
    elif how == "with a digest of another secret":
        path.write_bytes(head(path, everything, key=bytes(32)) + everything)
    elif how == "that of another key":
        path.write_bytes(head(path, everything, name="0" * 64) + everything)
    elif how == "no program":
        path.write_bytes(head(path, b"1234") + b"1234")
    elif how == "cut short":
        path.write_bytes(content[:-8])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "writable by others":
        path.chmod(0o666)
    elif how == "with a second name":
        os.link(path, path.parent.parent / "second")
    elif how == "a symbolic link":
        path.rename(path.parent.parent / "moved")
        path.symlink_to(path.parent.parent / "moved")
    elif how == "a FIFO":
        path.unlink()
        os.mkfifo(path)
    elif how == "a directory":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "how",
    [
        "another program",
        "with the digest of an earlier version",
        "with a digest without a secret",
        "with a digest of another secret",
        "that of another key",
        "no program",
        "cut short",
        "empty",
        "writable by others",
        "with a second name",
        "a symbolic link",
        "a FIFO",
        "a directory",
    ],
)
def test_an_entry_that_is_not_whole_or_not_ours_is_not_used(
    state: int, compiled: Compiler, tmp_path: Path, how: str
) -> None:
    before = program(state)
    spoil(entry(tmp_path), how)
    assert program(state) == before
    assert compiled.count == 2
    if how != "a directory":  # a directory cannot be replaced by a file, so nothing is cached
        assert program(state) == before
        assert compiled.count == 2


def test_an_entry_of_somebody_else_is_not_used(
    state: int, compiled: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(state)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    program(state)
    assert compiled.count == 2


@pytest.mark.parametrize("how", ["a file", "writable by others", "a symbolic link"])
def test_a_directory_that_is_not_ours_is_not_used(
    state: int, compiled: Compiler, tmp_path: Path, how: str
) -> None:
    path = tmp_path / "filters"
    if how == "a file":
        path.write_text("")
    elif how == "a symbolic link":
        (tmp_path / "other").mkdir()
        path.symlink_to("other")
    else:
        path.mkdir()
        path.chmod(0o777)
    assert program(state) == program(state)
    assert compiled.count == 2


def test_what_was_kept_with_another_secret_is_made_anew(state: int, compiled: Compiler) -> None:
    for _ in range(2):
        for secret in (SECRET, bytes(32)):
            assert program(state, secret=secret) == program(state, secret=secret)
    assert compiled.count == 4


def test_without_a_secret_nothing_is_read_or_kept(state: int, compiled: Compiler, tmp_path: Path) -> None:
    assert program(state, secret=None) == program(state, secret=None)
    assert list(tmp_path.iterdir()) == []
    program(state)
    program(state, secret=None)
    assert compiled.count == 4


def test_what_cannot_be_kept_is_no_failure(
    state: int, compiled: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        program(state)
    assert list((tmp_path / "filters").iterdir()) == []


def test_the_oldest_entries_make_room(state: int, tmp_path: Path) -> None:
    program(state)
    kept = entry(tmp_path)
    for number in range(70):
        (tmp_path / "filters" / f"{number}").write_text("")
        os.utime(tmp_path / "filters" / f"{number}", ns=(number, number))
    kept.unlink()
    program(state)
    left = {path.name for path in (tmp_path / "filters").iterdir()}
    assert len(left) == 64
    assert kept.name in left
    assert "69" in left
    assert "0" not in left


def test_a_filter_under_which_nothing_starts_is_refused(state: int) -> None:
    plan = SeccompPlan(profile="default", filter=changed(BASE, (), ("execve",)))
    with pytest.raises(SetupError, match="denies execve"):
        program(state, plan)
    program(state, SeccompPlan(profile="default", filter=plan.filter, log=True))


def test_a_denied_call_that_would_pass_is_refused(state: int) -> None:
    everything = values.Filter(default=values.ALLOW, architectures=(), rules=())
    plan = SeccompPlan(profile="p", filter=changed(everything, (), ("no_such_call",)))
    with pytest.raises(
        HostError, match="p denies no_such_call, which libseccomp on this machine does not know"
    ):
        program(state, plan)


def test_a_program_is_loaded_as_it_is_unless_it_is_to_log_or_to_tell() -> None:
    made = compiler.compile_filter(BASE)
    actions = {
        name: {k for operation, _, _, k in bpf.instructions(changed_one) if operation == 0x06}
        for name, changed_one in {
            "plain": filters.for_kernel(made, log=False, traced=False),
            "log": filters.for_kernel(made, log=True, traced=False),
            "traced": filters.for_kernel(made, log=False, traced=True),
            "both": filters.for_kernel(made, log=True, traced=True),
        }.items()
    }
    assert filters.for_kernel(made, log=False, traced=False) is made
    assert len(actions["plain"]) > 3
    assert actions["log"] == {values.ALLOW, values.LOG}
    assert actions["traced"] == actions["both"] == {values.ALLOW, seccomp.NOTIFY}

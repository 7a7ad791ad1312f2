"""The hint about Landlock rules that would allow the program to start."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.kernel.landlock import Rules
from sandbox.plan import ProcessPlan
from sandbox.runtime.process.exec_advice import advice, found_errno
from tests.unit.sandbox.facts import plan

PROCESS: ProcessPlan = plan('[root]\nlayers = ["dir:/"]\n').process
SHELL = os.path.realpath("/bin/sh")


def told(
    *argv: str,
    execute: tuple[str, ...] | None,
    read: tuple[str, ...] | None = None,
    number: int = errno.EACCES,
) -> str:
    return advice(replace(PROCESS, argv=argv), Rules(execute=execute, read=read), number)


def test_the_program_and_its_loader_are_named() -> None:
    text = told("/bin/sh", execute=())
    assert f"security.landlock.execute must contain {SHELL} and /" in text
    assert "ld" in text.split(" and ")[1]


def test_a_program_that_may_not_be_read_cannot_be_executed_either() -> None:
    text = told("/bin/sh", execute=None, read=("/etc",))
    assert f"security.landlock.read must contain {SHELL} and /" in text
    assert told("/bin/sh", execute=("/",), read=("/",)) == ""


def test_a_program_is_found_as_it_is_started() -> None:
    assert f"contain {SHELL}" in told("sh", execute=())
    assert told("no-such-program", execute=()) == ""


def test_what_is_named_already_is_not_named_again() -> None:
    assert SHELL not in told("sh", execute=(os.path.dirname(SHELL),))
    assert told("sh", execute=("/",)) == ""


@pytest.mark.parametrize(("execute", "number"), [(None, errno.EACCES), ((), errno.ENOEXEC)])
def test_nothing_is_said_where_the_rules_are_not_the_reason(
    execute: tuple[str, ...] | None, number: int
) -> None:
    assert told("sh", execute=execute, number=number) == ""


def test_the_interpreter_of_a_script_is_named_with_its_loader(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!{sys.executable} -u\n")
    script.chmod(0o755)
    text = told(str(script), execute=(str(tmp_path),))
    assert os.path.realpath(sys.executable) in text
    assert str(script) not in text


@pytest.mark.parametrize(
    "content", [b"", b"#!", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 100, b"\x7fELF\x01\x01" + bytes(80)]
)
def test_a_file_that_is_no_program_is_no_failure(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd"
    path.write_bytes(content)
    path.chmod(0o755)
    assert f"contain {path}," in told(str(path), execute=())


def test_a_fifo_in_place_of_the_program_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o755)
    assert f"contain {tmp_path / 'fifo'}," in told(str(tmp_path / "fifo"), execute=())


def test_a_script_that_names_itself_ends(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).write_text(f"#!{tmp_path / other}\n")
        (tmp_path / name).chmod(0o755)
    assert str(tmp_path / "a") in told(str(tmp_path / "a"), execute=())


def test_a_program_in_no_directory_of_path_is_not_found_although_one_may_not_be_searched(
    tmp_path: Path,
) -> None:
    """A directory that init may not search: with a single id, init has no capability over it."""
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
    (tmp_path / "open" / "there").touch(mode=0o644)
    path = f"{tmp_path}/nowhere:closed:{tmp_path}/open"
    process = replace(PROCESS, cwd=str(tmp_path), env={"PATH": path})
    assert found_errno(replace(process, argv=("nowhere",)), errno.EACCES) == errno.ENOENT
    assert found_errno(replace(process, argv=("there",)), errno.EACCES) == errno.EACCES
    assert found_errno(replace(process, argv=(f"{tmp_path}/closed/x",)), errno.EACCES) == errno.EACCES
    assert found_errno(replace(process, argv=("nowhere",)), errno.E2BIG) == errno.E2BIG

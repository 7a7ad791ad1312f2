"""The editing verbs as commands, and `sandbox edit` with a scripted editor and a user at a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.e2e.support import PATIENCE, Outcome

GOOD = '[root]\nlayers = ["dir:/"]\n\n[limits]\nmemory = "512M"\n'
BAD = GOOD.replace('"512M"', '"much"')
MISTAKE = (
    'web.toml:5:10: limits.memory: "much" is not a size\n'
    '    5 | memory = "much"\n'
    '      |          ^~~~~~ write bytes as a number, or a string such as "512M" or "1.5G"\n'
)
QUESTION = "What now? (e)dit again, e(x)it without saving: "


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a valid environment file in a directory of its own."""
    path = tmp_path / "web.toml"
    path.write_text(GOOD)
    return path


def editor(directory: Path, *steps: str) -> str:
    """Return an editor that runs the shell commands *steps*, one each time it is started; $1 is the file to edit."""
    script = directory.parent / f"{directory.name}-editor"
    cases = "".join(f"{number}) {step} ;;\n" for number, step in enumerate(steps, 1))
    script.write_text(
        f'#!/bin/sh\ncount=$(($(cat "$0.count" 2>/dev/null || echo 0) + 1))\necho $count > "$0.count"\n'
        f'case $count in\n{cases}*) echo "started too often"; exit 9 ;;\nesac\n'
    )
    script.chmod(0o755)
    return str(script)


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in {"VISUAL", "EDITOR"}}
    return {**kept, "NO_COLOR": "1", **more}


def sandbox(
    directory: Path, *words: str, environ: Mapping[str, str] | None = None, stdin: str = ""
) -> Outcome:
    """Run the command without a terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", *words],
        cwd=directory,
        env=environment(**(environ or {})),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def talk(
    directory: Path, words: Sequence[str], environ: Mapping[str, str], answers: Sequence[str]
) -> Outcome:
    """Run the command at a terminal, reply to each question with one of *answers*, and return the terminal's output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        os.execve(sys.executable, [sys.executable, "-m", "sandbox", *words], environment(**environ))
    shown, asked, end = "", 0, time.monotonic() + PATIENCE
    try:
        while True:
            assert time.monotonic() < end, shown
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # EIO: all processes at the other end have ended
                piece = b""
            if not piece:
                break
            shown += piece.decode().replace("\r\n", "\n")
            while asked < len(answers) and shown.count("without saving: ") > asked:
                os.write(terminal, answers[asked].encode())
                asked += 1
    finally:
        os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return Outcome(os.waitstatus_to_exitcode(status), shown, "")


def left(file: Path) -> list[str]:
    """Return the names beside *file*."""
    return sorted(os.listdir(file.parent))


def test_an_edited_file_is_installed(file: Path) -> None:
    edit = editor(file.parent, 'sed -i s/512M/1G/ "$1"')
    assert sandbox(file.parent, "edit", "web.toml", environ={"EDITOR": edit}) == Outcome(0, "", "")
    assert file.read_text() == GOOD.replace("512M", "1G")
    assert left(file) == ["web.toml"]


def test_the_editor_of_visual_gets_its_arguments_and_a_copy_beside_the_file(file: Path) -> None:
    edit = editor(file.parent, 'echo "$#: $1: ${2%.*.toml}.*.toml"; pwd; cmp "$2" web.toml')
    done = sandbox(
        file.parent, "edit", "web.toml", environ={"VISUAL": f"{edit} '--wait for me'", "EDITOR": "false"}
    )
    assert done == Outcome(
        0, f"2: --wait for me: {file.parent}/.web.*.toml\n{file.parent}\n", "web.toml is unchanged\n"
    )


def test_a_file_that_was_not_changed_is_not_written(file: Path) -> None:
    before = file.stat()
    done = sandbox(file.parent, "edit", "web.toml", environ={"EDITOR": editor(file.parent, "true")})
    assert done == Outcome(0, "", "web.toml is unchanged\n")
    assert file.stat().st_ino == before.st_ino
    assert left(file) == ["web.toml"]


def test_an_invalid_file_is_not_installed_without_a_terminal(file: Path) -> None:
    edit = editor(file.parent, 'sed -i s/512M/much/ "$1"')
    done = sandbox(file.parent, "edit", "web.toml", environ={"EDITOR": edit}, stdin="e\n")
    assert done == Outcome(125, "", f"{MISTAKE}web.toml is unchanged\n")
    assert file.read_text() == GOOD
    assert left(file) == ["web.toml"]


def test_a_mistake_is_shown_and_edited_again(file: Path) -> None:
    edit = editor(file.parent, 'sed -i s/512M/much/ "$1"', 'sed -i s/much/2G/ "$1"')
    done = talk(file.parent, ["edit", "web.toml"], {"EDITOR": edit}, ["e\n"])
    assert done == Outcome(0, f"{MISTAKE}{QUESTION}e\n", "")
    assert file.read_text() == GOOD.replace("512M", "2G")
    assert left(file) == ["web.toml"]


def test_an_invalid_answer_is_explained_and_the_question_repeated(file: Path) -> None:
    edit = editor(file.parent, 'sed -i s/512M/much/ "$1"')
    done = talk(file.parent, ["edit", "web.toml"], {"EDITOR": edit}, ["Q\n", "x\n"])
    explained = "e: edit your version again\nx: exit without saving, and discard your version\n"
    assert done == Outcome(1, f"{MISTAKE}{QUESTION}Q\n{explained}{QUESTION}x\nweb.toml is unchanged\n", "")
    assert file.read_text() == GOOD
    assert left(file) == ["web.toml"]


def test_the_end_of_input_exits_without_saving(file: Path) -> None:
    edit = editor(file.parent, 'sed -i s/512M/much/ "$1"')
    done = talk(file.parent, ["edit", "web.toml"], {"EDITOR": edit}, ["\x04"])
    assert done.status == 1
    assert done.out.endswith("web.toml is unchanged\n")
    assert left(file) == ["web.toml"]


def test_an_interrupt_at_the_question_exits_without_saving(file: Path) -> None:
    edit = editor(file.parent, 'sed -i s/512M/much/ "$1"')
    done = talk(file.parent, ["edit", "web.toml"], {"EDITOR": edit}, ["\x03"])
    assert done.status == 130
    assert file.read_text() == GOOD
    assert left(file) == ["web.toml"]


def test_an_interrupt_in_the_editor_ends_the_editor_only(file: Path) -> None:
    # The editor has the default action for the signal, and so ends. The command must not end with it.
    edit = editor(file.parent, "trap 'sed -i s/512M/3G/ \"$1\"; exit 0' INT; kill -INT 0; sleep 5")
    done = talk(file.parent, ["edit", "web.toml"], {"EDITOR": edit}, [])
    assert done == Outcome(0, "", "")
    assert file.read_text() == GOOD.replace("512M", "3G")


def test_an_invalid_file_can_be_corrected_and_must_not_stay_invalid(file: Path) -> None:
    file.write_text(BAD)
    edit = editor(file.parent, 'echo "# more" >> "$1"', 'sed -i s/much/1G/ "$1"')
    done = talk(file.parent, ["edit", "web.toml"], {"EDITOR": edit}, ["e\n"])
    assert done == Outcome(0, f"{MISTAKE}{QUESTION}e\n", "")
    assert file.read_text() == GOOD.replace("512M", "1G") + "# more\n"


def test_a_file_that_changed_meanwhile_is_not_replaced_and_the_copy_is_kept(file: Path) -> None:
    edit = editor(file.parent, 'sed -i s/512M/1G/ "$1"; echo "# theirs" >> web.toml')
    done = sandbox(file.parent, "edit", "web.toml", environ={"EDITOR": edit})
    copy, name = left(file)
    assert name == "web.toml"
    assert done == Outcome(
        125,
        "",
        "sandbox: web.toml: was changed by another process in the meantime\n"
        f"      hint: your version is kept in {file.parent}/{copy}\n",
    )
    assert file.read_text() == GOOD + "# theirs\n"
    assert (file.parent / copy).read_text() == GOOD.replace("512M", "1G")


def test_an_editor_may_replace_its_copy_by_a_new_file(file: Path) -> None:
    edit = editor(file.parent, 'sed s/512M/1G/ "$1" > "$1~" && mv "$1~" "$1"')
    assert sandbox(file.parent, "edit", "web.toml", environ={"EDITOR": edit}) == Outcome(0, "", "")
    assert file.read_text() == GOOD.replace("512M", "1G")


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("exit 3", "ended with status 3; web.toml is unchanged"),
        ("kill -KILL $$", "was killed by signal 9; web.toml is unchanged"),
    ],
)
def test_an_editor_that_fails_changes_nothing(file: Path, step: str, told: str) -> None:
    edit = editor(file.parent, f'sed -i s/512M/1G/ "$1"; {step}')
    done = sandbox(file.parent, "edit", "web.toml", environ={"EDITOR": edit})
    assert done == Outcome(125, "", f"sandbox: the editor {edit} {told}\n")
    assert file.read_text() == GOOD
    assert left(file) == ["web.toml"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            "no-such-editor",
            "the editor no-such-editor cannot be started: not found\n      hint: set VISUAL or EDITOR",
        ),
        ("/", "the editor / cannot be started: permission denied\n      hint: set VISUAL or EDITOR"),
        (
            "vi 'x",
            "EDITOR is not a command line: no closing quotation\n      hint: quote its arguments as for a shell",
        ),
    ],
)
def test_a_wrong_editor_is_an_error_that_names_it(file: Path, value: str, told: str) -> None:
    done = sandbox(file.parent, "edit", "web.toml", environ={"EDITOR": value})
    assert done == Outcome(125, "", f"sandbox: {told}\n")
    assert left(file) == ["web.toml"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search every directory")
def test_an_editor_is_not_found_although_a_directory_of_path_may_not_be_searched(file: Path) -> None:
    closed = file.parent.parent / "closed"
    closed.mkdir(mode=0)
    environ = {"EDITOR": "no-such-editor", "PATH": f"{closed}:{os.environ.get('PATH', os.defpath)}"}
    done = sandbox(file.parent, "edit", "web.toml", environ=environ)
    assert done.err.startswith("sandbox: the editor no-such-editor cannot be started: not found\n")


def test_an_editor_that_removes_its_copy_changes_nothing(file: Path) -> None:
    edit = editor(file.parent, 'rm "$1"')
    done = sandbox(file.parent, "edit", "web.toml", environ={"EDITOR": edit})
    assert done == Outcome(
        125, "", "sandbox: the editor removed the copy that it was given; web.toml is unchanged\n"
    )


def test_a_file_that_cannot_be_replaced_is_not_opened_in_an_editor(file: Path) -> None:
    os.link(file, file.parent / "other.toml")
    done = sandbox(file.parent, "edit", "web.toml", environ={"EDITOR": editor(file.parent)})
    assert done.status == 125
    assert done.err.startswith("sandbox: web.toml: has 2 names (hard links)")


def test_a_file_is_started_changed_and_read_by_commands(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = sandbox(tmp_path, *words)
        assert done.status == 0, done.err
        return done.out

    run("init")
    run("set", "sandbox.toml", "limits.open_files=64", 'process.command=["true"]')
    run("add", "sandbox.toml", "volume", "type=tmpfs", "target=/tmp", "size=1M")
    run("add", "sandbox.toml", "env", "LANG=C")
    run("unset", "sandbox.toml", "volumes[/tmp].size")
    assert run("get", "sandbox.toml", "process.command", "process.env", "volumes", "limits.open_files") == (
        'process.command = ["true"]\nprocess.env = { LANG = "C" }\n'
        'volumes = [{ type = "tmpfs", target = "/tmp" }]\nlimits.open_files = 64\n'
    )
    run("fmt", "--check", "sandbox.toml")
    assert os.listdir(tmp_path) == ["sandbox.toml"]

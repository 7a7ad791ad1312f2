"""Completion in real shells: they read the script as a user's start-up file does, and the test types a line."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.filterwarnings("ignore:.*forkpty.*:DeprecationWarning")

SPEC = """\
[root]
layers = ["dir:/"]
[process.env]
STAGE = "one"
[profile.debug]
[profile.deep]
"""


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    """Return the environment of a user with `sandbox` on the PATH and environment files in the working directory."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "sandbox"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={PROJECT} exec {sys.executable} -m sandbox "$@"\n')
    program.chmod(0o755)
    work = tmp_path / "work"
    (work / "configs").mkdir(parents=True)
    (work / "web.toml").write_text(SPEC)
    (work / "notes.md").touch()
    path = f"{programs}:{os.environ['PATH']}"
    return {"HOME": str(tmp_path), "PATH": path, "TERM": "dumb", "LC_ALL": "C.UTF-8", "WORK": str(work)}


#: The lines that `sandbox completion --help` gives for start-up files.
EVALUATE = 'eval "$(sandbox completion {shell})"'


CASES = [
    ("sandbox u", ["unset", "up"]),
    ("sandbox up --s", ["--set"]),
    ("sandbox up ", ["configs/", "web.toml"]),
    ("sandbox completion ", ["bash", "fish", "zsh"]),
    ("sandbox init --template s", ["service", "shell"]),
    ("sandbox up web.toml --profile d", ["debug", "deep"]),
    ("sandbox up --set limits.mem", ["limits.memory=", "limits.memory_high="]),
    (
        "sandbox up --set limits.c",
        ["limits.core=", "limits.cpu_time=", "limits.cpu_weight=", "limits.cpus=", "limits.cpuset="],
    ),
    ("sandbox up --set root.writable=", ["ephemeral", "none", "persistent"]),
    ("sandbox up --set root.writable=p", ["persistent"]),
]


@pytest.mark.bash
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_bash_offers_the_words_that_are_possible(
    environ: Mapping[str, str], line: str, expected: list[str]
) -> None:
    # As readline does (bash(1), Programmable Completion): set these variables, and call the function with the command.
    program = f"""
        {EVALUATE.format(shell="bash")}
        [[ $(complete -p sandbox) == *"-F "* ]] || exit 3
        function=$(complete -p sandbox | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_TYPE=9
        $function sandbox
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environ,
        cwd=environ["WORK"],
        timeout=60,
    )
    # Bash replaces only the text after the last character of COMP_WORDBREAKS, to which "=" belongs.
    assert sorted(word.strip() for word in done.stdout.splitlines()) == expected


@pytest.mark.fish
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_fish_offers_the_words_that_are_possible(
    environ: Mapping[str, str], line: str, expected: list[str]
) -> None:
    # As in the help text: fish reads the file when the command is completed for the first time.
    file = Path(environ["HOME"]) / ".config" / "fish" / "completions" / "sandbox.fish"
    file.parent.mkdir(parents=True)
    with open(file, "wb") as stream:
        subprocess.run(["sandbox", "completion", "fish"], stdout=stream, check=True, env=environ, timeout=60)
    program = f"complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environ,
        cwd=environ["WORK"],
        timeout=60,
    )
    words = [word.split("\t")[0].rpartition("=") for word in done.stdout.splitlines()]
    assert sorted(end or f"{begin}=" for begin, _, end in words) == expected


class Terminal:
    """An interactive shell on a terminal; `close` ends it."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        """Start *command*."""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(environ["WORK"])
            os.execvpe(command[0], command, environ)
        self.seen = ""

    def type(self, text: str, until: str, seconds: float = 30) -> str:
        """Type *text* and return the output from then on, as soon as the pattern *until* matches it."""
        self.seen = ""
        os.write(self.fd, text.encode())
        end = time.monotonic() + seconds
        while not re.search(until, self.seen, re.DOTALL):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise AssertionError(f"no {until!r} in {self.seen!r}")
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        return self.seen

    def close(self) -> None:
        """End the shell."""
        os.close(self.fd)
        os.waitpid(self.pid, 0)


WHOLE_LINES = [
    ("sandbox up w\t", "sandbox up web.toml"),
    ("sandbox up --set root.wr\tn\t", "sandbox up --set root.writable=none"),
    ("sandbox up web.toml --profile deb\t", "sandbox up web.toml --profile debug"),
    ("sandbox compl\tfi\t", "sandbox completion fish"),
]


@pytest.mark.parametrize(
    ("shell", "command", "prepare"),
    [
        pytest.param("bash", ["bash", "--norc", "-i"], "PS1='> '", marks=pytest.mark.bash),
        pytest.param(
            "zsh",
            ["zsh", "-f", "-i"],
            "PS1='> '; bindkey -e; autoload -U compinit; compinit -u -D",
            marks=pytest.mark.zsh,
        ),
    ],
)
def test_tab_completes_the_typed_word(
    environ: Mapping[str, str], shell: str, command: list[str], prepare: str
) -> None:
    terminal = Terminal(command, environ)
    try:
        terminal.type(f"{prepare}; {EVALUATE.format(shell=shell)}; echo rea''dy\n", "ready\r?\n")
        for keys, line in WHOLE_LINES:
            # The shell itself prints the line: ^A goes to its beginning.
            shown = terminal.type(f"{keys}\x01printf '<%s>' \x05\n", r"<[a-z]+><.*>")
            assert "".join(f"<{word}>" for word in line.split()) in shown
    finally:
        terminal.close()


@pytest.mark.zsh
def test_zsh_lists_the_possible_words_with_their_meaning(environ: Mapping[str, str]) -> None:
    terminal = Terminal(["zsh", "-f", "-i"], environ)
    try:
        prepare = "PS1='> '; stty columns 200; bindkey -e; autoload -U compinit; compinit -u -D"
        terminal.type(f"{prepare}; {EVALUATE.format(shell='zsh')}; echo rea''dy\n", "ready\r?\n")
        processors = r"limits\.cpus= +-- Processor time, in processors\."
        seconds = r"limits\.cpu_time= +-- RLIMIT_CPU: processor time of one process\."
        either_order = f"{processors}.*{seconds}|{seconds}.*{processors}"
        terminal.type("sandbox up --set limits.cp\t\t", either_order)
    finally:
        terminal.close()


def test_help_explains_for_each_shell_how_to_read_the_script() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "completion", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
        timeout=60,
    )
    assert EVALUATE.format(shell="bash") in done.stdout
    assert EVALUATE.format(shell="zsh") in done.stdout
    assert "sandbox completion fish > ~/.config/fish/completions/sandbox.fish" in done.stdout


def test_completion_is_not_imported_unless_a_shell_requests_it() -> None:
    program = (
        "import sys; from sandbox.cli.main import main\n"
        "try: main(['up', '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in sys.modules if 'completion' in name or 'argcomplete' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PROJECT, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"

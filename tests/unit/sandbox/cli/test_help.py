"""Properties of the help of every verb, and of the start of the command."""

from __future__ import annotations

import argparse
import os
import pkgutil
import pty
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest

import sandbox.cli
from sandbox.cli.main import main
from sandbox.cli.parser import Parser, fill
from sandbox.cli.verbs import GROUPS, VERBS
from sandbox.manual.paragraphs import paragraphs
from tests.conftest import PROJECT

#: Modules of the package that are no verbs.
SHARED = {
    "background",
    "check_here",
    "main",
    "options",
    "output",
    "parser",
    "planning",
    "progress",
    "registry_options",
    "state_path",
    "version",
    "check_untrusted",
    "verbs",
}

#: Verbs whose result is for programs, too. (schema prints JSON and nothing else; up with --dry-run is asked for below.)
PARSED = {"check", "config", "df", "diff", "doctor", "explain", "get", "ls", "prune", "rm"}

each_verb = pytest.mark.parametrize("verb", VERBS)


def parser_of(verb: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"sandbox {verb}")
    fill(parser, verb)
    return parser


def options_of(verb: str) -> dict[str, argparse.Action]:
    return {option: action for action in parser_of(verb)._actions for option in action.option_strings}


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the output of `sandbox ... --help`."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    captured = capsys.readouterr()
    assert (ended.value.code, captured.err) == (0, "")
    return captured.out


def test_the_help_of_doctor_keeps_its_sentences_apart(capsys: pytest.CaptureFixture[str]) -> None:
    paragraph = next(part for part in paragraphs(help_of(capsys, "doctor")) if part.startswith("levels: "))
    assert paragraph.endswith("failure (`up` does not work)")


def run(*arguments: str, environ: Mapping[str, str] | None = None, terminal: bool = False) -> str:
    """Return the standard output and standard error of the command, on a pipe or a terminal."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")
    }
    environment |= {"TERM": "xterm", "PYTHONPATH": PROJECT, **(environ or {})}
    command = [sys.executable, "-m", "sandbox", *arguments]
    if not terminal:
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env=environment,
            timeout=60,
        ).stdout
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # EIO: no process has the terminal open any more
            pass
        os.close(ours)
    return shown.decode()


# --- the command ---


def imported_by(*words: str) -> list[str]:
    """Return the modules that the command line *words* imports."""
    program = (
        "import sys\nbefore = set(sys.modules)\n"
        "from sandbox.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT, timeout=60)
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["check"], {"cli", "errors", "spec"}),
        (["config"], {"cli", "errors", "spec"}),
        (["get"], {"cli", "editing", "errors", "spec"}),
        (["fmt", "--check"], {"cli", "editing", "errors", "spec"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_verb_that_starts_nothing_imports_the_language_alone(words: list[str], parts: set[str]) -> None:
    imported = imported_by(*words, "configs/hello.toml")
    assert {name.split(".")[1] for name in imported if name.startswith("sandbox.")} == parts
    # Modules for diagnostics, changes, escapes and other machines are imported only when needed.
    slow = "argcomplete asyncio ctypes difflib email json pathlib pyroute2 subprocess tempfile tomlkit unicodedata unittest"
    assert {name.partition(".")[0] for name in imported}.intersection(slow.split()) == set()


def test_help_imports_little_of_ours_and_nothing_slow() -> None:
    imported = imported_by("--help")
    assert [name for name in imported if name.partition(".")[0] == "sandbox"] == [
        "sandbox",
        "sandbox.cli",
        "sandbox.cli.main",
        "sandbox.cli.output",
        "sandbox.cli.parser",
        "sandbox.cli.verbs",
        "sandbox.errors",
        "sandbox.manual",
        "sandbox.manual.paragraphs",
    ]
    # All others are argparse and its imports; 43 with CPython 3.13.
    assert len(imported) < 60
    slow = "asyncio ctypes dataclasses difflib email importlib inspect json pathlib subprocess tempfile tomllib typing unittest"
    assert not {name.partition(".")[0] for name in imported} & {
        *slow.split(),
        "argcomplete",
        "tomlkit",
        "pyroute2",
    }


def test_overview_lists_every_verb_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    listed = re.findall(r"^  ([a-z]+) +(.*)$", text, re.MULTILINE)
    assert [(verb, summary) for verb, summary in listed if verb in VERBS] == list(VERBS.items())
    assert re.findall(r"^([a-z]+):$", text, re.MULTILINE) == [*GROUPS, "options"]


def test_overview_says_how_the_command_ends(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_of(capsys).split())
    assert text.endswith(
        "exit status: the program's own, 128+N if signal N ended it, 124 after limits.wall_time, 125 for a failure of "
        "sandbox, 126 for a command that cannot be executed, 127 for one that is not found"
    )


def test_every_module_of_the_package_is_a_verb_or_shared_by_verbs() -> None:
    modules = {module.name for module in pkgutil.iter_modules(sandbox.cli.__path__)}
    assert modules - SHARED - VERBS.keys() == set()


# --- each verb ---


@each_verb
def test_summary_is_a_phrase(verb: str) -> None:
    summary = VERBS[verb]
    assert summary[0].islower()
    assert not summary.endswith(".")
    assert len(f"  completion  {summary}") <= 80


@each_verb
def test_help_of_a_verb_says_what_it_does_takes_and_ends_with(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys, verb)
    assert text.startswith(f"usage: sandbox {verb} ")
    description = parser_of(verb).description or ""
    assert re.fullmatch(r"[A-Z].*[.:]", paragraphs(description)[0], re.DOTALL)
    assert " ".join(description.split()) in " ".join(text.split())
    assert all(f" {option}" in text for option in options_of(verb))
    assert len(re.findall(r"exit status: ", text)) == 1
    assert [line for line in text.splitlines() if len(line) > 80] == []


@each_verb
def test_arguments_of_a_verb_are_phrases_with_names(verb: str) -> None:
    for action in parser_of(verb)._actions:
        assert action.help
        if action.help != argparse.SUPPRESS:
            assert not re.search(r"[^.]\.$", action.help)
            assert not re.match(r"[A-Z][a-z]", action.help)
        if action.nargs != 0 and action.choices is None:
            assert isinstance(action.metavar, (str, tuple))
            assert all(
                name.isupper()
                for name in ([action.metavar] if isinstance(action.metavar, str) else action.metavar)
            )
        for option in action.option_strings:
            assert re.fullmatch(r"--[a-z]+(-[a-z]+)*|-[a-zA-Z]", option)


def meaning(action: argparse.Action) -> tuple[object, ...]:
    """Return the help of an option without a required other option: "with --dry-run or --report: ..."."""
    said = re.sub(r"^with --[a-z-]+( or --[a-z-]+)*: ", "", action.help or "")
    return (action.metavar, said, action.nargs, action.dest, action.default)


#: `fmt --diff` shows what it would change in a file, `up --diff` what the program has changed. `--list` lists what the verb is about.
#: `explain --all` prints all that there is, `logout --all` is about all registries. `-a` and `-t` are as in podman: `ps -a` lists
#: more sandboxes, `stop -a` ends all; `build -t` is a tag, `stop -t` a time, `logs -f` follows, `build -f` names a file, `rm -f` stops first.
DIFFERENT = ("--all", "--diff", "--list", "-a", "-t", "-f", "--force")


@each_verb
def test_option_means_the_same_wherever_it_is(verb: str) -> None:
    for other in VERBS:
        theirs = options_of(other)
        for option, action in options_of(verb).items():
            if option in theirs and option not in DIFFERENT:
                assert meaning(action) == meaning(theirs[option]), f"{option} of {verb} and {other}"


@each_verb
def test_verb_whose_result_is_parsed_prints_json_when_asked(verb: str) -> None:
    options = options_of(verb)
    assert "--debug" in options
    if verb in PARSED or "--dry-run" in options:
        assert "--json" in options


@each_verb
def test_mistake_in_the_arguments_of_a_verb_is_ours(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--no-such-option"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (125, "")
    assert err.startswith(f"usage: sandbox {verb} ")
    assert re.search(r"^sandbox: ", err, re.MULTILINE)


@each_verb
def test_help_has_no_escape_codes_where_they_are_not_wanted(verb: str) -> None:
    assert "\x1b" not in run(verb, "--help")
    assert "\x1b" not in run(verb, "--help", terminal=True, environ={"NO_COLOR": "1"})


# --- colour of messages ---


@pytest.mark.parametrize(
    ("terminal", "environ", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # no-color.org: when present and not an empty string
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_messages_are_coloured_on_a_terminal_only(
    terminal: bool, environ: Mapping[str, str], coloured: bool
) -> None:
    shown = run("up", "/absent.toml", terminal=terminal, environ=environ)
    assert "no such file" in shown
    assert ("\x1b[" in shown) is coloured


@pytest.mark.parametrize(
    ("verb", "hint"),
    [
        ("run", "did you mean up?"),
        ("version", "did you mean --version?"),
        ("exec", "no command can enter or change a running sandbox yet"),
    ],
)
def test_a_verb_of_other_programs_of_the_kind_is_answered_with_what_there_is_here(
    capsys: pytest.CaptureFixture[str], verb: str, hint: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "x.toml"])
    assert end.value.code == 125
    err = capsys.readouterr().err
    assert f"{verb!r} is not a command" in err
    assert hint in err

"""`sandbox diff`: which changes it requests, and what it prints of them to a terminal, a pipe or a program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.changes import reader, writable_layers
from sandbox.changes.rows import Change
from sandbox.completion.candidates import sandboxes
from sandbox.errors import SandboxError, StateError
from sandbox.state.directory import StateDirectory
from tests.unit.sandbox.changes.generated import HOSTILE, change
from tests.unit.sandbox.cli.support import layer, printed, run

DIFF = ("@@ -1 +1 @@", "-old", "+new")
CHANGES = [
    change("A", "/a/new", size=2048),
    change("C", "/a/text", diff=DIFF),
    change("D", "/gone/"),
    change("D", "/gone/in"),
    change("R", "/old/", to="/to"),
    change("A", "/x\udcff\x1b", contents="binary"),
]
SUMMARY = [
    "/        A 2  C 1  D 2  R 1  2.0 KiB",
    "  a/     A 1  C 1            2.0 KiB",
    "  gone/            D 1",
    "2 added, 1 changed, 2 deleted, 1 moved, 2.0 KiB",
]
TEXT = [
    *("A /a/new (2.0 KiB)", "--- a/a/text", "+++ b/a/text", *DIFF),
    *("D /gone/ (1 entry)", "R /old/ -> /to/", r"Binary file /x\xFF\u001B differs"),
]


class Reader:
    """Stands for the child process: returns changes, and remembers what was requested."""

    def __init__(self) -> None:
        self.changes: Sequence[Change] = CHANGES
        self.requested: list[tuple[str, list[str], dict[str, bool]]] = []
        self.in_use = False

    def find(self, _: str, argument: str) -> Any:
        """Return a layer whose name remembers *argument*."""
        return SimpleNamespace(id="box-1a2b", argument=argument, in_use=self.in_use)

    def changes_of(self, found: Any, paths: Sequence[str], **options: bool) -> list[Change]:
        """Return the changes."""
        self.requested.append((found.argument, list(paths), options))
        return list(self.changes)


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> Reader:
    made = Reader()
    monkeypatch.setattr(writable_layers, "find", made.find)
    monkeypatch.setattr(reader, "changes_of", made.changes_of)
    return made


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make standard output a terminal of 80 columns and 24 lines. Tests call it, as capsys replaces the stream after the fixtures."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")


def lines_of(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    status, out, err = run(capsys, "diff", "box", *words)
    assert (status, err) == (0, "")
    return out.splitlines()


def test_a_pipe_gets_a_line_for_each_change(read: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(capsys) == [
        "A /a/new (2.0 KiB)",
        "C /a/text (0 B)",
        "D /gone/ (1 entry)",
        "R /old/ -> /to/",
        r"A /x\xFF\u001B (0 B)",
    ]
    assert read.requested == [("box", [], {"text": False})]


def test_a_terminal_gets_the_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_terminal(monkeypatch)
    assert lines_of(capsys) == SUMMARY


def test_a_summary_leaves_a_line_of_the_terminal_for_the_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_terminal(monkeypatch)
    monkeypatch.setenv("LINES", "5")
    assert lines_of(capsys) == SUMMARY
    monkeypatch.setenv("LINES", "4")
    assert lines_of(capsys) == ["/  A 2  C 1  D 2  R 1  2.0 KiB", "... 2 more directories", SUMMARY[3]]


@pytest.mark.parametrize(("in_use", "title"), [(False, "box-1a2b"), (True, "box-1a2b (running)")])
def test_a_summary_names_the_sandbox_that_a_file_selected(
    in_use: bool,
    title: str,
    read: Reader,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(capsys, "diff", "./a.toml")[1].startswith("A /a/new")
    read.in_use = in_use
    use_terminal(monkeypatch)
    monkeypatch.setenv("LINES", "5")
    assert run(capsys, "diff", "./a.toml")[1].splitlines() == [
        f"sandbox {title}",
        "/  A 2  C 1  D 2  R 1  2.0 KiB",
        "... 2 more directories",
        SUMMARY[3],
    ]


def test_a_terminal_gets_color_unless_it_is_disabled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[32mA 2\x1b[0m" in lines_of(capsys)[0]
    assert "\x1b[31m-old\x1b[0m" in lines_of(capsys, "--text")


def test_stat_prints_the_whole_summary_to_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(capsys, "--stat") == SUMMARY


@pytest.mark.parametrize("on_terminal", [False, True])
def test_text_prints_unified_diffs(
    on_terminal: bool, read: Reader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: on_terminal)
    assert lines_of(capsys, "--text") == TEXT
    assert read.requested == [("box", [], {"text": True})]


def test_summary_and_text_can_be_requested_together(read: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(capsys, "--text", "--stat") == [*SUMMARY, "", *TEXT]
    read.changes = []
    assert lines_of(capsys, "--text", "--stat") == ["nothing has changed"]


def test_nothing_changed_is_no_line_for_a_pipe_and_one_for_people(
    read: Reader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read.changes = []
    assert lines_of(capsys) == lines_of(capsys, "--text") == []
    assert lines_of(capsys, "--stat") == ["nothing has changed"]
    assert printed(capsys, "diff", "box") == {"changes": []}
    use_terminal(monkeypatch)
    assert lines_of(capsys) == ["nothing has changed"]


def test_json_has_the_shape_that_is_promised(read: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    """As docs/json.md describes it."""
    found = printed(capsys, "diff", "box")
    assert list(found) == ["changes"]
    rows: list[dict[str, Any]] = found["changes"]
    assert [(row["kind"], row["path"]) for row in rows] == [
        *(("A", "/a/new"), ("C", "/a/text"), ("D", "/gone"), ("D", "/gone/in")),
        *(("R", "/to"), ("A", "/x\udcff\x1b")),
    ]
    assert [list(row)[:5] for row in rows] == [["kind", "path", "from", "type", "size"]] * 6
    assert [row["from"] for row in rows] == [None, None, None, None, "/old", None]
    assert rows[1]["diff"] == list(DIFF)
    assert rows[5]["contents"] == "binary"
    printed(capsys, "diff", "box", "--text")
    assert [options for _, _, options in read.requested] == [{"text": False}, {"text": True}]


def test_json_is_ascii_and_has_a_line_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    found = lines_of(capsys, "--json")
    assert all(line.isascii() and line.isprintable() for line in found)
    assert len(found) == len(CHANGES) + 2


def test_json_has_no_summary(read: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    error = printed(capsys, "diff", "box", "--stat", status=125)["error"]
    assert error["message"] == "--json has no summary"
    assert read.requested == []


def test_paths_of_the_sandbox_select_changes(read: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "diff", "./a.toml", "/etc/", "/usr//local", "/")[0] == 0
    assert read.requested == [("./a.toml", ["/etc", "/usr/local", "/"], {"text": False})]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("etc", "etc: a path of the sandbox begins with a slash\n      hint: write /etc\n"),
        ("", ": a path of the sandbox begins with a slash\n      hint: write /\n"),
        ("/a/../b", '/a/../b: "." and ".." are not resolved\n      hint: write the path without\n'),
        ("/./\x1b", '/./\\u001B: "." and ".." are not resolved\n      hint: write the path without\n'),
    ],
)
def test_a_path_that_no_change_can_have_is_refused(
    path: str, message: str, read: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "diff", "box", path) == (125, "", f"sandbox: {message}")
    assert read.requested == []


def test_a_failure_of_the_child_process_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> list[Change]:
        raise StateError(f"no sandbox is called {HOSTILE}", hint="run `sandbox ls`")

    monkeypatch.setattr(writable_layers, "find", fail)
    status, out, err = run(capsys, "diff", "box")
    assert (status, out) == (125, "")
    assert err.splitlines()[1:] == ["      hint: run `sandbox ls`"]
    assert err.replace("\n", "").isprintable()
    assert printed(capsys, "diff", "box", status=125)["error"]["hint"] == "run `sandbox ls`"
    assert issubclass(StateError, SandboxError)


def test_no_text_of_a_change_reaches_a_terminal_as_a_control_character(
    read: Reader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_terminal(monkeypatch)
    name = HOSTILE.replace("/", "")
    read.changes = [
        change("A", f"/{name}/{name}"),
        change("C", f"/{name}", diff=("+" + HOSTILE.replace("\n", ""),)),
        change("R", f"/{name}", to=f"/to{name}"),
        change("D", f"/gone{name}", contents="large"),
    ]
    for options in ([], ["--stat"], ["--text"], ["--json"], ["--text", "--json"]):
        assert all(line.isprintable() for line in lines_of(capsys, *options))


def test_names_of_sandboxes_are_candidates_for_completion(state: StateDirectory, file: Any) -> None:
    layer(state, "toolbox", file)
    assert sandboxes() == {"toolbox": str(file)}

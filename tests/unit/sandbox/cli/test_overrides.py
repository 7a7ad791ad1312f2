"""Short forms of --set, and the default file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from sandbox.cli import options, parser
from sandbox.cli.main import main
from sandbox.cli.options import overrides
from sandbox.errors import SpecError
from sandbox.spec import Spec, load, parse
from sandbox.spec.assignments import OPTIONS
from sandbox.spec.load import DEFAULT_FILE

BASE = '[root]\nlayers = ["dir:/"]\n'
FULL = BASE + (
    '[process]\ncwd = "/a"\nenv = { A = "old", B = "b" }\n'
    '[[volumes]]\ntype = "tmpfs"\ntarget = "/t"\n[network]\nmode = "private"\nports = ["1:2"]\n'
)
PRIVATE = f'{BASE}[network]\nmode = "private"\n'


def told(text: str, *words: str, environ: dict[str, str] | None = None) -> Spec:
    """Return the result of *text* with the options *words* of the command line."""
    arguments = parser.parse(["config", "x.toml", *words])
    return parse(
        text.encode(),
        path="/specs/x.toml",
        environ={"HOME": "/home/alice"} if environ is None else environ,
        assignments=overrides(arguments),
        unenforced="keep",
    )


@pytest.mark.parametrize("text", [PRIVATE, FULL])
@pytest.mark.parametrize(
    ("short", "long"),
    [
        (("-w", "/x"), ("process.cwd=/x",)),
        (("-e", "A=1"), ('process.env.A="1"',)),
        (("-e", "A=b=c"), ("process.env.A=b=c",)),
        (("-e", "A="), ('process.env.A=""',)),
        (("-e", "A=x", "-e", "C=y"), ("process.env.A=x", "process.env.C=y")),
        (("-p", "8080:80"), ('network.ports={ append = ["8080:80"] }',)),
        (("-v", "/s:/d"), ('volumes={ append = [{ type = "bind", source = "/s", target = "/d" }] }',)),
        (
            ("-v", "./s:/d:ro", "-v", "data:/e"),
            (
                'volumes={ append = [{ type = "bind", source = "./s", target = "/d", read_only = true }] }',
                'volumes={ append = [{ type = "named", source = "data", target = "/e" }] }',
            ),
        ),
        (("-v", "~/s:/d"), ('volumes={ append = [{ type = "bind", source = "~/s", target = "/d" }] }',)),
    ],
)
def test_a_short_form_means_what_set_means(text: str, short: tuple[str, ...], long: tuple[str, ...]) -> None:
    assert told(text, *short) == told(text, *(word for one in long for word in ("--set", one)))


def test_short_forms_are_applied_after_set_and_win() -> None:
    spec = told(
        FULL, "-w", "/short", "--set", "process.cwd=/long", "-e", "A=short", "--set", "process.env.A=long"
    )
    assert (spec.process.cwd, dict(spec.process.env)) == ("/short", {"A": "short", "B": "b"})


def test_a_relative_source_is_relative_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told(BASE, "-v", "sub/../s:/d").volumes[0].source == f"{tmp_path}/sub/../s"
    assert told(BASE, "-v", ".:/d").volumes[0].source == str(tmp_path)


def test_a_variable_without_a_value_is_taken_from_the_environment_if_it_is_there() -> None:
    spec = told(FULL, "-e", "A", "-e", "NONE", environ={"A": "${x} $HOME ~"})
    assert dict(spec.process.env) == {"A": "${x} $HOME ~", "B": "b"}
    assert spec.warnings == ()


@pytest.mark.parametrize(
    ("words", "place", "message"),
    [
        (("-v", "/s"), "-v:1:1", "is not SRC:DST[:OPTIONS]"),
        (("-v", "/s:/d:zz"), "-v:1:1", 'unknown option "zz"'),
        (("-v", "/s:/proc/x"), "-v:1:1", "is under /proc"),
        (("-v", "/s:/t"), "-v:1:1", "is already the target of volumes[0]"),
        (("-w", "x"), "-w:1:1", "is not an absolute path"),
        (("-e", "=x"), "-e:1:1", "is not NAME=VALUE or NAME"),
        (("-p", "80"), "-p:1:1", "is not a port"),
    ],
)
def test_an_error_names_the_option(words: tuple[str, ...], place: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        told(FULL, *words)
    first = str(caught.value).split("\n")[0]
    assert first.startswith(f"{place}: ")
    assert message in first


def test_every_short_form_is_an_option_that_the_language_knows() -> None:
    assert ("--set", *options.SHORT_FORMS) == OPTIONS


def test_places_of_values_name_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.toml").write_text(BASE)
    assert main(["config", str(tmp_path / "x.toml"), "--origins", "-w", "/x"]) == 0
    assert 'cwd = "/x"  # -w\n' in capsys.readouterr().out
    assert main(["explain", str(tmp_path / "x.toml"), "-w", "/x"]) == 0
    assert re.search(r"directory +/x \[-w\]", capsys.readouterr().out)


@pytest.mark.parametrize("verb", ["config", "explain", "check", "up --dry-run"])
def test_without_a_file_that_of_the_directory_is_taken(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    words = [*verb.split(), "-w", "/usr"]
    assert main(words) in (1, 125)
    said = "".join(capsys.readouterr())
    assert "sandbox.toml: no such file" in said
    assert "create this one with `sandbox init`" in said
    assert main(["init"]) == 0
    assert main(words) == 0


@pytest.mark.parametrize(("mode", "status"), [(0o1777, 125), (0o755, 0)])
def test_a_file_that_another_user_put_into_a_directory_of_everybody_has_to_be_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: int,
    status: int,
) -> None:
    fstat = os.fstat
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    assert main(["init"]) == 0
    tmp_path.chmod(mode)

    def as_anothers(fd: int) -> os.stat_result:
        info = fstat(fd)
        return os.stat_result((*info[:4], 4242, *info[5:]))

    monkeypatch.setattr(os, "fstat", as_anothers)
    assert main(["config"]) == status
    said = "".join(capsys.readouterr())
    assert ("belongs to user 4242, in a directory that every user may write to" in said) == (status != 0)
    assert main(["config", "./sandbox.toml"]) == 0


def test_one_name_is_the_default_everywhere() -> None:
    assert options.DEFAULT_FILE == DEFAULT_FILE
    arguments = parser.parse(["init"])
    assert arguments.file == DEFAULT_FILE


def test_a_command_needs_no_file_before_it() -> None:
    arguments = parser.parse(["up", "--", "a.toml", "-v"])
    assert (arguments.file, arguments.command) == (DEFAULT_FILE, ["a.toml", "-v"])


def test_doctor_without_a_file_refuses_what_changes_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-w", "/x", "--json"]) == 125
    assert "name the file" in json.dumps(json.loads(capsys.readouterr().out))
    assert os.path.basename(DEFAULT_FILE) == DEFAULT_FILE
    with pytest.raises(SpecError):
        load("/absent/sandbox.toml")

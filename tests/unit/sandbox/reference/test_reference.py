"""Test the reference: it has every key, and the outputs in its examples are the real ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sandbox.cli.main import main
from sandbox.reference.entries import entries, tables
from sandbox.reference.markdown import markdown
from sandbox.reference.prose import COMPOSITION, TOPICS, VALUES
from sandbox.spec import parse
from sandbox.spec.lookup import keys
from sandbox.spec.settings import settings_of
from sandbox.spec.tables import Seccomp
from sandbox.spec.values import LayerTable, TimeOffsets
from tests.conftest import PROJECT

Capture = pytest.CaptureFixture[str]


def test_the_page_in_configs_is_the_reference_of_this_version() -> None:
    page = (Path(PROJECT) / "configs/REFERENCE.md").read_text()
    assert page == markdown(), "run: sandbox reference --markdown > configs/REFERENCE.md"


def test_every_key_is_listed_once() -> None:
    found = entries()
    alternatives = {"root.layers[]": LayerTable, "namespaces.time": TimeOffsets, "security.seccomp": Seccomp}
    inside = [f"{table}.{key}" for table, cls in alternatives.items() for key in settings_of(cls)]
    assert sorted(entry.key for entry in found) == sorted([*keys(), *inside])
    told = [
        entry.key for _, owner, inside in tables(found) for entry in [*([owner] if owner else []), *inside]
    ]
    # A table inside a table is a row of the outer table, and has a section of its own.
    assert set(told) == {entry.key for entry in found}


def test_every_key_has_its_row_on_the_page() -> None:
    page = markdown()
    for header, _, inside in tables(entries()):
        title = f"## `{header}`" if header else "## At the top of the file"
        part = page.split(f"\n{title}\n")[1].split("\n## ")[0]
        for entry in inside:
            assert f"\n| `{entry.name}` | " in part
            assert entry.doc.replace("|", "\\|") in part


def test_the_rows_of_the_page_have_four_cells() -> None:
    rows = [
        line for line in markdown().split("\n## `")[1:] for line in line.splitlines() if line.startswith("| ")
    ]
    assert len(rows) > 100
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_the_example_of_composition_is_what_config_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    blocks = re.findall(r"```(toml|console)\n(.*?)```", COMPOSITION, re.DOTALL)
    files = [text for kind, text in blocks if kind == "toml"]
    consoles = [text for kind, text in blocks if kind == "console"]
    assert len(files) == 2
    assert len(consoles) == 1
    for text in files:
        name = text.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    command, expected = consoles[0].split("\n", 1)
    assert main(command.removeprefix("$ sandbox ").split()) == 0
    assert capsys.readouterr().out == expected.replace("/home/alice", str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ('limits.memory = "1.5G"', "limits.memory", 3 << 29),
        ('limits.wall_time = "1h30m"', "limits.wall_time", 5400.0),
        ('process.stop_timeout = "250ms"', "process.stop_timeout", 0.25),
        ('process.umask = "0755"', "process.umask", 0o755),
        ('process.cwd = "${env:A}"', "process.cwd", "/a"),
        ('process.cwd = "${env:EMPTY:-/default}"', "process.cwd", "/default"),
        ('process.cwd = "${config_dir}"', "process.cwd", "/conf"),
        ('process.args = ["$${env:A}", "$HOME $(date)"]', "process.args", ("${env:A}", "$HOME $(date)")),
        ('process.env_file = "~/x"', "process.env_file", "/home/alice/x"),
    ],
)
def test_the_notations_in_the_table_of_values_are_accepted(setting: str, key: str, value: object) -> None:
    environ = {"A": "/a", "EMPTY": "", "HOME": "/home/alice"}
    text = f'root.layers = ["dir:/"]\n{setting}\n'
    spec = parse(text.encode(), path="/conf/f.toml", environ=environ, unenforced="keep")
    table, name = key.split(".")
    assert getattr(getattr(spec, table), name) == value


def test_the_details_of_a_key_are_printed(capsys: Capture) -> None:
    assert main(["reference", "limits.memory", "volumes[0].target", "network.ports"]) == 0
    assert capsys.readouterr() == (
        """\
limits.memory
  Memory of all processes together, at least 4M.
  value:    size, at least 4M
  default:  not set
  example:  [limits]
            memory = "512M"

volumes[].target
  The mount point: an absolute path in the sandbox.
  value:    sandbox path, not / nor under /proc, /sys or /dev
  default:  required
  example:  [[volumes]]
            target = "/src"

network.ports
  Ports of the host that are forwarded to the sandbox; without an address, only this machine can
  connect. Port 0 of the host is any free port, which `sandbox port` prints.
  value:    array, each: "[ADDRESS:]HOST:SANDBOX[/tcp|/udp]"
  default:  []
  example:  [network]
            ports = ["127.0.0.1:8080:80/tcp", "8000-8010:8000-8010"]
""",
        "",
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("security.landlock", ["security.landlock", "security.landlock.read", "security.landlock.write"]),
        ("[limits]", ["limits", "limits.memory", "limits.memory_high"]),
        ("[[volumes]]", ["volumes", "volumes[].type"]),
        ("networks.backend.subnet", ["networks.NAME.subnet"]),
        ("profile.debug.limits.pids", ["limits.pids"]),
        ("pids", ["limits.pids"]),
        ("target", ["volumes[].target", "devices[].target", "build[].copy.target"]),
        ("root.layers[0].cross", ["root.layers[].cross"]),
    ],
)
def test_a_key_can_be_named_as_it_is_written(name: str, found: list[str], capsys: Capture) -> None:
    assert main(["reference", "--json", name]) == 0
    told = [entry["key"] for entry in json.loads(capsys.readouterr().out)]
    assert told[: len(found)] == found


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("limits.memry", "did you mean limits.memory?"),
        ("memry", "did you mean limits.memory?"),
        ("compositon", "did you mean composition?"),
        ("xyzzy", "`sandbox reference` lists all keys"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_one(name: str, hint: str, capsys: Capture) -> None:
    assert main(["reference", name]) == 125
    assert capsys.readouterr() == ("", f"sandbox: {name} is not a key of the language\n      hint: {hint}\n")


def test_the_overview_has_a_line_for_every_key(capsys: Capture) -> None:
    assert main(["reference"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    for header, _, inside in tables(entries()):
        part = out.split(f"\n{header}  " if header else "\nat the top of the file\n")
        assert len(part) == 2 or header == "[sandbox]"
        assert all(f"\n  {entry.name} " in out for entry in inside)
    assert "\n  pids           Processes and threads that exist at one time.\n" in out


def test_a_key_that_can_be_a_table_is_listed_with_the_keys_of_the_table(capsys: Capture) -> None:
    assert main(["reference", "seccomp"]) == 0
    out = capsys.readouterr().out
    assert "security.seccomp.deny\n  System calls that fail with EPERM, regardless of the profile.\n" in out
    assert main(["reference", "security.seccomp.deny"]) == 0
    told = capsys.readouterr().out
    assert told in out
    assert '[security.seccomp]\n            deny = ["ptrace"]\n' in told


def test_a_topic_is_printed_as_on_the_page(capsys: Capture) -> None:
    assert main(["reference", "values"]) == 0
    assert capsys.readouterr().out == VALUES + "\n"
    assert all(text in markdown() for text in TOPICS.values())


def test_the_page_is_printed(capsys: Capture) -> None:
    assert main(["reference", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown()


def test_json_has_every_key(capsys: Capture) -> None:
    assert main(["reference", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["key"] for entry in told] == [entry.key for entry in entries()]
    assert told[0].keys() == {"key", "doc", "value", "default", "example", "required", "enforced"}

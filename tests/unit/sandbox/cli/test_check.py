"""`sandbox check`: the mistakes in files, and the exit status."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from sandbox.cli.main import main

GOOD = 'root.layers = ["dir:/"]\n'
WITH_PROFILES = """\
root.layers = ["dir:/"]
[profile.small]
limits.swap = "1G"
[profile.typo.limits]
memry = "1G"
[profile.fine.limits]
pids = 5
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "good.toml").write_text(GOOD)
    (tmp_path / "profiles.toml").write_text(WITH_PROFILES)
    (tmp_path / "base.toml").write_text("root.layers = 1\n")
    (tmp_path / "a.toml").write_text('extends = "base.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "base.toml"\nlimits.pids = 0\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_without_a_mistake_give_nothing_but_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "good.toml", "good.toml"]) == 0
    assert capsys.readouterr() == (
        "",
        "1 file checked: no mistakes; --here also checks this machine\n",
    )


def test_every_profile_is_checked_and_no_mistake_is_told_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "profiles.toml", "good.toml"]) == 1
    assert capsys.readouterr() == (
        """\
profiles.toml:3:15: limits.swap: needs limits.memory: without it, memory is not limited (with --profile small)
    3 | limits.swap = "1G"
      |               ^~~~ add memory = "512M" to [limits]
profiles.toml:5:1: profile.typo.limits.memry: unknown key
    5 | memry = "1G"
      | ^~~~~ did you mean memory?
""",
        "2 files checked: 2 mistakes; --here also checks this machine\n",
    )


def test_a_profile_that_is_asked_for_is_the_only_one_that_is_checked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check", "--profile", "small", "--set", "limits.memory=2G", "profiles.toml"]) == 1
    out = capsys.readouterr().out
    assert [line.split(": ")[1] for line in out.splitlines() if line.startswith("profiles.toml")] == [
        "profile.typo.limits.memry"
    ]


def test_a_mistake_in_a_file_that_several_extend_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "a.toml", "b.toml"]) == 1
    assert capsys.readouterr() == (
        """\
base.toml:1:15: root.layers: expected array of layers, found integer
    1 | root.layers = 1
      |               ^ for example: layers = ["dir:/"]
b.toml:2:15: limits.pids: must be at least 1, found 0
    2 | limits.pids = 0
      |               ^ for example: pids = 256
""",
        "2 files checked: 3 mistakes; --here also checks this machine\n",
    )


def test_json_tells_every_file_and_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "good.toml", "b.toml", "missing.toml"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    result = json.loads(out)
    assert result["ok"] is False
    assert [(file["file"], file["ok"], len(file["diagnostics"])) for file in result["files"]] == [
        ("good.toml", True, 0),
        ("b.toml", False, 2),
        ("missing.toml", False, 1),
    ]
    assert result["files"][1]["diagnostics"][0] == {
        "severity": "error",
        "file": "b.toml",
        "line": 2,
        "column": 15,
        "end_line": 2,
        "end_column": 16,
        "key": "limits.pids",
        "message": "must be at least 1, found 0",
        "hint": "for example: pids = 256",
        "source_line": "limits.pids = 0",
    }
    assert result["files"][2]["diagnostics"][0]["message"] == "no such file"


def test_a_profile_that_does_not_exist_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--profile", "smal", "profiles.toml"]) == 1
    assert capsys.readouterr().out == 'profiles.toml: no profile "smal"\n      hint: did you mean small?\n'


def test_standard_input_is_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a = 1\nroot.layers = ['dir:/']")))
    assert main(["check", "-"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("<stdin>:1:1: a: unknown key\n    1 | a = 1\n")


@pytest.mark.parametrize("text", [GOOD, WITH_PROFILES])
def test_the_status_agrees_with_what_config_says(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "x.toml").write_text(text)
    without_profiles = main(["config", "x.toml"])
    assert main(["check", "x.toml"]) == (1 if "typo" in text else without_profiles)


HOSTILE = """\
[root]
layers = ["dir:/"]
[process]
inherit_env = ["TOKEN"]
[[volumes]]
type = "bind"
source = "./src"
target = "/src"
[[volumes]]
type = "bind"
source = "/x\\u001b[2J\\nno mistakes"
target = "/x"
[profile.wide.network]
mode = "host"
"""


def test_untrusted_names_what_is_asked_for_where_links_lead_and_nothing_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str], directory: Path
) -> None:
    (directory / "h.toml").write_text(HOSTILE)
    (directory / "src").symlink_to("/etc")
    assert main(["check", "--untrusted", "h.toml"]) == 0
    assert capsys.readouterr() == (
        f"""\
h.toml requests:
  paths of this machine
    /: a layer: the program can read every file in it that you can read [h.toml:2]
    {directory}/src, which is /etc: can be read and changed, at /src in the sandbox [h.toml:5]
    /x\\u001B[2J\\u000Ano mistakes: can be read and changed, at /x in the sandbox [h.toml:9]
  variables of your environment
    TOKEN: passed to the program [h.toml:4]
  privileges
    network.mode = "host": reaches everything that this machine reaches, including its own services, and can listen on its ports \
(with --profile wide) [h.toml:14]
""",
        "1 file checked: no mistakes; --here also checks this machine\n",
    )


def test_untrusted_as_json(capsys: pytest.CaptureFixture[str], directory: Path) -> None:
    (directory / "h.toml").write_text(HOSTILE)
    assert main(["check", "--untrusted", "--json", "h.toml", "b.toml"]) == 1
    good, bad = json.loads(capsys.readouterr().out)["files"]
    assert good["requests"][3] == {
        "kind": "variable",
        "what": "TOKEN",
        "text": "passed to the program",
        "key": "process.inherit_env[0]",
        "file": "h.toml",
        "line": 4,
        "column": 16,
        "profile": None,
        "leads_to": None,
    }
    assert bad["requests"] is None


def test_untrusted_names_what_a_version_asks_for_that_would_refuse_it(
    capsys: pytest.CaptureFixture[str], directory: Path
) -> None:
    (directory / "d.toml").write_text(GOOD + '[[build]]\ncopy = { source = "src", target = "/s" }\n')
    assert main(["check", "--untrusted", "d.toml"]) == 1
    assert "src: copied into an image, from the build context [d.toml:3]" in capsys.readouterr().out


HERE = """\
root.layers = ["dir:/", "dir:absent", "tar:folder"]
[[volumes]]
type = "bind"
source = "missing"
target = "/v"
[profile.work.process]
env_file = "absent.env"
"""


def test_here_tells_what_up_would_refuse_with_every_profile(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "folder").mkdir()
    (directory / "here.toml").write_text(HERE)
    assert main(["check", "here.toml"]) == 1
    assert told(capsys.readouterr().out) == ["1:39: root.layers[2]"]
    assert main(["check", "--here", "here.toml"]) == 1
    out, err = capsys.readouterr()
    assert told(out) == [
        "1:25: root.layers[1]", "1:39: root.layers[2]", "4:10: volumes[0].source", "7:12: process.env_file",
    ]  # fmt: skip
    assert "no such file or directory (with --profile work)" in out
    assert err == "1 file checked: 4 mistakes\n"


def told(out: str) -> list[str]:
    return [
        ": ".join(line.split(":", 1)[1].split(": ")[:2])
        for line in out.splitlines()
        if line.startswith("here.toml")
    ]


def test_here_tells_mistakes_and_refusals_together(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "here.toml").write_text(HERE.replace("[profile.work.process]", "[process]\ncmmand = 1"))
    assert main(["check", "--here", "--json", "here.toml"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["here"] is True
    assert [one["key"] for one in result["files"][0]["diagnostics"]] == [
        "root.layers[1]", "root.layers[2]", "volumes[0].source", "process.cmmand", "process.env_file",
    ]  # fmt: skip


def test_here_tells_what_is_not_enforced_once(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "here.toml").write_text(GOOD + "process.init = false\n[profile.a]\nlimits.pids = 5\n")
    assert main(["check", "--here", "here.toml"]) == 1
    assert told(capsys.readouterr().out).count("2:16: process.init") == 1


def test_here_starts_and_changes_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(directory / "state"))
    monkeypatch.setenv("SANDBOX_RUN_DIR", str(directory / "run"))
    before = sorted(path.name for path in directory.iterdir())
    main(["check", "--here", "good.toml"])
    assert sorted(path.name for path in directory.iterdir()) == before
    (directory / "state").write_text("a file")
    assert main(["check", "--here", "good.toml"]) == 1
    assert "state directory" in capsys.readouterr().out

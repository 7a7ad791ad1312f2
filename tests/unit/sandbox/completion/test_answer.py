"""Test the candidates of each argument of the command line. The completer is found by the metavar of the argument."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.kernel.process import start_time
from sandbox.state.shared_networks import NetworkDirectory, NetworkMember, NetworkRecord
from tests.conftest import PROJECT

#: A command whose verbs are those of an editor of environment files, asked through the environment as shells do.
PROGRAM = """
import argparse
from sandbox.completion.answer import complete
def build(words):
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers()
    images = verbs.add_parser("image").add_subparsers()
    for action in ("ls", "rm", "tag"):
        inner = images.add_parser(action)
        if action != "ls":
            inner.add_argument("image", metavar="IMAGE", nargs="*" if action == "rm" else None)
        if action == "tag":
            inner.add_argument("new", metavar="NEW")
    verbs.add_parser("network").add_argument("network", metavar="NETWORK")
    for verb in ("get", "set", "unset", "add", "reference", "run", "diff", "export"):
        inner = verbs.add_parser(verb)
        if verb not in words:
            inner.add_argument("arguments of verbs that are not on the line are not looked at")
            continue
        if verb != "reference":
            inner.add_argument("file", metavar={"diff": "FILE|NAME", "export": "FILE|NAME|IMAGE"}.get(verb, "FILE"))
        if verb == "add":
            inner.add_argument("list", metavar="LIST")
            inner.add_argument("words", metavar="ELEMENT", nargs="+")
        elif verb == "run":
            inner.add_argument("--profile", metavar="NAME")
            inner.add_argument("--template", metavar="TEMPLATE")
            inner.add_argument("--name", metavar="NAME", choices=("one", "two"))
            inner.add_argument("--directory", metavar="DIRECTORY")
        elif verb in ("diff", "export"):
            inner.add_argument("paths", metavar="PATH", nargs="*")
        else:
            inner.add_argument("keys", metavar="KEY=VALUE" if verb == "set" else "KEY", nargs="+")
    return parser
complete(build)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "a.toml").write_text('[limits]\nmemory = "1G"\n[profile.debug]\n[root]\nlayers = ["dir:/"]\n')
    (tmp_path / "other").mkdir()
    (tmp_path / "other.md").touch()
    return tmp_path


def ask(directory: Path, line: str, point: int | None = None) -> list[str]:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 8>&1 >/dev/null', sys.executable, PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        cwd=directory,
        timeout=60,
        env={
            "HOME": str(directory.parent),
            "SANDBOX_STATE_DIR": str(directory / ".state"),
            "SANDBOX_RUN_DIR": str(directory / ".run"),
            "PYTHONPATH": PROJECT,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line) if point is None else point),
        },
    )
    assert done.stderr == ""
    return done.stdout.split("\n") if done.stdout else []


def test_a_file_or_a_sandbox_is_completed_with_both(directory: Path) -> None:
    kept = directory / ".state" / "sandboxes" / "toolbox"
    kept.mkdir(parents=True)
    (kept / "state.json").write_text('{"file": "/srv/a.toml"}')
    assert ask(directory, "tool diff ") == ["a.toml", "other/", "toolbox"]
    assert ask(directory, "tool diff to") == ["toolbox"]
    assert ask(directory, "tool diff toolbox o") == ["other/", "other.md"]


def test_images_are_completed_by_their_names_and_as_layers(directory: Path) -> None:
    images = directory / ".state" / "images"
    images.mkdir(parents=True, mode=0o700)
    fields = {"digest": "sha256:" + "a" * 64, "index": "", "source": "", "version": [], "time": 0}
    names = {"debian:13": fields, "debian:12": fields, "web:1": fields}
    (images / "images.json").write_text(json.dumps({"version": 1, "names": names}))
    assert sorted(ask(directory, "tool image ")) == ["ls", "rm", "tag"]
    # A colon divides words in bash, which gets the rest after it.
    assert ask(directory, "tool image rm we") == ["web:1"]
    assert len(ask(directory, "tool image rm debian:")) == 2
    assert ask(directory, "tool image rm web:1 deb")[0].startswith("debian")
    assert ask(directory, "tool image tag web:1 ") == []
    assert len(ask(directory, "tool add a.toml root.layers image:deb")) == 2
    for verb in ("image rm", "export"):
        assert len(ask(directory, f"tool {verb} image:")) == 3
        assert len(ask(directory, f"tool {verb} image:deb")) == 2
    assert ask(directory, "tool diff image:deb") == []
    (images / "images.json").write_text("damaged")
    assert ask(directory, "tool image rm we") == []


def test_a_network_is_completed_with_those_that_have_running_members(directory: Path) -> None:
    assert ask(directory, "tool network ") == []
    for name, pid in (("backend", os.getpid()), ("front", os.getpid()), ("gone", 0)):
        member = NetworkMember(
            run="web-1",
            names=("web",),
            address="10.89.0.2",
            link="m1",
            file="/web.toml",
            subnet=None,
            internal=True,
            pid=pid,
            start=start_time(os.getpid()) or 0,
            user_fd=3,
            network_fd=4,
            inode=5,
        )
        network = NetworkDirectory(str(directory / ".run"), name)
        with network.locked():
            network.write(NetworkRecord(subnet="10.89.0.0/24", internal=True, members=(member,)))
    assert ask(directory, "tool network ") == ["backend", "front"]
    assert ask(directory, "tool network b") == ["backend"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tool set ", ["a.toml", "other/"]),
        ("tool set a.toml limits.mem", ["limits.memory=", "limits.memory_high="]),
        ("tool set a.toml limits.memory=1G root.writable=e", ["root.writable=ephemeral"]),
        ("tool unset a.toml lim", ["limits", "limits.memory"]),
        ("tool unset a.toml pro", ["profile", "profile.debug"]),
        ("tool unset absent.toml lim", []),
        ("tool get absent.toml limits.mem", ["limits.memory", "limits.memory_high"]),
        ("tool get a.toml prof", ["profile", "profile.debug"]),
        ("tool reference volumes[].ta", ["volumes\\[\\].target"]),
        ("tool add a.toml root.la", ["root.layers"]),
        ("tool add a.toml volume ta", ["target="]),
        ("tool add a.toml volume target=/x type=t", ["type=tmpfs"]),
        ("tool run a.toml --profile ", ["debug"]),
        ("tool run a.toml --name ", ["one", "two"]),
        ("tool run a.toml --template s", ["service", "shell"]),
        ("tool run a.toml --directory o", ["other.md", "other/"]),
        ("tool run a.toml ", []),
    ],
)
def test_each_argument_has_its_candidates(directory: Path, line: str, expected: list[str]) -> None:
    assert sorted(ask(directory, line)) == expected


def test_file_behind_the_cursor_counts(directory: Path) -> None:
    assert ask(directory, "tool run --profile  a.toml", point=len("tool run --profile ")) == ["debug"]


def test_file_may_be_in_the_home_directory(directory: Path) -> None:
    assert ask(directory / "other", "tool run ~/a.toml --profile ") == ["debug"]


def test_options_are_offered_where_a_dash_is_typed(directory: Path) -> None:
    assert set(ask(directory, "tool run --")) == {
        "--help",
        "--profile",
        "--template",
        "--name",
        "--directory",
    }

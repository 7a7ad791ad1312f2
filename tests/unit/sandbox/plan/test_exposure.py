"""What the program can change of its own next start: symbolic links in a writable volume are refused; files cause a warning."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SpecError
from sandbox.host import paths as sources
from sandbox.host.paths import FileSystemLocation, PathFact, PathStep, inspect_all
from sandbox.kernel.namespaces import NamespaceFact
from sandbox.kernel.walk import Place
from sandbox.plan import Plan, host_details, host_files, host_paths, make_plan
from sandbox.plan.exposure import shown_at
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.load import load
from tests.unit.sandbox.facts import PRIVATE, host

ROOT = '[root]\nlayers = ["dir:/"]\n'
WRITABLE = '[[volumes]]\ntype = "bind"\nsource = "."\ntarget = "/project"\n'


@pytest.fixture(autouse=True)
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "home/project"
    (directory / "data").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("KEY=secret\n")
    return directory


def planned(project: Path, text: str, *, name: str = "s.toml", **changes: Any) -> Plan:
    (project / name).write_text(text)
    assignments = changes.pop("assignments", ())
    spec = load(changes.pop("path", f"{project}/{name}"), environ={}, assignments=assignments)
    joined = changes.pop("joined", None)
    facts = host(**changes)
    paths = inspect_all(host_paths(spec, facts), read=host_files(spec), **host_details(spec, facts))
    return make_plan(spec, facts, paths, environ={}, state_directory="/state", private=PRIVATE, joined=joined)


def refused(project: Path, text: str, **changes: Any) -> list[Diagnostic]:
    with pytest.raises(SpecError) as caught:
        planned(project, text, **changes)
    found: list[Any] = caught.value.diagnostics
    return found


def cautioned(project: Path, text: str, **changes: Any) -> str:
    """Return the only warning; "" if there is none."""
    cautions = planned(project, text, **changes).cautions
    assert len(cautions) <= 1
    assert all(one.severity == "warning" and one.line is not None for one in cautions)
    return "".join(one.message for one in cautions)


def volume(source: str, target: str, *, read_only: bool = True) -> str:
    return f'[[volumes]]\ntype = "bind"\nsource = "{source}"\ntarget = "{target}"\nread_only = {str(read_only).lower()}\n'


# --- links ---


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (WRITABLE + volume("link", "/data"), "volumes[1].source"),
        (WRITABLE + volume("link", "/data", read_only=False), "volumes[1].source"),
        (WRITABLE + volume("link/../data", "/data"), "volumes[1].source"),
        (WRITABLE + volume("link/key", "/data"), "volumes[1].source"),
        (WRITABLE + '[process]\nenv_file = "link/key"\n', "process.env_file"),
        (WRITABLE + '[security]\nseccomp = "./link/key"\n', "security.seccomp"),
        (WRITABLE + '[security.seccomp]\nprofile = "./link/key"\n', "security.seccomp.profile"),
        (WRITABLE + '[[devices]]\npath = "link"\ntarget = "/dev/x"\n', "devices[0].path"),
        (WRITABLE + '[namespaces]\nnet = "path:PROJECT/link/key"\n', "namespaces.net"),
    ],
)
def test_what_a_link_in_a_writable_volume_leads_to_is_refused_at_its_place(
    project: Path, tmp_path: Path, text: str, key: str
) -> None:
    (project / "link").symlink_to(tmp_path / "secret")
    text = text.replace("PROJECT", str(project))
    (found,) = [one for one in refused(project, ROOT + text) if "symbolic link" in one.message]
    assert found.key == key
    assert found.line is not None
    assert f"{project}/link is a symbolic link to {tmp_path}/secret, and lies in {project}" in found.message
    assert "(volumes[0])" in found.message
    assert "read_only = true in volumes[0]" in (found.hint or "")


@pytest.mark.parametrize("layer", ["dir:link", "tar:link"])
def test_layer_behind_such_a_link_is_refused(project: Path, tmp_path: Path, layer: str) -> None:
    (project / "link").symlink_to(tmp_path / "secret" / ("key" if layer.startswith("tar") else ""))
    (found,) = refused(project, f'[root]\nlayers = ["dir:/", "{layer}"]\n' + WRITABLE)
    assert (found.key, found.line) == ("root.layers[1]", 2)


def test_extended_file_behind_such_a_link_is_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "secret/base.toml").write_text(ROOT)
    (project / "link").symlink_to(tmp_path / "secret")
    (found,) = refused(project, 'extends = "link/base.toml"\n' + WRITABLE)
    assert (found.key, found.line) == ("extends", 1)


def test_disk_behind_such_a_link_is_refused_even_if_the_limit_is_optional(
    project: Path, tmp_path: Path
) -> None:
    (project / "link").symlink_to(tmp_path / "secret")
    text = '[limits]\nio = [{ path = "link", read = 5 }]\noptional = ["io"]\n'
    (found,) = refused(project, ROOT + text + WRITABLE)
    assert found.key == "limits.io[0].path"


def test_links_above_the_volume_are_the_hosts_own(project: Path, tmp_path: Path) -> None:
    (tmp_path / "usr").symlink_to("home")
    text = (
        ROOT
        + volume(f"{tmp_path}/usr/project", "/p", read_only=False)
        + volume(f"{tmp_path}/usr/project/data", "/d")
    )
    assert [step for step in planned(project, text).operations if getattr(step, "target", "") == "/d"]


def test_link_that_leads_to_the_volume_by_a_second_path_is_found_in_it(project: Path, tmp_path: Path) -> None:
    """The volume and the link are named by different paths, which lead to the same directories."""
    (tmp_path / "other").symlink_to("home/project")
    (project / "data").rmdir()
    (project / "data").symlink_to(tmp_path / "secret")
    (found,) = refused(project, ROOT + WRITABLE + volume(f"{tmp_path}/other/data", "/d"))
    assert found.key == "volumes[1].source"


def test_links_outside_that_lead_over_one_inside_are_no_detour(project: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").symlink_to(project / "inner")
    (project / "inner").symlink_to(tmp_path / "last")
    (tmp_path / "last").symlink_to(tmp_path / "secret")
    (found,) = refused(project, ROOT + WRITABLE + volume(f"{tmp_path}/outside", "/d"))
    assert f"{project}/inner is a symbolic link" in found.message


def test_dangling_link_is_named_as_a_link_and_not_as_missing(project: Path) -> None:
    (project / "data").rmdir()
    (project / "data").symlink_to("/nowhere")
    (found,) = refused(project, ROOT + WRITABLE + volume("data", "/d"))
    assert "symbolic link to /nowhere" in found.message


def test_source_of_a_writable_volume_itself_may_not_lead_over_a_link_in_another_or_in_itself(
    project: Path, tmp_path: Path
) -> None:
    (project / "data/back").symlink_to(project)
    (found,) = refused(project, ROOT + volume("data/back", "/p", read_only=False))
    assert f"{project}/data/back is a symbolic link" in found.message
    (project / "link").symlink_to(project / "data")
    text = ROOT + volume("link", "/a", read_only=False) + volume(".", "/b", read_only=False)
    assert [one.key for one in refused(project, text)] == ["volumes[0].source"]


def test_two_volumes_that_lead_over_each_other_are_both_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one/x").symlink_to(tmp_path / "two")
    (tmp_path / "two/x").symlink_to(tmp_path / "one")
    text = (
        ROOT
        + volume(f"{tmp_path}/one/x", "/a", read_only=False)
        + volume(f"{tmp_path}/two/x", "/b", read_only=False)
    )
    assert [one.key for one in refused(project, text)] == ["volumes[0].source", "volumes[1].source"]


def test_link_in_a_volume_that_cannot_be_written_is_followed(project: Path, tmp_path: Path) -> None:
    (project / "link").symlink_to(tmp_path / "secret")
    text = ROOT + volume(".", "/p") + volume("link", "/d")
    assert any(
        getattr(step, "source", "") == f"{tmp_path}/secret" for step in planned(project, text).operations
    )


def test_source_from_the_command_line_is_refused_too(project: Path, tmp_path: Path) -> None:
    (project / "link").symlink_to(tmp_path / "secret/key")
    changes = {"assignments": (f"process.env_file={project}/link",)}
    (found,) = refused(project, ROOT + WRITABLE, **changes)
    assert (found.file, found.key) == ("--set", "process.env_file")


def test_file_that_is_swapped_for_a_link_after_the_look_is_not_read(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "env").write_text("A=own\n")
    real = sources._read

    def swap(fact: PathFact, fd: int) -> PathFact:
        os.unlink(project / "env")
        (project / "env").symlink_to(tmp_path / "secret/key")
        return real(fact, fd)

    monkeypatch.setattr(sources, "_read", swap)
    made = planned(project, ROOT + WRITABLE + '[process]\nenv_file = "env"\n')
    assert {"A": "own"}.items() <= made.process.env.items()
    assert "KEY" not in made.process.env


def test_namespace_that_is_another_one_than_was_looked_at_is_refused(project: Path) -> None:
    (project / "net").touch()
    text = ROOT + WRITABLE + f'[namespaces]\nnet = "path:{project}/net"\n'
    joined = {"net": NamespaceFact(path=f"{project}/net", identity=(0, 4242))}
    (found,) = [
        one
        for one in refused(project, text, joined=joined)
        if "was replaced by another namespace" in one.message
    ]
    assert found.key == "namespaces.net"
    joined = {"net": NamespaceFact(path=f"{project}/net", problem="too many open files")}
    assert [one.message for one in refused(project, text, joined=joined)] == ["too many open files"]


# --- files that decide the next start ---


def test_environment_file_in_a_writable_volume_is_warned_of_at_the_volume(project: Path) -> None:
    (caution,) = planned(project, ROOT + WRITABLE).cautions
    assert (caution.severity, caution.key, caution.line) == ("warning", "volumes[0].source", 5)
    assert f"{project}/s.toml (the environment file)" in caution.message
    assert 'readonly_paths = ["/project/s.toml"] in [security]' in (caution.hint or "")


EVERYTHING = (
    'extends = "base.toml"\n[root]\nlayers = ["dir:/", "dir:layer", "tar:a.tar"]\n[process]\nenv_file = "env"\n'
    + WRITABLE
    + volume("data", "/data")
)


def test_everything_that_decides_is_named_and_the_hint_mends_it(project: Path) -> None:
    (project / "layer").mkdir()
    for name in ("a.tar", "env", "base.toml"):
        (project / name).write_text("")
    (caution,) = planned(project, EVERYTHING).cautions
    for name in ("s.toml", "base.toml", "layer", "a.tar", "env", "data"):
        assert f"{project}/{name} (" in caution.message
    line = re.search(r"write (readonly_paths = \[.*?\]) in \[security\]", caution.hint or "")
    assert line is not None
    assert cautioned(project, f"{EVERYTHING}[security]\n{line[1]}\n") == ""


@pytest.mark.parametrize(
    "text",
    [
        WRITABLE.replace('"."', '"data"'),
        WRITABLE + "read_only = true\n",
        WRITABLE + '[security]\nreadonly_paths = ["/project/s.toml"]\n',
        WRITABLE + '[security]\nreadonly_paths = ["/project/s*"]\n',
        WRITABLE + '[security]\nmasked_paths = ["/project/s.toml"]\n',
        WRITABLE + '[security]\nreadonly_paths = ["/project"]\n',
        WRITABLE + volume("s.toml", "/project/s.toml"),
        WRITABLE + '[[volumes]]\ntype = "file"\ntarget = "/project/s.toml"\ncontent = ""\n',
    ],
)
def test_file_that_is_out_of_reach_or_covered_is_not_warned_of(project: Path, text: str) -> None:
    assert cautioned(project, ROOT + text) == ""


@pytest.mark.parametrize(
    "text",
    [
        '[security]\nreadonly_paths = ["/project/s.tom"]\n',
        '[security]\nreadonly_paths = ["/project/s.toml/x"]\n',
        '[security]\nreadonly_paths = ["/s.toml", "/other/s.toml"]\n',
        volume(".", "/other", read_only=False),
        '[security]\nreadonly_paths = ["/project/s.toml"]\ncapabilities.add = ["sys_admin"]\n',
    ],
)
def test_what_covers_something_else_or_does_not_hold_covers_nothing(project: Path, text: str) -> None:
    cautions = planned(project, ROOT + WRITABLE + text).cautions
    assert all(f"{project}/s.toml (the environment file)" in one.message for one in cautions)
    assert len(cautions) == 1 + text.startswith("[[volumes]]")


def test_volume_that_shows_a_directory_twice_needs_both_covered(project: Path) -> None:
    text = (
        ROOT
        + WRITABLE
        + volume(".", "/other", read_only=False)
        + '[security]\nreadonly_paths = ["/project/s.toml"]\n'
    )
    (caution,) = planned(project, text).cautions
    assert caution.key == "volumes[1].source"
    assert '["/project/s.toml", "/other/s.toml"]' in (caution.hint or "")


def test_link_to_the_environment_file_is_not_held_by_a_mount_on_what_it_leads_to(
    project: Path, tmp_path: Path
) -> None:
    (project / "s.toml").symlink_to("conf/s.toml")
    (project / "conf").mkdir()
    text = ROOT + WRITABLE + '[security]\nreadonly_paths = ["/project/s.toml", "/project/conf"]\n'
    (project / "conf/s.toml").write_text(text)
    assert f"{project}/s.toml (the environment file)" in cautioned(
        project, text, name="conf/s.toml", path=f"{project}/s.toml"
    )


def test_layer_that_is_the_volume_itself_cannot_be_covered(project: Path) -> None:
    (caution,) = planned(
        project, '[root]\nlayers = ["dir:/", "dir:data"]\n' + volume("data", "/d", read_only=False)
    ).cautions
    assert f"{project}/data (a layer)" in caution.message
    assert (caution.hint or "").startswith("set read_only = true in volumes[0]")


@pytest.mark.parametrize("source", [".", "venv", "venv/lib"])
def test_launcher_in_a_writable_volume_or_around_it_is_warned_of(project: Path, source: str) -> None:
    (project / "venv/lib").mkdir(parents=True)
    text = ROOT + volume(source, "/v", read_only=False) + '[security]\nreadonly_paths = ["/v/s.toml"]\n'
    found = cautioned(project, text, launcher_trees=(f"{project}/venv",))
    assert "(the launcher's own code)" in found
    assert cautioned(project, text.replace("false", "true"), launcher_trees=(f"{project}/venv",)) == ""


def test_interpreter_that_is_a_link_in_the_volume_is_warned_of(project: Path) -> None:
    (project / "bin").mkdir()
    (project / "bin/python").symlink_to("/usr/bin/env")
    text = ROOT + volume("bin", "/b", read_only=False)
    assert f"{project}/bin/python (the launcher's own code)" in cautioned(
        project, text, launcher_paths=(f"{project}/bin/python",)
    )


def test_bind_mounts_of_the_host_are_seen_through() -> None:
    """/mnt/b is a bind mount of /srv/x/y, and the volume /srv/x has another file system mounted at "m"."""
    volume_fact = PathFact(
        path="/srv/x",
        real="/srv/x",
        kind="directory",
        identity=(1, 7),
        visible_locations=(
            FileSystemLocation(device="8:1", path="/srv/x"),
            FileSystemLocation(device="8:2", path="/part", below="m"),
        ),
    )

    def step_at(path: str, device: str, at: str) -> PathStep:
        return PathStep(
            place=Place(path=path, chain=((1, 2), (1, 3))),
            location=FileSystemLocation(device=device, path=at),
        )

    assert shown_at(volume_fact, step_at("/mnt/b/f", "8:1", "/srv/x/y/f")) == ("y/f",)
    assert shown_at(volume_fact, step_at("/else/f", "8:2", "/part/f")) == ("m/f",)
    assert shown_at(volume_fact, step_at("/else/f", "8:2", "/party/f")) == ()
    assert shown_at(volume_fact, step_at("/mnt/b/f", "8:3", "/srv/x/y/f")) == ()

"""Attacks on the next start: sources and layers that a program, or a foreign environment file, leads elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.archive import RootArchive
from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, Outcome, let_in

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

VOLUME = '[[volumes]]\ntype = "bind"\nsource = "{}"\ntarget = "{}"\nread_only = {}\n'


@pytest.fixture
def project(launcher: Launcher) -> Path:
    """Return a directory that the sandbox's program may change, beside one with a secret."""
    let_in(launcher.directory)
    directory = launcher.directory / "project"
    (directory / "data").mkdir(parents=True)
    (launcher.directory / "private").mkdir()
    (launcher.directory / "private/key").write_text("secret\n")
    for path in (directory, directory / "data"):
        path.chmod(0o777)
    return directory


def run(launcher: Launcher, *arguments: str) -> Outcome:
    """Run a verb of the command to its end."""
    command = [sys.executable, "-m", "sandbox", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE, env=launcher.environ
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_source_that_a_program_replaces_by_a_link_is_not_mounted_at_the_next_start(
    launcher: Launcher, project: Path
) -> None:
    spec = (
        HOST_ROOT
        + VOLUME.format(project, "/project", "false")
        + VOLUME.format(f"{project}/data", "/data", "true")
    )
    private = launcher.directory / "private"
    planted = launcher.shell(
        f"mv /project/data /project/old && ln -s {private} /project/data && echo done", spec
    )
    assert planted.out == "done\n"
    after = launcher.shell("cat /data/key", spec)
    assert (after.status, after.out) == (125, "")
    assert re.search(r"test\.toml:\d+:\d+: volumes\[1\]\.source: ", after.err)
    assert f"{project}/data is a symbolic link to {private}" in after.err
    assert launcher.runs() == []


def test_variables_that_a_program_redirects_are_not_passed(launcher: Launcher, project: Path) -> None:
    (launcher.directory / "private/env").write_text("TOKEN=secret\n")
    (project / "env").write_text("A=b\n")
    spec = HOST_ROOT + f'[process]\nenv_file = "{project}/env"\n' + VOLUME.format(project, "/p", "false")
    assert (
        launcher.shell(f"rm -f /p/env; ln -s {launcher.directory}/private/env /p/env; echo $A", spec).out
        == "b\n"
    )
    after = launcher.shell("echo $TOKEN", spec)
    assert (after.status, after.out) == (125, "")
    assert "process.env_file: " in after.err


def test_environment_file_in_a_writable_volume_is_a_warning_until_it_is_a_read_only_path(
    launcher: Launcher, project: Path
) -> None:
    path = project / "s.toml"
    text = HOST_ROOT + VOLUME.format(".", "/project", "false")
    path.write_text(text)
    path.chmod(0o666)
    script = (
        "echo '[network]' >> /project/s.toml; mv /project/s.toml /project/t.toml; ln -s / /project/s.toml"
    )
    warning = f"{path} (the environment file)"
    for told in (
        run(launcher, "check", "--untrusted", str(path)).out.partition(" requests:")[0],
        run(launcher, "explain", str(path)).out.partition("The program can read every")[0],
        run(launcher, "up", "--dry-run", str(path)).err,
    ):
        assert "".join(warning.split()) in "".join(told.split())
    started = launcher.up(str(path), ["true"])
    assert started.status == 0
    assert started.err.count(warning) == 1
    line = re.search(r"write (readonly_paths = \[.*?\]) in \[security\]", started.err)
    assert line is not None
    path.write_text(f"{text}[security]\n{line[1]}\n")
    held = launcher.up(str(path), ["sh", "-c", f"{{ {script}; }} 2>/dev/null; ls /project"])
    assert (held.status, held.out, held.err) == (0, "data\ns.toml\n", "")
    assert path.read_text() == f"{text}[security]\n{line[1]}\n"
    assert not path.is_symlink()


@pytest.mark.root
def test_bind_mount_of_the_host_does_not_circumvent_the_check(launcher: Launcher, project: Path) -> None:
    """The source is named through a bind mount of a part of the volume, so the two have no parent directory in common."""
    (project / "data").rmdir()
    (project / "part").mkdir()
    (project / "part/data").symlink_to(launcher.directory / "private")
    aside = launcher.directory / "aside"
    aside.mkdir()
    spec = (
        HOST_ROOT
        + VOLUME.format(project, "/project", "false")
        + VOLUME.format(f"{aside}/data", "/data", "true")
    )
    inner = f"mount --make-rprivate / && mount --bind {project}/part {aside} && exec " + " ".join(
        launcher.arguments(spec, ["cat", "/data/key"])
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inner],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env=launcher.environ,
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert f"{aside}/data is a symbolic link" in done.stderr


KEPT = '[sandbox]\nname = "kept"\n[root]\nlayers = ["dir:/"]\nwritable = "persistent"\n'


def test_foreign_file_gets_nothing_of_the_layer_that_another_one_kept(launcher: Launcher) -> None:
    assert launcher.shell("echo secret > /opt/key", KEPT).status == 0
    foreign = launcher.directory / "foreign.toml"
    foreign.write_text(KEPT)
    told = run(launcher, "check", "--untrusted", str(foreign))
    assert f"persistent layer kept, kept from {launcher.directory}/test.toml over dir:/" in told.out
    explained = run(launcher, "explain", str(foreign))
    assert explained.status == 1
    assert f"keptfrom{launcher.directory}/test.toml" in "".join(explained.out.split())
    state = (launcher.state / "sandboxes/kept/state.json").read_bytes()
    for options in ((), ("--accept-layers",)):
        done = launcher.up(str(foreign), ["cat", "/opt/key"], options=options)
        assert (done.status, done.out) == (125, "")
        assert "sandbox adopt" in done.err
    assert (launcher.state / "sandboxes/kept/state.json").read_bytes() == state
    assert launcher.shell("cat /opt/key", KEPT).out == "secret\n"


def test_layer_is_not_used_over_another_root_unless_that_is_accepted(
    launcher: Launcher, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    assert launcher.shell("echo old > /opt/key", KEPT).status == 0
    other = KEPT.replace('"dir:/"', f'"dir:/", "dir:{tmp_path}/more"')
    done = launcher.shell("cat /opt/key", other)
    assert (done.status, done.out) == (125, "")
    assert f"over dir:/, would be used over dir:/, dir:{tmp_path}/more" in done.err
    assert launcher.shell("cat /opt/key", other, options=["--accept-layers"]).out == "old\n"
    assert launcher.shell("cat /opt/key", other).out == "old\n"


def test_layer_over_an_archive_with_a_new_mtime_is_used_again_without_unpacking(
    launcher: Launcher, tmp_path: Path
) -> None:
    archive = tmp_path / "root.tar"
    spec = RootArchive(archive).spec().replace('"none"', '"persistent"')
    spec = f'[sandbox]\nname = "kept"\n{spec}'
    assert launcher.shell("echo mine > /data/key", spec).status == 0
    (layer,) = (launcher.state / "images" / "archives").iterdir()
    tree = (layer / "tree").stat().st_ino
    for time in (1, 2):
        os.utime(archive, (time, time))
        assert launcher.shell("cat /data/key", spec) == Outcome(0, "mine\n", "")
    assert [one / "tree" for one in (launcher.state / "images" / "archives").iterdir()] == [layer / "tree"]
    assert (layer / "tree").stat().st_ino == tree
    archive.write_bytes(archive.read_bytes().replace(b"of the layer", b"of ANOTHER 1"))
    done = launcher.shell("cat /data/key", spec)
    assert done.status == 125
    assert "an archive that has changed since" in done.err


def test_layer_of_a_renamed_file_is_reported_and_adopted(launcher: Launcher) -> None:
    spec = KEPT.partition("\n")[2].partition("\n")[2]
    assert launcher.shell("echo mine > /opt/key", spec).status == 0
    renamed = launcher.directory / "renamed.toml"
    (launcher.directory / "test.toml").rename(renamed)
    first = launcher.up(str(renamed), ["cat", "/opt/key"])
    assert first.status == 1
    command = re.search(r"sandbox (adopt \S+ \S+)", first.err)
    assert command is not None
    adopted = run(launcher, *command[1].split(), "--json")
    assert adopted.status == 0
    assert json.loads(adopted.out)["file"] == str(renamed)
    assert launcher.up(str(renamed), ["cat", "/opt/key"]) == Outcome(0, "mine\n", "")
    assert len(os.listdir(launcher.state / "sandboxes")) == 1


def test_the_command_in_the_hint_discards_the_layer(launcher: Launcher) -> None:
    assert launcher.shell("mkdir -p /opt/a/b && chmod 0 /opt/a && touch /opt/key", KEPT).status == 0
    done = launcher.up(str(launcher.write(KEPT, "foreign.toml")), ["true"])
    command = re.search(r"discard it: (.+?);", done.err)
    assert command is not None
    assert command[1].split()[0] == "sandbox"
    assert run(launcher, *command[1].split()[1:]).status == 0
    assert launcher.up(f"{launcher.directory}/foreign.toml", ["ls", "/opt/key"]).status == 2

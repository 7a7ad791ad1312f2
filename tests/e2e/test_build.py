"""`sandbox build` from outside: what it executes, reuses, keeps and leaves."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.e2e.building import BASE, Project, T, cached
from tests.e2e.support import PATIENCE, Launcher, sandbox, several_ids, small_disk, wait_for

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.busybox]


def test_commands_and_copies_make_an_image_that_runs(project: Project) -> None:
    text = f"""{BASE}ENV WORD=hello
WORKDIR /srv
COPY data .
RUN echo "$WORD" >> file && rm /bin/zcat
LABEL a=b
ENTRYPOINT ["cat"]
CMD ["file"]
"""
    done = project.build(text, "-t", "made", "-t", "other:1")
    assert done.status == 0, done.err
    assert re.fullmatch(r"made:latest@sha256:[0-9a-f]{64}\n", done.out)
    assert project.launcher.up('[root]\nlayers = ["image:made"]\n').facts_text() == "one\nhello\n"
    assert project.shell("other:1", "ls /bin/zcat 2>/dev/null || echo gone") == "gone\n"
    config = project.inspect("made")["config"]
    assert config["WorkingDir"] == "/srv"
    assert config["Labels"] == {"a": "b"}
    assert config["Env"][1:] == ["WORD=hello"]
    history = json.loads(sandbox(project.launcher, "image", "history", "made", "--json").out)
    assert [bool(row["digest"]) for row in history] == [
        True,
        True,
        False,
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.twice
def test_the_output_of_commands_is_shown_and_their_input_is_empty(project: Project) -> None:
    done = project.build(f"{BASE}RUN echo out; echo err >&2; cat; echo end\n")
    assert done.status == 0
    assert done.out.startswith("out\nend\n")
    assert "\nerr\n" in done.err


@pytest.mark.twice
def test_a_command_has_the_environment_of_the_step_and_nothing_else(project: Project) -> None:
    text = f"{BASE}ARG A=1\nENV B=2\nRUN env | sort\n"
    done = project.build(text, environ={"SECRET": "x", "http_proxy": "y"})
    variables = {line.partition("=")[0] for line in done.out.splitlines()[:-1]}
    assert variables == {"A", "B", "PATH", "HOME", "PWD", "SHLVL"}


def test_a_command_has_no_network_unless_the_build_or_the_step_gives_it(project: Project) -> None:
    count = "RUN grep -c : /proc/net/dev\n"
    here = sum(":" in line for line in Path("/proc/net/dev").read_text().splitlines())
    assert project.build(f"{BASE}{count}").out.splitlines()[0] == "1"
    assert project.build(f"{BASE}{count}", "--network", "host").out.splitlines()[0] == str(here)
    step = "RUN --network=host grep -c : /proc/net/dev\n"
    assert project.build(f"{BASE}{step}").out.splitlines()[0] == str(here)


def test_a_script_runs_as_a_program_that_no_layer_has(project: Project) -> None:
    text = f"{BASE}RUN <<EOF\n#!/bin/sh -e\necho script\ntouch /made\nEOF\n"
    done = project.build(text, "-t", "made")
    assert done.out.startswith("script\n"), done.err
    assert "script" not in project.shell("made", "ls -a / /dev | grep -v description")


def test_a_repeated_build_reuses_every_step_and_gives_the_same_digest(project: Project) -> None:
    text = f"{BASE}COPY data /data\nWORKDIR /w\nRUN date +%N > /now\n"
    first = project.build(text, "-t", "made")
    assert not any(cached(first))
    begun = time.monotonic()
    second = project.build(text, "-t", "made")
    assert time.monotonic() - begun < 2 or os.environ.get("CI")
    assert all(cached(second))
    assert second.out == first.out
    assert cached(project.build(text, "--no-cache")) == [False] * 5


@pytest.mark.twice
def test_a_changed_input_rebuilds_from_its_step_and_a_changed_time_nothing(project: Project) -> None:
    text = f"{BASE}COPY data /data\nRUN cat /data/file > /copy\n"
    project.build(text)
    project.at(T + 5)
    assert cached(project.build(text)) == [True] * 4
    project.add("data/file", "two\n")
    assert cached(project.build(text, "-t", "made")) == [True, True, False, False]
    assert project.shell("made", "cat /copy") == "two\n"
    (project.path / "data/file").chmod(0o600)
    assert cached(project.build(text)) == [True, True, False, False]


@pytest.mark.twice
def test_a_stage_that_is_not_needed_is_not_built_and_target_selects_one(project: Project) -> None:
    text = f"{BASE}FROM base AS bad\nRUN false\nFROM base\nRUN touch /good\n"
    assert project.build(text).status == 0
    assert project.build(text, "--target", "bad").status == 1


def test_files_of_a_stage_keep_links_marks_and_modes(project: Project) -> None:
    text = f"""{BASE}RUN mkdir -p /src/sub /src/gone && echo a > /src/sub/a && chmod 640 /src/sub/a \\
 && ln /src/sub/a /src/hard && ln -s sub /src/link
FROM base AS second
COPY --from=0 /src /src
RUN rm -r /src/gone && echo b > /src/b
FROM base
COPY --from=second /src /got/
COPY --from=second /src/l*k/a /src/b /files/
"""
    assert project.build(text, "-t", "made").status == 0
    listing = project.shell("made", "cd /; find got files | sort; stat -c '%a %h' got/hard; cat files/b")
    assert listing.split("\n") == [
        "files", "files/a", "files/b",
        "got", "got/b", "got/hard", "got/link", "got/sub", "got/sub/a", "640 2", "b", "",
    ]  # fmt: skip


@several_ids
def test_owners_are_those_of_the_layers_and_stages_keep_theirs(project: Project) -> None:
    first = f"""{BASE}RUN mkdir /etc && echo 'u:x:5:6::/:' > /etc/passwd && echo 'g:x:7:' > /etc/group
RUN echo a > /f && chown 3:4 /f
COPY --chown=u data /a/b
COPY --chown=u:g data/file /c
USER u
WORKDIR /w
RUN id -u > mine
"""
    second = """FROM scratch
COPY --from=base /f /kept
COPY --from=base --chown=9:9 /f /given
"""
    done = project.build(first, "-t", "made")
    assert done.status == 0, done.err
    shown = project.shell("made", "stat -c '%n %u:%g' /a /a/b /a/b/file /c /w /w/mine")
    assert shown.split() == [
        "/a", "5:6", "/a/b", "5:6", "/a/b/file", "5:6", "/c", "5:7", "/w", "5:6", "/w/mine", "5:6",
    ]  # fmt: skip
    assert project.build(first + second, "-t", "second").status == 0
    layout = project.launcher.directory / "layout"
    assert sandbox(project.launcher, "export", "image:second", f"oci:{layout}:t").status == 0
    owners = {name: owner for members in layers_of(layout) for name, owner in members.items()}
    assert owners["kept"] == (3, 4)
    assert owners["given"] == (9, 9)


def layers_of(layout: Path) -> list[dict[str, tuple[int, int]]]:
    """Return the owners of the members of each layer in *layout*."""
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(layout, index["manifests"][0]["digest"]))
    found = []
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(blob(layout, layer["digest"]))) as tar:
            found.append({member.name: (member.uid, member.gid) for member in tar})
    return found


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def test_links_of_the_layers_are_followed_within_the_root(project: Project) -> None:
    text = f"""{BASE}RUN mkdir -p /usr/lib && ln -s usr/lib /lib && ln -s ../../../usr /up && echo old > /old && ln -s old /link
COPY data/file /lib/
COPY data /up/share/
COPY data/file /link
COPY tree /
"""
    project.add("tree/lib/of-tree", "x")
    assert project.build(text, "-t", "made").status == 0
    shown = project.shell("made", "readlink /lib; ls /usr/lib /usr/share; cat /old /link")
    assert shown.split() == [
        "usr/lib", "/usr/lib:", "file", "of-tree", "/usr/share:", "file", "old", "one",
    ]  # fmt: skip


@pytest.mark.twice
def test_archives_are_unpacked_by_add_and_copied_by_copy(project: Project) -> None:
    with tarfile.open(project.path / "a.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("inner/file")
        member.size, member.mtime = 3, T
        tar.addfile(member, io.BytesIO(b"abc"))
    text = f"{BASE}ADD a.tar.gz data/file /added/\nCOPY a.tar.gz /copied/\n"
    assert project.build(text, "-t", "made").status == 0
    shown = project.shell("made", "cd /; find added copied -type f | sort; cat added/inner/file")
    assert shown.split() == ["added/file", "added/inner/file", "copied/a.tar.gz", "abc"]


def test_an_environment_file_builds_an_image(project: Project) -> None:
    project.build(BASE, "-t", "base")
    file = project.path / "made.toml"
    file.write_text("""
[root]
layers = ["image:base"]
[[build]]
copy = { source = "data", target = "/data" }
[[build]]
cwd = "/work"
env = { A = "1" }
run = "echo $A > made"
[process]
command = ["cat", "/work/made", "/data/file"]
""")
    done = sandbox(project.launcher, "build", str(file), "-t", "made")
    assert done.status == 0, done.err
    assert project.launcher.up('[root]\nlayers = ["image:made"]\n').facts_text() == "1\none\n"


def test_two_builds_at_different_times_and_places_give_one_digest(launcher: Launcher, tmp_path: Path) -> None:
    text = f"""{BASE}WORKDIR /w
RUN date > /dev/null; mkdir z a; echo z > z/f; touch a/f; ln z/f a/z; ln -s /w /x; rm /bin/zcat
COPY data /data
FROM base AS second
COPY --from=base /w /from
RUN touch -t 200101010000 /old; touch -t 204001010000 /future
"""
    digests = set()
    for number, (zone, umask) in enumerate((("UTC0", 0o022), ("XYZ-12", 0o077))):
        other = Launcher(tmp_path / f"store{number}")
        other.directory.mkdir()
        project = Project(other, tmp_path / f"context{number}" / ("x" * (number + 1)))
        before = os.umask(umask)
        try:
            digests.add(project.digest(text, environ={"TZ": zone}))
        finally:
            os.umask(before)
            project.end()
        time.sleep(1.1)
    assert len(digests) == 1


@pytest.mark.twice
def test_source_date_epoch_limits_all_times(project: Project) -> None:
    text = f"{BASE}COPY data /data\nRUN touch /now\n"
    first = project.digest(text, "-t", "made", environ={"SOURCE_DATE_EPOCH": "1000000000"})
    project.at(T + 9)
    second = project.digest(text, "--no-cache", environ={"SOURCE_DATE_EPOCH": "1000000000"})
    assert first == second
    assert project.inspect("made")["created"] == "2001-09-09T01:46:40Z"
    assert project.shell("made", "stat -c %Y /data /data/file /now /bin").split() == ["1000000000"] * 4
    done = project.build(text, environ={"SOURCE_DATE_EPOCH": "yesterday"})
    assert done.status == 125
    assert "SOURCE_DATE_EPOCH" in done.err


@pytest.mark.twice
def test_a_failed_command_ends_the_build_with_its_status_and_place(project: Project) -> None:
    done = project.build(f"{BASE}RUN echo x > /left; exit 42\n", "-t", "made")
    assert done.status == 42
    assert re.search(
        r"Containerfile:4:1: RUN echo x > /left; exit 42: the command ended with status 42", done.err
    )
    assert json.loads(sandbox(project.launcher, "image", "ls", "--json").out) == []
    missing = project.build(f'{BASE}RUN ["/nothing"]\n')
    assert missing.status == 127
    assert "Containerfile:4:1" in missing.err


def test_a_failed_step_is_kept_for_a_shell_until_the_next_build(project: Project) -> None:
    text = f"{BASE}ENV A=1\nWORKDIR /w\nRUN echo x > left; exit 42\n"
    project.build(text)
    file = str(project.launcher.directory / "Containerfile")
    assert sandbox(project.launcher, "image", "prune").status == 0  # the unpacked layers below stay
    shell = subprocess.run(
        [sys.executable, "-m", "sandbox", "build", file, "--shell"],
        input="pwd; cat left; echo $A; exit 3\n", capture_output=True, text=True, timeout=PATIENCE,
        check=False, env=project.launcher.environ,
    )  # fmt: skip
    assert (shell.returncode, shell.stdout) == (3, "/w\nx\n1\n"), shell.stderr
    assert len(os.listdir(project.launcher.state / "changes")) == 1
    assert project.build(BASE).status == 0
    assert os.listdir(project.launcher.state / "changes") == []
    done = sandbox(project.launcher, "build", file, "--shell")
    assert done.status == 125
    assert "no step" in done.err


@pytest.mark.twice
def test_a_failed_build_leaves_no_image_and_after_prune_no_blob(project: Project) -> None:
    assert project.build(f"{BASE}RUN exit 1\n", "-t", "made").status == 1
    assert sandbox(project.launcher, "image", "prune").status == 0
    images = project.launcher.state / "images"
    assert os.listdir(images / "blobs" / "sha256") == []
    assert os.listdir(images / "partial") == []
    assert sandbox(project.launcher, "image", "verify").status == 0
    # The cache knows steps whose blobs are gone: they are executed again.
    assert cached(project.build(BASE)) == [False, False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_forks_forever_is_interrupted_and_leaves_nothing(
    project: Project, number: signal.Signals
) -> None:
    project.build(BASE)
    with project.start(f"{BASE}RUN echo x > /left; while true; do sleep 1000 & sleep 0.1; done\n") as build:
        wait_for(lambda: project.has_written("left"), "the command")
        build.send_signal(number)
        _, errors = build.communicate(timeout=PATIENCE)
    changes = project.launcher.state / "changes"
    assert build.returncode == 128 + number
    assert "interrupted" in errors
    assert os.listdir(changes) == []
    assert project.launcher.runs() == []
    assert sandbox(project.launcher, "image", "prune").status == 0
    assert os.listdir(project.launcher.state / "images" / "blobs" / "sha256") == []


def test_a_killed_build_is_swept_by_the_next(project: Project) -> None:
    with project.start(f"{BASE}RUN echo x > /left; sleep 1000\n") as build:
        wait_for(lambda: project.has_written("left"), "the command")
        build.kill()
    changes = project.launcher.state / "changes"
    wait_for(lambda: project.build(BASE).status == 0 and os.listdir(changes) == [], "the sweep")
    assert sandbox(project.launcher, "image", "prune").status == 0
    assert sandbox(project.launcher, "image", "verify").status == 0


@pytest.mark.twice
def test_files_outside_of_the_context_are_not_copied(project: Project, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    os.symlink("../secret", project.path / "relative")
    os.symlink(tmp_path / "secret", project.path / "absolute")
    os.symlink("..", project.path / "directory")
    for source in ("relative", "absolute", "directory/secret", "dir*/secret"):
        done = project.build(f"FROM scratch\nCOPY {source} /x\n")
        assert done.status == 125, source
        assert "leads out of the build context" in done.err, (source, done.err)
    # Within a directory, links are copied as links.
    (project.path / "data" / "link").symlink_to(tmp_path / "secret")
    assert project.build(f"{BASE}COPY data /data\n", "-t", "made").status == 0
    assert (
        project.shell("made", "readlink /data/link; cat /data/link 2>/dev/null || true")
        == f"{tmp_path}/secret\n"
    )


@pytest.mark.twice
def test_a_copy_of_nothing_names_the_source_and_its_place(project: Project) -> None:
    done = project.build(f"{BASE}COPY nothing /x\n")
    assert done.status == 125
    assert "Containerfile:4:1: COPY nothing /x: nothing is not in the build context" in done.err
    done = project.build(f"{BASE}FROM base\nCOPY --from=base /nothing /x\n")
    assert done.status == 125
    assert "/nothing is not in the stage or image that --from names" in done.err


@pytest.mark.twice
def test_what_dockerignore_leaves_out_cannot_be_copied(project: Project) -> None:
    project.add(".dockerignore", "data/*\n!data/keep\nsecret\n")
    project.add("data/keep", "")
    project.add("secret", "")
    os.symlink("secret", project.path / "link")
    assert project.build(f"{BASE}COPY . /all\n", "-t", "made").status == 0
    assert project.shell("made", "ls /all /all/data").split() == [
        "/all:",
        "busybox",
        "data",
        "link",
        "/all/data:",
        "keep",
    ]
    for source in ("secret", "link", "data/file"):
        assert project.build(f"FROM scratch\nCOPY {source} /x\n").status == 125, source


def test_a_full_disk_ends_the_build_and_leaves_the_store_as_before(project: Project) -> None:
    with small_disk(project.launcher, 6 << 20):
        assert project.build(BASE, "-t", "base").status == 0
        (project.path / "large").write_bytes(os.urandom(8 << 20))
        done = project.build(f"{BASE}COPY large /large\n", "-t", "made")
        assert done.status == 125
        assert "no space left on device" in done.err
        assert sandbox(project.launcher, "image", "prune").status == 0
        assert sandbox(project.launcher, "image", "verify").status == 0
        names = json.loads(sandbox(project.launcher, "image", "ls", "--json").out)
        assert [name["name"] for name in names] == ["base:latest"]


@pytest.mark.twice
def test_two_builds_of_one_file_at_once_give_the_same_image(project: Project) -> None:
    file = project.launcher.directory / "Containerfile"
    file.write_text(f"{BASE}RUN sleep 1; echo x > /x\nCOPY data /data\nRUN cat /data/file > /copy\n")
    command = [sys.executable, "-m", "sandbox", "build", str(file), "--context", str(project.path), "--json"]
    builds = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=project.launcher.environ
        )
        for _ in range(2)
    ]
    found = []
    for build in builds:
        out, err = build.communicate(timeout=PATIENCE)
        assert build.returncode == 0, err
        found.append(json.loads(out)["digest"])
    assert found[0] == found[1]
    assert os.listdir(project.launcher.state / "changes") == []


@pytest.mark.twice
def test_the_state_of_a_failed_step_that_a_fork_needs_stays(project: Project) -> None:
    project.build(f"{BASE}RUN echo x > /left; exit 1\n")
    [kept] = os.listdir(project.launcher.state / "changes")
    done = sandbox(project.launcher, "fork", kept, "mine")
    assert done.status == 0, done.err
    assert project.build(BASE).status == 0
    assert os.listdir(project.launcher.state / "changes") == [kept]
    assert sandbox(project.launcher, "rm", "layer:mine").status == 0
    assert project.build(BASE).status == 0
    assert os.listdir(project.launcher.state / "changes") == []


@pytest.mark.twice
def test_a_user_that_does_not_exist_is_an_error_at_the_place_of_the_step(project: Project) -> None:
    done = project.build(f"{BASE}USER nobody\nRUN true\n")
    assert done.status == 125
    assert re.search(r"Containerfile:5:1: RUN true: .*nobody", done.err), done.err
    done = project.build(f"{BASE}USER 4000000000\nRUN true\n")
    assert done.status == 125
    assert "Containerfile:5:1: RUN true: " in done.err
    assert os.listdir(project.launcher.state / "changes") == []


@pytest.mark.twice
def test_a_command_without_files_is_refused(project: Project) -> None:
    done = project.build("FROM scratch\nRUN true\n")
    assert done.status == 125
    assert "Containerfile:2:1: RUN true: there are no files to run a command from" in done.err


@pytest.mark.twice
def test_an_interrupted_copy_leaves_nothing(project: Project) -> None:
    (project.path / "large").write_bytes(os.urandom(100 << 20))
    partial = project.launcher.state / "images/partial"
    with project.start("FROM scratch\nCOPY large /large\n") as build:
        wait_for(lambda: partial.is_dir() and any(partial.iterdir()), "the layer")
        build.send_signal(signal.SIGINT)
        build.communicate(timeout=PATIENCE)
    assert build.returncode == 130
    assert os.listdir(partial) == []
    assert not (project.launcher.state / "images/blobs").exists()

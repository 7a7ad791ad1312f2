"""Private directories in the plan: hidden in a volume that contains them, refused if another path would still expose them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import SpecError
from sandbox.host.private_directories import PrivateDirectory, PrivateFacts, look, resolve
from sandbox.kernel.mountinfo import parse_mountinfo, visible
from sandbox.plan import Plan, as_dict, describe
from sandbox.plan import operations as ops
from tests.unit.sandbox.facts import PRIVATE, directory, host, plan

ROOT = '[root]\nlayers = ["dir:/"]\n'
#: A machine whose /home is a file system of its own that /srv/home shows again; /over is covered, and so is what lies below it.
MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 8:2 / /home rw - ext4 /dev/sda2 rw
31 22 8:2 / /srv/home rw - ext4 /dev/sda2 rw
32 22 8:2 /u/.local/state /srv/state rw - ext4 /dev/sda2 rw
33 22 8:2 /u/.local/state/sandbox/volumes /srv/volumes rw - ext4 /dev/sda2 rw
34 22 8:2 / /over/home rw - ext4 /dev/sda2 rw
35 22 0:50 / /over rw - tmpfs none rw
36 30 0:51 / /home/u/big rw - tmpfs none rw
37 30 0:51 /layers /home/u/.local/state/sandbox/layers rw - tmpfs none rw
38 22 8:2 / /half rw - ext4 /dev/sda2 rw
39 38 0:52 / /half/u/.local rw - tmpfs none rw
"""
STATE = PrivateDirectory(
    name="state directory",
    path="/home/u/.local/state/sandbox",
    variable="SANDBOX_STATE_DIR",
    identity=(1, 2),
    readable=True,
)
RUN = PrivateDirectory(
    name="run directory", path="/var/tmp/sandbox-1000", variable="SANDBOX_RUN_DIR", identity=(1, 3)
)
FACTS = PrivateFacts(directories=(STATE, RUN), mounts=tuple(visible(parse_mountinfo(MOUNTS))))


def volume(source: str, *, target: str = "/v", read_only: bool = False) -> str:
    return f'[[volumes]]\ntype = "bind"\nsource = "{source}"\ntarget = "{target}"\nread_only = {str(read_only).lower()}\n'


def hidden(made: Plan) -> list[tuple[str, str, str]]:
    return [
        (step.name, step.volume, step.path) for step in made.operations if isinstance(step, ops.HideDirectory)
    ]


def refusal(text: str, private: PrivateFacts = FACTS) -> str:
    with pytest.raises(SpecError) as caught:
        plan(text, private=private)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("/home/u", [("state directory", "/v", ".local/state/sandbox")]),
        ("/home/u/.local/state", [("state directory", "/v", "sandbox")]),
        ("/var", [("run directory", "/v", "tmp/sandbox-1000")]),
        ("/home/u/.local/stat", []),
        ("/over", []),  # the mount below it is covered
        ("/half", []),  # another file system is mounted on a directory of the path
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_private_directories_are_hidden_where_a_volume_holds_them(
    source: str, found: list[tuple[str, str, str]], read_only: bool
) -> None:
    facts = PrivateFacts(
        directories=FACTS.directories, mounts=tuple(m for m in FACTS.mounts if m.mount_id not in (36, 37))
    )
    made = plan(ROOT + volume(source, read_only=read_only), private=facts)
    assert hidden(made) == found
    assert [line for line in describe(made) if line.startswith("hide")] == [
        f"hide the {name} at {target}/{path}" for name, target, path in found
    ]
    assert [entry["path"] for entry in as_dict(made)["private"]] == [STATE.path, RUN.path]  # type: ignore[attr-defined]


def test_a_directory_is_hidden_before_another_volume_is_mounted_there() -> None:
    made = plan(ROOT + volume("/b", target="/v/in") + volume("/", target="/v"), private=PRIVATE)
    steps = [step for step in made.operations if isinstance(step, ops.BindVolume | ops.HideDirectory)]
    assert [step.describe() for step in steps] == [
        "bind / on /v [nosuid nodev]",
        "hide the state directory at /v/state",
        "hide the run directory at /v/run/sandbox",
        "bind /b on /v/in [nosuid nodev]",
    ]


def test_one_in_another_is_hidden_with_it_and_by_itself_where_the_other_may_be_looked_at() -> None:
    inner = PrivateDirectory(name="run directory", path="/state/mine", variable="SANDBOX_RUN_DIR")
    facts = PrivateFacts(directories=(PRIVATE.directories[0], inner))
    assert hidden(plan(ROOT + volume("/"), private=facts)) == [("state directory", "/v", "state")]
    looking = plan(ROOT + volume("/state", read_only=True), private=facts)
    assert hidden(looking) == [("run directory", "/v", "mine")]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/srv/home", "/srv/home/u/.local/state/sandbox"),
        ("/srv/home/u", "/srv/home/u/.local/state/sandbox"),
        ("/srv/state", "/srv/state/sandbox"),
        ("/srv", "/srv/home/u/.local/state/sandbox"),
        ("/", "/srv/home/u/.local/state/sandbox"),
        ("/home/u", "/home/u/big/layers"),
        ("/home/u/big", "/home/u/big/layers"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_volume_that_shows_one_at_a_second_path_is_refused(
    source: str, shown: str, read_only: bool
) -> None:
    text = refusal(ROOT + volume(source, read_only=read_only))
    assert (
        f"/specs/test.toml:5:10: volumes[0].source: the state directory {STATE.path} cannot be hidden in {source}: a mount of the "
        f"host also shows it, or a part of it, at {shown}" in text
    )
    hint = f"name a directory without {shown}, or unmount that, or set SANDBOX_STATE_DIR to a directory outside of {source}"
    assert hint in text


@pytest.mark.parametrize("source", ["/srv/volumes", "/srv/volumes/x/data", "/home/u/big/layers/key"])
def test_a_part_of_the_state_is_for_looking_only_by_whichever_mount_it_is_named(source: str) -> None:
    assert f"{source} is in the sandboxes' own state directory" in refusal(ROOT + volume(source))
    plan(ROOT + volume(source, read_only=True), private=FACTS)
    layer = f'[root]\nlayers = ["dir:{source}"]\n'
    assert f"{source} is in the sandboxes' own state directory" in refusal(layer)


def test_a_mount_that_a_layer_shows_must_be_no_part_of_one() -> None:
    layer = '[root]\nlayers = [{ dir = "/srv", cross = ["/volumes"] }]\n'
    assert "/srv/volumes is in the sandboxes' own state directory" in refusal(layer)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("source", [RUN.path, f"{RUN.path}/sub"])
def test_nobody_looks_at_the_run_directory(source: str, read_only: bool) -> None:
    text = refusal(ROOT + volume(source, read_only=read_only))
    assert f"{source} is in the sandboxes' own run directory" in text
    assert "read_only" not in text.partition("hint")[2]


def test_a_link_in_a_writable_volume_by_which_one_is_found_is_refused() -> None:
    linked = PrivateDirectory(
        name="state directory", path="/data/state", variable="SANDBOX_STATE_DIR", links=("/home/u/.local",)
    )
    facts = PrivateFacts(directories=(linked,), mounts=FACTS.mounts)
    for source in ("/home/u", "/srv/home", "/"):
        text = refusal(ROOT + volume(source), private=facts)
        assert "contains the symbolic link /home/u/.local, which the program could replace" in text
        assert "set SANDBOX_STATE_DIR to /data/state" in text
        plan(ROOT + volume(source, read_only=True), private=facts)
    plan(ROOT + volume("/home/other"), private=facts)


def test_source_behind_a_link_is_what_it_leads_to() -> None:
    paths = {"/link": directory("/link", real="/home")}
    facts = PrivateFacts(directories=(STATE,))
    assert hidden(plan(ROOT + volume("/link"), paths=paths, private=facts)) == [
        ("state directory", "/v", "u/.local/state/sandbox")
    ]


def test_links_on_a_path_are_named_where_they_are(tmp_path: Path) -> None:
    base = os.path.realpath(tmp_path)
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "one").symlink_to("real/../real")
    (tmp_path / "real/two").symlink_to(f"{base}/one/deep")
    (tmp_path / "loop").symlink_to("loop")
    for path, links in {
        "real/deep": [],
        "one/deep/none/..": ["one"],
        "one/two/none": ["one", "real/two", "one"],
    }.items():
        given = f"{base}/{path}"
        assert resolve(given) == (os.path.realpath(given), tuple(f"{base}/{link}" for link in links))
    assert len(resolve(f"{base}/loop")[1]) == 40


def test_what_is_looked_at_is_there_and_is_no_link(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "link").symlink_to("state")
    found = look(state=str(tmp_path / "link"), images="", run=str(tmp_path / "run"))
    info = state.stat()
    assert [(item.path, item.identity) for item in found.directories] == [
        (os.path.realpath(state), (info.st_dev, info.st_ino)),
        (f"{os.path.realpath(tmp_path)}/run", None),
    ]
    assert "/" in [entry.mount_point for entry in found.mounts]
    assert [item.name for item in look(state="", images="", run=str(tmp_path / "link")).directories] == []


def test_image_directory_is_private_unless_it_is_a_part_of_the_state(tmp_path: Path) -> None:
    def names(images: str) -> list[str]:
        found = look(state=str(tmp_path / "state"), images=str(tmp_path / images), run="")
        return [item.name for item in found.directories]

    assert names("images") == ["state directory", "image directory"]
    assert names("state-images") == ["state directory", "image directory"]
    assert names("state/images") == ["state directory"]


def test_run_directory_of_starts_without_the_variable_is_private_too(tmp_path: Path) -> None:
    """The run directory contains the key and the layers of other sandboxes of this user."""
    for name in ("run", "usual"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("usual")
    run = str(tmp_path / "run")

    def names(usual: str) -> list[str]:
        return [
            item.name
            for item in look(state="", images="", run=run, usual_run=str(tmp_path / usual)).directories
        ]

    assert names("usual") == ["run directory", "usual run directory"]
    assert names("run") == names("link") == names("absent") == ["run directory"]


@pytest.mark.parametrize(
    ("only_for", "uid", "closed"),
    [(1000, 1000, False), (100000, 1000, False), (0, 0, True), (7, 1000, True), (None, 0, False)],
)
def test_one_that_no_id_of_the_sandbox_may_enter_is_known(
    only_for: int | None, uid: int, closed: bool
) -> None:
    found = PrivateDirectory(name="state directory", path="/a/b", variable="X", only_for=only_for)
    facts = PrivateFacts(directories=(found,))
    made = plan(ROOT + volume("/a"), host(uid=uid, gid=uid), private=facts)
    assert [step.closed for step in made.operations if isinstance(step, ops.HideDirectory)] == [closed]

"""`sandbox image`: each action, as text and as JSON, and its errors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.cli import planning
from sandbox.cli.image import _ACTIONS
from tests.support.images import MACHINE, Image, describe, digest_of, tar_of, write_index, write_layout
from tests.unit.sandbox.cli.support import printed, run
from tests.unit.sandbox.images.image_store import IDS, NOTHING, files_of, unpack_here

IMAGE = Image(
    layers=(tar_of({"file": b"x" * 5000}),),
    compressed=False,
    config={"Cmd": ["sh"], "Env": ["A=b\x1b[31m"]},
    document={"history": [{"created": "2020-01-01T00:00:00Z", "created_by": "ADD\tit\x1b[31m"}]},
)
SIZE = len(IMAGE.layers[0])


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    unpack_here(monkeypatch)
    monkeypatch.setattr(planning, "usual_ids", lambda: IDS)
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SANDBOX_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("SANDBOX_CACHE_DIR", raising=False)
    return tmp_path / "state"


@pytest.fixture
def layout(tmp_path: Path) -> str:
    return f"oci:{write_layout(tmp_path / 'layout', IMAGE)}:t"


@pytest.fixture
def stored(layout: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(capsys, "image", "import", layout, "it:1")[0] == 0
    return layout


def test_import_prints_the_name_and_the_digest(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "image", "import", layout, "it") == (0, f"it:latest@{IMAGE.digest}\n", "")
    again = printed(capsys, "image", "import", layout, "other:2")
    assert again == {"name": "other:2", "digest": IMAGE.digest}


def test_import_chooses_a_platform(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Image(layers=IMAGE.layers, architecture="s390x")
    layout = write_layout(tmp_path / "layout", IMAGE, other, tags=("", ""))
    entries = [
        describe(
            "application/vnd.oci.image.manifest.v1+json",
            one.manifest_content(),
            platform={"os": "linux", "architecture": one.architecture},
        )
        for one in (IMAGE, other)
    ]
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    (layout / "blobs/sha256" / digest_of(index)[7:]).write_bytes(index)
    write_index(layout, [describe("application/vnd.oci.image.index.v1+json", index)])
    words = ("image", "import", f"oci:{layout}")
    assert printed(capsys, *words, "a")["digest"] == IMAGE.digest
    assert printed(capsys, *words, "b", "--platform", "linux/s390x")["digest"] == other.digest
    status, _, err = run(capsys, *words, "c", "--platform", "linux/arm/v5")
    assert status == 125
    assert "no image for linux/arm/v5" in err
    assert run(capsys, *words, "c", "--platform", "nonsense")[0] == 125
    assert [one["platform"] for one in printed(capsys, "image", "ls")] == [
        f"linux/{MACHINE}",
        "linux/s390x",
    ]


def test_the_only_image_of_a_source_is_refused_for_another_platform(
    tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Image(layers=IMAGE.layers, architecture="s390x")
    layout = f"oci:{write_layout(tmp_path / 'layout', other)}:t"
    for verb in ("image import", "pull"):
        status, _, err = run(capsys, *verb.split(), layout, "it", "--platform", "linux/arm64/v8")
        assert status == 125
        assert f"{layout}: no image for linux/arm64; there is linux/s390x" in err
        assert "--platform linux/s390x" in err
        assert files_of(state / "images") == NOTHING
    found = printed(capsys, "image", "import", layout, "it", "--platform", "s390x")
    assert found["digest"] == other.digest
    # Without --platform, it is what the user names.
    assert printed(capsys, "image", "import", layout, "it")["digest"] == other.digest


def test_an_entry_of_an_index_without_a_platform_is_compared_by_its_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Image(layers=IMAGE.layers, architecture="s390x")
    layout = write_layout(tmp_path / "layout", other, tags=("",))
    entry = describe("application/vnd.oci.image.manifest.v1+json", other.manifest_content())
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    (layout / "blobs/sha256" / digest_of(index)[7:]).write_bytes(index)
    write_index(layout, [describe("application/vnd.oci.image.index.v1+json", index)])
    words = ("image", "import", f"oci:{layout}", "it")
    assert run(capsys, *words, "--platform", "linux/arm64")[0] == 125
    assert printed(capsys, *words, "--platform", "linux/s390x")["digest"] == other.digest


@pytest.mark.parametrize("name", ["", "a b", "a@b", "oci:x", "-x/"])
def test_import_refuses_what_is_no_name_before_it_does_anything(
    name: str, layout: str, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "image", "import", "--", layout, name)
    assert (status, out) == (125, "")
    assert "cannot be the name of an image" in err
    assert not state.exists()


def test_a_failed_import_is_one_error_and_leaves_the_store_as_it_was(
    layout: str, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blob = tmp_path / "layout/blobs/sha256" / digest_of(IMAGE.layers[0])[7:]
    blob.write_bytes(bytes(SIZE))
    status, out, err = run(capsys, "image", "import", layout, "it")
    assert (status, out) == (125, "")
    assert err.startswith(f"sandbox: {layout}: blob {digest_of(IMAGE.layers[0])} has the digest sha256:")
    assert err.count("\n") == 2
    assert "hint: " in err
    assert files_of(state / "images") == NOTHING
    status, out, _ = run(capsys, "image", "import", layout, "it", "--json")
    assert status == 125
    assert json.loads(out)["error"]["message"].startswith(layout)


@pytest.mark.usefixtures("stored")
def test_ls_lists_names_digests_platforms_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "image", "ls")
    assert (status, err) == (0, "")
    assert out.split("\t")[:3] == ["it:1", IMAGE.digest[:19], f"linux/{MACHINE}"]
    (found,) = printed(capsys, "image", "ls")
    assert (found["name"], found["digest"], found["layers"]) == ("it:1", IMAGE.digest, 1)
    assert (found["bytes"], found["own_bytes"], found["shared_bytes"]) == (SIZE, SIZE, 0)


def test_actions_that_read_make_no_directory(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "image", "ls") == []
    assert run(capsys, "image", "ls") == (0, "", "")
    assert printed(capsys, "image", "verify") == {"problems": []}
    assert printed(capsys, "image", "prune")["removed"] == []
    for action in ("inspect", "history", "rm"):
        status, _, err = run(capsys, "image", action, "it")
        assert status == 125
        assert "the image store has no image it" in err
    assert run(capsys, "image", "tag", "it", "new")[0] == 125
    assert not state.exists()


def test_inspect_prints_the_digest_and_the_defaults(stored: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "image", "inspect", "it:1")
    assert found["digest"] == IMAGE.digest
    assert found["source"] == stored
    assert found["config"]["Cmd"] == ["sh"]
    status, out, _ = run(capsys, "image", "inspect", "it:1")
    assert status == 0
    assert f"digest: {IMAGE.digest}\n" in out
    assert f"layer 1: {digest_of(IMAGE.layers[0])} ({SIZE} bytes)\n" in out
    assert "\x1b" not in out


@pytest.mark.usefixtures("stored")
def test_history_prints_a_line_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    (step,) = printed(capsys, "image", "history", "it:1")
    assert (step["created"], step["bytes"]) == ("2020-01-01T00:00:00Z", SIZE)
    status, out, _ = run(capsys, "image", "history", "it:1")
    assert status == 0
    assert out.startswith("2020-01-01T00:00:00Z\t")
    assert "ADD it" in out
    assert "\x1b" not in out


@pytest.mark.usefixtures("stored")
def test_verify_ends_with_1_if_there_is_a_problem(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "image", "verify") == (0, "", "")
    os.truncate(state / "images/blobs/sha256" / digest_of(IMAGE.layers[0])[7:], 600)
    status, out, _ = run(capsys, "image", "verify")
    assert status == 1
    assert digest_of(IMAGE.layers[0]) in out
    assert len(printed(capsys, "image", "verify", status=1)["problems"]) == 1


@pytest.mark.parametrize("change", [lambda content: content[:100], lambda content: b"x" + content[1:]])
@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
def test_an_import_replaces_what_verify_finds_damaged(
    stored: str, state: Path, part: str, change: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "layer": IMAGE.layers[0],
        "config": IMAGE.config_content(),
        "manifest": IMAGE.manifest_content(),
    }[part]
    blob = state / "images/blobs/sha256" / digest_of(content)[7:]
    for verb in ("image import", "pull"):
        blob.write_bytes(change(content))
        assert run(capsys, "image", "verify")[0] == 1
        assert printed(capsys, *verb.split(), stored, "it:1")["digest"] == IMAGE.digest
        assert run(capsys, "image", "verify") == (0, "", "")
        assert blob.read_bytes() == content


@pytest.mark.usefixtures("stored")
def test_tag_gives_a_second_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "image", "tag", "it:1", "new") == (0, "", "")
    assert printed(capsys, "image", "tag", f"it@{IMAGE.digest}", "newer") == {"name": "newer:latest"}
    assert [one["name"] for one in printed(capsys, "image", "ls")] == ["it:1", "new:latest", "newer:latest"]
    status, _, err = run(capsys, "image", "tag", "it:1", "a@b")
    assert status == 125
    assert "cannot be the name of an image" in err


@pytest.mark.usefixtures("stored")
def test_rm_removes_names_and_then_all(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "image", "tag", "it:1", "new")[0] == 0
    status, out, err = run(capsys, "image", "rm", "it:1")
    assert (status, out) == (0, "it:1\n")
    assert err == "0 B of blobs and 0 unpacked layers removed\n"
    removed = printed(capsys, "image", "rm", "new")
    assert removed["removed"] == ["new"]
    assert removed["images"] == [IMAGE.digest]
    assert len(removed["blobs"]) == 3
    assert len(removed["layers"]) == 1
    assert removed["bytes"] > SIZE
    assert files_of(state / "images") == NOTHING


@pytest.mark.usefixtures("stored")
def test_rm_needs_names_or_all_and_not_both(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--all", "it:1")):
        status, _, err = run(capsys, "image", "rm", *words)
        assert status == 125
        assert "name the images to remove, or give --all" in err
    assert printed(capsys, "image", "rm", "--all")["removed"] == ["it:1"]
    assert printed(capsys, "image", "rm", "--all")["removed"] == []


@pytest.mark.usefixtures("stored")
def test_prune_removes_what_has_no_name_and_with_all_what_has_one(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, "image", "prune")["blobs"] == []
    (state / "images/partial").mkdir(exist_ok=True)
    (state / "images/partial/sha256-x").write_text("left by a killed process")
    blob = state / "images/blobs/sha256" / ("a" * 64)
    blob.write_text("left by a killed process")
    assert printed(capsys, "image", "prune")["blobs"] == ["sha256:" + "a" * 64]
    assert files_of(state / "images")["partial"] == []
    assert printed(capsys, "image", "prune", "--all")["removed"] == ["it:1"]
    assert files_of(state / "images") == NOTHING


def test_an_image_directory_of_others_is_refused(
    layout: str, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = state / "images"
    images.mkdir(parents=True)
    images.chmod(0o777)
    for words in (("ls",), ("import", layout, "it"), ("rm", "it"), ("verify",), ("prune",)):
        status, _, err = run(capsys, "image", *words)
        assert status == 125
        assert f"image directory {images} can be written by other users" in err
        assert "SANDBOX_CACHE_DIR" in err


@pytest.mark.parametrize("action", _ACTIONS)
def test_each_action_has_a_help_text(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(capsys, "image", action, "--help")
    assert caught.value.code == 0
    assert f"sandbox image {action}" in capsys.readouterr().out


def test_an_unknown_action_is_refused_with_the_actions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(capsys, "image", "remove")
    assert caught.value.code == 125
    assert "choose from" in capsys.readouterr().err

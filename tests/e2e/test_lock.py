"""`sandbox lock` and `up --locked`: exactly the sources that were locked, whatever their names mean now."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.e2e.images import base, layout, run, spec, succeed
from tests.e2e.support import PYTHON, Launcher, Outcome, sandbox
from tests.unit.sandbox.images.registry.docker_registry import running

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.umoci, pytest.mark.twice]

SIZE = "import os; print(os.path.getsize('/data/mode'))"
ORIGINAL = 102_400


def image(launcher: Launcher, more: bytes = b"", name: str = "layout") -> str:
    """Make a layout with an image whose /data/mode has *more* at its end."""
    archive = base(launcher.directory / f"{name}.tar", more=more)
    shutil.rmtree(launcher.directory / name, ignore_errors=True)
    return layout(launcher.directory / name, archive)


def locked_up(launcher: Launcher, file: str, *options: str) -> Outcome:
    return launcher.up(file, [PYTHON, "-c", SIZE], options=["--locked", *options])


def lock_of(file: str) -> dict[str, str]:
    value = tomllib.loads(Path(f"{file}.lock.toml").read_text())
    assert value["version"] == 1
    return {one["source"]: one["digest"] for one in value["sources"]}


def ephemeral(*layers: str) -> str:
    return spec(*layers, writable="ephemeral")


@pytest.mark.parametrize("kind", ["tar", "oci", "docker-archive", "image"])
def test_a_source_that_has_changed_is_refused_until_it_is_locked_again(launcher: Launcher, kind: str) -> None:
    def make(more: bytes = b"") -> str:
        place = image(launcher, more)
        if kind == "tar":
            return f"tar:{launcher.directory}/layout.tar"
        if kind == "image":
            succeed(launcher, "image", "import", f"oci:{place}", "base:1")
            return "image:base:1"
        if kind == "docker-archive":
            archive = launcher.directory / "image.tar"
            archive.unlink(missing_ok=True)
            copy = ("skopeo", "--insecure-policy", "copy", f"oci:{place}")
            run(*copy, f"docker-archive:{archive}:localhost/base:1")
            return f"docker-archive:{archive}"
        return f"oci:{place}"

    if kind == "docker-archive" and shutil.which("skopeo") is None:
        pytest.skip("needs skopeo (apt-get install skopeo)")
    file = launcher.write(ephemeral(make()))
    first = succeed(launcher, "lock", file)
    assert first["digests"] == lock_of(file)
    assert locked_up(launcher, file).out == f"{ORIGINAL}\n"
    make(b"more")
    refused = locked_up(launcher, file)
    assert refused.status == 125
    assert "has changed" in refused.err
    assert "test.toml:4" in refused.err
    (old,) = first["digests"].values()
    assert old in refused.err
    assert lock_of(file) == first["digests"]
    assert launcher.up(file, [PYTHON, "-c", SIZE]).out == f"{ORIGINAL + 4}\n"
    (new,) = succeed(launcher, "lock", file)["digests"].values()
    assert new in refused.err
    assert locked_up(launcher, file).out == f"{ORIGINAL + 4}\n"


@pytest.mark.docker_registry
def test_a_tag_that_was_moved_means_the_locked_image_also_in_another_store(launcher: Launcher) -> None:
    with running(launcher.directory) as host:
        conf = launcher.directory / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        launcher.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)
        reference = f"docker://{host}/team/base:1"

        def push(more: bytes) -> str:
            succeed(launcher, "image", "import", f"oci:{image(launcher, more)}", "base:1")
            return str(succeed(launcher, "push", "base:1", reference)["digest"])

        first = push(b"")
        file = launcher.write(ephemeral(reference))
        assert succeed(launcher, "lock", file)["digests"] == {reference: first}
        second = push(b"more")
        other = Launcher(launcher.directory / "other")
        other.directory.mkdir()
        other.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)
        for each in (launcher, other):
            assert locked_up(each, file).out == f"{ORIGINAL}\n"
            always = locked_up(each, file, "--set", 'root.pull="always"')
            assert always.out == f"{ORIGINAL}\n", always.err
        assert other.up(file, [PYTHON, "-c", SIZE]).out == f"{ORIGINAL + 4}\n"
        assert succeed(launcher, "lock", file)["digests"] == {reference: second}
        assert locked_up(launcher, file).out == f"{ORIGINAL + 4}\n"
        lock = Path(f"{file}.lock.toml")
        lock.write_text(lock.read_text().replace(second, f"sha256:{'0' * 64}"))
        gone = locked_up(launcher, file)
        assert gone.status == 125
        assert f"sha256:{'0' * 64}" in gone.err
        assert "test.toml:4" in gone.err


def test_a_lock_file_that_is_missing_damaged_or_of_another_file_is_one_error_with_its_path(
    launcher: Launcher, tmp_path: Path
) -> None:
    """tests/unit/sandbox/images/test_lock_file.py has more damages."""
    base(tmp_path / "base.tar")
    file = launcher.write(ephemeral(f"tar:{tmp_path}/base.tar"))
    lock = Path(f"{file}.lock.toml")
    entry = f'[[sources]]\nsource = "tar:/x"\ndigest = "sha256:{"0" * 64}"\n'
    for content, message in {
        None: "there is no lock file",
        b"not toml \xff": "damaged",
        b"version = 1\nsources = []\n": "tar:base.tar is not in",
        f"version = 1\n{entry}".encode(): "names tar:/x, which the file does not have",
    }.items():
        lock.unlink(missing_ok=True)
        if content is not None:
            lock.write_bytes(content)
        done = locked_up(launcher, file)
        assert (done.status, done.out) == (125, ""), done.err
        assert message in done.err
        assert str(lock) in done.err
        assert "sandbox lock" in done.err


def test_a_file_is_moved_with_its_sources_and_its_lock_file(launcher: Launcher, tmp_path: Path) -> None:
    place = tmp_path / "first" / "configs"
    place.mkdir(parents=True)
    run("umoci", "init", "--layout", place / "layout")
    base(place / "base.tar")
    layout(place / "layout", place / "base.tar")
    base(place.parent / "above.tar")
    text = spec("tar:base.tar", "oci:layout:1", "tar:../above.tar", writable="ephemeral")
    (place / "web.toml").write_text(text)
    digests = succeed(launcher, "lock", str(place / "web.toml"))["digests"]
    assert set(digests) == {"tar:base.tar", "oci:layout:1", "tar:../above.tar"}
    assert str(tmp_path) not in (place / "web.toml.lock.toml").read_text()
    place.parent.rename(tmp_path / "second")
    moved = tmp_path / "second" / "configs" / "web.toml"
    done = locked_up(launcher, str(moved))
    assert (done.status, done.out) == (0, f"{ORIGINAL}\n"), done.err
    (tmp_path / "third").mkdir()
    here = os.getcwd()
    os.chdir(moved.parent)
    try:
        done = locked_up(launcher, "web.toml")
        assert (done.status, done.out) == (0, f"{ORIGINAL}\n"), done.err
    finally:
        os.chdir(here)


def test_directories_are_not_locked_and_options_decide_which_sources_are(
    launcher: Launcher, tmp_path: Path
) -> None:
    base(tmp_path / "base.tar")
    base(tmp_path / "other.tar", more=b"other")
    (tmp_path / "over").mkdir()
    text = ephemeral(f"tar:{tmp_path}/base.tar", f"dir:{tmp_path}/over")
    profile = f'[profile.other.root]\nlayers = ["tar:{tmp_path}/other.tar"]\n'
    file = launcher.write(text + profile)
    done = sandbox(launcher, "lock", file)
    assert done.status == 0
    assert f"dir:{tmp_path}/over has no digest" in done.err
    assert list(lock_of(file)) == ["tar:base.tar"]
    assert locked_up(launcher, file).out == f"{ORIGINAL}\n"
    other = locked_up(launcher, file, "--profile", "other")
    assert other.status == 125
    assert "sandbox lock" in other.err
    succeed(launcher, "lock", "--profile", "other", file)
    assert list(lock_of(file)) == ["tar:other.tar"]
    assert locked_up(launcher, file, "--profile", "other").out == f"{ORIGINAL + 5}\n"
    chosen = ("--set", f'root.layers=["tar:{tmp_path}/base.tar"]')
    assert locked_up(launcher, file, *chosen).status == 125
    succeed(launcher, "lock", *chosen, file)
    assert locked_up(launcher, file, *chosen).out == f"{ORIGINAL}\n"


def test_a_dry_run_refuses_a_source_that_has_changed(launcher: Launcher, tmp_path: Path) -> None:
    base(tmp_path / "base.tar")
    file = launcher.write(ephemeral(f"tar:{tmp_path}/base.tar"))
    succeed(launcher, "lock", file)
    assert locked_up(launcher, file, "--dry-run").status == 0
    base(tmp_path / "base.tar", more=b"more")
    refused = locked_up(launcher, file, "--dry-run")
    assert refused.status == 125
    assert "has changed" in refused.err


def test_a_lock_that_fails_leaves_the_old_lock_file(launcher: Launcher, tmp_path: Path) -> None:
    base(tmp_path / "base.tar")
    file = launcher.write(ephemeral(f"tar:{tmp_path}/base.tar"))
    succeed(launcher, "lock", file)
    before = Path(f"{file}.lock.toml").read_bytes()
    names = set(os.listdir(tmp_path))
    (tmp_path / "base.tar").rename(tmp_path / "away.tar")
    failed = sandbox(launcher, "lock", file, "--json")
    assert failed.status == 125
    assert "base.tar" in json.loads(failed.out)["error"]["diagnostics"][0]["message"]
    assert Path(f"{file}.lock.toml").read_bytes() == before
    assert set(os.listdir(tmp_path)) - {"away.tar"} == names - {"base.tar"}
    done = sandbox(launcher, "lock", "-")
    assert done.status == 125

"""The sources of direct binds: refusals with their place in the file, and the requirements on layers."""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import SetupError
from sandbox.host.paths import PathFact
from sandbox.images import direct_bind as layers
from sandbox.images.direct_bind import LayerRoot
from sandbox.plan import MountPoint, Plan
from sandbox.plan.operations import BindRoot
from sandbox.runtime.process.stage1 import _opener_of_tree
from sandbox.runtime.rootfs import direct_bind as native
from sandbox.runtime.rootfs.direct_bind import DirectBindSource, choose, choose_root
from tests.unit.sandbox.facts import plan

TAR = {"/specs/a.tar": PathFact(path="/specs/a.tar", real="/specs/a.tar", kind="file", identity=(1, 3))}


def planned(more: str = "") -> Plan:
    return plan(f'[root]\nlayers = ["tar:a.tar"]\nnative = ["/usr", "/opt"]\n{more}', paths=TAR)


@pytest.fixture
def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LayerRoot]:
    """A layer of the store. Its files belong to this process's ids, so that no user namespace is needed."""
    for name in ("usr/bin", "opt/a"):
        (tmp_path / "tree" / name).mkdir(parents=True)
    monkeypatch.setattr(native, "run_with_ids", lambda _ids, action: action())
    fd = os.open(tmp_path / "tree", os.O_PATH)
    yield LayerRoot(fd=fd, name="tar:a.tar", marks="aufs", place=str(tmp_path))
    os.close(fd)


def chosen(
    trees: list[LayerRoot], points: tuple[MountPoint, ...] = (), more: str = ""
) -> tuple[tuple[str, ...], list[str]]:
    said: list[str] = []
    found = choose(planned(more), trees, points, warn=said.append)
    return tuple(source.target for source in found), said


def error(trees: list[LayerRoot], points: tuple[MountPoint, ...] = ()) -> str:
    with pytest.raises(SetupError) as caught:
        chosen(trees, points)
    return str(caught.value)


def test_source_is_the_tree_of_the_layer_and_which_that_is(layer: LayerRoot) -> None:
    info = os.fstat(layer.fd)
    assert choose(planned(), [layer], (), warn=print)[0] == DirectBindSource(
        target="/opt", tree=f"{layer.place}/tree", identity=(info.st_dev, info.st_ino)
    )
    assert chosen([layer]) == (("/opt", "/usr"), [])


def test_each_is_walked_once(layer: LayerRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = []
    walk = layers.obstacle
    monkeypatch.setattr(layers, "obstacle", lambda tree, path: [walked.append(path), walk(tree, path)][1])
    chosen([layer])
    chosen([layer])
    assert walked == ["/opt", "/usr"]
    os.mkdir(f"{layer.place}/tree/usr/new")
    chosen([layer])
    assert walked == ["/opt", "/usr", "/usr"]


def test_what_is_mounted_in_a_layer_is_looked_for_again(
    layer: LayerRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scan(_fd: int, at: str, _device: int) -> tuple[str, list[str]]:
        return real(_fd, at, -1)

    real = layers._scan
    monkeypatch.setattr(layers, "_scan", scan)
    assert "another file system is mounted on /opt" in error([layer])
    monkeypatch.undo()
    monkeypatch.setattr(native, "run_with_ids", lambda _ids, action: action())
    assert chosen([layer]) == (("/opt", "/usr"), [])


def test_refusal_has_the_place_in_the_file_the_cause_and_the_remedy(layer: LayerRoot) -> None:
    os.mkfifo(f"{layer.place}/tree/opt/a/p")
    with pytest.raises(SetupError) as caught:
        chosen([layer])
    assert str(caught.value) == (
        "/specs/test.toml:3:19: root.native[1]: tar:a.tar cannot be a direct bind: /opt/a/p is a FIFO"
    )
    assert caught.value.hint == "name directories that do not contain it, or remove it from the archive"


def test_what_is_optional_is_left_out_with_a_warning_and_the_rest_is_not(layer: LayerRoot) -> None:
    os.mkfifo(f"{layer.place}/tree/opt/a/p")
    targets, said = chosen([layer], more='optional = ["native"]\n')
    assert targets == ("/usr",)
    assert said == ["not enforced: root.native[1]: tar:a.tar cannot be a direct bind: /opt/a/p is a FIFO"]


def test_place_of_a_volume_has_to_be_there(layer: LayerRoot) -> None:
    there = (
        MountPoint(path="/usr/bin"),
        MountPoint(path="/usrs"),
        MountPoint(path="/var/x", is_directory=False),
    )
    assert chosen([layer], there)[0] == ("/opt", "/usr")
    assert "/usr/bin must be the target of a volume, but is not in tar:a.tar" in error(
        [layer], (MountPoint(path="/usr/bin", is_directory=False),)
    )
    assert "/usr/no/no must be the target of a volume" in error([layer], (MountPoint(path="/usr/no/no"),))


@pytest.mark.parametrize(
    ("flag", "more", "name"),
    [
        (os.ST_NOEXEC, "", "noexec"),
        (0x2000, "", "nosymfollow"),
        (os.ST_NOSUID, "[security]\nno_new_privileges = false\n", "nosuid"),
        (os.ST_NOSUID | os.ST_NODEV | os.ST_RDONLY, "", None),
    ],
)
def test_store_on_a_mount_that_takes_something_away_is_refused(
    layer: LayerRoot, monkeypatch: pytest.MonkeyPatch, flag: int, more: str, name: str | None
) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda _fd: types.SimpleNamespace(f_flag=flag))
    if name is None:
        assert chosen([layer], more=more)[0] == ("/opt", "/usr")
        return
    with pytest.raises(SetupError, match=f"mounted {name}: ") as caught:
        chosen([layer], more=more)
    assert "SANDBOX_STATE_DIR" in (caught.value.hint or "")


def refuse_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next access to a layer fail with EACCES, as for a user who may not search its directories. Later accesses succeed."""
    look = layers.look
    refused = False

    def once(tree: LayerRoot, path: str) -> layers.Seen:
        nonlocal refused
        if not refused:
            refused = True
            raise PermissionError
        return look(tree, path)

    monkeypatch.setattr(layers, "look", once)


def test_what_is_refused_to_us_is_asked_as_root_of_the_sandbox(
    layer: LayerRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_first_look(monkeypatch)
    assert chosen([layer])[0] == ("/opt", "/usr")
    refuse_first_look(monkeypatch)
    os.rename(f"{layer.place}/tree/opt", f"{layer.place}/tree/other")
    assert "root.native[1]: no layer has /opt" in error([layer])


def test_another_directory_in_the_place_of_the_layer_is_not_bound(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    info = os.stat(tmp_path / "tree")
    source = DirectBindSource(target="/usr", tree=f"{tmp_path}/tree", identity=(info.st_dev, info.st_ino))
    os.close(_opener_of_tree(source)())
    (tmp_path / "tree").rename(tmp_path / "old")
    (tmp_path / "tree").mkdir()
    with pytest.raises(OSError, match="the layer was replaced by another directory"):
        _opener_of_tree(source)()


# -- the root ------------------------------------------------------------------------------------


SERVED = '[root]\nlayers = ["tar:a.tar"]\nwritable = "none"\n'
HERE = (MountPoint(path="/usr"), MountPoint(path="/opt/a"))


def root_of(
    layer: LayerRoot, points: tuple[MountPoint, ...] = HERE, more: str = ""
) -> tuple[DirectBindSource | str, list[str]]:
    said: list[str] = []
    made = plan(SERVED + more, paths=TAR)
    step = made.operations[0]
    assert isinstance(step, BindRoot)
    return choose_root(step, made, layer, points, warn=said.append), said


def test_root_is_bound_from_the_tree_of_the_layer(layer: LayerRoot) -> None:
    info = os.fstat(layer.fd)
    source = DirectBindSource(target="/", tree=f"{layer.place}/tree", identity=(info.st_dev, info.st_ino))
    assert root_of(layer) == (source, [])


def test_layer_is_walked_for_its_root_once(layer: LayerRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = []
    walk = layers.obstacle
    monkeypatch.setattr(layers, "obstacle", lambda tree, path: [walked.append(path), walk(tree, path)][1])
    root_of(layer)
    root_of(layer)
    os.mkfifo(f"{layer.place}/tree/p")
    assert root_of(layer) == ("tar:a.tar cannot be a direct bind: /p is a FIFO", [])
    assert root_of(layer)[0] == root_of(layer)[0]
    assert walked == ["/", "/"]


@pytest.mark.parametrize(
    ("point", "lacks"),
    [
        (MountPoint(path="/proc"), True),
        (MountPoint(path="/usr/bin/no"), True),
        (MountPoint(path="/usr/bin", is_directory=False), True),
        (MountPoint(path="/usr/bin"), False),
    ],
)
def test_what_the_root_has_no_place_for_has_it_served(
    layer: LayerRoot, point: MountPoint, *, lacks: bool
) -> None:
    found, _ = root_of(layer, (*HERE, point))
    assert isinstance(found, str) == lacks
    if lacks:
        assert found == (
            f"{point.path} must be a mount point, but is not in tar:a.tar: without a server it cannot be created"
        )


def test_file_that_wants_no_server_is_refused_at_its_place_or_warned(layer: LayerRoot) -> None:
    points = (MountPoint(path="/proc"),)
    with pytest.raises(SetupError) as caught:
        root_of(layer, points, 'server = "none"\n')
    assert str(caught.value).startswith(
        "/specs/test.toml:4:10: root.server: /proc must be a mount point, but is not in tar:a.tar"
    )
    assert caught.value.hint == 'add it to the archive, or remove server = "none"'
    found, said = root_of(layer, points, 'server = "none"\noptional = ["server"]\n')
    assert said == [f"not enforced: root.server: {found}"]


@pytest.mark.parametrize(
    ("flag", "more", "name"),
    [
        (os.ST_NOEXEC, "", "noexec"),
        (0x2000, "", "nosymfollow"),
        (os.ST_NOSUID, "[security]\nno_new_privileges = false\n", "nosuid"),
        (os.ST_NOSUID | os.ST_NODEV | os.ST_RDONLY, "", None),
    ],
)
def test_store_on_a_mount_that_takes_something_away_has_the_root_served(
    layer: LayerRoot, monkeypatch: pytest.MonkeyPatch, flag: int, more: str, name: str | None
) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda _fd: types.SimpleNamespace(f_flag=flag))
    found, _ = root_of(layer, more=more)
    assert isinstance(found, str) == (name is not None)
    if name is not None:
        assert f"mounted {name}: " in str(found)


def test_root_that_is_refused_to_us_is_looked_at_as_root_of_the_sandbox(
    layer: LayerRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_first_look(monkeypatch)
    assert isinstance(root_of(layer)[0], DirectBindSource)

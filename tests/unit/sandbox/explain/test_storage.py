"""What appears empty in a layer, and who can change one."""

from __future__ import annotations

import pytest

from sandbox.explain import Surroundings
from sandbox.explain.storage import hidden_mounts, trust_problem
from sandbox.sources import PathFact
from sandbox.spec.values import Layer
from tests.unit.sandbox.explain.machines import Machine, case

MOUNTS = (
    "/",
    "/boot",
    "/boot/efi",
    "/data",
    "/data/a",
    "/proc",
    "/proc/sys/fs/binfmt_misc",
    "/srv",
    "/srv/x",
)


def hidden(layer: Layer, volumes: str = "") -> list[str]:
    machine = Machine(surroundings=Surroundings(mounts=MOUNTS))
    subject = case(f'[root]\nlayers = ["dir:/"]\n{volumes}', machine)
    return hidden_mounts(layer, layer.path, subject)


def test_topmost_mounts_in_a_layer_are_hidden_but_for_those_under_mounts_of_the_sandbox() -> None:
    assert hidden(Layer("dir", "/")) == ["/boot", "/data", "/srv"]


def test_mount_that_is_crossed_shows_and_what_is_mounted_in_it_does_not() -> None:
    assert hidden(Layer("dir", "/", cross=("/data",))) == ["/boot", "/data/a", "/srv"]


def test_paths_are_those_of_the_sandbox_and_the_layer_itself_may_be_a_mount() -> None:
    assert hidden(Layer("dir", "/srv")) == ["/x"]
    assert hidden(Layer("dir", "/sr")) == []


def test_volume_covers_what_is_mounted_in_its_place() -> None:
    volume = '[[volumes]]\ntype = "tmpfs"\ntarget = "/data"\n'
    assert hidden(Layer("dir", "/"), volume) == ["/boot", "/srv"]


@pytest.mark.parametrize(
    ("mode", "owner", "expected"),
    [
        (0o755, 1000, None),
        (0o755, 0, None),
        (0o755, None, None),
        (0o755, 1001, "belongs to user 1001, who can change it"),
        (0o775, 0, "its group can change it"),
        (0o777, 1000, "everybody on this machine can change it"),
        (0o1777, 0, "everybody on this machine can change it"),
    ],
)
def test_path_is_trusted_if_only_its_user_and_root_can_change_it(
    mode: int, owner: int | None, expected: str | None
) -> None:
    fact = PathFact(path="/x", real="/x", kind="directory", mode=mode, owner=owner)
    assert trust_problem(fact, 1000) == expected

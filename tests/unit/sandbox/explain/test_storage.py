"""Test the facts about layers: mounts that appear empty, users who can change a layer, and the server."""

from __future__ import annotations

import pytest

from sandbox.explain import Surroundings, make_report
from sandbox.explain.storage import hidden_mounts, trust_problem
from sandbox.host.paths import PathFact
from sandbox.spec.values import Layer
from tests.unit.sandbox.explain.machines import Machine, case
from tests.unit.sandbox.facts import host

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


def test_a_crossed_mount_is_shown_and_mounts_in_it_are_hidden() -> None:
    assert hidden(Layer("dir", "/", cross=("/data",))) == ["/boot", "/data/a", "/srv"]


def test_paths_are_those_of_the_sandbox_and_the_layer_itself_may_be_a_mount() -> None:
    assert hidden(Layer("dir", "/srv")) == ["/x"]
    assert hidden(Layer("dir", "/sr")) == []


def test_mounts_below_a_volume_are_not_reported() -> None:
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
        (0o777, 1000, "every user of this machine can change it"),
        (0o1777, 0, "every user of this machine can change it"),
    ],
)
def test_path_is_trusted_if_only_its_user_and_root_can_change_it(
    mode: int, owner: int | None, expected: str | None
) -> None:
    fact = PathFact(path="/x", real="/x", kind="directory", mode=mode, owner=owner)
    assert trust_problem(fact, 1000) == expected


TAR = PathFact(path="/specs/a.tar", real="/specs/a.tar", kind="file", mode=0o644, owner=0)


def root_of(server: str, more: str = "", writable: str = "none") -> dict[str, tuple[str, tuple[str, ...]]]:
    text = f'[root]\nlayers = ["tar:a.tar"]\nwritable = "{writable}"\nserver = "{server}"\n{more}'
    report = make_report(case(text, Machine(paths=(TAR,))))
    facts = [*report.sections["root"], *report.sections["mounts"]]
    return {fact.label: (fact.text, fact.notes) for fact in facts}


@pytest.mark.parametrize(
    ("server", "more", "otherwise"),
    [
        ("auto", "", "it is served"),
        ("none", "", "the start is refused"),
        ("none", 'optional = ["server"]\n', "it is served, with a warning"),
    ],
)
def test_the_report_on_a_direct_bind_names_the_server_and_the_alternative(
    server: str, more: str, otherwise: str
) -> None:
    found = root_of(server, more)
    text, notes = found["served by"]
    assert "no server" in text
    assert notes[0].endswith(f", {otherwise}")
    assert found["joined by"][0] == "none: there is one layer"
    assert found["/"][0].startswith("bind: the layer")
    assert ("layer 0" in found) == (otherwise != "the start is refused")


def test_a_required_server_is_reported_with_the_reason() -> None:
    assert root_of("direct")["served by"][0] == "direct: the direct server of unionfs only"
    refused = root_of("none", writable="ephemeral")
    assert refused["served by"][0].startswith("refused: a writable root needs the file system server")
    assert refused["/"][0].startswith("fuse: ")


def test_a_root_that_cannot_be_served_here_is_reported() -> None:
    text = '[root]\nlayers = ["tar:a.tar"]\nwritable = "none"\n'
    report = make_report(case(text, Machine(paths=(TAR,), facts=host(fuse="missing"))))
    assert not report.refused
    (served,) = [fact for fact in report.sections["root"] if fact.label == "served by"]
    assert served.notes[-1].startswith("it cannot be served here: /dev/fuse is missing")

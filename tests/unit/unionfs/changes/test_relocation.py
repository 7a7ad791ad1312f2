"""A layer below gets the moves of a union with earlier layers. A relocation keeps what the union and its earlier states show."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.unit.unionfs.changes.discarding import discard_from
from tests.unit.unionfs.changes.earlier import all_facts, rows
from tests.unit.unionfs.changes.trees import shown_by
from unionfs.changes.compared_stack import open_home, open_stack_to_compare
from unionfs.changes.moves_below import MovesBelow, group_of, read_moves, write_moves
from unionfs.changes.renewal import renew
from unionfs.errors import UnionError
from unionfs.vfs.rename_plan import RENAME_EXCHANGE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.unionfs.freezing import EarlierClient

BIG = b"x" * 40_000


def move_below(client: EarlierClient, *moves: tuple[str, str]) -> None:
    """Make the *moves* in the layer below, and let the union follow, as `sandbox apply` does."""
    client.end_request()
    base = client.lowers[-1]
    for number, (old, _) in enumerate(moves):
        (base / old).rename(base / f".aside{number}")
    for number, (_, new) in enumerate(moves):
        (base / f".aside{number}").rename(base / new)
    client.relocate(*moves)
    client.close()
    source = client.source_to_compare()
    assert source.work_fd is not None
    home_fd = open_home(source.work_fd)
    assert home_fd is not None
    stack = open_stack_to_compare(source)
    try:
        renew(stack, home_fd, [os.fsencode(path) for move in moves for path in move])
    finally:
        stack.close()
        os.close(home_fd)
    client.fs = client._open()


def test_a_directory_and_a_metadata_only_copy_that_were_moved_before(client: EarlierClient) -> None:
    client.rename("e", "moved")
    client.write("moved/a", b"!")
    client.rename("big", "bigger")
    client.chmod("bigger", 0o640)
    client.freeze_running()
    client.write("moved/in/b", b"!")
    before = shown_by(client)
    move_below(client, ("e", "moved"), ("big", "bigger"))
    assert shown_by(client) == before
    assert rows(client) == ["C bigger", "C moved/a", "C moved/in/b"]
    assert {value["old"]["since"] for value in all_facts(client) if "old" in value} == {"same"}
    assert client.read("bigger") == BIG
    client.write("bigger", b"!")
    client.freeze_running()
    client.reopen()
    assert rows(client) == ["C bigger", "C moved/a", "C moved/in/b"]


def test_moves_that_only_the_writable_layer_has(client: EarlierClient) -> None:
    client.unlink("s")
    client.unlink("d/a")
    client.freeze_running()
    client.rename("hd", "s")  # at whose place the earlier layer has a whiteout
    client.rename("d", "dd")  # which the earlier layer has changed
    client.rename("e/in", "in")
    before = shown_by(client)
    (client.lowers[-1] / "s").unlink()
    move_below(client, ("hd", "s"), ("d", "dd"), ("e/in", "in"))
    assert shown_by(client) == before
    assert rows(client) == ["D dd/a"]


def test_a_move_that_is_not_repeated_below_leads_into_one_that_is(client: EarlierClient) -> None:
    client.rename("d/sub", "sub")
    client.rename("d", "moved")
    client.freeze_running()
    client.rename("moved/b", "bb")
    before = shown_by(client)
    move_below(client, ("d", "moved"))
    assert shown_by(client) == before
    assert rows(client) == ["R moved/b -> bb", "R moved/sub -> sub"]
    move_below(client, ("moved/sub", "sub"))
    assert shown_by(client) == before
    assert rows(client) == ["R moved/b -> bb"]


def test_objects_that_changed_places_and_moved_into_each_other(client: EarlierClient) -> None:
    client.rename("e", "hd", RENAME_EXCHANGE)
    client.rename("d/sub", "hd/in/sub")
    client.freeze_running()
    client.rename("d", "hd/in/sub/d")
    before = shown_by(client)
    base = client.lowers[-1]
    moves = ("e", "hd"), ("hd", "e"), ("d/sub", "hd/in/sub"), ("d", "hd/in/sub/d")
    client.end_request()
    (base / "d/sub").rename(base / "t")
    (base / "d").rename(base / "t/d")
    (base / "t").rename(base / "e/in/sub")
    (base / "e").rename(base / "t")
    (base / "hd").rename(base / "e")
    (base / "t").rename(base / "hd")
    client.relocate(*moves)
    assert shown_by(client) == before
    assert rows(client) == []


def test_what_was_moved_twice_and_back(client: EarlierClient) -> None:
    client.rename("e", "one")
    client.freeze_running()
    before = shown_by(client)
    move_below(client, ("e", "one"))
    assert (shown_by(client), rows(client)) == (before, [])
    client.rename("one", "two")
    client.freeze_running()
    before = shown_by(client)
    move_below(client, ("one", "two"))
    assert (shown_by(client), rows(client)) == (before, [])
    client.rename("two", "e")
    before = shown_by(client)
    move_below(client, ("two", "e"))
    assert (shown_by(client), rows(client)) == (before, [])


def test_an_earlier_state_shows_what_it_showed_and_its_changes_lead_to_the_new_places(
    client: EarlierClient,
) -> None:
    client.write("e/a", b"!")
    client.freeze_running()
    before, state = shown_by(client), (client.upper, client.work)
    client.rename("e", "moved")
    client.rename("big", "bigger")
    client.rename("h1", "hh")
    client.rename("s", "ss")
    client.freeze_running()
    client.write("h2", b"!")
    move_below(client, ("e", "moved"), ("big", "bigger"), ("h1", "hh"), ("s", "ss"))
    assert rows(client) == ["C h2", "C hd/h3", "C hh", "C moved/a"]
    client.close()
    layers, (client.upper, client.work) = client.lowers, client.new_layer()
    client.lowers = [path for path in layers if path != state[0]]
    client._copy_root(client.lowers[0], client.upper)
    client.fs = client._open()
    assert shown_by(client) == before
    assert rows(client) == ["C e/a", "R bigger -> big", "R hh -> h1", "R moved -> e", "R ss -> s"]
    assert {value["old"]["since"] for value in all_facts(client) if "old" in value} == {"same"}


def test_a_hard_link_of_the_relocation_still_leads_to_its_copy(client: EarlierClient) -> None:
    """Another sandbox on the same earlier layer has changed the file under another name."""
    base: Path = client.lowers[-1]
    client.close()
    for name in ("h1", "h2", "hd/h3"):
        (base / name).unlink()
    (base / "h1").write_bytes(BIG)
    for name in ("h2", "hd/h3"):
        os.link(base / "h1", base / name)
    client.fs = client._open()
    client.create("new", b"")
    client.freeze_running()
    client.write("h1", b"changed")
    client.end_request()
    (base / "h2").rename(base / "hh")
    client.relocate(("h2", "hh"))
    assert client.read("h2") == client.read("h1") == client.read("hd/h3") == b"changed" + BIG[7:]
    assert [client.stat(path).nlink for path in ("h1", "h2", "hd/h3")] == [3, 3, 3]
    assert rows(client) == ["A new", "C h1", "C h2", "C hd/h3", "R hh -> h2"]


def test_what_the_host_changed_since_is_still_known(client: EarlierClient) -> None:
    for name in ("e/a", "e/in/b"):
        client.write(name, b"!")
    client.freeze_running()
    client.rename("e", "moved")
    client.end_request()
    (client.lowers[-1] / "e/a").write_bytes(b"written by somebody else")
    move_below(client, ("e", "moved"))
    found = {value["path"]: value["old"]["since"] for value in all_facts(client) if value["path"] != "/a"}
    assert found == {"/moved/a": "changed", "/moved/in/b": "same"}


def test_a_new_object_where_a_changed_one_was_moved_away_is_not_gone(client: EarlierClient) -> None:
    client.write("e/a", b"!")
    client.freeze_running()
    client.rename("e", "moved")
    move_below(client, ("e", "moved"))
    client.mkdir("e")
    client.create("e/a", b"new")
    client.unlink("moved/in/b")
    client.end_request()
    (client.lowers[-1] / "moved/in/b").unlink()
    client.create("moved/in/b", b"new")
    values = {value["path"]: value for value in all_facts(client)}
    assert "old" not in values["/e/a"]
    assert values["/moved/in/b"]["old"] == {"path": "/moved/in/b", "since": "gone"}


def test_changes_over_a_relocation_are_discarded(client: EarlierClient) -> None:
    client.write("e/a", b"!")
    client.rename("e", "moved")
    client.freeze_running()
    client.rename("d", "dd")
    client.freeze_running()
    move_below(client, ("e", "moved"), ("d", "dd"))
    client.write("moved/in/b", b"!")
    client.rename("dd/sub", "dd/other")
    client.rename("moved", "again")
    client.unlink("dd/b")
    assert rows(client) == [
        "C again/a", "C again/in/b", "D dd/b", "R dd/sub -> dd/other", "R moved -> again",
    ]  # fmt: skip
    discard_from(client, "/dd/other", "/again/in")
    assert rows(client) == ["C again/a", "D dd/b", "R moved -> again"]
    discard_from(client, "/moved", "/dd/b")
    assert rows(client) == []
    assert (client.read("moved/a"), client.names("dd")) == (b"e/a", ["a", "b", "link", "sub"])
    client.check_frozen()


def test_what_has_gone_since_is_left_out(client: EarlierClient) -> None:
    client.rename("e/in", "in")
    client.rename("hd", "hhd")
    client.freeze_running()
    client.end_request()
    base = client.lowers[-1]
    (base / "e/in").rename(base / "in")
    (base / "e/a").unlink()
    (base / "e").rmdir()
    (base / "e").write_bytes(b"a file")
    client.relocate(("e/in", "in"), ("gone", "nowhere"))
    assert client.names("in") == ["b"]
    assert client.names("hhd") == ["h3"]
    assert rows(client) == ["C e", "R hd -> hhd"]


def test_moves_are_read_as_they_were_written(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        groups = ([(b"a", b"b"), (b"c/d", b"b/e")], [], [(b"f\n\xff", b"a")])
        write_moves(fd, MovesBelow(groups))
        moves = read_moves(fd)
    finally:
        os.close(fd)
    assert moves.groups == groups
    assert list(moves.paths_of(b"b/x")) == [b"b/x", b"a/x", b"f\n\xff/x"]
    assert list(moves.paths_of(b"b/e/x")) == [b"b/e/x", b"c/d/x"]
    assert list(moves.paths_of(b"other")) == [b"other"]
    assert [moves.has_left(path) for path in (b"a/x", b"c/d", b"b/e", b"c")] == [True, True, False, False]


@pytest.mark.parametrize("paths", [(b"a",), (b"a", b"../b"), (b"/a", b"b"), (b"a", b"b/"), (b"a", b"")])
def test_malformed_moves_are_refused(paths: tuple[bytes, ...]) -> None:
    with pytest.raises(UnionError):
        group_of(paths)

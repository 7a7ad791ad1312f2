"""Discarding changes of a union whose writable layer was frozen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.unit.unionfs.changes.discarding import discard_from
from tests.unit.unionfs.changes.earlier import fact, since
from tests.unit.unionfs.changes.test_discard import remove_tree
from tests.unit.unionfs.changes.trees import below_of, compare, shown_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.unionfs.changes.earlier import Judge
    from tests.unit.unionfs.freezing import EarlierClient


def test_what_the_writable_layer_alone_changes_can_be_discarded(client: EarlierClient, judge: Judge) -> None:
    client.write("d/a", b"!")
    client.rename("e", "moved")
    client.freeze_running()
    client.write("b", b"!")
    client.write("d/b", b"!")
    client.write("moved/a", b"!")
    client.unlink("s")
    client.rename("d/sub", "sub")
    client.create("new", b"")
    discarded = discard_from(client, "/b", "/moved/a", "/s", "/sub", "/new")
    assert {(row.kind, row.path) for row in discarded} == {
        ("C", b"b"),
        ("C", b"moved/a"),
        ("D", b"s"),
        ("R", b"sub"),
        ("A", b"new"),
    }
    judge("C d/a", "C d/b", "R e -> moved")
    client.write("moved/a", b"again")
    assert since(client, "/moved/a") == "same"


@pytest.mark.parametrize(
    ("change", "path", "left"),
    [
        (lambda client: client.write("d/a", b"!!"), "/d/a", "A new, R e -> moved"),
        (lambda client: client.write("d/b", b"!"), "/d", "A new, R e -> moved"),
        (lambda client: client.write("new", b"!"), "/new", "C d/a, R e -> moved"),
        (lambda client: client.rename("moved", "again"), "/again", "A new, C d/a"),
        (lambda client: client.rename("moved", "again"), "/e", "A new, C d/a"),
        (lambda client: client.unlink("moved/a"), "/e/a", "A new, C d/a, R e -> moved"),
        (lambda client: client.unlink("moved/a"), "/moved", "A new, C d/a, D e/a"),
        (lambda client: client.write("b", b"!"), "/d/a", "A new, C b, R e -> moved"),
    ],
    ids=[
        "changed twice",
        "beside",
        "created",
        "moved twice, by its new path",
        "moved twice, by its old path",
        "in a moved directory",
        "a moved directory with a change",
        "another change stays",
    ],
)
def test_what_an_earlier_layer_changes_can_be_discarded(
    client: EarlierClient, judge: Judge, change: Callable[[EarlierClient], object], path: str, left: str
) -> None:
    client.write("d/a", b"!")
    client.create("new", b"new")
    client.rename("e", "moved")
    client.freeze_running()
    change(client)
    discard_from(client, path)
    judge(*left.split(", "))
    client.check_frozen()


def test_everything_can_be_discarded_although_an_earlier_layer_has_it(
    client: EarlierClient,
) -> None:
    before = below_of(client)
    client.write("d/a", b"!")
    client.rename("e", "moved")
    client.mkdir("new")
    client.create("new/in", b"new")
    client.freeze_running()
    client.unlink("d/b")
    client.rename("moved", "new/moved")
    discard_from(client, "/")
    assert compare(client) == []
    assert shown_by(client) == before
    assert client.names("") == sorted(os.fsdecode(path) for path in before if path and b"/" not in path)
    client.check_frozen()


def test_the_copy_of_an_old_file_has_its_attributes_and_all_its_names(client: EarlierClient) -> None:
    before = shown_by(client)
    client.write("h1", b"changed")
    client.unlink("hd/h3")
    client.freeze_running()
    assert {row.path for row in discard_from(client, "/h1", "/hd/h3")} == {b"h1", b"h2", b"hd/h3"}
    assert shown_by(client) == before
    assert len({client.inode(name).ino for name in ("h1", "h2", "hd/h3")}) == 1
    assert client.stat("h1").nlink == 3
    client.write("h2", b"THREE")
    assert client.read("hd/h3") == b"THREE names"


def test_a_deleted_name_of_an_unchanged_file_is_a_link_of_it_again(client: EarlierClient) -> None:
    client.unlink("hd/h3")
    client.freeze_running()
    discard_from(client, "/hd/h3")
    assert client.stat("h1").nlink == 3
    client.write("hd/h3", b"THREE")
    assert (client.read("h1"), client.read("h2")) == (b"THREE names", b"THREE names")


def test_a_directory_that_an_earlier_layer_deleted_is_copied_and_hides_what_was_there_since(
    client: EarlierClient, judge: Judge
) -> None:
    remove_tree(client, "d")
    client.mkdir("d")
    client.create("d/new", b"new")
    client.freeze_running()
    remove_tree(client, "d")
    discard_from(client, "/d/sub")
    judge("D d/a", "D d/b", "D d/link")
    discard_from(client, "/d")
    judge()
    assert client.read("d/a") == b"d/a"


def test_a_file_takes_the_place_of_the_directory_that_replaced_it(
    client: EarlierClient, judge: Judge
) -> None:
    client.unlink("b")
    client.mkdir("b")
    client.create("b/in", b"in")
    client.freeze_running()
    discard_from(client, "/b")
    judge()
    assert client.read("b") == b"b"


def test_the_record_of_what_was_below_is_that_of_the_copied_object(client: EarlierClient) -> None:
    client.write("b", b"!")
    client.freeze_running()
    (client.lowers[-1] / "b").write_bytes(b"changed by somebody else")
    assert since(client, "/b") == "changed"
    discard_from(client, "/b")
    assert client.read("b") == b"changed by somebody else"
    client.write("b", b"again")
    assert since(client, "/b") == "same"


def test_what_a_moved_object_replaced_is_shown_as_it_was_before_the_earlier_layer(
    client: EarlierClient, judge: Judge
) -> None:
    client.write("b", b"!")
    client.freeze_running()
    discard_from(client, "/b")
    client.rename("e/a", "b")
    discard_from(client, "/b")
    judge()
    assert client.read("b") == b"b"


def test_the_record_of_a_restored_file_stays_if_it_had_a_new_name(client: EarlierClient) -> None:
    client.link("b", "new")
    client.write("new", b"!")
    client.freeze_running()
    discard_from(client, "/b", "/new")
    client.unlink("b")
    assert fact(client, "D", "/b")["old"]["since"] == "same"

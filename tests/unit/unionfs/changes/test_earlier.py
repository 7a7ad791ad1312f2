"""Changes of a union whose writable layer was frozen: those of the frozen layer and of the new one count together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.unit.unionfs.changes.archives import (
    LOWER,
    differences,
    facts_on_disk,
    links_in,
    links_on_disk,
    unpack_layer,
    without_marks,
    without_sockets,
    written,
)
from tests.unit.unionfs.changes.discarding import discard_from
from tests.unit.unionfs.changes.trees import below_of, check, compare, facts, shown_by
from tests.unit.unionfs.freezing import EarlierClient
from tests.unit.unionfs.operations import copy_tree
from unionfs.changes.compared_stack import open_home, open_stack_to_compare
from unionfs.changes.comparison import Comparison
from unionfs.changes.renewal import renew
from unionfs.changes.text import TextDiffs
from unionfs.errors import UnionError
from unionfs.formats.whiteout import TRUSTED_MARKS
from unionfs.vfs.rename_plan import RENAME_EXCHANGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from unionfs.upper.format import WantedFormat

Step = Callable[[EarlierClient], object] if TYPE_CHECKING else object


@pytest.fixture
def client(tmp_path: Path, form: WantedFormat) -> Iterator[EarlierClient]:
    """Return a union over LOWER that can be frozen."""
    opened = EarlierClient(tmp_path, [LOWER], form)
    opened.write("a", b"x")  # a record of the format, and something that never matters
    opened.unlink("a")
    yield opened
    opened.close()


def rows(client: EarlierClient) -> list[str]:
    """Return the changes, but for that of the fixture, as text."""
    found = []
    for row in compare(client):
        moved = f"{os.fsdecode(row.old_path or b'')} -> " if row.kind == "R" else ""
        found.append(f"{row.kind} {moved}{os.fsdecode(row.path)}")
    assert found.count("D a") == 1
    found.remove("D a")
    return sorted(found)


class Judge(Protocol):
    """Compares the changes with what is expected, and with full trees; before and after a remount."""

    def __call__(self, *expected: str) -> None:
        """Expect the rows *expected*."""


@pytest.fixture
def judge(client: EarlierClient, tmp_path: Path) -> Judge:
    """Return the function."""
    base = tmp_path / "base"
    copy_tree(client.lowers[-1], base)

    def compare_all(*expected: str) -> None:
        assert rows(client) == sorted(expected)
        shown = shown_by(client)
        check(compare(client), below_of(client), shown)
        target = tmp_path / "unpacked"
        copy_tree(base, target)
        unpack_layer(written(client, "layer"), target)
        shown = without_marks(without_sockets(shown))
        assert differences(shown, without_marks(without_sockets(facts_on_disk(target)))) == {}
        assert links_on_disk(target) == links_in(client, shown)
        target.rename(tmp_path / f"unpacked{len(os.listdir(tmp_path))}")

    def judge(*expected: str) -> None:
        compare_all(*expected)
        client.reopen()
        compare_all(*expected)

    return judge


def all_facts(client: EarlierClient) -> list[dict[str, Any]]:
    """Return the changes with facts, after the records of the last request were made."""
    client.end_request()
    return facts(client)


def fact(client: EarlierClient, kind: str, path: str) -> dict[str, Any]:
    """Return the facts about the change of *kind* at *path*."""
    (found,) = (value for value in all_facts(client) if (value["kind"], value["path"]) == (kind, path))
    return found


def since(client: EarlierClient, path: str) -> str:
    """Return whether the old object of the changed file *path* is still as it was."""
    return str(fact(client, "C", path)["old"]["since"])


# -- rows and archives -----------------------------------------------------------------------------


def test_a_file_that_was_changed_before_and_after(client: EarlierClient, judge: Judge) -> None:
    client.write("b", b"B")
    client.freeze_running()
    judge("C b")
    client.write("b", b"BB")
    judge("C b")
    client.unlink("b")
    judge("D b")


def test_a_file_that_is_as_it_was_again(client: EarlierClient, judge: Judge) -> None:
    client.chmod("big", 0o644)
    client.freeze_running()
    judge("C big")
    client.chmod("big", 0o600)
    judge()


def test_a_file_that_was_created_before_and_removed_after(client: EarlierClient, judge: Judge) -> None:
    client.create("new", b"new")
    client.mkdir("made")
    client.create("made/x", b"x")
    client.freeze_running()
    judge("A new", "A made", "A made/x")
    client.unlink("new")
    client.create("made/y", b"y")
    judge("A made", "A made/x", "A made/y")
    client.unlink("made/x")
    client.unlink("made/y")
    client.rmdir("made")
    judge()


def test_a_file_that_was_deleted_before_and_made_anew_after(client: EarlierClient, judge: Judge) -> None:
    client.unlink("b")
    client.unlink("d/sub/deep/x")
    client.freeze_running()
    judge("D b", "D d/sub/deep/x")
    client.create("b", b"other")
    judge("C b", "D d/sub/deep/x")


def test_a_directory_that_was_moved_before_and_changed_after(client: EarlierClient, judge: Judge) -> None:
    client.rename("d", "moved")
    client.freeze_running()
    judge("R d -> moved")
    client.write("moved/a", b"changed")
    client.unlink("moved/b")
    client.create("moved/sub/new", b"")
    judge("R d -> moved", "C moved/a", "D d/b", "A moved/sub/new")


def test_a_directory_that_was_moved_twice(client: EarlierClient, judge: Judge) -> None:
    client.rename("d", "moved")
    client.write("moved/a", b"changed")
    client.freeze_running()
    client.rename("moved", "e/again")
    client.rename("e/again/sub", "sub")
    client.freeze_running()
    judge("R d -> e/again", "C e/again/a", "R d/sub -> sub")
    client.rename("sub", "e/again/sub")
    client.rename("e/again", "d")
    judge("C d/a")


def test_a_directory_that_was_moved_before_and_deleted_after(client: EarlierClient, judge: Judge) -> None:
    client.rename("e", "moved")
    client.freeze_running()
    client.unlink("moved/a")
    client.unlink("moved/in/b")
    client.rmdir("moved/in")
    client.rmdir("moved")
    judge("D e", "D e/a", "D e/in", "D e/in/b")


def test_directories_that_were_exchanged_before_and_after(client: EarlierClient, judge: Judge) -> None:
    client.rename("d", "e", RENAME_EXCHANGE)
    client.freeze_running()
    judge("R d -> e", "R e -> d")
    client.rename("d/in", "e/sub", RENAME_EXCHANGE)
    judge("R d -> e", "R e -> d", "R e/in -> e/sub", "R d/sub -> d/in")
    client.rename("d", "e", RENAME_EXCHANGE)
    judge("R e/in -> d/sub", "R d/sub -> e/in")


def test_a_directory_that_was_made_where_another_was(client: EarlierClient, judge: Judge) -> None:
    client.rename("d", "moved")
    client.mkdir("d")
    client.create("d/a", b"other")
    client.freeze_running()
    judge("R d -> moved", "A d", "A d/a")
    client.create("d/b", b"other")
    client.unlink("d/a")
    judge("R d -> moved", "A d", "A d/b")


def test_a_directory_that_was_made_anew_hides_the_old_one(client: EarlierClient, judge: Judge) -> None:
    client.unlink("e/a")
    client.unlink("e/in/b")
    client.rmdir("e/in")
    client.rmdir("e")
    client.freeze_running()
    client.mkdir("e")
    judge("D e/a", "D e/in", "D e/in/b")
    client.freeze_running()
    client.create("e/a", b"other")
    judge("C e/a", "D e/in", "D e/in/b")
    client.unlink("e/a")
    client.rmdir("e")
    client.symlink("e", "d")
    judge("C e", "D e/a", "D e/in", "D e/in/b")


def test_a_file_that_was_changed_before_and_moved_after(client: EarlierClient, judge: Judge) -> None:
    client.write("b", b"B")
    client.chmod("big", 0o640)
    client.freeze_running()
    client.rename("b", "e/b")
    client.rename("big", "e/big")
    judge("R b -> e/b", "C e/b", "R big -> e/big", "C e/big")
    client.write("e/b", b"again")
    client.write("e/big", b"again")
    judge("R b -> e/b", "C e/b", "R big -> e/big", "C e/big")


def test_a_file_that_was_moved_three_times(client: EarlierClient, judge: Judge) -> None:
    client.rename("big", "one")
    client.rename("b", "small")
    client.freeze_running()
    client.rename("one", "d/two")
    client.rename("small", "d/smaller")
    client.freeze_running()
    judge("R big -> d/two", "R b -> d/smaller")
    client.rename("d/two", "three")
    client.rename("d/smaller", "smallest")
    judge("R big -> three", "R b -> smallest")
    client.rename("smallest", "b")
    client.rename("three", "big")
    judge()


def test_a_metadata_only_copy_in_an_earlier_layer(client: EarlierClient, judge: Judge) -> None:
    client.chmod("big", 0o644)
    client.freeze_running()
    judge("C big")
    client.setxattr("big", "user.color", b"red")  # a copy of the metadata of a copy of metadata
    client.freeze_running()
    client.rename("big", "e/big")
    judge("R big -> e/big", "C e/big")
    assert client.read("e/big") == b"x" * 40_000


def test_hard_links_that_were_changed_before_and_after(client: EarlierClient, judge: Judge) -> None:
    client.write("h1", b"changed")
    client.freeze_running()
    judge("C h1", "C h2", "C hd/h3")
    client.write("hd/h3", b"again")
    assert sorted(client.remaining_names()) == [b"h1", b"h2"]
    judge("C h1", "C h2", "C hd/h3")
    client.freeze_running()
    judge("C h1", "C h2", "C hd/h3")
    client.unlink("h2")
    client.rename("hd", "moved")
    judge("C h1", "D h2", "R hd -> moved", "C moved/h3")


def test_a_hard_link_that_only_an_earlier_layer_has_leads_to_its_new_copy(
    client: EarlierClient, judge: Judge
) -> None:
    client.chmod("h1", 0o600)
    client.freeze_running()
    client.forget_everything()
    client.chmod("h1", 0o644)
    client.write("h1", b"changed")
    judge("C h1", "C h2", "C hd/h3")


def test_hard_links_of_a_moved_directory_that_are_changed_later(client: EarlierClient, judge: Judge) -> None:
    client.rename("hd", "moved")
    client.freeze_running()
    judge("R hd -> moved")
    client.forget_everything()
    client.write("h1", b"changed")
    assert sorted(client.remaining_names()) == [b"h2", b"moved/h3"]
    judge("R hd -> moved", "C moved/h3", "C h1", "C h2")


def test_a_hard_link_that_was_made_before(client: EarlierClient, judge: Judge) -> None:
    client.link("b", "again")
    client.freeze_running()
    client.forget_everything()
    client.write("again", b"changed")
    assert client.remaining_names() == [b"b"]
    judge("C b", "A again")


def test_symbolic_links_and_attributes_of_directories(client: EarlierClient, judge: Judge) -> None:
    client.chmod("d", 0o700)
    client.setxattr("d/sub", "user.k", b"1")
    client.freeze_running()
    client.utime("s", 10**18)
    client.chmod("d/sub", 0o700)
    judge("C d", "C d/sub", "C s")
    client.freeze_running()
    client.unlink("s")
    judge("C d", "C d/sub", "D s")


def test_text_is_compared_with_the_layers_below(client: EarlierClient) -> None:
    client.truncate("b", 0)
    client.write("b", b"one\n")
    client.freeze_running()
    client.write("b", b"one\ntwo\n")
    stack = open_stack_to_compare(client.source_to_compare())
    try:
        (row,) = (row for row in Comparison(stack).rows() if row.path == b"b")
        assert TextDiffs(stack).of(row)["diff"][1:] == ["-b\n\\ No newline at end of file", "+one", "+two"]
    finally:
        stack.close()


def test_layers_below_that_may_have_redirects_are_refused(client: EarlierClient) -> None:
    client.freeze_running()
    client._policy_of = lambda path, fd: TRUSTED_MARKS  # type: ignore[method-assign]
    with pytest.raises(UnionError, match="redirects"):
        compare(client)


# -- facts -----------------------------------------------------------------------------------------


def test_an_old_file_is_compared_with_the_first_record_of_it(client: EarlierClient) -> None:
    for name in ("b", "d/a", "e/a", "e/in/b"):
        client.write(name, b"!")
    client.freeze_running()
    for name in ("d/a", "e/a"):
        client.write(name, b"!!")  # copied again, from the earlier layer
    client.write("d/b", b"!")
    base = client.lowers[-1]
    expected = {"/b": "same", "/d/a": "same", "/e/a": "same", "/e/in/b": "same", "/d/b": "same"}
    assert {path: since(client, path) for path in expected} == expected
    for name in ("e/a", "e/in/b", "d/b"):
        (base / name).write_bytes(b"written by somebody else")
        expected[f"/{name}"] = "changed"
    client.reopen()
    assert {path: since(client, path) for path in expected} == expected
    client.write("e/in/b", b"!!")
    assert since(client, "/e/in/b") == "changed"


def test_a_record_is_about_the_old_path_in_a_directory_that_was_moved_before(client: EarlierClient) -> None:
    client.rename("d", "moved")
    client.freeze_running()
    client.write("moved/a", b"!")
    client.unlink("moved/b")
    client.chmod("moved/sub", 0o700)
    client.reopen()
    client.write("moved/sub/deep/x", b"!")
    assert {value["old"]["since"] for value in all_facts(client) if "old" in value} == {"same"}
    assert (
        fact(client, "C", "/moved/a")["old"] | {"path": "/d/a", "layer": 0}
        == fact(client, "C", "/moved/a")["old"]
    )


def test_without_the_records_of_an_earlier_layer_nothing_is_known(client: EarlierClient) -> None:
    client.write("b", b"!")
    client.freeze_running()
    client.write("d/a", b"!")
    (client.works[client.lowers[0]] / "unionfs/below").unlink()
    assert (since(client, "/b"), since(client, "/d/a")) == ("unknown", "unknown")


def test_a_renewed_record_replaces_that_of_an_earlier_layer(client: EarlierClient) -> None:
    client.write("b", b"!")
    client.write("d/a", b"!")
    client.freeze_running()
    for name in ("b", "d/a"):
        (client.lowers[-1] / name).write_bytes(b"written by somebody else")
    assert since(client, "/b") == "changed"
    _renew(client, b"b")
    assert (since(client, "/b"), since(client, "/d/a")) == ("same", "changed")


def _renew(client: EarlierClient, *paths: bytes) -> None:
    source = client.source_to_compare()
    assert source.work_fd is not None
    home_fd = open_home(source.work_fd)
    assert home_fd is not None
    stack = open_stack_to_compare(source)
    try:
        renew(stack, home_fd, paths)
    finally:
        stack.close()
        os.close(home_fd)


def fixed(client: EarlierClient) -> set[str]:
    """Return the paths of moved objects that an earlier layer fixes."""
    return {value["path"] for value in all_facts(client) if value.get("fixed")}


def test_a_move_is_fixed_if_an_earlier_layer_is_part_of_it(client: EarlierClient) -> None:
    client.rename("e", "moved")
    client.rename("big", "bigger")
    client.rename("b", "small")
    client.unlink("s")
    client.unlink("d/a")
    client.freeze_running()
    assert fixed(client) == {"/moved", "/bigger"}  # the small file has its contents
    client.rename("moved", "again")
    client.rename("hd", "s")  # at whose place the earlier layer has a whiteout
    client.rename("d/sub", "sub")
    assert fixed(client) == {"/again", "/bigger", "/s"}
    client.rename("d", "dd")  # which an earlier layer has changed
    assert fixed(client) == {"/again", "/bigger", "/s", "/dd"}
    client.rename("bigger", "big")
    assert fixed(client) == {"/again", "/s", "/dd"}


def test_without_earlier_layers_no_move_is_fixed(client: EarlierClient) -> None:
    client.rename("e", "moved")
    client.rename("big", "bigger")
    assert fixed(client) == set()


def test_renewing_leaves_redirects_to_an_earlier_layer(client: EarlierClient, judge: Judge) -> None:
    client.rename("e", "moved")
    client.freeze_running()
    client.rename("moved", "again")
    client.create("again/new", b"")
    client.close()
    (client.lowers[-1] / "again").mkdir()
    _renew(client, b"")
    client.fs = client._open()
    assert client.names("again") == ["a", "in", "new"]


def test_renewing_mends_the_redirect_of_a_directory_that_no_earlier_layer_has(client: EarlierClient) -> None:
    client.write("d/a", b"!")
    client.freeze_running()
    client.rename("e", "moved")
    client.close()
    (client.lowers[-1] / "e").rename(client.lowers[-1] / "moved")
    _renew(client, b"e", b"moved")
    client.fs = client._open()
    assert client.names("moved") == ["a", "in"]
    assert rows(client) == ["C d/a"]


# -- discarding ------------------------------------------------------------------------------------


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
    ("change", "path", "named"),
    [
        (lambda client: client.write("d/a", b"!!"), "/d/a", "/d/a"),
        (lambda client: client.write("d/b", b"!"), "/d", "/d/a"),
        (lambda client: client.unlink("new"), "/new", "/new"),
        (lambda client: client.write("new", b"!"), "/new", "/new"),
        (lambda client: client.rename("moved", "again"), "/again", "/again"),
        (lambda client: client.unlink("moved/a"), "/e/a", "/e/a"),
        (lambda client: client.write("b", b"!"), "/", "/d/a"),
    ],
    ids=[
        "changed twice",
        "beside",
        "created and removed",
        "created",
        "moved twice",
        "in a moved directory",
        "all",
    ],
)
def test_what_an_earlier_layer_changes_cannot_be_discarded(
    client: EarlierClient, change: Step, path: str, named: str
) -> None:
    client.create("a", b"a")  # no difference, so that /a is no row
    client.chmod("a", 0o644)
    client.write("d/a", b"!")
    client.create("new", b"new")
    client.rename("e", "moved")
    client.freeze_running()
    change(client)  # type: ignore[operator]
    before = compare(client)
    with pytest.raises(UnionError) as caught:
        discard_from(client, path)
    if path != "/":
        assert str(caught.value) == f"{named}: an earlier layer of the sandbox has this change"
    assert [(row.kind, row.path) for row in compare(client)] == [(row.kind, row.path) for row in before]

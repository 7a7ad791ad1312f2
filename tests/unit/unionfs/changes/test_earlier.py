"""Changes of a union whose writable layer was frozen: those of the frozen layer and of the new one count together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.unit.unionfs.changes.trees import compare
from unionfs import _libc
from unionfs.changes.compared_stack import open_stack_to_compare
from unionfs.changes.comparison import Comparison
from unionfs.changes.text import TextDiffs
from unionfs.errors import UnionError
from unionfs.formats.whiteout import TRUSTED_MARKS
from unionfs.vfs.rename_plan import RENAME_EXCHANGE

if TYPE_CHECKING:
    from tests.unit.unionfs.changes.earlier import Judge
    from tests.unit.unionfs.freezing import EarlierClient


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


def test_symbolic_links_and_special_files_that_moved_before_and_after(
    client: EarlierClient, judge: Judge
) -> None:
    client.rename("s", "e/s")
    client.rename("p", "d/sub/p")
    client.rename("d/link", "link")
    client.freeze_running()
    judge("R s -> e/s", "R p -> d/sub/p", "R d/link -> link")
    client.rename("d/sub/p", "p2")
    client.utime("e/s", 10**18)
    judge("R s -> e/s", "C e/s", "R p -> p2", "R d/link -> link")
    client.freeze_running()
    client.unlink("link")
    client.symlink("link", "other")
    judge("R s -> e/s", "C e/s", "R p -> p2", "D d/link", "A link")
    client.rename("p2", "p")
    judge("R s -> e/s", "C e/s", "D d/link", "A link")


def test_a_moved_symbolic_link_is_found_if_its_layer_was_not_frozen_in_the_end(
    client: EarlierClient, judge: Judge
) -> None:
    client.rename("s", "e/s")
    client.rename("p", "d/sub/p")
    number = client.stat("e/s").ino
    assert not client.fs.leave_index(10)
    client.reopen()
    assert client.stat("e/s").ino == number
    judge("R s -> e/s", "R p -> d/sub/p")
    client.unlink("e/s")
    for at in range(20):  # one of them may get the inode number of the other link
        client.symlink(f"e/s{at}", "d/a")
    judge("D s", *(f"A e/s{at}" for at in range(20)), "R p -> d/sub/p")


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


def test_a_fork_follows_the_records_of_the_layer_that_it_lies_on(client: EarlierClient, judge: Judge) -> None:
    client.rename("b", "small")
    client.rename("d", "moved")
    client.write("h1", b"changed")
    client.chmod("big", 0o644)
    client.fork()
    judge("R b -> small", "R d -> moved", "C h1", "C h2", "C hd/h3", "C big")
    client.rename("small", "smaller")
    client.write("smaller", b"!")
    client.rename("moved/a", "moved/sub/a")
    client.rename("big", "bigger")
    client.write("h2", b"again")
    expected = ["R b -> smaller", "C smaller", "R d -> moved", "R d/a -> moved/sub/a", "R big -> bigger"]
    judge(*expected, "C bigger", "C h1", "C h2", "C hd/h3")
    client.fork()
    judge(*expected, "C bigger", "C h1", "C h2", "C hd/h3")


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


def test_hard_links_stay_together_on_a_file_system_without_birth_times(
    client: EarlierClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that the sandbox has had are known by its record. Those below them are on a file system that has birth times."""
    real = _libc.birth_time_ns
    own = f"{client.base}/lower"

    def birth_time_ns(fd: int, name: bytes = b"") -> int | None:
        return real(fd, name) if os.readlink(f"/proc/self/fd/{fd}").startswith(own) else None

    monkeypatch.setattr(_libc, "birth_time_ns", birth_time_ns)
    for number, path in enumerate(("h1", "hd/h3", "h2", "h1")):
        client.close()
        client.fs = client._open()
        client.write(path, b"%d" % number)
        assert client.read("h1") == client.read("h2") == client.read("hd/h3") == b"%dhree names" % number
        if number < 3:
            client.freeze_running()
    client.close()
    client.fs = client._open()
    assert client.read("h1") == client.read("h2") == client.read("hd/h3") == b"3hree names"

"""Facts about changes of a union whose writable layer was frozen, and what follows when changes have been written back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.unit.unionfs.changes.earlier import all_facts, fact, since
from unionfs.changes.compared_stack import open_home, open_stack_to_compare
from unionfs.changes.renewal import renew

if TYPE_CHECKING:
    from tests.unit.unionfs.freezing import EarlierClient


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

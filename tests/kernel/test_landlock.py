"""Landlock rules on real processes."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from sandbox.kernel import filters, landlock, process
from sandbox.kernel.landlock import Rules
from tests.kernel.support import in_child, refusal

VERSION = filters.landlock_version()
pytestmark = pytest.mark.skipif(VERSION < 4, reason="needs version 4 of Landlock (Linux 6.7)")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
    return tmp_path


def restrict(rules: Rules) -> None:
    root = os.open("/", os.O_PATH)
    opened = [
        (kind, os.open(path, os.O_PATH)) for kind in landlock.FILES for path in getattr(rules, kind) or ()
    ]
    ruleset = landlock.make_ruleset(rules, opened, root)
    process.set_no_new_privileges()
    landlock.restrict(ruleset)


def under(rules: Rules, action) -> int:
    def child() -> bool:
        restrict(rules)
        return action()

    return in_child(child)


def reads(path) -> str | None:
    return refusal(lambda: os.close(os.open(path, os.O_RDONLY)))


def writes(path) -> str | None:
    return refusal(lambda: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)))


def test_only_files_below_a_path_are_read(tree):
    def action() -> bool:
        return (
            reads(tree / "open" / "file"),
            reads(tree / "closed" / "file"),
            refusal(os.listdir, tree),
        ) == (
            None,
            "EACCES",
            "EACCES",
        )

    assert under(Rules(read=(str(tree / "open"),)), action) == 0


def test_a_kind_of_access_without_rules_is_not_restricted(tree):
    def action() -> bool:
        os.rename(
            tree / "open" / "file", tree / "closed" / "moved"
        )  # refused by any ruleset for files that does not allow it
        return writes(tree / "closed" / "new") is None

    assert under(Rules(read=(str(tree),)), action) == 0


def test_only_files_below_a_path_are_changed(tree):
    def action() -> bool:
        closed = tree / "closed"
        return (
            writes(tree / "open" / "new") is None
            and reads(closed / "file") is None
            and {
                writes(closed / "file"),
                writes(closed / "new"),
                refusal(os.unlink, closed / "file"),
                refusal(os.mkdir, closed / "directory"),
                refusal(os.truncate, closed / "file", 0),
                refusal(os.symlink, "x", closed / "link"),
            }
            == {"EACCES"}
            and refusal(os.rename, tree / "open" / "file", closed / "moved") in ("EACCES", "EXDEV")
        )

    assert under(Rules(write=(str(tree / "open"),)), action) == 0


def test_a_path_can_be_a_file(tree):
    path = tree / "open" / "file"
    rules = Rules(read=(str(path),), write=(str(path),), execute=())
    assert under(rules, lambda: reads(path) is None and writes(path) is None) == 0


def test_only_files_below_a_path_are_executed():
    true = os.path.realpath("/bin/true")
    assert under(Rules(execute=(os.path.dirname(true), "/usr", "/lib")), lambda: os.system(true) == 0) == 0
    assert under(Rules(execute=()), lambda: refusal(os.execv, true, [true]) == "EACCES") == 0


def test_only_the_named_ports_are_bound_and_connected_to():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port, closed = server.getsockname()[1], other.getsockname()[1]

        def connects(to: int) -> str | None:
            return refusal(lambda: socket.create_connection(("127.0.0.1", to)).close())

        def binds(to: int) -> str | None:
            return refusal(lambda: socket.create_server(("127.0.0.1", to)).close())

        assert (
            under(Rules(connect=(port,)), lambda: (connects(port), connects(closed)) == (None, "EACCES")) == 0
        )
        assert under(Rules(bind=()), lambda: (binds(0), connects(closed)) == ("EACCES", None)) == 0


@pytest.mark.skipif(VERSION < landlock.SCOPED, reason="needs version 6 of Landlock (Linux 6.12)")
def test_nothing_outside_is_signalled_or_connected_to_by_an_abstract_socket():
    address = f"\0sandbox-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        parent = os.getpid()

        def connect() -> None:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)

        def action() -> bool:
            return (refusal(os.kill, parent, 0), refusal(connect)) == ("EPERM", "EPERM")

        assert under(Rules(scoped=True), action) == 0
        assert under(Rules(scoped=True), lambda: os.kill(os.getpid(), signal.SIGCONT) is None) == 0
        assert under(Rules(read=("/",)), lambda: refusal(os.kill, parent, 0) is None) == 0
        assert under(Rules(read=("/",)), lambda: refusal(connect) is None) == 0


def test_missing_rights_of_each_version_are_known():
    rules = Rules(read=("/",), write=(), connect=(1,))
    assert [landlock.lacking(rules, version) for version in range(5)] == [
        ("read", "write", "connect"),
        ("read", "write", "connect"),
        ("write", "connect"),
        ("connect",),
        (),
    ]

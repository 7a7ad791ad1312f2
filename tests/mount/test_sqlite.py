"""SQLite databases in a lower layer that are copied up while they are open.

SQLite reads and writes at offsets, maps its shared memory, and locks ranges. A reader that continued with the lower
file, or with a page cached from it, would cause silent corruption (fuse-overlayfs issue 475).
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.mount.support import PATIENCE, PROJECT, Union, make_union, now_and_remounted
from tests.support import kernel_caches

pytestmark = pytest.mark.fusermount

JOURNALS = [
    "delete",
    "wal",
    pytest.param("truncate", marks=pytest.mark.long),
    pytest.param("persist", marks=pytest.mark.long),
]


def fill(path: str, rows: int, journal: str = "delete") -> None:
    """Make a database of the given number of rows of a kilobyte, each with a checksum for `check`."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, round INTEGER, body BLOB)")
        connection.execute("CREATE INDEX by_round ON row (round, number)")
        connection.executemany(
            "INSERT INTO row VALUES (?, 0, ?)", ((number, body(number, 0)) for number in range(rows))
        )
        connection.commit()


def body(number: int, turn: int) -> bytes:
    return b"%08d-%08d " % (number, turn) * 55


def check(connection: sqlite3.Connection, rows: int) -> int:
    """Assert that the database is intact and that all rows are of the same round; return the round."""
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.create_function("body", 2, body, deterministic=True)
    found = connection.execute(
        "SELECT count(*), min(round), max(round), sum(body = body(number, round)) FROM row"
    ).fetchone()
    turn = int(found[1])
    assert found == (rows, turn, turn, rows)
    return turn


#: Seconds to wait for a lock, which a transaction over all of a large database keeps for long.
LOCKED = 900


def connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=LOCKED, isolation_level=None)


#: Rewrites every row in one transaction, the given number of times, with a small cache that spills to the file.
REWRITE = """
import sqlite3, sys
from tests.mount.test_sqlite import body
path, turns = sys.argv[1], int(sys.argv[2])
connection = sqlite3.connect(path, timeout=900, isolation_level=None)
connection.execute("PRAGMA cache_size=50")
connection.create_function("body", 2, body, deterministic=True)
for _ in range(turns):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE row SET round = round + 1, body = body(number, round + 1)")
    connection.execute("COMMIT")
connection.close()
"""


@contextmanager
def rewriting(path: str, turns: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", REWRITE, path, str(turns)], cwd=PROJECT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def lower_database(base: str, rows: int, journal: str) -> Union:
    union = make_union(base, {"d": {}})
    fill(f"{base}/lower0/d/db", rows, journal)
    return union


def drop_caches(union: Union) -> None:
    """Drop the kernel's caches; without root, only the caches of the mount."""
    union.remount()
    if os.geteuid() == 0:
        try:
            with kernel_caches.dropped(), open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
                file.write("3")
        except OSError:
            pass  # a container may not; the remount suffices


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_database_that_is_copied_up_while_it_is_open_stays_intact_for_every_process(
    base: str, journal: str
) -> None:
    rows = 800
    with lower_database(base, rows, journal) as union:
        path = f"{union.path}/d/db"
        with closing(connect(path)) as reader:
            assert check(reader, rows) == 0
            os.chmod(path, 0o600)  # the contents stay in the lower layer, and are copied by the first write
            with rewriting(path, 4) as writer:
                seen = {check(reader, rows) for _ in range(12)}
                assert writer.wait(PATIENCE) == 0
            seen.add(check(reader, rows))
            assert max(seen) == 4
        for _ in now_and_remounted(union):
            with closing(connect(path)) as connection:
                assert check(connection, rows) == 4
    with closing(connect(f"{base}/lower0/d/db")) as connection:
        assert check(connection, rows) == 0


def test_a_read_only_reader_sees_commits_after_copy_up(base: str) -> None:
    rows = 300
    with lower_database(base, rows, "delete") as union:
        path = f"{union.path}/d/db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=PATIENCE)) as reader:
            reader.execute("PRAGMA mmap_size=268435456")
            assert check(reader, rows) == 0
            for turn in (1, 2):
                with rewriting(path, 1) as writer:
                    assert writer.wait(PATIENCE) == 0
                assert check(reader, rows) == turn


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_writer_that_is_killed_leaves_a_database_that_is_rolled_back(base: str, journal: str) -> None:
    rows = 300
    with lower_database(base, rows, journal) as union:
        path = f"{union.path}/d/db"
        turn = 0
        for _ in range(2):
            with rewriting(path, 1000) as writer:
                with closing(connect(path)) as reader:
                    while check(reader, rows) <= turn:
                        assert writer.poll() is None
                writer.kill()
            for _ in now_and_remounted(union):
                with closing(connect(path)) as connection:
                    turn = check(connection, rows)


@pytest.mark.long
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_of_ninety_megabytes_survives_being_rewritten_with_cold_caches(
    base: str, journal: str
) -> None:
    rows = 90_000
    union = make_union(base, {"d": {}})
    fill(f"{base}/lower0/d/db", rows, journal)
    assert os.stat(f"{base}/lower0/d/db").st_size > 90_000_000
    with union:
        path = f"{union.path}/d/db"
        for turn in range(3):
            with closing(connect(path)) as reader:
                assert check(reader, rows) == turn
                with rewriting(path, 1) as writer:
                    while writer.poll() is None:
                        assert check(reader, rows) in (turn, turn + 1)
                    assert writer.returncode == 0
                assert check(reader, rows) == turn + 1
            drop_caches(union)
            with closing(connect(path)) as reader:
                assert check(reader, rows) == turn + 1
            os.chmod(path, 0o600 + turn)
            os.rename(path, path + "2")
            os.rename(path + "2", path)
    with closing(connect(f"{base}/lower0/d/db")) as connection:
        assert check(connection, rows) == 0

"""The contents of unlinked and mapped files, of files shared by processes, and of databases."""

from __future__ import annotations

import mmap
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from tests.mount.support import make_union, now_and_remounted
from tests.support.tree import File, HardLink

pytestmark = pytest.mark.fusermount

PAGE = mmap.PAGESIZE
MIB = 1 << 20


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def python(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", *arguments])


# -- files without a name ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["lower", "upper", "new"])
def test_an_unlinked_file_exists_while_it_is_open(base: str, where: str) -> None:
    with make_union(base, {"lower": b"0123456789"}, upper={"upper": b"0123456789"}) as union:
        path = f"{union.path}/{where}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            os.pwrite(fd, b"0123456789", 0)
            number = os.fstat(fd).st_ino
            os.unlink(path)
            assert not os.path.exists(path)
            assert os.pread(fd, 20, 0) == b"0123456789"
            os.pwrite(fd, b"end", 20)
            os.ftruncate(fd, 22)
            os.fchmod(fd, 0o600)
            os.fsync(fd)
            info = os.fstat(fd)
            assert (info.st_size, info.st_nlink, info.st_ino) == (22, 0, number)
            assert os.pread(fd, 3, 20) == b"en"
        finally:
            os.close(fd)
        union.remount()
        assert not os.path.exists(path)


def test_an_unlinked_lower_file_is_copied_up_without_a_name(base: str) -> None:
    with make_union(base, {"f": b"lower"}) as union:
        fd = os.open(f"{union.path}/f", os.O_RDONLY)
        try:
            os.unlink(f"{union.path}/f")
            os.fchmod(fd, 0o600)
            assert os.pread(fd, 9, 0) == b"lower"
        finally:
            os.close(fd)
    assert os.listdir(f"{union.work}/unionfs/tmp") == []
    assert content(f"{base}/lower0/f") == b"lower"


def test_a_file_without_a_name_can_be_opened_again_through_proc(base: str) -> None:
    with make_union(base, {"f": b"lower"}) as union, open(f"{union.path}/f", "rb") as file:
        os.unlink(f"{union.path}/f")
        assert content(f"/proc/self/fd/{file.fileno()}") == b"lower"


# -- mappings ------------------------------------------------------------------------------------------


def test_a_shared_mapping_of_a_lower_file_writes_to_the_copy(base: str) -> None:
    with make_union(base, {"f": b"a" * 3 * PAGE}) as union:
        with open(f"{union.path}/f", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            mapping[PAGE : PAGE + 5] = b"HELLO"
            mapping.flush()
            assert os.pread(file.fileno(), 5, PAGE) == b"HELLO"
        union.remount()
        assert content(f"{union.path}/f") == b"a" * PAGE + b"HELLO" + b"a" * (2 * PAGE - 5)
    assert content(f"{base}/lower0/f") == b"a" * 3 * PAGE


def test_a_shared_mapping_is_written_although_its_file_is_closed_and_unlinked(base: str) -> None:
    with make_union(base, {"f": b"a" * PAGE, "link": HardLink("f")}) as union:
        with open(f"{union.path}/f", "r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0)
        os.unlink(f"{union.path}/f")
        mapping[:5] = b"HELLO"
        mapping.flush()
        mapping.close()
        union.remount()
        assert content(f"{union.path}/link")[:6] == b"HELLOa"


def test_a_mapping_made_before_copy_up_shows_later_writes(base: str) -> None:
    with make_union(base, {"f": b"before" + b"." * PAGE}) as union:
        with open(f"{union.path}/f", "rb") as reader:
            mapping = mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ)
        with mapping:
            assert mapping[:6] == b"before"
            with open(f"{union.path}/f", "r+b") as writer:
                writer.write(b"after!")
            assert mapping[:6] == b"after!"


def test_a_program_runs_from_the_mount_and_after_its_replacement(base: str) -> None:
    with open("/bin/sh", "rb") as shell:
        program = File(shell.read(), mode=0o755)
    with make_union(base, {"sh": program}) as union:
        for _ in range(2):
            done = subprocess.run([f"{union.path}/sh", "-c", "echo run"], capture_output=True, check=True)
            assert done.stdout == b"run\n"
            os.rename(f"{union.path}/sh", f"{union.path}/moved")
            os.rename(f"{union.path}/moved", f"{union.path}/sh")


# -- several processes ---------------------------------------------------------------------------------

APPEND = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range(int(sys.argv[3])):
    assert os.write(fd, b"%s %06d\\n" % (sys.argv[2].encode(), number)) == 9
"""


def test_two_processes_that_append_lose_no_data(base: str) -> None:
    count = 400
    with make_union(base, {"log": b"started\n"}) as union:
        writers = [python(APPEND, f"{union.path}/log", name, str(count)) for name in "ab"]
        assert [writer.wait(60) for writer in writers] == [0, 0]
        lines = content(f"{union.path}/log").splitlines()
        union.remount()
        assert content(f"{union.path}/log").splitlines() == lines
    assert lines[0] == b"started"
    for name in (b"a", b"b"):
        own = [line for line in lines if line.startswith(name + b" ")]
        assert own == [b"%s %06d" % (name, number) for number in range(count)]
    assert len(lines) == 1 + 2 * count


INSERT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=50, isolation_level=None)
for number in range(int(sys.argv[3])):
    connection.execute("BEGIN IMMEDIATE")
    (total,) = connection.execute("SELECT value FROM total").fetchone()
    connection.execute("UPDATE total SET value = ?", (total + 1,))
    connection.execute("INSERT INTO entry VALUES (?, ?)", (sys.argv[2], number))
    connection.execute("COMMIT")
connection.close()
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_two_processes_share_a_database_that_begins_in_a_layer(base: str, journal: str) -> None:
    count = 40
    union = make_union(base, {"d": {}})
    with closing(sqlite3.connect(f"{base}/lower0/d/db")) as connection:
        connection.execute("CREATE TABLE total (value INTEGER)")
        connection.execute("INSERT INTO total VALUES (0)")
        connection.execute("CREATE TABLE entry (writer TEXT, number INTEGER, PRIMARY KEY (writer, number))")
        connection.commit()
        assert connection.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
    with union:
        writers = [python(INSERT, f"{union.path}/d/db", name, str(count)) for name in "ab"]
        assert [writer.wait(60) for writer in writers] == [0, 0]
        for _ in now_and_remounted(union):
            with closing(sqlite3.connect(f"{union.path}/d/db")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert connection.execute("PRAGMA journal_mode").fetchone() == (journal,)
                assert connection.execute("SELECT value FROM total").fetchone() == (2 * count,)
                assert connection.execute("SELECT count(*) FROM entry").fetchone() == (2 * count,)


def test_large_reads_and_writes_at_any_offset_are_exact(base: str) -> None:
    data = bytearray(os.urandom(3 * MIB + 17))
    with make_union(base, {"f": bytes(data)}) as union:
        with open(f"{union.path}/f", "r+b", buffering=0) as file:
            for offset, size in (
                (0, 1),
                (4095, 2),
                (MIB - 1, MIB + 3),
                (len(data) - 5, 5),
                (len(data), 200_000),
            ):
                piece = os.urandom(size)
                assert os.pwrite(file.fileno(), piece, offset) == size
                data[offset : offset + size] = piece
                assert os.pread(file.fileno(), size + 10, offset) == data[offset : offset + size + 10]
        union.remount()
        assert content(f"{union.path}/f") == bytes(data)

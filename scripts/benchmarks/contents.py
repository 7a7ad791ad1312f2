"""Workloads on file contents."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sqlite3
import subprocess

from benchmarks.corpus import LARGE
from benchmarks.workload import DATA, Corpus, Work

_PAGE = 4096


def read_all(root: str, corpus: Corpus) -> object:
    """Read every file of the root file system once."""
    digest = hashlib.blake2b(digest_size=8)
    for path in corpus.files:
        with open(os.path.join(root, path), "rb", buffering=0) as file:
            while block := file.read(1 << 17):
                digest.update(block)
    return digest.hexdigest()


def open_read_close(root: str, corpus: Corpus) -> object:
    """Open, read and close cached files again and again, as importing and compiling do."""
    size = 0
    for number in range(corpus.amount(16_000)):
        fd = os.open(os.path.join(root, corpus.files[number % len(corpus.files)]), os.O_RDONLY)
        size += len(os.read(fd, 1 << 14))
        os.close(fd)
    return size


def write_large(root: str, corpus: Corpus) -> object:
    """Write one large file in blocks of 1 MiB and wait for the disk."""
    block = bytes(1 << 20)
    path = os.path.join(root, "written")
    with open(path, "xb", buffering=0) as file:
        for _ in range(corpus.amount(LARGE)):
            file.write(block)
        os.fsync(file.fileno())
    return os.path.getsize(path)


def read_large(root: str, corpus: Corpus) -> object:
    """Read one large file of the lower layer in blocks of 1 MiB."""
    size = 0
    with open(os.path.join(root, DATA, "large"), "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            size += len(block)
    return size


def random_reads(root: str, corpus: Corpus) -> object:
    """Read pages of 4 KiB at random from a large file of the lower layer."""
    rng = random.Random(3)
    digest = hashlib.blake2b(digest_size=8)
    fd = os.open(os.path.join(root, DATA, "large"), os.O_RDONLY)
    try:
        pages = os.fstat(fd).st_size // _PAGE
        for _ in range(corpus.amount(10_000)):
            digest.update(os.pread(fd, _PAGE, rng.randrange(pages) * _PAGE))
    finally:
        os.close(fd)
    return digest.hexdigest()


def make_writable(root: str, corpus: Corpus) -> object:
    """Create the file that `random_writes` writes to."""
    with open(os.path.join(root, "pages"), "xb") as file:
        file.write(bytes(corpus.amount(64) << 20))
    return None


def random_writes(root: str, corpus: Corpus) -> object:
    """Write pages of 4 KiB at random into a file of the writable layer, and wait for the disk at the end."""
    rng = random.Random(4)
    fd = os.open(os.path.join(root, "pages"), os.O_RDWR)
    try:
        pages = os.fstat(fd).st_size // _PAGE
        for number in range(corpus.amount(10_000)):
            os.pwrite(fd, number.to_bytes(4, "big") * (_PAGE // 4), rng.randrange(pages) * _PAGE)
        os.fsync(fd)
    finally:
        os.close(fd)
    return None


def digest_of(*path: str) -> Work:
    """Return a workload that returns the checksum of one file."""

    def digest(root: str, corpus: Corpus) -> object:
        with open(os.path.join(root, *path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    return digest


def sqlite_transactions(root: str, corpus: Corpus) -> object:
    """Commit small transactions to SQLite, each with its own rollback journal."""
    with contextlib.closing(sqlite3.connect(os.path.join(root, "data.sqlite"))) as database:
        database.execute("CREATE TABLE t (a INTEGER, b TEXT)")
        for index in range(corpus.amount(300)):
            with database:
                database.execute("INSERT INTO t VALUES (?, ?)", (index, "x" * 100))
        return database.execute("SELECT count(*), sum(a) FROM t").fetchone()


def two_at_once(root: str, corpus: Corpus) -> object:
    """Read every file while tar(1) unpacks an archive."""
    directory = os.path.join(root, "untarred")
    os.mkdir(directory)
    archive = os.path.join(corpus.inputs, "archive.tar")
    with subprocess.Popen(["tar", "-xf", archive, "-C", directory]) as unpacking:
        seen = read_all(root, corpus)
    if unpacking.returncode != 0:
        raise OSError(f"tar ended with {unpacking.returncode}")
    return seen

"""Workloads on names and attributes."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess

from benchmarks.corpus import APPENDED, SIZES
from benchmarks.workload import DATA, Corpus, Work


def walk(root: str, corpus: Corpus) -> object:
    """List the directories of the root file system and stat every entry, as `find -ls` does."""
    count = size = links = 0
    for directory in corpus.directories:
        with os.scandir(os.path.join(root, directory)) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                count += 1
                # Each file system has its own sizes of directories.
                if not stat.S_ISDIR(status.st_mode):
                    size += status.st_size
                    links += status.st_nlink
    return count, size, links


def stat_storm(root: str, corpus: Corpus) -> object:
    """Stat names at random, one in four of which does not exist, as searches along a path do."""
    rng = random.Random(1)
    found = 0
    for _ in range(corpus.amount(40_000)):
        path = os.path.join(root, rng.choice(corpus.files))
        found += os.path.lexists(path + "-missing" if rng.random() < 0.25 else path)
    return found


def create_and_unlink(root: str, corpus: Corpus) -> object:
    """Make small files in a new directory, list it, and unlink them all."""
    directory = os.path.join(root, "created")
    os.mkdir(directory)
    for index in range(corpus.amount(2000)):
        with open(os.path.join(directory, f"f{index}"), "wb", buffering=0) as file:
            file.write(b"x" * 1024)
    names = os.listdir(directory)
    for name in names:
        os.unlink(os.path.join(directory, name))
    return len(names), os.listdir(directory)


def untar(root: str, corpus: Corpus) -> object:
    """Unpack an archive of small files with tar(1)."""
    directory = os.path.join(root, "untarred")
    os.mkdir(directory)
    subprocess.run(["tar", "-xf", os.path.join(corpus.inputs, "archive.tar"), "-C", directory], check=True)
    return None


def change_modes(root: str, corpus: Corpus) -> object:
    """Change the modes of a tree of the lower layer with chmod -R: metadata-only copy-up."""
    subprocess.run(["chmod", "-R", "o-r,g+w", os.path.join(root, DATA, "remove")], check=True)
    return None


def remove_tree(root: str, corpus: Corpus) -> object:
    """Remove a tree of the lower layer with rm -r: one whiteout at the end."""
    subprocess.run(["rm", "-r", os.path.join(root, DATA, "remove")], check=True)
    return sorted(os.listdir(os.path.join(root, DATA)))


def append_to_lower(root: str, corpus: Corpus) -> object:
    """Append a line to each of many files of the lower layer: copy-up."""
    size = 0
    for index in range(corpus.amount(APPENDED)):
        path = os.path.join(root, DATA, "append", f"d{index // 50}", f"f{index}")
        with open(path, "ab", buffering=0) as file:
            file.write(b"one more line\n")
            size += os.fstat(file.fileno()).st_size - SIZES["append"]
    return size


def tree_of(*path: str) -> Work:
    """Return a workload that describes a tree: names, types, modes, sizes and contents."""

    def describe(root: str, corpus: Corpus) -> object:
        digest = hashlib.blake2b(digest_size=8)
        for directory, names, files in os.walk(os.path.join(root, *path)):
            names.sort()
            for name in [*names, *sorted(files)]:
                full = os.path.join(directory, name)
                status = os.lstat(full)
                digest.update(f"{os.path.relpath(full, root)} {status.st_mode:o}\n".encode())
                if stat.S_ISREG(status.st_mode):
                    with open(full, "rb") as file:
                        digest.update(file.read())
        return digest.hexdigest()

    return describe

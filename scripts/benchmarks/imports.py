"""Measure the import of an image layer, with the digests of its blob and of its content, and `tar -x` of the same blob.

The layer has files of this machine, in their directories, with symbolic links and hard links. Writing on a disk takes longer than
all else, so `--on /dev/shm` shows the difference.

    python -m benchmarks.imports ARCHIVE DESTINATION     imports a layer, and prints the seconds that this took
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks.measuring import Sample, Trial
from benchmarks.workload import PROJECT, Corpus

GROUP = "import"
SUBJECT, BASE = "sandbox", "tar"
FORMS = {"plain": (), "gzip": ("gzip", "-6", "-n"), "zstd": ("zstd", "-q")}
NAMES = tuple(f"import, {form}" for form in FORMS)
SUMMARY = "Import a layer of 16,000 files and 500 MB, with both digests: sandbox, and tar -x (on tmpfs)."
FILES, SIZE = 16_000, 500_000_000
_LARGEST = 20_000_000
"""Bytes of the largest file, so that one file is not the whole layer."""
_TREES = ("/usr/lib", "/usr/share")
_EVERY = 80
"""One in so many files gets a second name."""


def make_layer(directory: str, corpus: Corpus) -> str:
    """Write `layer.tar` with files of this machine into the new *directory*, and return its path."""
    tree = os.path.join(directory, "tree")
    for number, path in enumerate(choose(corpus.amount(FILES, 50), corpus.amount(SIZE, 1_000_000))):
        place = tree + path
        os.makedirs(os.path.dirname(place), exist_ok=True)
        shutil.copy2(path, place, follow_symlinks=False)
        if number % _EVERY == 0 and not os.path.islink(place):
            os.link(place, f"{place}.hard-link")
    archive = os.path.join(directory, "layer.tar")
    subprocess.run(["tar", "--sort=name", "-cf", archive, "-C", tree, "."], check=True)
    shutil.rmtree(tree)
    return archive


def choose(count: int, size: int) -> list[str]:
    """Return *count* files and symbolic links of this machine with at most *size* bytes together, sorted."""
    candidates = list(_readable())
    random.Random(16).shuffle(candidates)
    chosen: list[str] = []
    for path, length in candidates:
        if length <= size and len(chosen) < count:
            chosen.append(path)
            size -= length
    return sorted(chosen)


def _readable() -> Iterator[tuple[str, int]]:
    for tree in _TREES:
        for directory, _, names in os.walk(tree):
            for name in names:
                path = os.path.join(directory, name)
                info = os.lstat(path)
                if stat.S_ISLNK(info.st_mode):
                    yield path, 0
                elif stat.S_ISREG(info.st_mode) and info.st_size <= _LARGEST and os.access(path, os.R_OK):
                    yield path, info.st_size


def make_trials(chosen: Sequence[str], corpus: Corpus, directory: str, left_out: list[str]) -> list[Trial]:
    """Return the trials named *chosen*; *directory* is new. *left_out* gets the reasons of those that cannot run."""
    os.mkdir(directory)
    plain = make_layer(directory, corpus)
    trials = []
    for form, command in FORMS.items():
        name = f"import, {form}"
        if name not in chosen:
            continue
        if command and shutil.which(command[0]) is None:
            left_out.append(f"{name}: {command[0]} missing")
            continue
        archive = plain
        if command:
            archive = os.path.join(directory, f"layer.tar.{form}")
            with open(plain, "rb") as source, open(archive, "wb") as target:
                subprocess.run([*command, "-c"], stdin=source, stdout=target, check=True)
        target_directory = os.path.join(directory, "unpacked")
        runs = {
            SUBJECT: _by(_import, archive, target_directory, corpus),
            BASE: _by(_tar, archive, target_directory, corpus),
        }
        trials.append(Trial(name=name, group=GROUP, runs=runs, subject=SUBJECT, baseline=BASE))
    return trials


def _by(
    unpack: Callable[[str, str, Corpus], float], archive: str, target: str, corpus: Corpus
) -> Callable[[], Sample]:
    def run() -> Sample:
        os.mkdir(target)
        try:
            seconds = unpack(archive, target, corpus)
            return Sample(seconds, _seen(target))
        finally:
            subprocess.run(["rm", "-rf", target], check=True)

    return run


def _tar(archive: str, target: str, corpus: Corpus) -> float:
    begin = time.perf_counter()
    subprocess.run(["tar", "-xf", archive, "-C", target], check=True)
    return time.perf_counter() - begin


def _import(archive: str, target: str, corpus: Corpus) -> float:
    command = [corpus.python, "-m", "benchmarks.imports", archive, target]
    places = os.pathsep.join((os.path.join(PROJECT, "scripts"), PROJECT))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": places}, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def _seen(directory: str) -> tuple[int, int, int]:
    """Return the number of objects, of their bytes, and of hard links in *directory*."""
    objects = size = links = 0
    for path, directories, files in os.walk(directory):
        for name in (*directories, *files):
            info = os.lstat(os.path.join(path, name))
            objects += 1
            if not stat.S_ISDIR(info.st_mode):
                size += info.st_size
                links += info.st_nlink
    return objects, size, links


def main(archive: str, target: str) -> None:
    """Import *archive* into the directory *target* as the layer store does, and print the seconds."""
    from sandbox.images.bounded import unpack_bounded
    from sandbox.images.layer_stream import LayerStream

    os.umask(0)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    begin = time.perf_counter()
    with open(archive, "rb") as file, LayerStream(file, archive) as layer:
        unpack_bounded(layer.open_archive(), fd, single_id=os.geteuid() != 0)
        layer.finish()
    print(time.perf_counter() - begin)  # noqa: T201 - this is the output of a program


if __name__ == "__main__":
    main(*sys.argv[1:])

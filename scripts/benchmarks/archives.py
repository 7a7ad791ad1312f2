"""Measure a root file system that is an archive: unpacked, mounted, and mounted from compressed frames."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.measuring import Sample, Trial
from benchmarks.start import Starter, sandbox
from benchmarks.systems import lacks
from benchmarks.workload import Corpus

GROUP = "archives"
SUBJECT, BASE = "mounted", "unpacked"
_FRAMES = "mounted frames"

#: The beginning of programs that run in the sandbox: they print what they saw, and the seconds that it took.
_BEGIN = """
import json, os, random, sys, time
def files():
    for directory, names, found in os.walk("/usr"):
        names.sort()
        for name in sorted(found):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path
begin = time.perf_counter()
"""
_END = """
print(json.dumps([time.perf_counter() - begin, seen]))
"""
_WALK = 'seen = sum(os.lstat(os.path.join(at, name)).st_size for at, _, found in os.walk("/usr") for name in found)'
_READ = "seen = sum(len(open(path, 'rb').read()) for path in files())"
_RANDOM = """
paths = [path for path in files() if os.stat(path).st_size]
chance, seen, begin = random.Random(1), 0, time.perf_counter()
for _ in range(2000):
    path = chance.choice(paths)
    with open(path, "rb", buffering=0) as file:
        file.seek(chance.randrange(os.stat(path).st_size))
        seen += sum(file.read(4096))
"""
SUMMARIES: Mapping[str, str] = {
    "first python": "Start `python3 -c pass` over an archive that no sandbox has used before.",
    "next python": "Start `python3 -c pass` again.",
    "walk": "Walk /usr in the sandbox, and stat each file.",
    "read all": "Read each file of /usr in the sandbox.",
    "random reads": "Read 4 KiB from 2000 random places of /usr in the sandbox, without the time to list it.",
}
_INSIDE = {"walk": _WALK, "read all": _READ, "random reads": _RANDOM}


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to use the archive: the starter of `sandbox up`, and the directory of its store."""

    starter: Starter
    store: str

    def run(self, *command: str) -> str:
        """Run *command* in the sandbox, and return what it prints.

        Raises:
            OSError: it failed.
        """
        done = subprocess.run(
            [*self.starter.command, *command],
            env=dict(self.starter.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(f"ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def _way(corpus: Corpus, directory: str, archive: str, *, mount: bool) -> _Way:
    os.mkdir(directory)
    store = os.path.join(directory, "store")
    starter = sandbox(corpus, directory)
    starter = replace(starter, environment={**starter.environment, "SANDBOX_CACHE_DIR": store})
    with open(os.path.join(directory, "start.toml"), "w") as file:
        layer = f"{{ tar = {json.dumps(archive)}, mount = {str(mount).lower()} }}"
        file.write(f'[root]\nserver = "direct"\nlayers = [{layer}]\n')
    return _Way(starter, store)


def _first(way: _Way) -> Sample:
    """Start over an empty store."""
    if os.path.exists(way.store):
        shutil.rmtree(way.store)
    begin = time.perf_counter()
    way.run("python3", "-c", "pass")
    return Sample(time.perf_counter() - begin, None)


def _next(way: _Way) -> Sample:
    begin = time.perf_counter()
    way.run("python3", "-c", "pass")
    return Sample(time.perf_counter() - begin, None)


def _inside(program: str) -> Callable[[_Way], Sample]:
    def run(way: _Way) -> Sample:
        seconds, seen = json.loads(way.run("python3", "-c", f"{_BEGIN}{program}{_END}"))
        return Sample(seconds, seen)

    return run


def make_trials(names: Sequence[str], corpus: Corpus, directory: str, left_out: list[str]) -> list[Trial]:
    """Return the trials *names* over an archive of the root file system, made in *directory*.

    *left_out* gets the reasons of what cannot be measured here.
    """
    reason = lacks(corpus.python, "pyfuse3", "sandbox")
    if reason is None and "python3" not in corpus.programs:
        reason = "the root file system has no python3 (see --root)"
    if reason is not None:
        left_out.append(f"{GROUP}: {reason}")
        return []
    os.mkdir(directory)
    archive = os.path.join(directory, "root.tar")
    subprocess.run(["tar", "-cf", archive, "-C", corpus.layers[-1], "."], check=True)
    ways = {
        BASE: _way(corpus, os.path.join(directory, "unpacked"), archive, mount=False),
        SUBJECT: _way(corpus, os.path.join(directory, "mounted"), archive, mount=True),
    }
    if shutil.which("pzstd") is None:
        left_out.append(f"{_FRAMES}: pzstd is not installed (apt-get install zstd)")
    else:
        subprocess.run(["pzstd", "-1", "-q", archive, "-o", f"{archive}.zst"], check=True)
        ways[_FRAMES] = _way(corpus, os.path.join(directory, "frames"), f"{archive}.zst", mount=True)
    works = {"first python": _first, "next python": _next} | {
        name: _inside(program) for name, program in _INSIDE.items()
    }

    def on(work: Callable[[_Way], Sample], way: _Way) -> Callable[[], Sample]:
        return lambda: work(way)

    return [
        Trial(
            name=name,
            group=GROUP,
            runs={system: on(works[name], way) for system, way in ways.items()},
            subject=SUBJECT,
            baseline=BASE,
        )
        for name in names
    ]

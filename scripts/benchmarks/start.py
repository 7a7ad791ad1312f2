"""Measure the start of `true` on the root file system: `sandbox up`, `podman run`, and `unshare` with `chroot`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measuring import Sample, Trial
from benchmarks.roots import enter, environment
from benchmarks.systems import BASELINE, lacks
from benchmarks.tools import run
from benchmarks.workload import PROJECT, Corpus

GROUP = "start"
NAME = "start of true"
SUMMARY = (
    "Start `true` on the root file system: sandbox up, podman run --rm --network=none, unshare and chroot."
)
SUBJECT, BASE = "sandbox", "podman"


@dataclass(frozen=True, slots=True)
class Starter:
    """A command that starts programs, and its environment."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]

    def spawn(self, *command: str) -> subprocess.Popen[bytes]:
        """Start *command* without waiting for it."""
        return subprocess.Popen(
            [*self.command, *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )


def sandbox(corpus: Corpus, directory: str) -> Starter:
    """Return the starter of `sandbox up`, with its state in *directory*."""
    spec = os.path.join(directory, "start.toml")
    with open(spec, "w") as file:
        file.write(f"[root]\nlayers = [{json.dumps('dir:' + corpus.layers[-1])}]\n")
        file.write('[process]\ncommand = ["true"]\n')
    installed = os.path.join(os.path.dirname(corpus.python), "sandbox")
    program = [installed] if os.access(installed, os.X_OK) else [corpus.python, "-m", "sandbox"]
    # Let Python write bytecode, as for users. Otherwise every start would compile the modules changed since the set-up.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    variables = {
        **kept,
        "PYTHONPATH": PROJECT,
        "SANDBOX_RUN_DIR": os.path.join(directory, "run"),  # the place of the writable layer
        **{f"XDG_{name}_HOME": os.path.join(directory, name.lower()) for name in ("STATE", "CACHE", "DATA")},
    }
    return Starter(SUBJECT, [*program, "up", spec, "--"], variables)


@contextlib.contextmanager
def podman(corpus: Corpus, directory: str) -> Iterator[Starter]:
    """Import the root file system into podman storage of its own, which fuse-overlayfs mounts, and yield the starter of
    podman.
    """
    for name in ("home", "runtime"):
        os.mkdir(os.path.join(directory, name), mode=0o700)
    variables = {
        "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin",
        "HOME": f"{directory}/home",
        "XDG_RUNTIME_DIR": f"{directory}/runtime",
        "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
    }
    command = [
        *("podman", "--root", f"{directory}/storage", "--runroot", f"{directory}/run"),
        *("--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
        *("--storage-opt", f"overlay.mount_program={shutil.which(BASELINE)}"),
    ]
    archive = os.path.join(directory, "root.tar")
    try:
        subprocess.run(["tar", "-cf", archive, "-C", corpus.layers[-1], "."], check=True)
        run([*command, "import", "--quiet", archive, "bench:1"], **variables)
        os.unlink(archive)
        yield Starter(BASE, [*command, "run", "--rm", "--network=none", "bench:1"], variables)
    finally:
        run([*command, "system", "reset", "--force"], **variables)
        # For an ordinary user, podman leaves a process that keeps its user namespace.
        try:
            with open(f"{directory}/runtime/libpod/tmp/pause.pid") as file:
                os.kill(int(file.read()), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass


def no_podman() -> str | None:
    """Return why podman cannot be measured here; None if it can."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    for names in (("podman",), (BASELINE,), ("crun", "runc")):
        if not any(shutil.which(name, path=path) for name in names):
            return f"{' or '.join(names)} is not installed (apt-get install {names[-1]})"
    return None


def find_starters(
    corpus: Corpus, directory: str, stack: contextlib.ExitStack, left_out: list[str]
) -> list[Starter]:
    """Return the starters that work here. *stack* cleans them up; *left_out* gets the reasons of the others."""
    found = []
    os.mkdir(directory)
    if (reason := lacks(corpus.python, "pyfuse3", "sandbox")) is None:
        found.append(sandbox(corpus, directory))
    else:
        left_out.append(f"{SUBJECT}: {reason}")
    if (reason := no_podman()) is None:
        try:
            found.append(stack.enter_context(podman(corpus, directory)))
        except (OSError, subprocess.SubprocessError) as error:
            reason = str(error)
    if reason is not None:
        left_out.append(f"{BASE}: {reason}")
    found.append(Starter("unshare", enter(corpus.layers[-1]), environment()))
    return found


def start(starter: Starter, *, at_once: int, times: int) -> Sample:
    """Start `true` *at_once* times in parallel, repeat that *times* times, and return the seconds of one repetition.

    Raises:
        OSError: a start failed.
    """
    begin = time.perf_counter()
    for _ in range(times):
        processes = [starter.spawn("true") for _ in range(at_once)]
        said = [process.communicate(timeout=120)[1] for process in processes]
        for process, text in zip(processes, said, strict=True):
            if process.returncode != 0:
                last = text.decode(errors="replace").strip().splitlines()[-3:]
                raise OSError(f"ended with {process.returncode}: {' / '.join(last)}")
    return Sample((time.perf_counter() - begin) / times, None)


def make_trial(starters: Sequence[Starter], *, at_once: int = 1, times: int = 1, name: str = NAME) -> Trial:
    """Return the trial that starts `true` with each of *starters*."""

    def by(starter: Starter) -> Callable[[], Sample]:
        return lambda: start(starter, at_once=at_once, times=times)

    return Trial(
        name=name,
        group=GROUP,
        runs={starter.name: by(starter) for starter in starters},
        subject=SUBJECT,
        baseline=BASE,
    )

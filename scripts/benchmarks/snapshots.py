"""Measure how long `sandbox snapshot` and `sandbox fork` stop a running program, by the number of changed files.

The program does small operations on files of the root in a loop. A sample is its longest iteration while the command runs, in a
sandbox of its own: the command freezes the layer, which is empty afterwards. "neither" is the longest iteration in a second
without a command, which shows what this machine alone does.

If the changed files have a second name, the command links all these names first, because only the link index leads from them to
the changed copies.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks.measuring import Sample, Trial
from benchmarks.workload import PROJECT

SUBJECT, BASE = "snapshot", "neither"
CHANGES = (100, 1000, 10_000)
_PER_DIRECTORY = 100
#: Seconds to wait for the program to change its files, and for a command.
_PATIENCE = 600
_PROGRAM = """
import os, select, sys, time

for number in range(int(sys.argv[1])):
    with open(f"/data/d{number // 100}/f{number}", "ab") as file:
        file.write(b"changed")
os.mkdir("/data/loop")
os.chdir("/data/loop")
print("ready", flush=True)
stdin, longest = sys.stdin.buffer.raw, 0
while True:
    if select.select([stdin], [], [], 0)[0]:
        if stdin.read(1) != b"b":
            break
        longest = 0
    begin = time.perf_counter()
    with open("new", "wb", buffering=0) as file:
        file.write(b"x")
    os.rename("new", "old")
    os.stat("old")
    with open("old", "rb", buffering=0) as file:
        file.read(1)
    os.listdir(".")
    os.unlink("old")
    longest = max(longest, time.perf_counter() - begin)
print(longest, flush=True)
"""


def make_trials(python: str, directory: str, scale: float) -> list[tuple[str, str, list[tuple[int, Trial]]]]:
    """Return the name, the unit and the points of each curve; the layers are made in the new *directory*."""
    os.mkdir(directory)
    counts = [max(10, round(each * scale)) for each in CHANGES]
    return [
        (
            f"longest stop of a program {what}",
            "changed files",
            [
                (count, _trial(python, os.path.join(directory, f"{count}-{names}"), count, names))
                for count in counts
            ],
        )
        for names, what in ((1, "during a snapshot"), (2, "during a snapshot, with names to link"))
    ]


def _trial(python: str, directory: str, changes: int, names: int) -> Trial:
    layer = os.path.join(directory, "layer")
    for number in range(changes):
        at = os.path.join(layer, "data", f"d{number // _PER_DIRECTORY}", f"f{number}")
        os.makedirs(os.path.dirname(at), exist_ok=True)
        with open(at, "wb") as file:
            file.write(b"old")
        if names > 1:
            os.link(at, f"{at}-name")
    serial = iter(range(1 << 30))

    def run(command: list[str]) -> Callable[[], Sample]:
        return lambda: Sample(
            _longest_stop(python, os.path.join(directory, str(next(serial))), layer, changes, command), None
        )

    runs = {
        SUBJECT: run(["snapshot", "bench", "one"]),
        "fork": run(["fork", "bench", "copy"]),
        BASE: run([]),
    }
    name = f"stop at {changes} changes" + (" with names to link" if names > 1 else "")
    return Trial(name=name, group="growth", runs=runs, subject=SUBJECT, baseline=BASE)


def _longest_stop(python: str, directory: str, layer: str, changes: int, command: list[str]) -> float:
    """Return the longest iteration of the program in a new sandbox over *layer*, in seconds, while *command* runs.

    Raises:
        OSError: the sandbox or the command failed.
    """
    os.mkdir(directory)
    spec = os.path.join(directory, "bench.toml")
    with open(spec, "w") as file:
        file.write(f'[sandbox]\nname = "bench"\n[root]\nlayers = ["dir:/", {json.dumps(f"dir:{layer}")}]\n')
        file.write('writable = "persistent"\n')
    environment = {
        **os.environ,
        "PYTHONPATH": PROJECT,
        "SANDBOX_STATE_DIR": os.path.join(directory, "state"),
        "SANDBOX_RUN_DIR": os.path.join(directory, "run"),
    }
    sandbox = [python, "-m", "sandbox"]
    program = [os.path.realpath(sys.executable), "-c", _PROGRAM, str(changes)]
    with _running([*sandbox, "up", spec, "--", *program], environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise OSError("the sandbox has not started")
        process.stdin.write(b"b")
        process.stdin.flush()
        time.sleep(0.2 if command else 1)
        if command:
            done = subprocess.run(
                [*sandbox, *command], env=environment, capture_output=True, timeout=_PATIENCE, check=False
            )
            if done.returncode != 0:
                raise OSError(done.stderr.decode(errors="replace").strip())
        process.stdin.write(b"e")
        process.stdin.flush()
        longest = float(process.stdout.readline())
        process.wait(_PATIENCE)
    things = ["layer:bench", *(["layer:copy"] if command[:1] == ["fork"] else [])]
    subprocess.run([*sandbox, "rm", *things], env=environment, check=True, stderr=subprocess.DEVNULL)
    return longest


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.terminate()

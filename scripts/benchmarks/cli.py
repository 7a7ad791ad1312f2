"""The command line of scripts/bench."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks import archives, counting, growth, imports, layers, measuring, networks, plot, report, start
from benchmarks.catalogue import WORKLOADS
from benchmarks.corpus import make_corpus
from benchmarks.systems import NAMES, ON_REQUEST, SUBJECT, Stack, System, find_python, find_systems
from benchmarks.workload import PROJECT, Corpus, Workload

DESCRIPTION = """\
Time the same work on unionfs, fuse-overlayfs, kernel OverlayFS and a plain directory, in turn.

Every measurement gets a fresh mount with an empty writable layer over the same lower layers. Systems take
turns within a round, in an order that rotates, so that a slow moment of the machine hits all of them. What
a workload saw (counts, sizes, checksums) is compared between the systems: a fast wrong answer is an error,
as is a workload that failed: exit status 1. Run it as root for kernel OverlayFS, cold caches and apt-get.
"""
EPILOG = """\
examples:
  scripts/bench --quick
  scripts/mkrootfs /tmp/debian.tar --include python3 && scripts/bench --root /tmp/debian.tar
  scripts/bench --on /dev/shm --on /var/tmp --json bench.json --plot bench.png
  scripts/bench --from docs/unionfs/ratios.json --plot docs/unionfs/ratios.svg
  scripts/bench --only git --only "stat storm" --systems unionfs,fuse-overlayfs
"""
LAYERED = tuple(workload for count in layers.COUNTS for workload in layers.workloads(count))
QUICK_SCALE = 0.1


def say(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="some workloads, a tenth of the work, two rounds")
    add("--rounds", type=int, metavar="N", help="measurements of each cell (default: 5)")
    add("--scale", type=float, metavar="F", help="a share of the work (default: 1)")
    add(
        "--only",
        metavar="NAME",
        action="append",
        help="the workloads whose name contains NAME, or a group: files, layers, start, import, archives, network; may be repeated",
    )
    add(
        "--systems",
        metavar="NAME,...",
        help=f"of {', '.join(NAMES)} (default: all that run here, of unionfs with its usual server)",
    )
    add(
        "--on",
        metavar="DIR",
        action="append",
        help="where layers and writable layers are; may be repeated: on tmpfs, on disk (default: $TMPDIR or /tmp)",
    )
    add(
        "--root",
        metavar="DIR|TAR",
        help="a Debian root file system to walk, read and run (default: made of a part of this machine's /usr)",
    )
    add(
        "--durable",
        action="store_true",
        help="sync what is synced, as for a writable layer that is kept (default: volatile, as for one that is not)",
    )
    add("--python", default=find_python(), help="runs unionfs and sandbox (default: that of $VENV or .venv)")
    add("--json", metavar="FILE", help="write every measurement to FILE")
    add("--plot", metavar="FILE", help="draw the ratios, as .png or .svg (needs matplotlib)")
    add("--from", dest="recorded", metavar="FILE", help="instead: print, and draw, what --json has written")
    add(
        "--growth", action="store_true", help="instead: how time grows with layers, entries, sizes, sandboxes"
    )
    add(
        "--requests",
        action="store_true",
        help="instead: how many requests each workload costs unionfs, by kind; not a matter of time",
    )
    add(
        "--handlers",
        action="store_true",
        help="instead: microseconds that each kind of request takes in unionfs itself, without the kernel",
    )
    add("--list", action="store_true", help="list the workloads and end")
    arguments = parser.parse_args(argv)
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.scale = arguments.scale or (QUICK_SCALE if arguments.quick else 1.0)
    if arguments.rounds < 1 or not 0 < arguments.scale <= 10:
        parser.error("--rounds takes a number of at least 1, --scale one above 0 and up to 10")
    if arguments.plot and (reason := plot.missing()) is not None:
        parser.error(f"--plot: {reason}")
    arguments.on = arguments.on or [tempfile.gettempdir()]
    return arguments


def choose_systems(wanted: str | None, available: Sequence[System], left_out: list[str]) -> list[System]:
    """Return the systems to measure. A system that cannot run is an error if it was requested; otherwise *left_out* gets
    the reason.
    """
    default = [system.name for system in available if system.name not in ON_REQUEST]
    names = wanted.split(",") if wanted else default
    if unknown := set(names) - {system.name for system in available}:
        raise SystemExit(
            f"bench: no system is named {', '.join(sorted(unknown))} (one of {', '.join(NAMES)})"
        )
    chosen = []
    for system in available:
        if system.name not in names:
            continue
        if system.missing is None:
            chosen.append(system)
        elif wanted:
            raise SystemExit(f"bench: {system.name}: {system.missing}")
        else:
            left_out.append(f"{system.name}: {system.missing}")
    return chosen


def wanted(name: str, group: str, only: Sequence[str] | None, *, quick: bool | None) -> bool:
    """Return whether a workload is chosen: by *only*, or otherwise unless --quick excludes it (*quick* is False)."""
    if only:
        return any(text == group or text in name for text in only)
    return quick is not False


def choose_workloads(
    all_of_them: Sequence[Workload], group: str, arguments: argparse.Namespace
) -> list[Workload]:
    """Return the workloads that the arguments select."""
    return [
        workload
        for workload in all_of_them
        if wanted(workload.name, group, arguments.only, quick=workload.quick if arguments.quick else None)
    ]


def runnable(chosen: Sequence[Workload], corpus: Corpus, left_out: list[str]) -> list[Workload]:
    """Return the workloads that can run here. *left_out* gets the reasons of the others."""
    able = []
    for workload in chosen:
        absent = [program for program in workload.needs if shutil.which(program) is None]
        reason = f"{' and '.join(absent)} missing" if absent else workload.missing(corpus)
        if reason is None:
            able.append(workload)
        else:
            left_out.append(f"{workload.name}: {reason}")
    return able


def filesystem_of(path: str) -> str:
    """Return the type of the file system that *path* is on."""
    done = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the facts that are needed to compare two results."""
    return {
        "kernel": platform.release(),
        "python": subprocess.run(
            [arguments.python, "-V"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
        "rounds": arguments.rounds,
        "scale": arguments.scale,
        "writable layers": "durable" if arguments.durable else "volatile",
    }


@contextlib.contextmanager
def scratch_in(directory: str) -> Any:
    """Yield a new directory in *directory*, and remove it at the end, regardless of the modes in it."""
    path = tempfile.mkdtemp(dir=directory, prefix="unionfs-bench-")
    try:
        os.chmod(path, 0o755)  # the servers may run as another user
        yield path
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", path], check=False)
        shutil.rmtree(path)


def corpus_for(arguments: argparse.Namespace, directory: str) -> Corpus:
    """Write the layers; an error ends the program."""
    try:
        return make_corpus(directory, root=arguments.root, scale=arguments.scale, python=arguments.python)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"bench: {error}") from error


def measure_place(
    arguments: argparse.Namespace, directory: str, systems: Sequence[System], left_out: Sequence[str]
) -> report.Place:
    """Run the chosen workloads in *directory*."""
    place = report.Place(directory=directory, file_system=filesystem_of(directory), left_out=[*left_out])
    chosen = choose_workloads(WORKLOADS, "files", arguments)
    layered = choose_workloads(LAYERED, layers.GROUP, arguments)
    starts = wanted(start.NAME, start.GROUP, arguments.only, quick=None)
    imported = [name for name in imports.NAMES if wanted(name, imports.GROUP, arguments.only, quick=None)]
    packed = [
        name
        for name in archives.SUMMARIES
        if wanted(name, archives.GROUP, arguments.only, quick=False if arguments.quick else None)
    ]
    connected = [
        name
        for name in networks.SUMMARIES
        if arguments.only and wanted(name, networks.GROUP, arguments.only, quick=None)
    ]
    if not (chosen or layered or starts or imported or packed or connected):
        raise SystemExit(f"bench: no workload is named {' or '.join(arguments.only)} (see --list)")
    with scratch_in(directory) as scratch, contextlib.ExitStack() as stack:
        say(f"making the layers in {directory} ...")
        corpus = corpus_for(arguments, scratch)
        say(f"the root file system is {corpus.origin}")
        files = Stack(scratch, corpus.layers)
        able = runnable(chosen, corpus, place.left_out)
        trials = [measuring.trial_of(workload, systems, files, corpus) for workload in able]
        os.mkdir(os.path.join(scratch, "layered"))
        trials += layers.make_trials(layered, systems, corpus, os.path.join(scratch, "layered"))
        starters: list[start.Starter] = []
        if (starts or connected) and arguments.systems is None:
            starters = start.find_starters(corpus, os.path.join(scratch, "start"), stack, place.left_out)
        if starts and starters:
            trials.append(start.make_trial(starters, times=corpus.amount(5, 1)))
        if connected and starters:
            at = os.path.join(scratch, "networks")
            podman = next((one for one in starters if one.name == start.BASE), None)
            trials += networks.make_trials(connected, corpus, at, podman, place.left_out)
        if imported and arguments.systems is None:
            trials += imports.make_trials(imported, corpus, os.path.join(scratch, "imports"), place.left_out)
        if packed and arguments.systems is None:
            at = os.path.join(scratch, "archives")
            trials += archives.make_trials(packed, corpus, at, place.left_out)
        place.rows = measuring.run(trials, arguments.rounds, say)
    return place


def measure_growth(arguments: argparse.Namespace, systems: Sequence[System], left_out: list[str]) -> int:
    """Measure the curves in the first directory, and print and draw them."""
    drawn, data, problems = [], [], []
    with scratch_in(arguments.on[0]) as scratch, contextlib.ExitStack() as stack:
        corpus = corpus_for(arguments, scratch)
        starters = start.find_starters(corpus, os.path.join(scratch, "start"), stack, left_out)
        for curve in growth.make_curves(systems, starters, corpus, os.path.join(scratch, "growth")):
            rows = measuring.run([trial for _, trial in curve.points], arguments.rounds, say)
            problems += [problem for row in rows for problem in row.problems]
            lines = growth.lines_of(curve, rows)
            drawn.append((curve.name, curve.unit, lines))
            data.append(
                {"name": curve.name, "unit": curve.unit, "lines": {x.system: x.points for x in lines}}
            )
            print(f"\n{curve.name}, by {curve.unit}")
            print("\n".join(report.table(rows, milliseconds=curve.milliseconds)))
    print("\n".join(f"left out: {reason}" for reason in left_out))
    if arguments.json:
        write_json(arguments.json, {"about": about(arguments), "curves": data, "problems": problems})
    status = tell(problems)
    if arguments.plot:
        plot.plot_growth(drawn, arguments.plot)
    return status


def count_requests(arguments: argparse.Namespace, systems: Sequence[System], left_out: list[str]) -> int:
    """Count the requests of the chosen workloads in the first directory, and print them."""
    ours = [system for system in systems if system.name == SUBJECT or system.name in ON_REQUEST]
    if not ours:
        raise SystemExit(f"bench: --requests counts those of {SUBJECT}, which is not among the systems")
    chosen = choose_workloads(WORKLOADS, "files", arguments)
    if not chosen:
        raise SystemExit(f"bench: no workload on files is named {' or '.join(arguments.only)} (see --list)")
    with scratch_in(arguments.on[0]) as scratch:
        corpus = corpus_for(arguments, scratch)
        able = runnable(chosen, corpus, left_out)
        print("\n".join(counting.table(able, ours, Stack(scratch, corpus.layers), corpus)))
    print("\n".join(f"left out: {reason}" for reason in left_out))
    return 0


def time_handlers(arguments: argparse.Namespace) -> int:
    """Run the handlers benchmark in the first directory, with the interpreter for unionfs, and return its exit status.

    unionfs uses an index of the layers, except for the system unionfs-unindexed.
    """
    places = os.pathsep.join((os.path.join(PROJECT, "scripts"), PROJECT))
    command = [arguments.python, "-m", "benchmarks.handlers", arguments.on[0]]
    known: dict[str, list[str]] = {SUBJECT: [], f"{SUBJECT}-unindexed": ["--unindexed"]}
    for name in (arguments.systems or SUBJECT).split(","):
        if name not in known:
            raise SystemExit(f"bench: --handlers times those of {' and '.join(known)}, not of {name}")
        print(f"{name}:", flush=True)
        status = subprocess.run(
            [*command, *known[name]], env={**os.environ, "PYTHONPATH": places}, check=False
        ).returncode
        if status:
            return status
    return 0


def write_json(path: str, value: object) -> None:
    """Write *value* to a file."""
    with open(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def show_recorded(arguments: argparse.Namespace) -> int:
    """Print and draw the measurements in a file that --json has written."""
    with open(arguments.recorded, encoding="utf-8") as file:
        recorded = json.load(file)
    places = [report.place_of(data) for data in recorded["places"]]
    print(", ".join(f"{key} {value}" for key, value in recorded["about"].items()))
    for place in places:
        print(f"\n{report.text_of(place)}")
    if arguments.plot:
        plot.plot_ratios(places, arguments.plot)
    return 0


def tell(problems: Sequence[str]) -> int:
    """Print the problems, and return the exit status."""
    for problem in problems:
        say(f"problem: {problem}")
    return 1 if problems else 0


def print_list() -> None:
    """Print the workloads by group."""
    everything = {"files": WORKLOADS, layers.GROUP: LAYERED}
    for group, workloads in everything.items():
        print(f"{group}:")
        for workload in workloads:
            print(f"  {workload.name:24}{workload.summary}{' (quick)' if workload.quick else ''}")
    print(f"{start.GROUP}:\n  {start.NAME:24}{start.SUMMARY} (quick)")
    print(f"{imports.GROUP}:")
    for name in imports.NAMES:
        print(f"  {name:24}{imports.SUMMARY} (quick)")
    print(f"{archives.GROUP}:")
    for name, summary in archives.SUMMARIES.items():
        print(f"  {name:24}{summary}")
    print(f"{networks.GROUP} (with --only):")
    for name, summary in networks.SUMMARIES.items():
        print(f"  {name:24}{summary}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a workload failed or the results of systems differ."""
    arguments = parse_arguments(argv)
    if arguments.list:
        print_list()
        return 0
    if arguments.recorded:
        return show_recorded(arguments)
    left_out: list[str] = []
    systems = choose_systems(
        arguments.systems, find_systems(arguments.python, durable=arguments.durable), left_out
    )
    for reason in left_out:
        say(f"left out: {reason}")
    # Exit normally on SIGTERM, so that the servers end and are unmounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    facts = about(arguments)
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    if arguments.growth:
        return measure_growth(arguments, systems, left_out)
    if arguments.handlers:
        return time_handlers(arguments)
    if arguments.requests:
        return count_requests(arguments, systems, left_out)
    places: list[report.Place] = []
    problems: list[str] = []
    for directory in arguments.on:
        # Print, write and draw each place as soon as it is measured, because the next one may take as long.
        places.append(place := measure_place(arguments, directory, systems, left_out))
        problems += [problem for row in place.rows for problem in row.problems]
        print(f"\n{report.text_of(place)}", flush=True)
        if arguments.json:
            data = [report.data_of(place) for place in places]
            write_json(arguments.json, {"about": facts, "places": data, "problems": problems})
        if arguments.plot:
            plot.plot_ratios(places, arguments.plot)
    return tell(problems)

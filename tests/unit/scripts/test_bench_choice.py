"""scripts/bench chooses workloads and systems, and makes their trees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks import cli, growth, layers
from benchmarks.catalogue import WORKLOADS
from benchmarks.cli import LAYERED, choose_systems, choose_workloads, parse_arguments, runnable, time_handlers
from benchmarks.corpus import choose_directories, files_in, make_program, make_wheel
from benchmarks.measuring import Row
from benchmarks.roots import copy_directory
from benchmarks.systems import Stack, System, is_mounted, merge, plain
from benchmarks.workload import Corpus, Workload


def corpus(**changes: object) -> Corpus:
    values: dict[str, object] = {
        "layers": ("/top", "/base"),
        "inputs": "/inputs",
        "directories": (),
        "files": (),
        "programs": (),
        "origin": "",
        "python": "python3",
        "scale": 1.0,
    }
    return Corpus(**{**values, **changes})  # type: ignore[arg-type]


def names(*argv: str, group: str = "files") -> list[str]:
    everything = WORKLOADS if group == "files" else LAYERED
    return [workload.name for workload in choose_workloads(everything, group, parse_arguments(argv))]


# -- workloads -----------------------------------------------------------------------------------------


def test_every_workload_has_a_unique_name_and_a_summary() -> None:
    everything = [*WORKLOADS, *LAYERED]
    assert len({workload.name for workload in everything}) == len(everything)
    assert [workload.name for workload in everything if not workload.summary.endswith(".")] == []


def test_without_arguments_every_workload_runs() -> None:
    assert names() == [workload.name for workload in WORKLOADS]
    assert len(names(group="layers")) == 2 * len(layers.COUNTS)


def test_quick_runs_a_part_of_the_workloads() -> None:
    assert 5 < len(names("--quick")) < len(WORKLOADS)


def test_only_selects_by_parts_of_names_and_groups_even_with_quick() -> None:
    assert names("--only", "git") == ["git add, commit", "git status", "git gc"]
    assert names("--quick", "--only", "git gc", "--only", "stat storm") == ["stat storm", "git gc"]
    assert names("--only", "files") == names()
    assert names("--only", "layers") == []
    assert names("--only", "500 layers", group="layers") == ["walk, 500 layers", "lookup, 500 layers"]


def test_a_workload_that_cannot_run_is_left_out_with_the_reason() -> None:
    def nothing(root: str, corpus: Corpus) -> object:
        return None

    left_out: list[str] = []
    able = runnable(
        [
            Workload("fine", nothing),
            Workload("a", nothing, needs=("no-such-program", "sh")),
            Workload("b", nothing, missing=lambda corpus: f"too small at {corpus.scale}"),
        ],
        corpus(scale=0.5),
        left_out,
    )
    assert [workload.name for workload in able] == ["fine"]
    assert left_out == ["a: no-such-program missing", "b: too small at 0.5"]


def test_an_amount_is_scaled_but_at_least_one() -> None:
    assert corpus(scale=0.5).amount(100) == 50
    assert corpus(scale=0.001).amount(100) == 2
    assert corpus(scale=0.001).amount(100, 40) == 40


# -- systems -------------------------------------------------------------------------------------------

SYSTEMS = [System(name="unionfs", missing=None), System(name="overlay", missing="needs root")]


def test_a_system_that_is_missing_is_named() -> None:
    left_out: list[str] = []
    assert [system.name for system in choose_systems(None, SYSTEMS, left_out)] == ["unionfs"]
    assert left_out == ["overlay: needs root"]


def test_a_requested_system_that_is_missing_is_an_error() -> None:
    with pytest.raises(SystemExit, match="overlay: needs root"):
        choose_systems("unionfs,overlay", SYSTEMS, [])
    with pytest.raises(SystemExit, match="no system is named zfs"):
        choose_systems("zfs", SYSTEMS, [])


@pytest.mark.parametrize(
    "argv", [["--rounds", "-1"], ["--scale", "0.0001", "--scale", "-1"], ["--scale", "99"]]
)
def test_invalid_numbers_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(argv)
    assert "--rounds takes" in capsys.readouterr().err


def test_a_mount_is_detected_without_a_request_to_it(tmp_path: Path) -> None:
    assert is_mounted("/proc")
    assert not is_mounted("/proc/self")
    assert not is_mounted(str(tmp_path / "absent"))


# -- trees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 50])
def test_any_number_of_layers_has_the_same_tree(tmp_path: Path, count: int) -> None:
    stack = layers.make_stack(str(tmp_path / "stack"), count, 45)
    assert stack.names == [str(number) for number in range(count)]
    with plain(stack, None) as root:
        found = {os.path.basename(path) for _, _, files in os.walk(root) for path in files}
        assert found == {f"e{number}" for number in range(45)}
        assert layers.walk(root, corpus())[0] == 45  # type: ignore[index]


def test_a_plain_copy_has_the_changed_parts_and_is_removed(tmp_path: Path) -> None:
    for layer, name in (("top", "a"), ("bottom", "b")):
        (tmp_path / layer / "part").mkdir(parents=True)
        (tmp_path / layer / "part" / name).write_text(layer)
        (tmp_path / layer / "other").mkdir()
    (tmp_path / "top" / "part" / "b").write_text("top")
    stack = Stack(str(tmp_path), [str(tmp_path / "top"), str(tmp_path / "bottom")])
    with plain(stack, ["part"]) as root:
        assert os.listdir(root) == ["part"]
        assert sorted(os.listdir(f"{root}/part")) == ["a", "b"]
        assert Path(root, "part", "b").read_text() == "top"
    assert not os.path.exists(root)


def test_parts_that_no_layer_has_are_empty_directories(tmp_path: Path) -> None:
    merge([str(tmp_path)], str(tmp_path / "copy"), "absent")
    assert os.listdir(tmp_path / "copy" / "absent") == []


def test_chosen_directories_are_the_same_every_time_and_from_all_of_the_tree(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"d{number:02}").mkdir()
        for name in ("x", "y", "z"):
            (tmp_path / f"d{number:02}" / name).write_text(name)
    chosen = choose_directories(str(tmp_path), 30)
    assert chosen == choose_directories(str(tmp_path), 30)
    assert chosen == sorted(chosen)
    assert 1 < len(chosen) <= 11
    assert chosen != sorted(os.listdir(tmp_path))[: len(chosen)]
    assert len(choose_directories(str(tmp_path), 10_000)) == 41
    assert len(files_in(str(tmp_path), choose_directories(str(tmp_path), 10_000))) == 120


def test_the_copy_of_usr_keeps_links_and_omits_large_files(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "inner").mkdir(parents=True)
    target.mkdir()
    (source / "small").write_text("small")
    (source / "link").symlink_to("nowhere")
    with open(source / "large", "wb") as file:
        file.truncate(5 << 20)
    assert copy_directory(str(source), str(target)) == 3
    copy = Path(str(target) + str(source))
    assert sorted(os.listdir(copy)) == ["inner", "link", "small"]
    assert os.readlink(copy / "link") == "nowhere"


def test_the_wheel_is_a_package_with_the_given_number_of_modules(tmp_path: Path) -> None:
    make_wheel(str(tmp_path), 3)
    (wheel,) = tmp_path.iterdir()
    script = "import sys; sys.path.insert(0, sys.argv[1]); from benchwheel import m2; print(m2.f(1))"
    done = subprocess.run(
        ["python3", "-c", script, wheel], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "3\n"


def test_the_program_has_the_given_number_of_sources_and_a_main(tmp_path: Path) -> None:
    make_program(str(tmp_path), 4)
    assert sorted(os.listdir(tmp_path)) == [
        "Makefile",
        *("all.h", "f0.c", "f1.c", "f2.c", "f3.c", "main.c"),
    ]


# -- growth --------------------------------------------------------------------------------------------


def test_a_line_has_the_medians_of_one_system_without_failed_points() -> None:
    curve = growth.Curve("walk", "layers", [(1, None), (10, None)])  # type: ignore[list-item]
    rows = [
        Row(name="1", group="g", subject="a", baseline="b", seconds={"a": [1.0, 3.0, 2.0], "b": [1.0]}),
        Row(name="10", group="g", subject="a", baseline="b", seconds={"a": [5.0], "b": []}),
    ]
    assert growth.lines_of(curve, rows) == [
        growth.Line("a", [(1, 2.0), (10, 5.0)]),
        growth.Line("b", [(1, 1.0)]),
    ]


def test_handlers_are_timed_for_unionfs_with_and_without_an_index_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        started.append(command[3:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(cli.subprocess, "run", run)
    both = ("--handlers", "--on", "/a", "--systems", "unionfs,unionfs-unindexed")
    assert time_handlers(parse_arguments(both)) == 0
    assert started == [["/a"], ["/a", "--unindexed"]]
    assert capsys.readouterr().out == "unionfs:\nunionfs-unindexed:\n"
    with pytest.raises(SystemExit, match="not of native"):
        time_handlers(parse_arguments(("--handlers", "--systems", "native")))

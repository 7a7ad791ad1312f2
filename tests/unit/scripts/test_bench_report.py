"""scripts/bench takes turns, computes ratios, and prints the measurements."""

from __future__ import annotations

import json

import pytest

from benchmarks.measuring import Row, Sample, Trial, disagreement, run, turns
from benchmarks.report import (
    Place,
    data_of,
    geometric_mean,
    geometric_means,
    groups,
    place_of,
    ratios,
    slower,
    table,
    text_of,
)


def row(name: str = "walk", *, group: str = "files", **seconds: list[float]) -> Row:
    named = {system.replace("_", "-"): values for system, values in seconds.items()}
    return Row(name=name, group=group, subject="unionfs", baseline="fuse-overlayfs", seconds=named)


# -- taking turns --------------------------------------------------------------------------------------


def test_each_system_has_each_place_in_the_order_equally_often() -> None:
    systems = ["a", "b", "c", "d"]
    orders = [turns(systems, number) for number in range(8)]
    assert all(sorted(order) == systems for order in orders)
    for place in range(4):
        assert sorted(order[place] for order in orders) == sorted(systems * 2)


def test_systems_take_turns_within_a_round() -> None:
    done: list[str] = []

    def on(name: str) -> Sample:
        done.append(name)
        return Sample(1.0, "same")

    trial = Trial(name="walk", group="files", runs={"a": lambda: on("a"), "b": lambda: on("b")})
    (result,) = run([trial], 3, lambda _: None)
    assert done == ["a", "b", "b", "a", "a", "b"]
    assert result.seconds == {"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0]}
    assert result.problems == []


def test_a_failure_is_a_problem_of_its_system_and_the_others_go_on() -> None:
    def fails() -> Sample:
        raise OSError("no such luck")

    trial = Trial(name="walk", group="files", runs={"a": fails, "b": lambda: Sample(1.0, None)})
    (result,) = run([trial], 2, lambda _: None)
    assert result.seconds == {"a": [], "b": [1.0, 1.0]}
    assert result.problems == ["walk on a: no such luck"] * 2


def test_a_bug_in_a_workload_is_no_failure_of_a_system() -> None:
    def mistaken() -> Sample:
        raise TypeError

    with pytest.raises(TypeError):
        run([Trial(name="walk", group="files", runs={"a": mistaken})], 1, lambda _: None)


def test_a_wrong_result_is_a_problem() -> None:
    runs = {"a": lambda: Sample(1.0, 7), "b": lambda: Sample(0.1, 8)}
    (result,) = run([Trial(name="walk", group="files", runs=runs)], 1, lambda _: None)
    assert result.problems == ["walk: the systems disagree on what was there: a saw 7; b saw 8"]


def test_a_result_that_differs_between_rounds_is_a_disagreement() -> None:
    assert disagreement({"a": [1, 2]}) == "a saw 1 or 2"
    assert disagreement({"a": [1, 1], "b": [1]}) is None
    assert disagreement({}) is None


# -- ratios --------------------------------------------------------------------------------------------


def test_a_ratio_is_that_of_medians() -> None:
    measured = row(unionfs=[1.0, 9.0, 2.0], fuse_overlayfs=[4.0, 4.0, 100.0])
    assert ratios(measured) == {"unionfs": 0.5, "fuse-overlayfs": 1.0}


def test_there_are_no_ratios_without_the_baseline() -> None:
    assert ratios(row(unionfs=[1.0])) == {}
    assert ratios(row(unionfs=[1.0], fuse_overlayfs=[])) == {}


def test_a_system_that_failed_has_no_ratio() -> None:
    assert ratios(row(unionfs=[], fuse_overlayfs=[1.0])) == {"fuse-overlayfs": 1.0}


def test_half_and_double_have_the_mean_1() -> None:
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([0.1, 0.1, 0.1]) == pytest.approx(0.1)


def test_the_mean_of_a_system_is_over_the_workloads_that_it_completed() -> None:
    rows = [
        row("a", unionfs=[1.0], overlay=[1.0], fuse_overlayfs=[4.0]),
        row("b", unionfs=[4.0], overlay=[], fuse_overlayfs=[1.0]),
    ]
    assert geometric_means(rows) == pytest.approx({"unionfs": 1.0, "overlay": 0.25, "fuse-overlayfs": 1.0})


def test_slower_workloads_are_named_the_worst_first() -> None:
    rows = [
        row("a", unionfs=[1.5], fuse_overlayfs=[1.0]),
        row("b", unionfs=[3.0], fuse_overlayfs=[1.0]),
        row("c", unionfs=[1.0], fuse_overlayfs=[1.0]),
        row("d", unionfs=[7.0]),
    ]
    assert slower(rows) == [("b", 3.0), ("a", 1.5)]


# -- what is printed and written -----------------------------------------------------------------------


def test_the_table_shows_medians_ratios_and_failures() -> None:
    rows = [
        row("walk", unionfs=[0.5, 0.5], fuse_overlayfs=[1.0, 1.0], overlay=[0.1]),
        row("untar", unionfs=[2.0], fuse_overlayfs=[1.0], overlay=[]),
    ]
    assert [line.split() for line in table(rows)] == [
        ["median", "seconds", "(ratio)", "unionfs", "fuse-overlayfs", "overlay"],
        ["walk", "0.500", "(", "0.50)", "1.000", "(", "1.00)", "0.100", "(", "0.10)"],
        ["untar", "2.000", "(", "2.00)", "1.000", "(", "1.00)", "failed"],
        ["geometric", "mean", "of", "ratios", "(", "1.00)", "(", "1.00)", "(", "0.10)"],
    ]
    assert len({len(line) for line in table(rows)}) == 1


def test_systems_that_did_not_run_are_named_below_the_table() -> None:
    place = Place(directory="/d", file_system="tmpfs", rows=[row(unionfs=[1.0])])
    place.left_out = ["fuse-overlayfs: not installed"]
    text = text_of(place)
    assert text.startswith("on /d (tmpfs):")
    assert text.endswith("left out: fuse-overlayfs: not installed")


def test_groups_with_systems_of_their_own_have_tables_of_their_own() -> None:
    start = Row(name="start", group="start", subject="sandbox", baseline="podman", seconds={"sandbox": [1.0]})
    rows = [row("a", unionfs=[1.0]), start, row("b", unionfs=[1.0])]
    assert {name: [r.name for r in some] for name, some in groups(rows).items()} == {
        "files": ["a", "b"],
        "start": ["start"],
    }
    text = text_of(Place(directory="/d", file_system="tmpfs", rows=rows))
    assert text.count("median seconds") == 2


def test_the_data_holds_every_measurement_and_can_be_written_as_json() -> None:
    measured = row(unionfs=[1.0, 3.0], fuse_overlayfs=[4.0, 4.0])
    data = data_of(Place(directory="/d", file_system="tmpfs", rows=[measured]))
    assert json.loads(json.dumps(data)) == data
    assert data["rows"] == [
        {
            "name": "walk",
            "group": "files",
            "subject": "unionfs",
            "baseline": "fuse-overlayfs",
            "seconds": {"unionfs": [1.0, 3.0], "fuse-overlayfs": [4.0, 4.0]},
            "server_cpu_seconds": {},
            "ratios": {"unionfs": 0.5, "fuse-overlayfs": 1.0},
            "problems": [],
        }
    ]
    assert data["geometric_means"] == {"files": {"unionfs": 0.5, "fuse-overlayfs": 1.0}}


def test_a_place_is_the_same_after_it_was_written_and_read() -> None:
    place = Place(
        directory="/dev/shm",
        file_system="tmpfs",
        rows=[row(unionfs=[1.0, 2.0], fuse_overlayfs=[2.0, 4.0]), row("start", group="start", unionfs=[3.0])],
        left_out=["overlay: needs root"],
    )
    assert place_of(json.loads(json.dumps(data_of(place)))) == place

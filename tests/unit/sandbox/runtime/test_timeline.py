"""The phases of a start, calculated from the marks of its steps."""

from __future__ import annotations

import time

from sandbox.runtime.timeline import Timeline

MS = 1_000_000


def made() -> Timeline:
    timeline = Timeline(1000 * MS)
    for number, name in enumerate(("imported", "read", "planned", "prepared", "namespaces", "mounted"), 1):
        timeline.mark(name, (1000 + number * 10) * MS)
    return timeline


def test_each_phase_lasts_from_the_mark_before_it_and_the_servers_go_beside_them() -> None:
    timeline = made()
    timeline.mark("settled", 1065 * MS)
    timeline.mark("started", 1072 * MS)
    timeline.mark_server({"ready": 1064 * MS, "loaded": 1040 * MS, "asked": 1061 * MS, "unknown": 5})
    assert timeline.phases() == [
        ("interpreter, command line", 10.0),
        ("environment file", 10.0),
        ("this machine, plan", 10.0),
        ("layers, filters, cgroup", 10.0),
        ("namespaces", 10.0),
        ("root mounted", 10.0),
        ("other mounts", 5.0),
        ("program executed", 7.0),
        ("server: interpreter, imports", 30.0),
        ("server: waited for the layers", 21.0),
        ("server: confined, layers opened", 3.0),
    ]
    assert timeline.lines()[0] == "started in 72 ms"
    assert timeline.lines()[1] == "  interpreter, command line           10.0 ms"
    assert timeline.as_list()[0] == {"phase": "interpreter, command line", "milliseconds": 10.0}


def test_of_a_start_that_failed_there_is_what_there_was() -> None:
    assert made().lines()[0] == "not started"
    assert len(made().lines()) == 7
    assert Timeline(0).lines() == ["not started"]


def test_what_is_marked_without_a_time_is_marked_now_and_only_once() -> None:
    timeline = Timeline(time.monotonic_ns())
    timeline.mark("imported")
    first = timeline.phases()
    timeline.mark("imported", 5)
    assert timeline.phases() == first
    assert first[0][1] >= 0

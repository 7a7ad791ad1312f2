"""Resource limits."""

from __future__ import annotations

import os
import resource
import time

import pytest

from sandbox.kernel import rlimits

HARD = dict.fromkeys(rlimits.RESOURCES, 1000)


@pytest.mark.parametrize(("value", "encoded"), [(0, 0), (5, 5), (2**40, 2**40), ("unlimited", -1)])
def test_values_become_what_setrlimit_takes(value, encoded):
    assert rlimits.encode("core", value) == encoded


@pytest.mark.parametrize("value", [-1, 2**63, True, "many", 1.5])
def test_a_value_that_is_no_limit_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r'core: expected a number from 0 to 2\^63-1 or "unlimited", found'):
        rlimits.encode("core", value)


def test_an_unknown_limit_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="unknown limit 'memory': one of open_files, processes"):
        rlimits.encode("memory", 1)


def test_limits_up_to_the_hard_limit_pass():
    rlimits.check({"stack": 1000, "core": 0, "cpu_time": 999}, HARD)


@pytest.mark.parametrize("value", [1001, "unlimited"])
def test_a_limit_above_the_hard_limit_is_refused_with_the_hard_limit(value):
    with pytest.raises(ValueError, match=f"stack: {value} is above this process's hard limit of 1000$"):
        rlimits.check({"stack": value}, HARD)


def test_under_an_unlimited_hard_limit_everything_passes():
    rlimits.check({"stack": "unlimited"}, {"stack": rlimits.UNLIMITED})
    rlimits.check({"stack": 2**50}, {"stack": rlimits.UNLIMITED})


def test_who_may_raise_hard_limits_may_go_above_them_but_not_above_the_kernel_s_maximum():
    rlimits.check({"open_files": 5000}, HARD, may_raise=True, max_open_files=6000)
    for value in (7000, "unlimited"):
        with pytest.raises(ValueError, match=r"above the kernel's maximum of 6000 \(fs.nr_open\)"):
            rlimits.check({"open_files": value}, HARD, may_raise=True, max_open_files=6000)


def applied(limits: dict[str, rlimits.Value], hard: int) -> list[tuple[int, tuple[int, int]]]:
    calls: list[tuple[int, tuple[int, int]]] = []
    rlimits.apply(limits, set_limit=lambda *call: calls.append(call), get_limit=lambda _: (0, hard))
    return calls


def test_apply_sets_soft_and_hard_alike():
    assert applied({"core": 0, "stack": 5, "cpu_time": "unlimited"}, -1) == [
        (resource.RLIMIT_CORE, (0, 0)),
        (resource.RLIMIT_STACK, (5, 5)),
        (resource.RLIMIT_CPU, (-1, -1)),
    ]


@pytest.mark.parametrize(
    ("value", "inherited", "hard"),
    [(1, -1, 2), (1, 100, 2), (9, 10, 10), (9, 9, 9), (2**63 - 1, -1, 2**63 - 1), (9, 5, 9)],
)
def test_the_hard_limit_of_cpu_time_is_a_second_above_as_the_kernel_looks_at_it_first(value, inherited, hard):
    # With equal limits, the program would get SIGKILL without SIGXCPU. Above the inherited hard limit the kernel refuses.
    assert applied({"cpu_time": value}, inherited) == [(resource.RLIMIT_CPU, (value, hard))]


def test_apply_checks_every_value_before_it_sets_the_first():
    calls: list[tuple[int, tuple[int, int]]] = []
    with pytest.raises(ValueError, match="stack"):
        rlimits.apply({"core": 0, "stack": -3}, set_limit=lambda *call: calls.append(call))
    assert calls == []


def test_the_kernel_s_refusal_names_the_limit():
    def refuse(number: int, pair: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    with pytest.raises(ValueError, match="open_files: not allowed to raise"):
        rlimits.apply({"open_files": 1}, set_limit=refuse)


def test_current_hard_limits_are_those_of_this_process():
    assert rlimits.current_hard_limits()["open_files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert set(rlimits.current_hard_limits()) == set(rlimits.RESOURCES)


def test_applied_limits_hold_in_the_process_that_applied_them():
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            rlimits.apply({"open_files": 40, "core": 0})
            limits = [resource.getrlimit(number) for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)]
            status = 0 if limits == [(40, 40), (0, 0)] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_counted_cpu_time_of_a_process_that_has_ended_leaves_its_children_out():
    pid = os.fork()
    if pid == 0:
        child = os.fork()
        end = 0.1 if child else 0.5
        while time.process_time() < end:
            pass
        if child:
            os.waitpid(child, 0)
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    counted = rlimits.counted_cpu_time(pid)
    _, _, usage = os.wait4(pid, 0)
    assert counted is not None
    assert 0.05 < counted < 0.4 < usage.ru_utime + usage.ru_stime
    assert rlimits.counted_cpu_time(pid) is None

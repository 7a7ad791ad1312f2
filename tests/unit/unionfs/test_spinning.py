"""Looking for the next request without sleeping goes on only where it pays."""

from __future__ import annotations

from unionfs.fuse.spinning import SPINS, Spinning


def test_it_goes_on_while_a_third_of_the_waits_end_so() -> None:
    spinning = Spinning()
    for number in range(640):
        assert spinning.times() == SPINS
        spinning.judge(hit=number % 2 == 0)


def test_it_rests_after_a_trial_that_brought_little_and_then_tries_again() -> None:
    spinning = Spinning()
    for number in range(64):
        assert spinning.times() == SPINS
        spinning.judge(hit=number % 4 == 0)
    assert [spinning.times() for _ in range(64)] == [0] * 64
    assert spinning.times() == SPINS


def test_alone_on_one_processor_nobody_is_waited_for() -> None:
    assert Spinning(0).times() == 0

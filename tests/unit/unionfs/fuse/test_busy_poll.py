"""Busy polling continues only as long as it pays."""

from __future__ import annotations

from itertools import pairwise

from unionfs.fuse.busy_poll import SPINS, WINDOW, BusyPoll


def rests_after(busy_poll: BusyPoll, *, of_four: int) -> int:
    """Let this many of four waits end while polling, until polling pauses. Return the length of the pause in waits."""
    for number in range(32):
        assert busy_poll.times() == SPINS
        busy_poll.judge(hit=number % 4 < of_four)
    rested = 0
    while busy_poll.times() == 0:
        rested += 1
    return rested


def test_it_goes_on_while_half_of_the_waits_end_so() -> None:
    busy_poll = BusyPoll()
    for number in range(640):
        assert busy_poll.times() == SPINS
        busy_poll.judge(hit=number % 2 == 0)


def test_it_rests_after_a_trial_that_brought_little_longer_each_time() -> None:
    busy_poll = BusyPoll()
    rests = [rests_after(busy_poll, of_four=1)]
    for _ in range(9):
        busy_poll.judge(hit=False)  # the wait that ended the pause
        for _ in range(31):
            assert busy_poll.times() == SPINS
            busy_poll.judge(hit=False)
        rested = 0
        while busy_poll.times() == 0:
            rested += 1
        rests.append(rested)
    assert rests == [64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096, 4096]


def test_after_a_trial_that_paid_it_rests_no_longer_than_at_first() -> None:
    busy_poll = BusyPoll()
    assert rests_after(busy_poll, of_four=0) == 64
    busy_poll.judge(hit=True)
    for _ in range(31):
        busy_poll.judge(hit=True)
    assert rests_after(busy_poll, of_four=0) == 64


def test_alone_on_one_processor_nobody_is_waited_for() -> None:
    assert BusyPoll(0).times() == 0


def window(busy_poll: BusyPoll, waits: int) -> list[int]:
    """Pass one window of requests, of which this many had to be waited for. Return the number of polls of each wait."""
    looked = []
    for _ in range(waits):
        looked.append(busy_poll.times())
        if looked[-1]:
            busy_poll.judge(hit=True)
    busy_poll.passed()
    return looked


def test_it_does_not_look_while_most_requests_are_there_without_waiting() -> None:
    busy_poll = BusyPoll()
    window(busy_poll, 2)
    for _ in range(5):
        assert window(busy_poll, WINDOW // 2 - 1) == [0] * (WINDOW // 2 - 1)
    assert window(busy_poll, WINDOW)[-1] == 0, "the first window of another kind is noticed at its end"
    assert window(busy_poll, WINDOW)[-1] == SPINS


def test_after_an_idle_time_it_is_tried_without_looking() -> None:
    busy_poll = BusyPoll()
    assert window(busy_poll, WINDOW) == [SPINS] * WINDOW
    busy_poll.idle()
    looked = window(busy_poll, WINDOW)
    assert looked == [0] * 16 + [SPINS] * (WINDOW - 16)


def test_looking_for_long_is_interrupted_to_try_without_and_more_rarely_each_time() -> None:
    busy_poll = BusyPoll()
    tries = [number for number in range(4000) if 0 in window(busy_poll, WINDOW)]
    assert [after - before for before, after in pairwise(tries)] == [128, 256, 512, 1024, 1024]
    window(busy_poll, 0)
    window(busy_poll, WINDOW)
    tries = [number for number in range(200) if 0 in window(busy_poll, WINDOW)]
    assert [after - before for before, after in pairwise(tries)] == [128], (
        "once it was worth it, it is tried again soon"
    )

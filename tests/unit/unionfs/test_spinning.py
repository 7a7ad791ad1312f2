"""Looking for the next request without sleeping goes on only where it pays."""

from __future__ import annotations

from itertools import pairwise

from unionfs.fuse.spinning import SPINS, WINDOW, Spinning


def rests_after(spinning: Spinning, *, of_four: int) -> int:
    """Have so many of four waits end while looking until it rests; returns for how many waits it does."""
    for number in range(32):
        assert spinning.times() == SPINS
        spinning.judge(hit=number % 4 < of_four)
    rested = 0
    while spinning.times() == 0:
        rested += 1
    return rested


def test_it_goes_on_while_half_of_the_waits_end_so() -> None:
    spinning = Spinning()
    for number in range(640):
        assert spinning.times() == SPINS
        spinning.judge(hit=number % 2 == 0)


def test_it_rests_after_a_trial_that_brought_little_longer_each_time() -> None:
    spinning = Spinning()
    rests = [rests_after(spinning, of_four=1)]
    for _ in range(9):
        spinning.judge(hit=False)  # the wait that ended the rest
        for _ in range(31):
            assert spinning.times() == SPINS
            spinning.judge(hit=False)
        rested = 0
        while spinning.times() == 0:
            rested += 1
        rests.append(rested)
    assert rests == [64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096, 4096]


def test_after_a_trial_that_paid_it_rests_no_longer_than_at_first() -> None:
    spinning = Spinning()
    assert rests_after(spinning, of_four=0) == 64
    spinning.judge(hit=True)
    for _ in range(31):
        spinning.judge(hit=True)
    assert rests_after(spinning, of_four=0) == 64


def test_alone_on_one_processor_nobody_is_waited_for() -> None:
    assert Spinning(0).times() == 0


def window(spinning: Spinning, waits: int) -> list[int]:
    """Have as many requests come as a window holds, that many of which were waited for; returns how often each looked."""
    looked = []
    for _ in range(waits):
        looked.append(spinning.times())
        if looked[-1]:
            spinning.judge(hit=True)
    spinning.passed()
    return looked


def test_it_does_not_look_while_most_requests_are_there_without_waiting() -> None:
    spinning = Spinning()
    window(spinning, 2)
    for _ in range(5):
        assert window(spinning, WINDOW // 2 - 1) == [0] * (WINDOW // 2 - 1)
    assert window(spinning, WINDOW)[-1] == 0, "the first window of another kind is noticed at its end"
    assert window(spinning, WINDOW)[-1] == SPINS


def test_after_an_idle_time_it_is_tried_without_looking() -> None:
    spinning = Spinning()
    assert window(spinning, WINDOW) == [SPINS] * WINDOW
    spinning.idle()
    looked = window(spinning, WINDOW)
    assert looked == [0] * 16 + [SPINS] * (WINDOW - 16)


def test_looking_for_long_is_interrupted_to_try_without_and_more_rarely_each_time() -> None:
    spinning = Spinning()
    tries = [number for number in range(4000) if 0 in window(spinning, WINDOW)]
    assert [after - before for before, after in pairwise(tries)] == [128, 256, 512, 1024, 1024]
    window(spinning, 0)
    window(spinning, WINDOW)
    tries = [number for number in range(200) if 0 in window(spinning, WINDOW)]
    assert [after - before for before, after in pairwise(tries)] == [128], (
        "once it was worth it, it is tried again soon"
    )

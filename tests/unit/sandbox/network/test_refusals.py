"""Which refusals become lines of the log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.network.refusals import LONGEST_TEXT, MOST_LINES, PERIOD, RefusalLine, RefusalLog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_destination_is_logged_once_a_minute_and_every_refusal_counts() -> None:
    clock, lines = Clock(), list[RefusalLine]()
    log = RefusalLog(lines.append, clock)
    for _ in range(3):
        log.add(RefusalLine("a:1", "no rule", "line"))
        log.add(RefusalLine("b:1", "no rule", ""))
    clock.now += PERIOD - 1
    log.add(RefusalLine("a:1", "no rule", "line"))
    assert [line.destination for line in lines] == ["a:1", "b:1"]
    clock.now += 1
    log.add(RefusalLine("a:1", "no rule", "line"))
    assert [line.destination for line in lines] == ["a:1", "b:1", "a:1"]
    assert (log.total, log.not_logged) == (8, 0)


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 10)), max_size=400))
def test_no_period_has_more_lines_than_the_limit_or_two_of_one_destination(
    steps: list[tuple[int, float]],
) -> None:
    clock = Clock()
    times: list[tuple[float, str]] = []
    log = RefusalLog(lambda line: times.append((clock.now, line.destination)), clock)
    for number, pause in steps:
        clock.now += pause
        log.add(RefusalLine(str(number), "", ""))
    for index, (start, _) in enumerate(times):
        within = [name for at, name in times[index:] if at - start < PERIOD]
        assert len(within) <= MOST_LINES
        assert len(within) == len(set(within))
    assert log.total == len(steps)


def test_a_text_of_thousands_of_rules_is_not_logged_and_an_incomplete_remedy_neither() -> None:
    lines = list[RefusalLine]()
    log = RefusalLog(lines.append, Clock())
    log.add(RefusalLine("a:1", "r" * (LONGEST_TEXT + 1), "a" * (LONGEST_TEXT + 1)))
    log.add(RefusalLine("b:1", "r" * LONGEST_TEXT, "a" * LONGEST_TEXT))
    assert [(len(line.reason), len(line.remedy)) for line in lines] == [
        (LONGEST_TEXT, 0),
        (LONGEST_TEXT,) * 2,
    ]

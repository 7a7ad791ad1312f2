"""The queue between two threads: order, bounds, and both ways to end."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.images.bounded_queue import BoundedQueue, ConsumerGoneError

PATIENCE = 60


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 50), max_size=60), limit=st.integers(1, 100))
def test_all_items_arrive_in_order_and_never_exceed_the_limit_by_more_than_one(
    sizes: list[int], limit: int
) -> None:
    queue: BoundedQueue[int] = BoundedQueue(limit)
    highest = 0

    def produce() -> None:
        nonlocal highest
        for number, size in enumerate(sizes):
            queue.put(number, size)
            highest = max(highest, queue._size)
        queue.end()

    thread = threading.Thread(target=produce)
    thread.start()
    found = list(iter(queue.get, None))
    thread.join(PATIENCE)
    assert found == list(range(len(sizes)))
    assert highest < limit + 51


def test_a_full_queue_makes_the_producer_wait_until_an_item_is_taken() -> None:
    queue: BoundedQueue[str] = BoundedQueue(10)
    queue.put("a", 10)
    thread = threading.Thread(target=queue.put, args=("b", 1))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    assert queue.get() == "a"
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_producer_that_waits_is_told_when_the_consumer_has_gone() -> None:
    queue: BoundedQueue[str] = BoundedQueue(1)
    queue.put("a", 1)
    caught: list[BaseException] = []

    def produce() -> None:
        try:
            queue.put("b", 1)
        except ConsumerGoneError as error:
            caught.append(error)

    thread = threading.Thread(target=produce)
    thread.start()
    queue.close()
    thread.join(PATIENCE)
    assert len(caught) == 1
    with pytest.raises(ConsumerGoneError):
        queue.put("c", 1)


def test_a_consumer_that_waits_gets_the_end_when_the_queue_is_closed() -> None:
    queue: BoundedQueue[str] = BoundedQueue(1)
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(queue.get()))
    thread.start()
    queue.close()
    thread.join(PATIENCE)
    assert found == [None]


def test_an_error_of_the_producer_comes_after_its_items_and_stays() -> None:
    queue: BoundedQueue[str] = BoundedQueue(10)
    queue.put("a", 1)
    queue.end(ValueError("reason"))
    assert queue.get() == "a"
    for _ in range(2):
        with pytest.raises(ValueError, match="reason"):
            queue.get()


def test_only_the_first_end_counts() -> None:
    queue: BoundedQueue[str] = BoundedQueue(10)
    queue.end(ValueError("reason"))
    queue.end()
    with pytest.raises(ValueError, match="reason"):
        queue.get()
    other: BoundedQueue[str] = BoundedQueue(10)
    other.end()
    other.end(ValueError("late"))
    assert other.get() is None

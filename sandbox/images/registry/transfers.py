"""Run transfers in threads, a few at once. The first that fails ends the others."""

from __future__ import annotations

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")

AT_ONCE = 4
"""Transfers at once: what one connection lacks in speed, a few together have."""


def run_transfers(
    transfers: Sequence[Callable[[], T]], cancel: Callable[[], None], *, at_once: int = AT_ONCE
) -> list[T]:
    """Run *transfers* in threads, at most *at_once* at the same time; return their results in their order.

    All threads have ended when the function returns or raises.

    Args:
        transfers: the functions to call.
        cancel: ends the transfers that are running, such as :meth:`RegistryClient.cancel`. It is called at the first failure,
            and if the caller is interrupted.
        at_once: the number of threads.

    Raises:
        Exception: what the first transfer that failed has raised.
    """
    import threading
    from concurrent.futures import ThreadPoolExecutor, wait

    from sandbox.images.registry.failures import CancelledError

    stopped = threading.Event()
    failures: list[BaseException] = []

    def stop() -> None:
        stopped.set()
        cancel()

    def guarded(transfer: Callable[[], T]) -> T:
        if stopped.is_set():
            raise CancelledError("cancelled")
        try:
            return transfer()
        except BaseException as error:
            failures.append(error)  # before the others fail because of it
            stop()
            raise

    pool = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="registry-transfer")
    try:
        futures = [pool.submit(guarded, transfer) for transfer in transfers]
        wait(futures)
    except BaseException:
        stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if failures:
        raise failures[0]
    return [future.result() for future in futures]

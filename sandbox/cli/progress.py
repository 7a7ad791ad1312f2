"""Shows on standard error how far reading an archive has come: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import os
import sys
import time

from sandbox.errors import printable
from unionfs._stdlib.typing import Any

_QUICK = 1.0
"""Seconds after which a bar appears: what takes less shows nothing."""

_FIRST_LINE = 5.0
"""Seconds until the first line where there is no terminal; until each further one, as long again as all before."""

_UNITS: dict[str, Any] = {"unit": "B", "unit_scale": True}


class ArchiveProgress:
    """The progress of one archive after the other (`sandbox.images.reading.Progress`)."""

    def __init__(self) -> None:
        self._action = ""
        self._size = 0
        self._began = 0.0
        self._next = 0.0
        self._bar: Any = None
        self._has_lines = False

    def begin(self, action: str, path: str, size: int) -> None:
        """*action* ("unpack") begins on the archive *path* of *size* bytes."""
        self._action = f"{action} {printable(os.path.basename(path))}"
        self._size, self._began = size, time.monotonic()
        self._next = _QUICK if _is_terminal() else _FIRST_LINE
        self._has_lines = False

    def update(self, position: int) -> None:
        """Show that *position* bytes have been read, if it is time."""
        elapsed = time.monotonic() - self._began
        if self._bar is None and elapsed < self._next:
            return
        try:
            if not _is_terminal():
                self._print_line(position, elapsed)
            else:
                self._draw(position, elapsed)
        except OSError:
            pass  # standard error is full or gone: no reason not to start

    def end(self) -> None:
        """Remove the bar; say how long it took where lines were printed."""
        try:
            if self._bar is not None:
                self._bar.close()
            elif self._has_lines:
                _say(f"{self._action}: ended after {time.monotonic() - self._began:.0f} s")
        except OSError:
            pass  # as above
        self._bar = None

    def _draw(self, position: int, elapsed: float) -> None:
        if self._bar is None:
            self._bar = _make_bar(self._action, self._size)
            self._bar.start_t -= elapsed
        self._bar.update(position - self._bar.n)

    def _print_line(self, position: int, elapsed: float) -> None:
        from tqdm.std import tqdm  # only for what takes long

        form = "{percentage:.0f} % of {total_fmt}B, {rate_fmt}, {remaining} left"
        meter = tqdm.format_meter(position, self._size, elapsed, bar_format=form, **_UNITS)
        _say(f"{self._action}: {meter}")
        self._next = 2 * elapsed
        self._has_lines = True


def _is_terminal() -> bool:
    return sys.stderr.isatty()


def _say(text: str) -> None:
    print(f"sandbox: {text}", file=sys.stderr, flush=True)


def _make_bar(action: str, size: int) -> Any:
    import threading

    from tqdm.std import tqdm  # only for what takes long

    class Bar(tqdm):  # type: ignore[misc]
        # Neither the thread that tqdm starts, nor its lock between processes: the launcher forks.
        monitor_interval = 0

    Bar.set_lock(threading.RLock())
    # A terminal whose size nobody has set has 0 columns and lines, where tqdm shows nothing.
    columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    # Without smoothing, the rate is that of the whole time.
    return Bar(
        desc=action,
        total=size,
        file=sys.stderr,
        leave=False,
        ncols=columns,
        nrows=2,
        smoothing=0,
        **_UNITS,
    )

"""Show on standard error the progress of reading archives and images: a bar on a terminal, otherwise occasional lines."""

from __future__ import annotations

import os
import sys
import time

from sandbox.errors import printable
from unionfs._stdlib.typing import Any

_QUICK = 1.0
"""Seconds after which a bar appears; a shorter operation shows nothing."""

_FIRST_LINE = 5.0
"""Seconds until the first line without a terminal. Each further line comes at twice the time of the line before."""

_UNITS: dict[str, Any] = {"unit": "B", "unit_scale": True}


class ArchiveProgress:
    """Shows the progress of one archive at a time (implements `sandbox.images.reading.Progress`)."""

    def __init__(self) -> None:
        self._action = ""
        self._size = 0
        self._began = 0.0
        self._next = 0.0
        self._bar: Any = None
        self._has_lines = False

    def begin(self, action: str, path: str, size: int) -> None:
        """Start to show *action* ("unpack" or "compare") on the archive *path* of *size* bytes."""
        self._action = f"{action} {printable(os.path.basename(path))}"
        self._size, self._began = size, time.monotonic()
        self._next = _QUICK if _is_terminal() else _FIRST_LINE
        self._has_lines = False

    def update(self, position: int) -> None:
        """Show that *position* bytes have been read, if an update is due."""
        elapsed = time.monotonic() - self._began
        if self._bar is None and elapsed < self._next:
            return
        try:
            if not _is_terminal():
                self._print_line(position, elapsed)
            else:
                self._draw(position, elapsed)
        except OSError:
            pass  # standard error is full or closed, which does not prevent a start

    def end(self) -> None:
        """Remove the bar or, if lines were printed, print the duration."""
        try:
            if self._bar is not None:
                self._bar.close()
            elif self._has_lines:
                _write_line(f"{self._action}: ended after {time.monotonic() - self._began:.0f} s")
        except OSError:
            pass  # as above
        self._bar = None

    def _draw(self, position: int, elapsed: float) -> None:
        if self._bar is None:
            self._bar = _make_bar(self._action, self._size)
            self._bar.start_t -= elapsed
        self._bar.update(position - self._bar.n)

    def _print_line(self, position: int, elapsed: float) -> None:
        from tqdm.std import tqdm  # only for long operations

        form = "{percentage:.0f} % of {total_fmt}B, {rate_fmt}, {remaining} left"
        meter = tqdm.format_meter(position, self._size, elapsed, bar_format=form, **_UNITS)
        _write_line(f"{self._action}: {meter}")
        self._next = 2 * elapsed
        self._has_lines = True


class ImageProgress:
    """Shows how many bytes of the blobs of an image are there (implements `sandbox.images.importing.BlobProgress`)."""

    def __init__(self) -> None:
        import threading  # blobs are copied by threads

        self._lock = threading.Lock()
        self._meter = ArchiveProgress()
        self._position = 0

    def begin(self, name: str, sizes: list[int]) -> None:
        """Start to show the blobs of the image *name*, of *sizes* bytes."""
        self._meter.begin("fetch", name, sum(sizes))

    def advance(self, count: int) -> None:
        """Show that *count* more bytes are there."""
        with self._lock:
            self._position += count
            self._meter.update(self._position)

    def end(self) -> None:
        """Remove the bar or, if lines were printed, print the duration."""
        self._meter.end()


def _is_terminal() -> bool:
    return sys.stderr.isatty()


def _write_line(text: str) -> None:
    print(f"sandbox: {text}", file=sys.stderr, flush=True)


def _make_bar(action: str, size: int) -> Any:
    import threading

    from tqdm.std import tqdm  # only for long operations

    class Bar(tqdm):  # type: ignore[misc]
        # No monitor thread of tqdm, and below no multiprocessing lock, because the launcher forks.
        monitor_interval = 0

    Bar.set_lock(threading.RLock())
    # A terminal without a set size has 0 columns and lines, and tqdm would show nothing.
    columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    # smoothing=0 shows the average rate of the whole time.
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

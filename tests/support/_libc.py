"""The calls through ctypes of the test harness."""

from __future__ import annotations

import ctypes
import mmap
import os

_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Become the parent of every descendant whose parent ends (PR_SET_CHILD_SUBREAPER in prctl(2))."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def call_address_of(memory: mmap.mmap) -> int:
    """Call the machine code at the beginning of *memory*, which is executable, and return its result."""
    start = ctypes.c_char.from_buffer(memory)
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(start))())

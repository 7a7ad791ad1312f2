"""Explain why the program could not be executed: it does not exist, or the Landlock rules do not allow its execution."""

from __future__ import annotations

import errno
import os
import stat
import struct

from sandbox.kernel.landlock import Rules
from sandbox.plan import ProcessPlan

_LARGEST = 1 << 16  # bytes that are read: the headers and the loader's name are at the beginning
_PT_INTERP = 3
_DEEPEST = 4  # nested interpreters that the kernel follows (execve(2))


def found_errno(plan: ProcessPlan, number: int) -> int:
    """Return the errno to report for *plan*'s program, whose execution failed with errno *number*.

    execve(2) fails with EACCES in a directory that the program's user may not search, and execvp(3) remembers that error. If
    the program is in no directory of PATH, report ENOENT instead.

    The caller must have the sandbox's root as its root. Files that the caller may not see count as missing.
    """
    if number != errno.EACCES or "/" in plan.argv[0] or any(map(os.path.exists, _candidates(plan))):
        return number
    return errno.ENOENT


def advice(plan: ProcessPlan, rules: Rules, number: int) -> str:
    """Return what to add to the rules, "" if they are not the reason why *plan*'s program failed with errno *number*.

    The caller must not be restricted by the rules itself, and must have the sandbox's root as its root.
    """
    if number != errno.EACCES or (rules.execute is None and rules.read is None):
        return ""
    found = _find(plan)
    if found is None:
        return ""
    needed = [found, *_started_by(found, depth=_DEEPEST)]
    # The kernel also opens for reading each file that it executes.
    for key, allowed in (("execute", rules.execute), ("read", rules.read)):
        missing = _missing(needed, allowed)
        if missing:
            rest = "must be in read" if rules.read is not None else "must be readable"
            named = " and ".join(dict.fromkeys(missing))
            return f"security.landlock.{key} must contain {named}, or a directory above; its libraries {rest}"
    return ""


def _missing(needed: list[str], allowed: tuple[str, ...] | None) -> list[str]:
    """Return those of the paths *needed* that are not below a path of *allowed*; none if *allowed* is None."""
    if allowed is None:
        return []
    around = [os.path.realpath(path) for path in allowed]
    return [path for path in needed if not any(_inside(path, one) for one in around)]


def _inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _find(plan: ProcessPlan) -> str | None:
    return next((os.path.realpath(path) for path in _candidates(plan) if os.access(path, os.X_OK)), None)


def _candidates(plan: ProcessPlan) -> list[str]:
    """Return the absolute paths at which execution of *plan*'s program was tried."""
    command = plan.argv[0]
    parts = [""] if "/" in command else plan.env.get("PATH", "").split(":")
    return [os.path.join(plan.cwd, part, command) for part in parts]


def _started_by(path: str, *, depth: int) -> list[str]:
    """Return the loader or interpreter of the file *path*, and the interpreters of that interpreter up to *depth* times."""
    head = _head_of(path)
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        if not words:
            return []
        interpreter = os.path.realpath(os.fsdecode(words[0]))
        return [interpreter, *(_started_by(interpreter, depth=depth - 1) if depth else [])]
    loader = _loader(head)
    return [] if loader is None else [os.path.realpath(loader)]


def _head_of(path: str) -> bytes:
    """Return the beginning of *path* if it is a regular file, else b"". An image may have a FIFO or a device there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _LARGEST) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


def _loader(head: bytes) -> str | None:
    """Return the loader that the ELF file beginning with *head* requests; None if it requests none; elf(5)."""
    if head[:4] != b"\x7fELF" or len(head) < 64:
        return None
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    try:
        if wide:
            (start,), size, count = (
                struct.unpack_from(f"{order}Q", head, 32),
                *struct.unpack_from(f"{order}HH", head, 54),
            )
        else:
            (start,), size, count = (
                struct.unpack_from(f"{order}I", head, 28),
                *struct.unpack_from(f"{order}HH", head, 42),
            )
        for number in range(count):
            at = start + number * size
            (kind,) = struct.unpack_from(f"{order}I", head, at)
            if kind == _PT_INTERP:
                form, place = (f"{order}Q", (8, 32)) if wide else (f"{order}I", (4, 16))
                offset, length = (struct.unpack_from(form, head, at + part)[0] for part in place)
                return os.fsdecode(head[offset : offset + length].rstrip(b"\0")) or None
    except (struct.error, OverflowError):
        return None
    return None

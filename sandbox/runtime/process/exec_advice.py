"""Why a program could not be executed: it is nowhere, or the rules of Landlock would have to name it."""

from __future__ import annotations

import errno
import os
import stat
import struct

from sandbox.kernel.landlock import Rules
from sandbox.plan import ProcessPlan

_LARGEST = 1 << 16  # bytes that are looked at: the headers, and the name of the loader, come first
_PT_INTERP = 3
_DEEPEST = 4  # interpreters of interpreters that the kernel goes through (execve(2))


def found_errno(plan: ProcessPlan, number: int) -> int:
    """Return the errno to report for *plan*'s program, whose execution failed with errno *number*.

    execve(2) fails with EACCES in a directory that the program's user may not search, and execvp(3) remembers that error. A
    program that is in no directory of PATH was not found all the same: ENOENT.

    The caller is a process that has the sandbox's root as its own. What it may not look at either does not count as found.
    """
    if number != errno.EACCES or "/" in plan.argv[0] or any(map(os.path.exists, _candidates(plan))):
        return number
    return errno.ENOENT


def advice(plan: ProcessPlan, rules: Rules, number: int) -> str:
    """Return what to add to the rules, "" where these are not what refused *plan*'s program with errno *number*.

    To be asked by a process that is not under the rules itself, and has the sandbox's root as its own.
    """
    if number != errno.EACCES or (rules.execute is None and rules.read is None):
        return ""
    found = _find(plan)
    if found is None:
        return ""
    needed = [found, *_started_by(found, depth=_DEEPEST)]
    # The kernel opens what it executes for reading, too.
    for key, allowed in (("execute", rules.execute), ("read", rules.read)):
        missing = _missing(needed, allowed)
        if missing:
            rest = "have to be in read" if rules.read is not None else "have to be readable"
            named = " and ".join(dict.fromkeys(missing))
            return f"security.landlock.{key} has to name {named}, or a directory around; its libraries {rest}"
    return ""


def _missing(needed: list[str], allowed: tuple[str, ...] | None) -> list[str]:
    """Return those of the paths *needed* that are not below one of *allowed*; none where nothing restricts them."""
    if allowed is None:
        return []
    around = [os.path.realpath(path) for path in allowed]
    return [path for path in needed if not any(_inside(path, one) for one in around)]


def _inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _find(plan: ProcessPlan) -> str | None:
    return next((os.path.realpath(path) for path in _candidates(plan) if os.access(path, os.X_OK)), None)


def _candidates(plan: ProcessPlan) -> list[str]:
    """Return the absolute paths at which *plan*'s program was searched."""
    command = plan.argv[0]
    parts = [""] if "/" in command else plan.env.get("PATH", "").split(":")
    return [os.path.join(plan.cwd, part, command) for part in parts]


def _started_by(path: str, *, depth: int) -> list[str]:
    """Return the loader or the interpreter of the file *path*, and that of the latter, *depth* times."""
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
    """Return the beginning of the file *path*, nothing of what is no file: an image may have anything there."""
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
    """Return the loader that the ELF file beginning with *head* asks for; None where it asks for none; elf(5)."""
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

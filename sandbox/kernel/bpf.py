"""Join, change and run the programs of seccomp filters. Pure: programs are bytes.

A program is an array of `struct sock_filter`: code, jt, jf, k (linux/filter.h). This module knows only the instructions that
seccomp filters consist of (seccomp(2), libseccomp). It raises ValueError for any other.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable

_INSTRUCTION = struct.Struct("=HBBI")
_DATA = struct.Struct("=iIQ6Q")  # struct seccomp_data
SIZE = _INSTRUCTION.size
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_RETURN = 0x06  # BPF_RET | BPF_K
_TESTS: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda a, k: a == k,  # BPF_JMP | BPF_JEQ | BPF_K
    0x25: lambda a, k: a > k,  # BPF_JGT
    0x35: lambda a, k: a >= k,  # BPF_JGE
    0x45: lambda a, k: bool(a & k),  # BPF_JSET
}

ALLOW = 0x7FFF0000
ACTION_MASK = 0xFFFF0000


def instructions(program: bytes) -> list[tuple[int, int, int, int]]:
    """Return the instructions of *program*.

    Raises:
        ValueError: the size of *program* is not that of a program.
    """
    if not program or len(program) % SIZE or len(program) > MAX_INSTRUCTIONS * SIZE:
        raise ValueError(f"{len(program)} bytes are not a filter program")
    return list(_decoded(program))


@functools.lru_cache(maxsize=4)
def _decoded(program: bytes) -> tuple[tuple[int, int, int, int], ...]:
    return tuple(_INSTRUCTION.iter_unpack(program))


def assemble(code: list[tuple[int, int, int, int]]) -> bytes:
    """Return the program that consists of *code*."""
    return b"".join(_INSTRUCTION.pack(*one) for one in code)


def joined(first: bytes, second: bytes) -> bytes:
    """Return a program that runs *first*, and then runs *second* if *first* would allow the call."""
    code = instructions(first)
    length = len(code)
    for at, (operation, _, _, k) in enumerate(code):
        if operation == _RETURN and k == ALLOW:
            code[at] = (_JUMP, 0, 0, length - at - 1)
    return assemble(code) + assemble(instructions(second))


def with_actions(program: bytes, change: Callable[[int], int]) -> bytes:
    """Return *program* with *change* applied to every action."""
    return assemble(
        [
            (operation, jt, jf, change(k)) if operation == _RETURN else (operation, jt, jf, k)
            for operation, jt, jf, k in instructions(program)
        ]
    )


def run(program: bytes, number: int, architecture: int, arguments: tuple[int, ...] = ()) -> int:
    """Return the action of *program* for the call *number* of *architecture* (AUDIT_ARCH_*) with *arguments*.

    Raises:
        ValueError: the program has an instruction that filters do not use.
    """
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    signed = number - (1 << 32) if number >= 1 << 31 else number
    data = _DATA.pack(signed, architecture, 0, *(value & 0xFFFFFFFFFFFFFFFF for value in padded))
    code = _decoded(program)
    at = accumulator = 0
    # Jumps only go forward, so each instruction is executed at most once.
    while at < len(code):
        operation, jt, jf, k = code[at]
        at += 1
        if operation == _LOAD:
            if k > len(data) - 4 or k % 4:
                raise ValueError(f"load of offset {k}")
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif operation == _AND:
            accumulator &= k
        elif operation == _JUMP:
            at += k
        elif operation == _RETURN:
            return k
        elif operation in _TESTS:
            at += jt if _TESTS[operation](accumulator, k) else jf
        else:
            raise ValueError(f"instruction {operation:#x}")
    raise ValueError("the program has no end")

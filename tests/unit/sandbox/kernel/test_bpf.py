"""BPF programs of filters: encoding, decoding and execution."""

from __future__ import annotations

import pytest

from sandbox.kernel import bpf

ALLOW, DENY, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
LOAD_NUMBER, LOAD_ARGUMENT = (0x20, 0, 0, 0), (0x20, 0, 0, 16)


def returning(action: int) -> tuple[int, int, int, int]:
    return (0x06, 0, 0, action)


def denying(number: int) -> bytes:
    return bpf.assemble([LOAD_NUMBER, (0x15, 0, 1, number), returning(DENY), returning(ALLOW)])


def test_of_two_joined_programs_the_second_is_asked_where_the_first_allows():
    program = bpf.joined(denying(1), denying(2))
    assert [bpf.run(program, number, 0) for number in (1, 2, 3)] == [DENY, DENY, ALLOW]


def test_every_way_to_allow_leads_on():
    first = bpf.assemble(
        [LOAD_NUMBER, (0x15, 0, 1, 7), returning(ALLOW), (0x25, 0, 1, 9), returning(DENY), returning(ALLOW)]
    )
    program = bpf.joined(first, bpf.assemble([returning(ENOSYS)]))
    assert [bpf.run(program, number, 0) for number in (7, 8, 10)] == [ENOSYS, ENOSYS, DENY]


def test_actions_are_changed_and_nothing_else():
    program = bpf.with_actions(denying(ALLOW), lambda action: ENOSYS if action == DENY else action)
    assert bpf.run(program, ALLOW, 0) == ENOSYS
    assert bpf.run(program, 0, 0) == ALLOW


@pytest.mark.parametrize(
    ("operation", "k", "yes", "no"),
    [(0x15, 5, [5], [4, 6]), (0x25, 5, [6], [5, 4]), (0x35, 5, [5, 6], [4]), (0x45, 6, [2, 4, 7], [1, 8])],
)
def test_tests_of_the_accumulator(operation, k, yes, no):
    program = bpf.assemble([LOAD_ARGUMENT, (operation, 0, 1, k), returning(DENY), returning(ALLOW)])
    assert {bpf.run(program, 0, 0, (value,)) for value in yes} == {DENY}
    assert {bpf.run(program, 0, 0, (value,)) for value in no} == {ALLOW}


def test_masks_and_halves_of_arguments():
    code = [(0x20, 0, 0, 20), (0x54, 0, 0, 0xF0), (0x15, 0, 1, 0x10), returning(DENY), returning(ALLOW)]
    program = bpf.assemble(code)
    assert bpf.run(program, 0, 0, (0x1F << 32,)) == DENY
    assert bpf.run(program, 0, 0, (0x1F,)) == ALLOW


def test_a_number_with_the_highest_bit_is_itself():
    assert bpf.run(denying(0xFFFFFFFF), 0xFFFFFFFF, 0) == DENY


@pytest.mark.parametrize("program", [b"", b"1234567", bytes(8 * 4097)])
def test_bytes_that_are_no_program(program):
    with pytest.raises(ValueError, match="not a filter program"):
        bpf.instructions(program)


@pytest.mark.parametrize(
    "code", [[(0x07, 0, 0, 0)], [(0x20, 0, 0, 64)], [(0x20, 0, 0, 2)], [LOAD_NUMBER], [(0x05, 0, 0, 9)]]
)
def test_what_no_filter_does_is_not_guessed(code):
    with pytest.raises(ValueError, match=r"instruction|load|no end"):
        bpf.run(bpf.assemble(code), 0, 0)

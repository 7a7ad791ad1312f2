"""The steps of a copy-up and their order."""

from __future__ import annotations

import itertools
import stat

import pytest

from unionfs.copyup.plan import Contents, Step, plan_copy_up

KINDS = [stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]
FLAGS = [dict(zip(("named", "durable", "lasting"), bits, strict=True)) for bits in itertools.product((True, False), repeat=3)]  # fmt: skip
EVERY_PLAN = [
    plan_copy_up(kind, links=links, contents=contents, **flags)
    for kind in KINDS
    for links in (1, 2)
    for contents in Contents
    for flags in FLAGS
]


def plan(
    kind: int = stat.S_IFREG, *, links: int = 1, contents: Contents = Contents.COPY, **changes: bool
) -> tuple[Step, ...]:
    flags = {"named": True, "durable": True, "lasting": True} | changes
    return plan_copy_up(kind, links=links, contents=contents, **flags)


def test_a_regular_file_is_copied_whole_before_it_gets_its_name() -> None:
    assert plan() == (
        Step.MAKE,
        Step.DATA,
        Step.OWNER,
        Step.ORIGIN,
        Step.XATTRS,
        Step.MODE,
        Step.TIMES,
        Step.SYNC,
        Step.PUBLISH,
    )


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (Step.DATA, Step.OWNER),  # a write clears set-id bits
        (Step.DATA, Step.XATTRS),  # and security.capability
        (Step.METACOPY, Step.XATTRS),  # and so does setting the size
        (Step.OWNER, Step.XATTRS),  # a change of owner clears security.capability
        (Step.OWNER, Step.MODE),  # and set-id bits
        (Step.ORIGIN, Step.XATTRS),  # an ACL may revoke the permission to write attributes
        (Step.XATTRS, Step.MODE),  # and changes the mode
        (Step.MODE, Step.TIMES),
        (Step.METACOPY, Step.MODE),  # attributes cannot be set on a file without write permission
        (Step.METACOPY, Step.TIMES),  # setting the size changes the times
        (Step.TIMES, Step.SYNC),
        (Step.SYNC, Step.PUBLISH),
        (Step.INDEX, Step.PUBLISH),  # when a lower name is hidden, the other names must find the copy
    ],
    ids=lambda step: step.value,
)
def test_in_every_plan_a_step_comes_before_what_would_undo_it(first: Step, then: Step) -> None:
    both = [steps for steps in EVERY_PLAN if first in steps and then in steps]
    assert both
    assert all(steps.index(first) < steps.index(then) for steps in both)


def test_every_plan_begins_with_making_and_ends_with_becoming_visible_or_kept() -> None:
    for steps in EVERY_PLAN:
        assert steps[0] is Step.MAKE
        assert steps[-1] in (Step.PUBLISH, Step.PIN)
        assert len(set(steps)) == len(steps)


def test_contents_that_are_about_to_be_truncated_are_not_copied() -> None:
    assert {Step.DATA, Step.SYNC, Step.METACOPY}.isdisjoint(plan(contents=Contents.NONE))


def test_a_copy_of_metadata_alone_is_marked_and_neither_copies_nor_waits_for_contents() -> None:
    steps = plan(contents=Contents.LATER)
    assert Step.METACOPY in steps
    assert {Step.DATA, Step.SYNC}.isdisjoint(steps)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_only_a_regular_file_can_have_its_contents_elsewhere(kind: int) -> None:
    assert Step.METACOPY not in plan(kind, contents=Contents.LATER)


def test_a_volatile_mount_does_not_wait_for_the_disk() -> None:
    assert Step.SYNC not in plan(durable=False)


def test_an_object_without_a_name_is_kept_by_descriptor_and_has_no_index_entry() -> None:
    steps = plan(named=False, links=2)
    assert steps[-1] is Step.PIN
    assert {Step.PUBLISH, Step.INDEX, Step.ORIGIN}.isdisjoint(steps)


def test_a_file_with_several_names_is_indexed() -> None:
    assert Step.INDEX in plan(links=2)
    assert Step.INDEX not in plan(links=1)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_what_cannot_carry_a_user_attribute_is_indexed_instead(kind: int) -> None:
    steps = plan(kind)
    assert Step.INDEX in steps
    assert {Step.ORIGIN, Step.DATA}.isdisjoint(steps)


def test_a_symbolic_link_has_no_mode_to_set() -> None:
    assert Step.MODE not in plan(stat.S_IFLNK)


def test_a_number_of_this_mount_only_is_not_written_down() -> None:
    assert Step.ORIGIN not in plan(lasting=False)

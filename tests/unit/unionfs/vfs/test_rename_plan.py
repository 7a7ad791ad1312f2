"""The steps of a rename, and each reason to refuse it."""

from __future__ import annotations

import errno

import pytest

from unionfs.vfs.rename_plan import RENAME_EXCHANGE, RENAME_NOREPLACE, End, RenamePlan, plan_rename


def plan(source: End, target: End, flags: int, *, redirects: bool = True) -> RenamePlan:
    return plan_rename(source, target, flags, redirects=redirects)


ABSENT = End(exists=False)
UPPER_FILE = End(exists=True, in_upper=True)
LOWER_FILE = End(exists=True, lower_has_name=True)
COVERING_FILE = End(exists=True, in_upper=True, lower_has_name=True)
UPPER_DIR = End(exists=True, is_dir=True, in_upper=True)
FULL_DIR = End(exists=True, is_dir=True, in_upper=True, empty=False)
LOWER_DIR = End(exists=True, is_dir=True, merged_below=True, lower_has_name=True)
DELETED = End(exists=False, lower_has_name=True)


@pytest.mark.parametrize(
    ("source", "target", "flags", "number"),
    [
        (UPPER_FILE, ABSENT, 8, errno.EINVAL),
        (UPPER_FILE, ABSENT, 4, errno.EINVAL),  # clients cannot pass RENAME_WHITEOUT
        (UPPER_FILE, UPPER_FILE, RENAME_NOREPLACE | RENAME_EXCHANGE, errno.EINVAL),
        (ABSENT, ABSENT, 0, errno.ENOENT),
        (ABSENT, UPPER_FILE, RENAME_NOREPLACE, errno.ENOENT),
        (UPPER_FILE, ABSENT, RENAME_EXCHANGE, errno.ENOENT),
        (UPPER_FILE, LOWER_FILE, RENAME_NOREPLACE, errno.EEXIST),
        (UPPER_FILE, UPPER_DIR, 0, errno.EISDIR),
        (UPPER_DIR, UPPER_FILE, 0, errno.ENOTDIR),
        (UPPER_DIR, FULL_DIR, 0, errno.ENOTEMPTY),
    ],
)
def test_a_rename_that_cannot_be_is_refused_with_the_errno_of_renameat2(
    source: End, target: End, flags: int, number: int
) -> None:
    with pytest.raises(OSError) as caught:
        plan(source, target, flags)
    assert caught.value.errno == number


@pytest.mark.parametrize(
    ("source", "target", "flags"), [(LOWER_DIR, ABSENT, 0), (UPPER_FILE, LOWER_DIR, RENAME_EXCHANGE)]
)
def test_without_redirects_a_lower_directory_does_not_move(source: End, target: End, flags: int) -> None:
    with pytest.raises(OSError) as caught:
        plan(source, target, flags, redirects=False)
    assert caught.value.errno == errno.EXDEV
    plan(source, target, flags)


def test_a_full_directory_in_the_way_is_named_before_a_move_across_layers() -> None:
    with pytest.raises(OSError) as caught:
        plan(LOWER_DIR, FULL_DIR, 0, redirects=False)
    assert caught.value.errno == errno.ENOTEMPTY


def test_renaming_what_only_the_upper_layer_has_needs_nothing_else() -> None:
    needs = plan(UPPER_FILE, ABSENT, 0)
    assert not any((needs.copy_up, needs.whiteout, needs.opaque, needs.exchange))


def test_a_lower_file_is_copied_up_and_leaves_a_whiteout() -> None:
    needs = plan(LOWER_FILE, ABSENT, 0)
    assert needs.copy_up
    assert needs.whiteout


def test_a_copied_file_still_leaves_a_whiteout() -> None:
    needs = plan(COVERING_FILE, ABSENT, 0)
    assert needs.whiteout
    assert not needs.copy_up


def test_a_directory_moved_to_where_a_lower_one_was_becomes_opaque() -> None:
    assert plan(UPPER_DIR, DELETED, 0).opaque
    assert not plan(UPPER_DIR, ABSENT, 0).opaque
    assert not plan(UPPER_FILE, DELETED, 0).opaque


def test_a_moved_lower_directory_says_where_it_was_and_hides_by_that_what_its_new_name_has_below() -> None:
    needs = plan(LOWER_DIR, DELETED, 0)
    assert needs.redirect
    assert not needs.opaque
    assert needs.whiteout


def test_an_exchange_of_lower_directories_redirects_both() -> None:
    needs = plan(LOWER_DIR, LOWER_DIR, RENAME_EXCHANGE)
    assert needs.redirect
    assert needs.redirect_second
    assert not needs.opaque
    assert not needs.opaque_second


def test_a_directory_may_replace_an_empty_merged_one() -> None:
    needs = plan(UPPER_DIR, LOWER_DIR, 0)
    assert needs.opaque
    assert not needs.exchange


def test_an_exchange_leaves_no_whiteout_and_copies_both_up() -> None:
    needs = plan(LOWER_FILE, LOWER_FILE, RENAME_EXCHANGE)
    assert needs.exchange
    assert needs.copy_up
    assert needs.copy_up_second
    assert not needs.whiteout


def test_an_exchange_of_directories_makes_each_opaque_that_lands_on_a_lower_name() -> None:
    over_lower = End(exists=True, is_dir=True, in_upper=True, lower_has_name=True)
    needs = plan(over_lower, UPPER_DIR, RENAME_EXCHANGE)
    assert not needs.opaque
    assert needs.opaque_second


def test_an_exchange_may_swap_a_file_and_a_full_directory() -> None:
    assert plan(UPPER_FILE, FULL_DIR, RENAME_EXCHANGE).exchange

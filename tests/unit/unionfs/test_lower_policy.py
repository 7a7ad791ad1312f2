"""A former writable layer that is used as a lower layer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.unit.unionfs.support import Union
from unionfs.assemble import open_stack, source_from_options
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.options import Options
from unionfs.upper.format import ANY_FORMAT, WantedFormat, lower_policy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.tree import Tree
    from tests.unit.unionfs.conftest import MakeUnion


def below_a_new_one(union: Union, base: Path) -> Union:
    """Open a union whose lower layers are all layers of *union*."""
    union.fs.close()
    for name in ("upper", "work", "mnt"):
        (base / name).mkdir()
    options = Options(
        lowerdirs=(str(union.upper), *map(str, union.lowers)),
        upperdir=str(base / "upper"),
        workdir=str(base / "work"),
    )
    union.fs = open_stack(source_from_options(options, str(base / "mnt")))
    return union


@pytest.mark.parametrize("upper", [{}, {"there": b"already"}], ids=["begun-empty", "begun-otherwise"])
@pytest.mark.parametrize("whiteouts", WhiteoutFormat)
def test_it_shows_as_a_lower_layer_what_it_showed_as_the_writable_one(
    make_union: MakeUnion, tmp_path: Path, whiteouts: WhiteoutFormat, upper: Tree
) -> None:
    lower = {"d": {"f": b"contents", "sub": {"g": b"g"}}, "big": b"b" * 9000, "gone": b"", "e": {"x": b""}}
    form = WantedFormat(whiteouts=whiteouts, override_stat=True)
    union = make_union(lower, {"d/f": b"hidden", "below": b""}, upper=upper, form=form)
    union.rename("d", "e/moved")
    union.chmod("big", 0o604)
    union.chmod("e", 0o1750)
    union.unlink("gone")
    union.mkdir("d", 0o700)
    if whiteouts is WhiteoutFormat.OVERLAY and not upper:
        union.create(".wh.below", b"a name like any other")
    union.setxattr("below", "user.overlay.opaque", b"y")
    before = union.show(nlink=False)
    assert before["/e/moved/f"].data == b"contents"

    assert below_a_new_one(union, tmp_path).show(nlink=False) == before


@pytest.mark.root
def test_what_another_account_says_of_its_directory_is_not_believed(tmp_path: Path) -> None:
    os.setxattr(tmp_path, "user.unionfs.whiteouts", b"overlay")
    os.setxattr(tmp_path, "user.unionfs.features", b"redirect,overlay,metacopy,nonsense")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        policy = lower_policy(fd, ANY_FORMAT)
        assert (policy.redirect, policy.metacopy, policy.override_stat) == (True, True, False)
        assert policy.user_marks
        assert not policy.aufs
        os.chown(tmp_path, 7, 7)
        policy = lower_policy(fd, ANY_FORMAT)
        assert not policy.user_marks
        assert policy.aufs
    finally:
        os.close(fd)

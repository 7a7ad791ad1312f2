"""The attributes of union file systems, and how a program's attributes with such names are stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.formats.xattrs import PRIVATE_PREFIXES, parse_redirect, shown_name, stored_name

PRIVATE = [
    "user.overlay.opaque",
    "user.overlay.origin",
    "trusted.overlay.redirect",
    "user.fuseoverlayfs.opaque",
    "user.unionfs.origin",
    "user.containers.override_stat",
]
_NAMES = st.one_of(
    st.builds(str.__add__, st.sampled_from(PRIVATE_PREFIXES), st.text(max_size=8)),
    st.builds(str.__add__, st.sampled_from(PRIVATE_PREFIXES), st.sampled_from(PRIVATE)),
    st.sampled_from(PRIVATE),
    st.text(max_size=20),
)


@pytest.mark.parametrize("name", PRIVATE)
def test_attributes_of_union_file_systems_are_hidden(name: str) -> None:
    assert shown_name(name) is None


@pytest.mark.parametrize(
    "name", ["user.overlay", "user.overlayfoo", "security.capability", "user.containers.x", "user.mine"]
)
def test_other_attributes_show_as_they_are(name: str) -> None:
    assert shown_name(name) == name == stored_name(name)


def test_an_escaped_name_is_that_of_kernel_overlayfs() -> None:
    assert stored_name("user.overlay.opaque") == "user.overlay.overlay.opaque"
    assert stored_name("trusted.overlay.overlay.opaque") == "trusted.overlay.overlay.overlay.opaque"
    assert shown_name("trusted.overlay.overlay.opaque") == "trusted.overlay.opaque"


@given(_NAMES)
def test_what_a_program_sets_shows_under_the_name_that_it_set(name: str) -> None:
    assert shown_name(stored_name(name)) == name


@given(st.one_of(_NAMES, st.builds("security.".__add__, st.text(max_size=8))))
def test_so_it_does_where_owners_are_kept_in_attributes(name: str) -> None:
    assert shown_name(stored_name(name, override=True), override=True) == name


def test_where_owners_are_kept_in_attributes_those_of_security_are_kept_as_fuse_overlayfs_does() -> None:
    kept = "user.containers.override_security.capability"
    assert stored_name("security.capability", override=True) == kept
    assert shown_name(kept) is None
    # The attribute on disk belongs to the file on disk, not to the file that the mount shows.
    assert shown_name("security.capability", override=True) is None
    assert shown_name("user.containers.override_stat", override=True) is None


@given(_NAMES)
def test_nothing_that_a_program_sets_is_taken_for_a_mark(name: str) -> None:
    assert stored_name(name) not in PRIVATE


def test_a_redirect_is_a_path_from_the_root_or_a_name_beside() -> None:
    assert parse_redirect(b"/a/b") == (True, (b"a", b"b"))
    assert parse_redirect(b"old name") == (False, (b"old name",))


@pytest.mark.parametrize(
    "value", [b"", b"/", b"//", b"/a//b", b"/a/", b"a/b", b"..", b"/..", b"/a/../b", b".", b"/a\0b"]
)
def test_a_redirect_that_leads_nowhere_or_elsewhere_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a path in a layer"):
        parse_redirect(value)

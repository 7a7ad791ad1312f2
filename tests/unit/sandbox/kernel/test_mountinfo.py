"""mountinfo: parsing, the mounts below a path, and the mounts that no other mount covers."""

from __future__ import annotations

import pytest

from sandbox.kernel.mountinfo import parse_mountinfo, reachable, subtree

TEXT = r"""22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/root rw,errors=remount-ro
30 22 0:25 / /a rw,nosuid master:3 shared:4 - tmpfs tmpfs rw,size=10k
31 30 0:26 /sub /a/with\040blank\134 ro - tmpfs tmpfs rw
33 32 0:27 / /a/b/c rw - tmpfs tmpfs rw
32 30 0:28 / /a/b rw - tmpfs tmpfs rw
40 22 0:29 / /ab rw - tmpfs tmpfs rw
not a line
"""


def test_mountinfo_is_read_with_any_number_of_optional_fields():
    entries = {entry.mount_id: entry for entry in parse_mountinfo(TEXT)}
    assert sorted(entries) == [22, 30, 31, 32, 33, 40]
    assert entries[30].options == ("rw", "nosuid")
    assert entries[30].fstype == "tmpfs"
    assert entries[30].super_options == ("rw", "size=10k")
    assert entries[31].mount_point == "/a/with blank\\"
    assert entries[31].root == "/sub"


def test_the_mounts_below_one_are_found_in_any_order_of_lines():
    assert [entry.mount_id for entry in subtree(parse_mountinfo(TEXT), 30)] == [30, 31, 32, 33]
    assert [entry.mount_id for entry in subtree(parse_mountinfo(TEXT), 40)] == [40]


def reached(text: str) -> set[int]:
    return {entry.mount_id for entry in reachable(subtree(parse_mountinfo(text), 22))}


def test_every_mount_that_none_covers_is_reachable():
    assert reached(TEXT) == {22, 30, 31, 32, 33, 40}


@pytest.mark.parametrize(
    ("line", "out_of_reach"),
    [
        ("50 32 0:40 / /a/b rw - tmpfs tmpfs rw", {32, 33}),  # on the root of /a/b, over it and its /a/b/c
        ("50 30 0:40 / /a/b/c rw - tmpfs tmpfs rw", {50}),  # in /a, before /a/b was mounted over it
        ("50 22 0:40 / /a/b rw - tmpfs tmpfs rw", {50}),  # in /, before /a was mounted over it
        ("50 22 0:40 / /gone//deleted rw - tmpfs tmpfs rw", {50}),
        ("50 22 0:40 / / rw - tmpfs tmpfs rw", {30, 31, 32, 33, 40}),
    ],
)
def test_a_mount_is_out_of_reach_where_another_of_its_parent_lies_over_it(line, out_of_reach):
    assert reached(f"{TEXT}{line}\n") == {22, 30, 31, 32, 33, 40, 50} - out_of_reach

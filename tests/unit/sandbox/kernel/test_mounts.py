"""What of mounting is pure: options, flags, mountinfo."""

from __future__ import annotations

import pytest

from sandbox.kernel import mounts
from sandbox.kernel.mountinfo import parse_mountinfo, reachable, subtree
from sandbox.kernel.mounts import MountFlags

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_NOATIME, MS_NODIRATIME, MS_RELATIME, MS_STRICTATIME = 1024, 2048, 1 << 21, 1 << 24


def test_options_become_flags():
    assert mounts.parse_options(["ro", "nosuid", "nodev"]) == MountFlags(
        read_only=True, nosuid=True, nodev=True
    )
    assert mounts.parse_options([]) == MountFlags()
    assert mounts.parse_options(["rw", "suid", "dev", "exec"]) == MountFlags()


def test_the_same_option_twice_is_no_contradiction():
    assert mounts.parse_options(["noexec", "noexec"]) == MountFlags(noexec=True)


@pytest.mark.parametrize("pair", [("ro", "rw"), ("suid", "nosuid"), ("nodev", "dev"), ("noexec", "exec")])
def test_options_that_contradict_each_other_are_named(pair):
    with pytest.raises(ValueError, match=f"'{pair[0]}' and '{pair[1]}' contradict"):
        mounts.parse_options(pair)


def test_an_unknown_option_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="unknown mount option 'nosid': one of ro, rw, nosuid"):
        mounts.parse_options(["nosid"])


def test_flags_have_the_same_bits_in_both_mount_interfaces():
    flags = MountFlags(read_only=True, nosuid=True, nodev=True, noexec=True)
    assert flags.attributes() == 1 | 2 | 4 | 8
    assert flags.mount_flags() == MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    assert MountFlags(nodev=True).attributes() == 4


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("rw,relatime", MS_RELATIME),
        ("rw,nosuid,nodev,noexec,relatime", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME),
        ("ro,noatime", MS_RDONLY | MS_NOATIME),
        ("rw", MS_STRICTATIME),
        ("rw,nodiratime,relatime", MS_NODIRATIME | MS_RELATIME),
    ],
)
def test_a_remount_keeps_what_the_mount_has_already(options, kept):
    assert mounts.remount_flags(options.split(","), MountFlags()) == MS_REMOUNT | MS_BIND | kept


def test_a_remount_adds_what_is_asked_for():
    flags = mounts.remount_flags(["rw", "relatime"], MountFlags(read_only=True))
    assert flags == MS_REMOUNT | MS_BIND | MS_RELATIME | MS_RDONLY


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


def test_the_lists_of_paths_hold_absolute_paths_of_proc_and_sys_once_each():
    paths = (*mounts.MASKED_PATHS, *mounts.READONLY_PATHS)
    assert len(set(paths)) == len(paths)
    assert all(path.startswith(("/proc/", "/sys/")) for path in paths)
    assert "/proc/kcore" in mounts.MASKED_PATHS
    assert "/proc/sys" in mounts.READONLY_PATHS

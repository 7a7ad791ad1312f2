"""Mount flags: parsed from options, for both mount interfaces, and for remounts."""

from __future__ import annotations

import pytest

from sandbox.kernel import mount_flags
from sandbox.kernel.mount_flags import MountFlags

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_NOATIME, MS_NODIRATIME, MS_RELATIME, MS_STRICTATIME = 1024, 2048, 1 << 21, 1 << 24


def test_options_become_flags():
    assert mount_flags.parse_options(["ro", "nosuid", "nodev"]) == MountFlags(
        read_only=True, nosuid=True, nodev=True
    )
    assert mount_flags.parse_options([]) == MountFlags()
    assert mount_flags.parse_options(["rw", "suid", "dev", "exec"]) == MountFlags()


def test_the_same_option_twice_is_no_contradiction():
    assert mount_flags.parse_options(["noexec", "noexec"]) == MountFlags(noexec=True)


@pytest.mark.parametrize("pair", [("ro", "rw"), ("suid", "nosuid"), ("nodev", "dev"), ("noexec", "exec")])
def test_options_that_contradict_each_other_are_named(pair):
    with pytest.raises(ValueError, match=f"'{pair[0]}' and '{pair[1]}' contradict"):
        mount_flags.parse_options(pair)


def test_an_unknown_option_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="unknown mount option 'nosid': one of ro, rw, nosuid"):
        mount_flags.parse_options(["nosid"])


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
    assert mount_flags.remount_flags(options.split(","), MountFlags()) == MS_REMOUNT | MS_BIND | kept


def test_a_remount_adds_what_is_asked_for():
    flags = mount_flags.remount_flags(["rw", "relatime"], MountFlags(read_only=True))
    assert flags == MS_REMOUNT | MS_BIND | MS_RELATIME | MS_RDONLY

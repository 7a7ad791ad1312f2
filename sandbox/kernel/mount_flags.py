"""The restrictions of a mount: read-only, nosuid, nodev, noexec, in the bits of the old and the new mount interface.

The module has pure functions and values. The executor of a plan and the other modules of mounts use them.
"""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.kernel import constants
from unionfs._stdlib.dataclasses import dataclass

_OPTION_NAMES = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "nosuid": ("nosuid", True),
    "suid": ("nosuid", False),
    "nodev": ("nodev", True),
    "dev": ("nodev", False),
    "noexec": ("noexec", True),
    "exec": ("noexec", False),
}

_PRESENT_OPTIONS = {
    "ro": constants.MS_RDONLY,
    "nosuid": constants.MS_NOSUID,
    "nodev": constants.MS_NODEV,
    "noexec": constants.MS_NOEXEC,
    "noatime": constants.MS_NOATIME,
    "nodiratime": constants.MS_NODIRATIME,
    "relatime": constants.MS_RELATIME,
    "nosymfollow": constants.MS_NOSYMFOLLOW,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFlags:
    """The restrictions of a mount. Flags are only added: a user namespace may not clear inherited ones."""

    read_only: bool = False
    nosuid: bool = False
    nodev: bool = False
    noexec: bool = False

    def attributes(self) -> int:
        """Return the MOUNT_ATTR_* bits of mount_setattr(2) and fsmount(2)."""
        return (
            (constants.MOUNT_ATTR_RDONLY if self.read_only else 0)
            | (constants.MOUNT_ATTR_NOSUID if self.nosuid else 0)
            | (constants.MOUNT_ATTR_NODEV if self.nodev else 0)
            | (constants.MOUNT_ATTR_NOEXEC if self.noexec else 0)
        )

    def mount_flags(self) -> int:
        """Return the MS_* bits of mount(2)."""
        return (
            (constants.MS_RDONLY if self.read_only else 0)
            | (constants.MS_NOSUID if self.nosuid else 0)
            | (constants.MS_NODEV if self.nodev else 0)
            | (constants.MS_NOEXEC if self.noexec else 0)
        )


SEALED = MountFlags(read_only=True, nosuid=True, nodev=True, noexec=True)
"""All restrictions: of file systems of the kernel that the sandbox only reads, and of empty ones that mask."""


def parse_options(options: Iterable[str]) -> MountFlags:
    """Return the flags that *options*, such as ``["ro", "nosuid"]``, stand for.

    Raises:
        ValueError: an option is unknown, or contradicts one before it.
    """
    given: dict[str, tuple[str, bool]] = {}
    for option in options:
        if option not in _OPTION_NAMES:
            raise ValueError(f"unknown mount option {option!r}: one of {', '.join(_OPTION_NAMES)}")
        field, value = _OPTION_NAMES[option]
        if field in given and given[field][1] != value:
            raise ValueError(f"mount options {given[field][0]!r} and {option!r} contradict each other")
        given[field] = (option, value)
    return MountFlags(**{field: value for field, (_, value) in given.items()})


def remount_flags(options: Iterable[str], added: MountFlags) -> int:
    """Return the mount(2) flags that keep a mount's present *options* (of mountinfo) and add *added*.

    A remount without a present flag clears it, which is EPERM for a flag that the user namespace inherited.
    """
    present = 0
    for option in options:
        present |= _PRESENT_OPTIONS.get(option, 0)
    if not present & (constants.MS_NOATIME | constants.MS_RELATIME):
        # mountinfo has no word for strictatime; without any of these flags mount(2) sets relatime.
        present |= constants.MS_STRICTATIME
    return constants.MS_REMOUNT | constants.MS_BIND | added.mount_flags() | present

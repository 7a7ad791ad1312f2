"""Define the report of an unpacked archive."""

from __future__ import annotations

from unionfs._stdlib.dataclasses import dataclass

MAX_NAMES = 5
"""Names of left-out objects of each kind in a report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackReport:
    """The result of `unpack`: what it wrote and what it left out. Names are printable, at most `MAX_NAMES` of each kind."""

    entries: int  # members of the archive that were created
    data_bytes: int  # content of files, without holes
    skipped_devices: int  # device nodes outside of dev/
    skipped_device_names: tuple[str, ...]
    skipped_xattrs: int
    skipped_xattr_names: tuple[str, ...]  # as "member: attribute"
    #: Whether the layers below were searched, for the target of a hard link or for a directory that the archive does not list.
    #: If not, the tree is the same whatever is below it.
    used_below: bool = False

    def notices(self) -> list[str]:
        """Return one line about left-out device nodes and one about left-out extended attributes, if there are any."""
        return [
            f"{count} {what} left out: {', '.join(names)}{', ...' if count > len(names) else ''}"
            for count, what, names in (
                (self.skipped_devices, "device nodes", self.skipped_device_names),
                (self.skipped_xattrs, "extended attributes", self.skipped_xattr_names),
            )
            if count
        ]

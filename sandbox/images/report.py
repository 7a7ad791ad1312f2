"""Count what an archive has and its tree does not get, and report it."""

from __future__ import annotations

from sandbox.images.names import printable
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


class LeftOut:
    """Counts the device nodes and extended attributes of an archive that its tree does not get, and keeps a few of their names."""

    def __init__(self) -> None:
        """Start with none."""
        self._devices = self._xattrs = 0
        self._device_names: list[str] = []
        self._xattr_names: list[str] = []

    def add_device(self, path: bytes, name: bytes) -> None:
        """Count the device node at *path*, of the member *name*, unless it is in dev/: the sandbox has a /dev of its own."""
        if not path.startswith(b"dev/"):
            self._devices += 1
            if len(self._device_names) < MAX_NAMES:
                self._device_names.append(printable(name))

    def add_xattrs(self, name: bytes, *keys: bytes) -> None:
        """Count the extended attributes *keys* of the member *name*."""
        self._xattrs += len(keys)
        wanted = MAX_NAMES - len(self._xattr_names)
        self._xattr_names += [f"{printable(name)}: {printable(key)}" for key in keys[:wanted]]

    def report(self, *, entries: int, data_bytes: int, used_below: bool = False) -> UnpackReport:
        """Return the report of a tree with *entries*, *data_bytes* and *used_below*."""
        return UnpackReport(
            entries=entries,
            data_bytes=data_bytes,
            skipped_devices=self._devices,
            skipped_device_names=tuple(self._device_names),
            skipped_xattrs=self._xattrs,
            skipped_xattr_names=tuple(self._xattr_names),
            used_below=used_below,
        )

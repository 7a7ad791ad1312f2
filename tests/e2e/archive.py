"""Tar archives that tests use as layers."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Self


class Archive:
    """A tar archive to which members are added until `layer` finishes it."""

    def __init__(self, path: Path) -> None:
        """Begin the archive."""
        self.path = path
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by layer()

    def add(
        self, name: str, data: bytes | None = None, kind: bytes = tarfile.DIRTYPE, **fields: object
    ) -> Self:
        """Add a directory, a file with *data*, or a member of another *kind*."""
        info = tarfile.TarInfo(name)
        info.type = tarfile.REGTYPE if data is not None else kind
        info.mode = 0o644 if data is not None else 0o755
        info.size = len(data or b"")
        info.mtime = 1_700_000_000
        for key, value in fields.items():
            setattr(info, key, value)
        self._tar.addfile(info, io.BytesIO(data or b""))
        return self

    def layer(self) -> str:
        """Finish the archive and return it as a layer."""
        self._tar.close()
        return f"tar:{self.path}"


class RootArchive(Archive):
    """An archive of a root file system that uses this machine's programs.

    /usr is a volume. The archive has a directory for it and for each other mount point.
    """

    def __init__(self, path: Path) -> None:
        """Begin the archive."""
        super().__init__(path)
        for name in ("proc", "sys", "dev", "usr", "tmp", "etc", "data", "data/deep"):
            self.add(name)
        for name in ("bin", "sbin", "lib", "lib64"):
            self.add(name, kind=tarfile.SYMTYPE, linkname=f"usr/{name}")
        self.add("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
        self.add("data/file", b"of the layer\n", mode=0o640)
        self.add("data/name", kind=tarfile.LNKTYPE, linkname="data/file")

    def spec(self, root: str = "", more: str = "") -> str:
        """Finish the archive and return an environment file with it as the only layer."""
        volume = '[[volumes]]\ntype = "bind"\nsource = "/usr"\ntarget = "/usr"\nread_only = true\n'
        return f'[root]\nlayers = ["{self.layer()}"]\nwritable = "none"\n{root}{volume}{more}'

"""Streams of changes for tests, as `unionfs changes --archive=layer` writes them, in any order; and layers made of them."""

from __future__ import annotations

import gzip
import io
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.images.compression import zstd_module
from sandbox.images.oci.layer_blob import WrittenLayer
from sandbox.images.oci.layer_writer import write_layer
from unionfs.changes import pax

T = 1_700_000_000


@dataclass(frozen=True, kw_only=True)
class Change:
    """A member of a layer, with all its names: further ones are hard links."""

    names: tuple[bytes, ...]
    type: int = stat.S_IFREG
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = T * 10**9
    data: bytes = b""
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    ranges: tuple[tuple[int, int], ...] | None = None  # of *data* in a file of *size* bytes
    size: int | None = None


def directory(name: bytes, mode: int = 0o755, **fields: int) -> Change:
    return Change(names=(name,), type=stat.S_IFDIR, mode=mode, **fields)  # type: ignore[arg-type]


def file(name: bytes, data: bytes = b"", *links: bytes, **fields: object) -> Change:
    return Change(names=(name, *links), data=data, **fields)  # type: ignore[arg-type]


def mark(name: bytes) -> Change:
    return Change(names=(name,), mode=0o600, mtime_ns=0)


def stream(changes: Iterable[Change], first: int = 0) -> bytes:
    """Return the stream of *changes*; of each file with several names, that with the number *first* comes first."""
    parts = []
    for change in changes:
        at = first % len(change.names)
        names = change.names[at:] + change.names[:at]
        for name in names:
            member = pax.Member(
                path=name,
                mode=change.type | change.mode,
                uid=change.uid,
                gid=change.gid,
                mtime_ns=change.mtime_ns,
                size=len(change.data) if change.size is None else change.size,
                link=change.link if name == names[0] else names[0],
                hard_link=name != names[0],
                device=change.device,
                xattrs=change.xattrs if name == names[0] else {},
                ranges=change.ranges,
            )
            parts.append(pax.header(member))
            if name == names[0]:
                parts.append(pax.padded(change.data))
    return b"".join([*parts, pax.END])


class Layer:
    """A layer that was written from a stream, and its bytes."""

    def __init__(
        self, content: bytes, temporary: Path, *, compression: str = "", latest: int | None = None
    ) -> None:
        output = io.BytesIO()
        written = write_layer(
            io.BytesIO(content), output, temporary=str(temporary), compression=compression, latest=latest
        )
        assert written is not None
        self.written: WrittenLayer = written
        self.blob = output.getvalue()
        self.tar = self.blob
        if compression == "gzip":
            self.tar = gzip.decompress(self.blob)
        elif compression.startswith("zstd"):
            self.tar = zstd_module("a layer").decompress(self.blob)

"""Write layers of zstd:chunked and eStargz for tests, by their specifications, independently of the tested code.

layer = write_zstd_chunked(tar_of({"etc/motd": b"hello"}), chunk=1000)
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import struct
import tarfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.images.compression import zstd_module
from tests.support.images import CONFIG, LAYER, MACHINE, MANIFEST, add_blob, describe, digest_of, write_index

zstd: Any = zstd_module("test")

_TYPES = {
    tarfile.REGTYPE: "reg",
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.DIRTYPE: "dir",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}


@dataclass(frozen=True)
class ChunkedLayer:
    """A layer: the blob, the annotations of its descriptor, its tar, and the entries of its table."""

    blob: bytes
    annotations: Mapping[str, str]
    tar: bytes
    entries: list[dict[str, Any]] = field(repr=False)

    @property
    def media_type(self) -> str:
        return LAYER + ("+zstd" if self.blob.startswith(b"\x28\xb5\x2f\xfd") else "+gzip")

    @property
    def table(self) -> str:
        """The digest of the table."""
        return next(value for key, value in self.annotations.items() if key.endswith(("checksum", "digest")))


def _entry(member: tarfile.TarInfo) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": _TYPES[member.type], "name": member.name, "mode": member.mode}
    if member.type == tarfile.DIRTYPE:
        entry["name"] += "/"
    entry["modtime"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(member.mtime)))
    if member.linkname:
        entry["linkName"] = member.linkname
    numbers = {"size": member.size, "uid": member.uid, "gid": member.gid}
    entry |= {key: value for key, value in numbers.items() if value}
    xattrs = {
        key.removeprefix("SCHILY.xattr."): base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
        for key, value in member.pax_headers.items()
        if key.startswith("SCHILY.xattr.")
    }
    if xattrs:
        entry["xattrs"] = xattrs
    return entry


def _pieces(data: bytes, chunk: int) -> list[bytes]:
    return [data[at : at + chunk] for at in range(0, len(data), chunk)]


def write_zstd_chunked(tar: bytes, chunk: int = 1 << 16, *, zeros: bool = False) -> ChunkedLayer:
    """Return *tar* as a zstd:chunked layer (containers/storage, pkg/chunked/internal/minimal).

    With *zeros*, chunks of nothing but zeros are marked as such.
    """
    blob = bytearray()
    entries: list[dict[str, Any]] = []
    at = 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            entry = _entry(member)
            entries.append(entry)
            if not (member.isreg() and member.size):
                continue
            blob += zstd.compress(tar[at : member.offset_data])
            data = tar[member.offset_data : member.offset_data + member.size]
            at = member.offset_data + member.size
            entry["digest"] = digest_of(data)
            pieces = _pieces(data, chunk)
            for number, piece in enumerate(pieces):
                one: dict[str, Any] = entry if not number else {"type": "chunk", "name": member.name}
                if number:
                    entries.append(one)
                one["offset"] = len(blob)
                blob += zstd.compress(piece)
                if len(pieces) > 1:
                    one |= {"chunkSize": len(piece), "chunkDigest": digest_of(piece)}
                    one |= {"chunkOffset": number * chunk} if number else {}
                if zeros and not piece.strip(b"\0"):
                    one["chunkType"] = "zeros"
                    one.pop("chunkDigest", None)
            entry["endOffset"] = len(blob)
    blob += zstd.compress(tar[at:])
    return _with_zstd_table(bytes(blob), entries, tar)


def _with_zstd_table(blob: bytes, entries: list[dict[str, Any]], tar: bytes) -> ChunkedLayer:
    table = json.dumps({"version": 1, "entries": entries}).encode()
    packed = zstd.compress(table)
    offset = len(blob) + 8
    blob += b"\x50\x2a\x4d\x18" + struct.pack("<I", len(packed)) + packed
    footer = struct.pack("<QQQQQ", offset, len(packed), len(table), 1, 0) + b"GNUlInUx"
    blob += b"\x50\x2a\x4d\x18" + struct.pack("<I", len(footer)) + footer
    prefix = "io.github.containers.zstd-chunked"
    annotations = {
        f"{prefix}.manifest-checksum": digest_of(packed),
        f"{prefix}.manifest-position": f"{offset}:{len(packed)}:{len(table)}:1",
    }
    return ChunkedLayer(blob, annotations, tar, entries)


def write_estargz(tar: bytes, chunk: int = 1 << 16, *, inner: bool = False) -> ChunkedLayer:
    """Return *tar* as an eStargz layer (containerd/stargz-snapshotter, docs/estargz.md).

    With *inner*, small files share a gzip member with the header before them.
    """
    blob = bytearray()
    entries: list[dict[str, Any]] = []
    at = 0
    end = 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            entry = _entry(member)
            entries.append(entry)
            end = member.offset_data + -(-(member.size if member.isreg() else 0) // 512) * 512
            if not (member.isreg() and member.size):
                continue
            data = tar[member.offset_data : member.offset_data + member.size]
            entry["digest"] = digest_of(data)
            before = tar[at : member.offset_data]
            if not inner:
                blob += gzip.compress(before, mtime=0)
                before = b""
            pieces = _pieces(data, chunk)
            for number, piece in enumerate(pieces):
                one: dict[str, Any] = entry if not number else {"type": "chunk", "name": member.name}
                if number:
                    entries.append(one)
                one |= {"offset": len(blob), "chunkDigest": digest_of(piece)}
                if before:
                    one["innerOffset"] = len(before)
                if number:
                    one["chunkOffset"] = number * chunk
                if number < len(pieces) - 1:
                    one["chunkSize"] = len(piece)
                blob += gzip.compress(before + piece, mtime=0)
                before = b""
            at = member.offset_data + member.size
    blob += gzip.compress(tar[at:end], mtime=0)
    table = json.dumps({"version": 1, "entries": entries}).encode()
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        info = tarfile.TarInfo("stargz.index.json")
        info.size = len(table)
        archive.addfile(info, io.BytesIO(table))
    offset = len(blob)
    blob += gzip.compress(output.getvalue(), mtime=0)
    extra = b"SG" + struct.pack("<H", 22) + b"%016x" % offset + b"STARGZ"
    header = b"\x1f\x8b\x08\x04" + bytes(4) + b"\0\xff" + struct.pack("<H", len(extra)) + extra
    blob += header + b"\x01\0\0\xff\xff" + struct.pack("<II", zlib.crc32(b""), 0)
    content = tar[:end] + output.getvalue()
    annotations = {"containerd.io/snapshot/stargz/toc.digest": digest_of(table)}
    return ChunkedLayer(bytes(blob), annotations, content, entries)


def write_chunked_layout(
    layout: Path, *layers: ChunkedLayer | bytes, config: Mapping[str, Any] | None = None
) -> Path:
    """Write an OCI layout of an image with the tag "t", of *layers*, bottom first; plain tars are packed with gzip."""
    diff_ids = [digest_of(one if isinstance(one, bytes) else one.tar) for one in layers]
    document = {
        "architecture": MACHINE,
        "os": "linux",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    config_content = json.dumps(document).encode()
    described = []
    for one in layers:
        if isinstance(one, bytes):
            blob = gzip.compress(one, 1, mtime=0)
            described.append(describe(LAYER + "+gzip", blob))
        else:
            blob = one.blob
            described.append(describe(one.media_type, blob, annotations=dict(one.annotations)))
        add_blob(layout, blob)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe(CONFIG, config_content),
            "layers": described,
        }
    ).encode()
    add_blob(layout, config_content)
    add_blob(layout, manifest)
    tag = {"org.opencontainers.image.ref.name": "t"}
    return write_index(layout, [describe(MANIFEST, manifest, annotations=tag)])


def content_of(seed: int, size: int) -> bytes:
    """Return *size* bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()

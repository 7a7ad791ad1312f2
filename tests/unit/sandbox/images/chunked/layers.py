"""Read zstd:chunked layers for tests, by the standard library and zstd alone."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from sandbox.images.compression import zstd_module

KEY = "io.github.containers.zstd-chunked."


def decompress(data: bytes) -> bytes:
    return bytes(zstd_module("a layer").decompress(data))


def table(blob: bytes, annotations: dict[str, str], key: str) -> bytes:
    """Return the table whose place the annotation *key* has, after a comparison of its sizes."""
    offset, size, uncompressed = map(int, annotations[KEY + key].split(":")[:3])
    content = decompress(blob[offset : offset + size])
    assert len(content) == uncompressed
    assert blob[offset - 8 : offset] == b"\x50\x2a\x4d\x18" + struct.pack("<L", size)
    return content


def toc_of(blob: bytes, annotations: dict[str, str]) -> dict[str, Any]:
    """Return the table of contents."""
    found: dict[str, Any] = json.loads(table(blob, annotations, "manifest-position"))
    return found


def files_of(
    blob: bytes, toc: dict[str, Any]
) -> dict[str, tuple[dict[str, Any], bytes, list[tuple[int, str]]]]:
    """Return for each name its entry, its content, which is read at the places that the table has, and its chunks."""
    found = {}
    entries = toc["entries"]
    for number, entry in enumerate(entries):
        if entry["type"] == "chunk":
            continue
        parts = [entry]
        for other in entries[number + 1 :]:
            if other["type"] != "chunk":
                break
            assert other["name"] == entry["name"]
            parts.append(other)
        content, chunks = b"", []
        if entry.get("size"):
            ends = [part["offset"] for part in parts[1:]] + [entry["endOffset"]]
            for part, end in zip(parts, ends, strict=True):
                assert part.get("chunkOffset", 0) == len(content)
                size = part.get("chunkSize", entry["size"])
                if part.get("chunkType") == "zeros":
                    piece = bytes(size)
                else:
                    piece = decompress(blob[part["offset"] : end])
                    chunks.append((len(piece), part.get("chunkDigest", "")))
                assert len(piece) == size
                content += piece
        found[entry["name"]] = (entry, content, chunks)
    return found


def assemble(split: bytes, contents: dict[str, bytes], checksums: dict[str, int]) -> bytes:
    """Make the tar again from tar-split data and the contents of the files, as asm.WriteOutputTarStream of tar-split does."""
    tar = b""
    for number, line in enumerate(split.splitlines()):
        entry = json.loads(line)
        assert entry["position"] == number
        if entry["type"] == 2:
            tar += base64.b64decode(entry["payload"])
        elif size := entry.get("size", 0):
            assert len(contents[entry["name"]]) == size
            assert base64.b64decode(entry["payload"]) == checksums[entry["name"]].to_bytes(8)
            tar += contents[entry["name"]]
    return tar

"""The words and numbers of the format zstd:chunked (containers/storage, pkg/chunked/internal/minimal/compression.go). Pure."""

from __future__ import annotations

from sandbox.images.tar import Kind

CHECKSUM = "io.github.containers.zstd-chunked.manifest-checksum"
"""The annotation of a layer with the digest of its table of contents, as it is compressed."""

POSITION = "io.github.containers.zstd-chunked.manifest-position"
"""The annotation with the place of the table of contents: OFFSET:LENGTH:UNCOMPRESSED:TYPE, in bytes; TYPE is TOC_TYPE."""

TAR_SPLIT_POSITION = "io.github.containers.zstd-chunked.tarsplit-position"
"""The annotation with the place of the tar-split data: OFFSET:LENGTH:UNCOMPRESSED, in bytes."""

TOC_TYPE = 1
TOC_VERSION = 1

SKIPPABLE = b"\x50\x2a\x4d\x18"
"""Begins a frame that decompressors skip (RFC 8878, 3.1.2); four bytes with its length follow, least significant first."""

FOOTER_MAGIC = b"GNUlInUx"
"""The last bytes of the footer."""

TYPES = {
    Kind.FILE: "reg",
    Kind.HARD_LINK: "hardlink",
    Kind.SYMLINK: "symlink",
    Kind.CHARACTER_DEVICE: "char",
    Kind.BLOCK_DEVICE: "block",
    Kind.DIRECTORY: "dir",
    Kind.FIFO: "fifo",
}
"""The types of entries by the kinds of members."""

CHUNK = "chunk"
"""The type of an entry for a further chunk of the file before it."""

ZEROS = "zeros"
"""The type of a chunk that is a hole. A chunk with data has none."""

"""Write a layer in the format zstd:chunked.

    frames of the tar    headers and contents in turn; each chunk of a file is a frame
    skippable frame      the table of contents, JSON in a frame
    skippable frame      the tar-split data, in a frame
    skippable frame      the footer

A reader that does not know the format decompresses the tar. Chunks have CHUNK_SIZE bytes, the last of a file fewer. podman ends
its own chunks where a rolling checksum tells, so that it finds equal chunks at other places of files. Such a checksum needs a
calculation for each byte, which is slow in Python. Readers accept chunks of any sizes. Equal tars give equal layers, as for the
other compressions (oci/layer_blob.py).
"""

from __future__ import annotations

import json
from binascii import b2a_base64
from collections import deque

from sandbox.errors import ImageError
from sandbox.images.chunked.footer import NO_TABLE, Footer, Table, skippable
from sandbox.images.chunked.names import CHUNK, TOC_VERSION, TYPES, ZEROS
from sandbox.images.chunked.tar_split import TarSplit, crc64
from sandbox.images.compression import zstd_module
from sandbox.images.names import printable
from sandbox.images.oci.digest import Digest, new_hash
from sandbox.images.oci.image_config import timestamp
from sandbox.images.oci.layer_blob import ZSTD_LEVEL, WrittenLayer
from sandbox.images.oci.media_types import OCI_LAYER
from sandbox.images.oci.model import Descriptor
from sandbox.images.tar import TarStream
from unionfs._stdlib.typing import Any, NamedTuple
from unionfs.changes import pax

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sandbox.images.oci.layer_blob import Output
    from sandbox.images.tar import Member

CHUNK_SIZE = 1 << 18
"""The most bytes of the tar in one frame. Frames of 256 KiB take 5 percent more space than whole files, and 64 KiB 10 percent."""

LARGEST_SPARSE = 1 << 30
"""The most bytes of a file with holes: its digest, which the format demands, is that of all its zeros, too."""

_ZEROS = bytes(1 << 16)
_HINT = "--compression zstd can express it"


def write_chunked(pieces: Iterable[bytes], output: Output) -> WrittenLayer:
    """Write the layer whose tar consists of *pieces* to *output*, and return it.

    The tar must be one that `SortedMembers` writes. A layer with a sparse file has no tar-split data, which cannot express such
    files; podman fetches it whole.

    Raises:
        ImageError: the table of contents cannot express a member: the message names it.
        OSError: the output cannot be written.
    """
    source = _Source(pieces)
    blob = _Blob(output)
    entries: list[bytes] = []
    split: TarSplit | None = TarSplit(blob.new_compressor())
    archive = TarStream(source, "the layer", compressed=False)
    for member in archive:
        entry = _entry(member)
        headers = source.take(archive.position)
        blob.add(headers)
        if member.size:
            blob.end_frame()
            _check_sparse(member)
        content = _Content(blob)
        if member.size:
            for offset, piece in archive.data():
                content.hole(offset)
                content.add(piece)
                source.take(archive.position)
            content.finish(member.size)
        entries += content.entries(entry)
        if member.extents is not None:
            split = None
        elif split is not None:
            split.segment(headers)
            split.member(entry["name"], member.size, content.checksum)
    rest = source.take(None)
    blob.add(rest)
    blob.end_frame()
    if split is not None:
        split.segment(rest)
    return blob.finish(entries, split, source.diff_id.hexdigest())


class _Source:
    """The pieces of a tar on their way to the parser, kept until they are taken."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = filter(None, pieces)
        self._kept: deque[bytes] = deque()
        self._taken = 0
        self.diff_id = new_hash("sha256")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        self.diff_id.update(piece)
        self._kept.append(piece)
        return piece

    def take(self, end: int | None) -> bytes:
        """Return all that was not taken before the position *end* of the tar; None for the end, up to which this reads."""
        if end is None:
            for _ in self:
                pass
        left = (1 << 63) if end is None else end - self._taken
        found = []
        while left and self._kept:
            piece = self._kept.popleft()
            if len(piece) > left:
                self._kept.appendleft(piece[left:])
                piece = piece[:left]
            found.append(piece)
            left -= len(piece)
        taken = b"".join(found)
        self._taken += len(taken)
        return taken


class _Blob:
    """The compressed layer. It borrows the output."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._compressor = self.new_compressor()
        self._digest = new_hash("sha256")
        self._pending = bytearray()
        #: The bytes that were written.
        self.size = 0

    @staticmethod
    def new_compressor() -> Any:
        return zstd_module("a layer").ZstdCompressor(level=ZSTD_LEVEL)

    def add(self, data: bytes) -> None:
        """Add *data* to a frame, which ends when it has CHUNK_SIZE bytes."""
        self._pending += data
        while len(self._pending) >= CHUNK_SIZE:
            self.frame(self._pending[:CHUNK_SIZE])
            del self._pending[:CHUNK_SIZE]

    def end_frame(self) -> None:
        """Write what was added since the last frame as a frame, unless it is nothing."""
        if self._pending:
            self.frame(self._pending)
            self._pending.clear()

    def frame(self, data: bytes | bytearray) -> None:
        """Write a frame with *data*. As all of it is there at once, the frame's header has its size."""
        self._put(self._compressed(data))

    def finish(self, entries: list[bytes], split: TarSplit | None, diff_id: str) -> WrittenLayer:
        """Write the tables and the footer, and return the layer."""
        split_content = b"" if split is None else split.finish()
        end = "" if split is None else f',"tarSplitDigest":"{Digest.of(split_content)}"'
        toc = b'{"version":%d,"entries":[%b]%b}' % (TOC_VERSION, b",".join(entries), end.encode())
        toc_content = self._compressed(toc)
        toc_table = self._table(toc_content, len(toc))
        split_table = NO_TABLE if split is None else self._table(split_content, split.size)
        footer = Footer(toc_table, split_table)
        self._put(footer.encode())
        descriptor = Descriptor(
            media_type=f"{OCI_LAYER}+zstd",
            digest=Digest("sha256", self._digest.hexdigest()),
            size=self.size,
            annotations=footer.annotations(Digest.of(toc_content)),
        )
        return WrittenLayer(descriptor, Digest("sha256", diff_id))

    def _table(self, content: bytes, uncompressed: int) -> Table:
        frame = skippable(content)
        self._put(frame)
        return Table(self.size - len(content), len(content), uncompressed)

    def _compressed(self, data: bytes | bytearray) -> bytes:
        return bytes(self._compressor.compress(data, self._compressor.FLUSH_FRAME))

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += len(data)
        self._output.write(data)


class _Chunk(NamedTuple):
    """A part of a file: where it begins in the file and in the layer, its size, and its digest, "" for a hole."""

    begin: int
    offset: int
    size: int
    digest: str


class _Content:
    """The content of one file, written chunk by chunk. It is used once."""

    def __init__(self, blob: _Blob) -> None:
        self._blob = blob
        self._start = blob.size
        self._digest = new_hash("sha256")
        self._begin = 0  # of what is pending, in the file
        self._pending = bytearray()
        self._chunks: list[_Chunk] = []
        #: The CRC-64 of what was added.
        self.checksum = 0

    def add(self, piece: memoryview) -> None:
        self._digest.update(piece)
        self.checksum = crc64(piece, self.checksum)
        self._pending += piece
        while len(self._pending) >= CHUNK_SIZE:
            self._write(CHUNK_SIZE)

    def hole(self, end: int) -> None:
        """Add a hole up to the position *end* of the file, if it is not reached yet."""
        size = end - self._begin - len(self._pending)
        if not size:
            return
        self._write(len(self._pending))
        self._chunks.append(_Chunk(self._begin, self._blob.size, size, ""))
        self._begin = end
        while size:
            piece = _ZEROS[:size]
            self._digest.update(piece)
            size -= len(piece)

    def finish(self, size: int) -> None:
        """Write the rest of the file, which has *size* bytes."""
        self._write(len(self._pending))
        self.hole(size)

    def _write(self, size: int) -> None:
        """Write the first *size* bytes that are pending as a chunk."""
        if size:
            data = bytes(self._pending[:size])
            del self._pending[:size]
            self._chunks.append(_Chunk(self._begin, self._blob.size, size, str(Digest.of(data))))
            self._begin += size
            self._blob.frame(data)

    def entries(self, entry: dict[str, Any]) -> list[bytes]:
        """Return the entries for the table of contents: *entry*, and those of further chunks."""
        if not self._chunks:
            return [_json(entry)]
        entry |= {
            "digest": f"sha256:{self._digest.hexdigest()}",
            "offset": self._start,
            "endOffset": self._blob.size,
        }
        found = [entry, *({"type": CHUNK, "name": entry["name"]} for _ in self._chunks[1:])]
        if len(found) > 1 or not self._chunks[0].digest:
            for one, chunk in zip(found, self._chunks, strict=True):
                one.update(offset=chunk.offset, chunkSize=chunk.size)
                if chunk.begin:
                    one["chunkOffset"] = chunk.begin
                one["chunkDigest" if chunk.digest else "chunkType"] = chunk.digest or ZEROS
        return [_json(one) for one in found]


def _entry(member: Member) -> dict[str, Any]:
    """Return the entry of *member* without its content. The attributes are those that Go's archive/tar reads from the header."""
    name = _text(member, "name", member.name)
    entry: dict[str, Any] = {"type": TYPES[member.kind], "name": name}
    if member.link:
        entry["linkName"] = _text(member, "target", member.link)
    major, minor = member.device or (0, 0)
    numbers = {
        "mode": member.mode,
        "size": member.size,
        "uid": member.uid,
        "gid": member.gid,
        "devMajor": major,
        "devMinor": minor,
    }
    entry |= {key: value for key, value in numbers.items() if value}
    entry["modtime"] = _time(member)
    if member.xattrs:
        entry["xattrs"] = {
            _text(member, "attribute", pax.xattr_key(key)): b2a_base64(value, newline=False).decode()
            for key, value in sorted(member.xattrs.items())
        }
    return entry


def _text(member: Member, what: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _inexpressible(member, f"its {what} {printable(raw)} is not UTF-8") from None


def _time(member: Member) -> str:
    """Return the modification time as Go writes it (RFC 3339), with as many digits as it needs."""
    seconds, fraction = divmod(member.mtime_ns, 10**9)
    try:
        whole = timestamp(seconds)
    except ValueError as error:
        raise _inexpressible(member, f"its modification time: {error}") from None
    return f"{whole[:-1]}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


def _check_sparse(member: Member) -> None:
    if member.extents is not None and member.size > LARGEST_SPARSE:
        raise _inexpressible(
            member,
            f"a file with holes of {member.size} bytes, more than {LARGEST_SPARSE}, whose digest takes long",
        )


def _inexpressible(member: Member, reason: str) -> ImageError:
    return ImageError(f"zstd:chunked cannot express {printable(member.name)}: {reason}", hint=_HINT)


def _json(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()

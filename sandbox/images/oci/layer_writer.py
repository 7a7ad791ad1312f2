"""Write a layer of an image from the stream of changes of a sandbox. Equal changes give equal bytes, whenever and wherever."""

from __future__ import annotations

from sandbox.images.compression import Readable
from sandbox.images.oci.layer_blob import CHUNKED, LayerBlob, Output, WrittenLayer
from sandbox.images.oci.sorted_members import SortedMembers
from sandbox.images.tar import open_archive

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def write_layer(
    stream: Readable,
    output: Output,
    *,
    temporary: str,
    compression: str = "gzip",
    latest: int | None = None,
) -> WrittenLayer | None:
    """Write the layer in *stream* to *output*; return None, and write nothing, if it has no members.

    *stream* is the archive that `unionfs changes --archive=layer` writes, in any order; it is read up to the end of the archive, and
    not trusted. In the directory *temporary* is a file without a name meanwhile, as large as the contents of all members. The
    layer is compressed with *compression*, one of `layer_blob.COMPRESSIONS`, or plain if that is "". Modification times are at most
    *latest*, in seconds after the epoch, as SOURCE_DATE_EPOCH requests it (reproducible-builds.org); None keeps them all.

    The caller must use nothing of *output* if the process that writes *stream* fails.

    Raises:
        ImageError: *stream* is damaged, or a member cannot be in a layer: the message names it.
        OSError: a file cannot be written.
    """
    from tempfile import TemporaryFile

    with TemporaryFile(dir=temporary) as spool:
        members = SortedMembers(spool, latest=latest)
        members.add(open_archive(stream, "the changes of the sandbox"))
        if not len(members):
            return None
        return write_blob(members.pieces(), output, compression)


def write_blob(pieces: Iterable[bytes], output: Output, compression: str) -> WrittenLayer:
    """Write the layer whose tar consists of *pieces* to *output*, compressed with *compression*, as `write_layer` does.

    Raises:
        ImageError: *compression* cannot express a member: the message names it.
        OSError: the output cannot be written.
    """
    if compression == CHUNKED:
        from sandbox.images.chunked.writer import write_chunked

        return write_chunked(pieces, output)
    blob = LayerBlob(output, compression)
    for piece in pieces:
        blob.write(piece)
    return blob.finish()

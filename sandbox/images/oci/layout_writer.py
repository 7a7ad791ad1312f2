"""Write images into a layout, which is a directory that other tools read (image-spec, image-layout.md).

Each file is written under a temporary name, synced and renamed, and the index comes last. So a reader never sees an incomplete
image, also after a power failure. A killed process may leave temporary files, whose names begin with a dot. After an error, a
layout that this call has begun is removed. One that existed keeps the blobs that are complete, which the next call uses.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import ExitStack, contextmanager, suppress

from sandbox.errors import ImageError
from sandbox.images.oci import layout
from sandbox.images.oci.image_content import ImageContent
from sandbox.images.oci.json_documents import DOCUMENT_LIMIT
from sandbox.images.oci.model import Descriptor, decode_index
from sandbox.kernel.trees import remove_contents

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_layout(path: str, image: ImageContent, tag: str | None = None) -> Descriptor:
    """Write *image* under *tag* into the layout *path*, and return the descriptor of its manifest there.

    The directory is made if it does not exist. Other images in it stay; one with the same tag loses the tag. None as *tag* is the
    image without one. A manifest of Docker's schema 2 is converted.

    Raises:
        ImageError: *path* is something else than a layout, *tag* is not possible, or the image is damaged.
        OSError: a file cannot be written.
    """
    if tag is not None:
        layout.check_tag(tag)
    image = image.as_oci()
    with ExitStack() as undo:
        root = _opened_layout(path, undo)
        for part in (image.manifest.config, *image.manifest.layers):
            _write_blob(root, part, image.pieces(part))
        _write_blob(root, image.descriptor, (image.content,))
        _add_to_index(root, path, image.descriptor, tag)
    return image.descriptor


def _opened_layout(path: str, undo: ExitStack) -> int:
    """Return a descriptor of the layout *path*, which is made if there is none; *undo* closes it."""
    made = True
    try:
        os.mkdir(path, 0o777)
    except FileExistsError:
        made = False
    root = os.open(path, _DIRECTORY)
    undo.callback(os.close, root)
    if made:
        undo.push(lambda kind, _error, _traceback: _remove_unfinished(root, path) if kind else None)
    with _locked(root):
        marker = _content(root, layout.MARKER, path)
        if marker is None:
            if any(not name.startswith(".") for name in os.listdir(root)):
                raise ImageError(
                    f"{path}: a directory that is no layout of images and not empty",
                    hint="choose another directory",
                )
            _replace(root, layout.MARKER, (layout.MARKER_CONTENT,))
        else:
            layout.check_marker(marker, path)
    return root


def _remove_unfinished(root: int, path: str) -> None:
    """Remove the layout *path*, which is the directory *root*, unless another process has completed an image in it."""
    with suppress(OSError), _locked(root):
        names = os.listdir(root)
        if layout.INDEX not in names and os.path.samestat(os.lstat(path), os.fstat(root)):
            remove_contents(root)
            os.rmdir(path)


def _content(directory: int, name: str, path: str) -> bytes | None:
    """Return the content of the small file *name*, None if there is none; *path* is for messages."""
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ImageError(f"{path}/{name} is not a regular file", hint="choose another directory")
        return file.read(DOCUMENT_LIMIT + 1)


def _write_blob(root: int, blob: Descriptor, pieces: Iterable[bytes]) -> None:
    """Write *pieces*, which raise an error if they are not *blob*, unless the layout has it."""
    directory, _, name = layout.blob_path(blob.digest).rpartition("/")
    with ExitStack() as undo:
        fd = root
        for part in directory.split("/"):
            with suppress(FileExistsError):
                os.mkdir(part, 0o777, dir_fd=fd)
                os.fsync(fd)
            fd = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            undo.callback(os.close, fd)
        if not _has(fd, name, blob.size):
            _replace(fd, name, pieces)


def _has(directory: int, name: str, size: int) -> bool:
    """Return whether the file *name* exists with *size* bytes; another tool may have left a part of it."""
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(info.st_mode) and info.st_size == size


def _replace(directory: int, name: str, pieces: Iterable[bytes]) -> None:
    """Give the file *name* the content *pieces*, all of it or nothing, and sync it and its directory."""
    new = f".{name}.{os.urandom(4).hex()}"
    with open(os.open(new, _NEW, 0o666, dir_fd=directory), "wb") as file:
        try:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(new, dir_fd=directory)
            raise
    os.fsync(directory)


def _add_to_index(root: int, path: str, image: Descriptor, tag: str | None) -> None:
    with _locked(root):
        content = _content(root, layout.INDEX, path)
        # A process that was killed while it made the layout has left it without an index.
        index = layout.EMPTY_INDEX if content is None else decode_index(content, f"{path}: {layout.INDEX}")
        _replace(root, layout.INDEX, (layout.tagged(index, image, tag).encode(),))


@contextmanager
def _locked(directory: int) -> Iterator[None]:
    """Let no other process of ours begin the layout or change its index meanwhile, so that no tag is lost."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
    except OSError as error:
        # On NFS, flock(2) needs a file that is open for writing, and other file systems have no locks at all.
        if error.errno not in {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_UN)

"""Export files of a sandbox as it shows them: trees or changes, into an archive or a directory of the host.

The members come from `unionfs changes --archive` (sandbox/changes/reader.py). An archive gets its name when it is complete.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager, suppress

from sandbox.as_container_root import run_with_ids, with_own_id
from sandbox.changes.applying import owners_of
from sandbox.changes.extract import extract
from sandbox.changes.host_attributes import Owners
from sandbox.changes.host_tree import HostTree
from sandbox.changes.reader import Process, changes_of, start, state_directory
from sandbox.changes.writable_layers import WritableLayer, find
from sandbox.errors import ImageError, SandboxError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from sandbox.images.oci.image_content import ImageContent

IMAGE_KINDS = ("oci", "oci-archive", "docker-archive")
"""What an image can be written as: the beginnings of destinations, before a colon."""
_CHUNK = 1 << 20
TAR = "tar:"
"""Begins a destination that is an archive; `tar:-` is standard output."""


def export_archive(argument: str, paths: Sequence[str], target: str, *, changes: bool) -> int:
    """Write *paths* of the sandbox that *argument* selects to the archive *target*; return its size in bytes.

    With *changes* the archive has the changes at and below *paths*, as a layer of an OCI image; without, whole trees. No paths
    mean the whole root. *target* is a file, which is replaced when the archive is complete, or "-".

    Raises:
        SandboxError: the sandbox cannot be read, a path does not exist in it, or the archive cannot be written.
    """
    layer = find(state_directory(), argument)
    options = [f"--archive={'layer' if changes else 'trees'}"]
    wanted = list(paths) or ([] if changes else ["/"])
    if target == "-":
        return _copy(layer, options, wanted, sys.stdout.fileno(), "standard output")
    with _new_file(target) as file:
        return _copy(layer, options, wanted, file.fileno(), target)


@contextmanager
def _new_file(target: str) -> Iterator[BinaryIO]:
    """Yield a file that replaces *target* when the context ends without an error.

    Raises:
        SandboxError: *target* cannot be written, or is not a regular file.
    """
    with ExitStack() as undo:
        directory, name = os.path.split(target)
        if name in ("", ".", ".."):
            raise SandboxError(f"{target} is not a file name", hint="write tar:FILE")
        try:
            directory_fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, directory_fd)
            new = f".{name[:200]}.{os.urandom(4).hex()}"
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=directory_fd)
            file = undo.enter_context(open(fd, "wb"))
        except OSError as error:
            raise _failure(target, error) from None
        try:
            yield file
            file.flush()
            os.fsync(fd)
            _refuse_special(name, directory_fd, target)
            os.rename(new, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(new, dir_fd=directory_fd)
            if isinstance(error, OSError):
                raise _failure(target, error) from None
            raise


def _refuse_special(name: str, directory_fd: int, target: str) -> None:
    """Refuse to replace what is not a regular file, such as /dev/null or a directory."""
    try:
        info = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(info.st_mode):
        raise SandboxError(f"{target} exists and is not a regular file", hint="choose another name")


def _copy(layer: WritableLayer, options: Sequence[str], paths: Sequence[str], fd: int, target: str) -> int:
    size = 0
    with ExitStack() as undo:
        process = start(layer, options, paths, undo)
        while data := os.read(process.output_fd, _CHUNK):
            size += len(data)
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(fd, view) :]
                except OSError as error:
                    raise _failure(target, error) from None
        process.finish()
    return size


def _failure(target: str, error: OSError) -> SandboxError:
    return SandboxError(f"{target}: {(error.strerror or str(error)).lower()}")


def export_image(argument: str, kind: str, target: str, *, flatten: bool) -> str:
    """Write an image into *target*: the image "image:NAME" of the store, or one that is made of the sandbox *argument*.

    *kind* is "oci", a layout, "oci-archive" or "docker-archive". *target* is PATH, PATH:TAG or, for "docker-archive",
    PATH:NAME:TAG. Return the digest of the manifest.

    Raises:
        SandboxError: there is no such sandbox or image, it cannot be an image, or *target* cannot be written.
    """
    from sandbox.changes.committing import commit
    from sandbox.images.collection import collect, importing
    from sandbox.images.stored_content import content_of, content_of_record
    from sandbox.state.location import locate

    _check_reference(kind, target)
    where = locate(os.environ, os.geteuid())
    if argument.startswith("image:"):
        if flatten:
            raise ImageError(
                f"--flatten makes an image of a sandbox, and {argument} is one", hint="leave it out"
            )
        with importing(where.images):
            return write_image(content_of(where.images, argument.removeprefix("image:")), kind, target)
    try:
        # Another process that removes images must not remove this one, which has no name, before it is written.
        with importing(where.images):
            record = commit(argument, None, flatten=flatten)
            return write_image(content_of_record(where.images, record, argument), kind, target)
    finally:
        collect(where)


def _check_reference(kind: str, target: str) -> None:
    """Refuse a tag or a name in *target* that the kind *kind* cannot have, before an image is made for it."""
    from sandbox.images.oci.archive_writers import check_reference
    from sandbox.images.oci.layout import check_tag
    from sandbox.images.transports.opening import split_reference

    _, reference = split_reference(kind, target)
    if reference:
        (check_reference if kind == "docker-archive" else check_tag)(reference)


def write_image(image: ImageContent, kind: str, target: str) -> str:
    """Write *image* into *target* as :func:`export_image` does; return the digest of its manifest there.

    Raises:
        SandboxError: *target* cannot be written.
    """
    from sandbox.images.oci.archive_writers import write_docker_archive, write_oci_archive
    from sandbox.images.oci.layout_writer import write_layout
    from sandbox.images.transports.opening import split_reference

    path, reference = split_reference(kind, target)
    try:
        if kind == "oci":
            return str(write_layout(path, image, reference or None).digest)
        with _new_file(path) as file:
            if kind == "oci-archive":
                write_oci_archive(file, image, reference or None)
            else:
                write_docker_archive(file, image, [reference] if reference else [])
    except OSError as error:
        raise _failure(path, error) from None
    return str(image.as_oci().descriptor.digest if kind == "oci-archive" else image.descriptor.digest)


def export_directory(argument: str, paths: Sequence[str], destination: str, *, changes: bool) -> int:
    """Copy *paths* of the sandbox that *argument* selects to the existing directory *destination*, each under its last name.

    With *changes* only what the sandbox has added, changed or moved there. Return the number of objects written.

    Raises:
        SandboxError: the sandbox cannot be read, a path does not exist in it, or something cannot be written.
    """
    layer = find(state_directory(), argument)
    with ExitStack() as undo:
        try:
            root_fd = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _failure(destination, error) from None
        undo.callback(os.close, root_fd)
        count = 0
        for path in paths:
            for kind, wanted in _selected(layer, path, changes=changes):
                process = start(layer, [f"--archive={kind}"], wanted, undo)
                with process.explaining():
                    count += _extract(layer, process, root_fd, destination, path)
    return count


def _selected(layer: WritableLayer, path: str, *, changes: bool) -> list[tuple[str, list[str]]]:
    """Return the archives to request of *path*: their kinds, and the paths in each."""
    if not changes:
        return [("trees", [path])]
    rows = changes_of(layer, [path])
    single = [os.fsdecode(row.path) for row in rows if row.kind in "AC"]
    moved = [os.fsdecode(row.path) for row in rows if row.kind == "R"]
    return [(kind, wanted) for kind, wanted in (("trees", moved), ("members", single)) if wanted]


def _extract(layer: WritableLayer, process: Process, root_fd: int, destination: str, path: str) -> int:
    strip = os.fsencode(os.path.dirname(path.rstrip("/")))

    def write(owners: Owners) -> str:
        tree = HostTree(root_fd, destination, keep_acls=layer.ids.single)
        with open(process.output_fd, "rb", closefd=False) as stream:
            return str(extract(stream, tree, strip=strip, owners=owners).entries)

    if os.geteuid() == 0:
        return int(write(owners_of(layer.ids)))
    return int(run_with_ids(with_own_id(layer.ids), lambda: write(lambda uid, gid: (uid, gid))))

"""Download one blob into a file, which may have its beginning already, and verify it.

A transfer that was cut continues where it ended, by Range (RFC 9110, section 14). A server may ignore Range: a response 200 is
a new start. A response 206 counts only if its Content-Range begins where the file ends. The digest is computed on the way,
from what the file has and what arrives.
"""

from __future__ import annotations

import errno
import os

from sandbox.errors import ImageError, describe_errno
from sandbox.images.registry.failures import RegistryError
from sandbox.images.registry.ranges import parse_content_range, range_header
from sandbox.state.file_digests import CHUNK, new_sha256

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.images.registry.authorization import Scopes
    from sandbox.images.registry.endpoint import Endpoint
    from sandbox.images.registry.transport import Answer

    Report = Callable[[int], None]


class WrongContentError(RegistryError):
    """The content of a blob does not have its digest or its size."""


class PartialBlob:
    """The file of a download: how much of the blob it has, and the digest of that. The caller opens and closes the file."""

    def __init__(self, fd: int, digest: str, size: int, what: str) -> None:
        """Read what the file *fd*, which is open for reading and writing, has already.

        Args:
            fd: a regular file with the beginning of the blob. A longer one than the blob is emptied.
            digest: the blob's digest.
            size: the blob's size in bytes.
            what: the blob and its source, for messages.

        Raises:
            ImageError: the file cannot be read or written.
        """
        self._fd = fd
        self._digest = digest
        self._what = what
        self._size = size
        self._hash: Any = new_sha256()
        #: Bytes that the file has.
        self.offset = 0
        try:
            present = os.fstat(fd).st_size
            if present > size:
                os.ftruncate(fd, 0)
                present = 0
            while data := os.pread(fd, min(CHUNK, present - self.offset), self.offset):
                self._hash.update(data)
                self.offset += len(data)
        except OSError as error:
            raise self._unwritable(error) from None

    @property
    def complete(self) -> bool:
        """Whether the file has as many bytes as the blob."""
        return self.offset == self._size

    def restart(self) -> None:
        """Empty the file. Raises ImageError if that is impossible."""
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise self._unwritable(error) from None
        self._hash = new_sha256()
        self.offset = 0

    def append(self, data: bytes) -> None:
        """Append *data* to the file.

        Raises:
            WrongContentError: the blob would be longer than its size; the file is empty then.
            ImageError: the file cannot be written.
        """
        if self.offset + len(data) > self._size:
            self.restart()
            raise WrongContentError(
                f"{self._what}: is longer than its size of {self._size} bytes", hint=_WRONG
            )
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, self.offset)
                self._hash.update(view[:written])
                self.offset += written
                view = view[written:]
        except OSError as error:
            raise self._unwritable(error) from None

    def verify(self) -> None:
        """Compare the digest of the complete file.

        Raises:
            WrongContentError: it is another; the file is empty then.
        """
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self._digest:
            self.restart()
            raise WrongContentError(f"{self._what}: the content has the digest {found}", hint=_WRONG)

    def _unwritable(self, error: OSError) -> ImageError:
        number = error.errno or 0
        reason = (error.strerror or str(error)).lower()
        return ImageError(
            f"{self._what}: the download cannot be written: {reason} ({errno.errorcode.get(number, number)})",
            hint=describe_errno("", number),
        )


_WRONG = "the registry, or something on the way, serves other content: pull again, or from another registry"


def download(
    endpoint: Endpoint, scopes: Scopes, digest: str, size: int, partial: PartialBlob, report: Report
) -> None:
    """Complete *partial* with the blob *digest* of *endpoint*, and verify it. *report* receives the bytes so far.

    If the beginning that the file had before turns out to be wrong, for example after a failure of power, the blob is
    downloaded once more.

    Raises:
        WrongContentError: the registry serves another content; the file is empty then.
        RegistryError: the download failed; the file has the beginning of the blob.
        ImageError: the file cannot be written.
    """
    had_beginning = partial.offset > 0
    try:
        _complete(endpoint, scopes, digest, size, partial, report)
        partial.verify()
    except WrongContentError:
        if not had_beginning:
            raise
        report(0)
        _complete(endpoint, scopes, digest, size, partial, report)
        partial.verify()


def read_range(endpoint: Endpoint, scopes: Scopes, digest: str, offset: int, length: int) -> bytes:
    """Return *length* bytes of the blob *digest* from *offset*. The caller verifies them.

    Raises:
        RegistryError: the request failed, or the registry does not serve ranges.
    """
    what = f"{endpoint}: {digest}: bytes {offset} to {offset + length}"

    def attempt() -> bytes:
        with endpoint.open(
            "GET",
            endpoint.url("blobs", digest),
            what=what,
            scopes=scopes,
            ok=(200, 206),
            headers={"Range": range_header(offset, offset + length)},
        ) as answer:
            found = parse_content_range(answer.headers.get("Content-Range"))
            if answer.status == 200:
                raise RegistryError(
                    f"{what}: {answer.host}: does not serve ranges", hint="pull the whole image"
                )
            if found is None or (found.start, found.end) != (offset, offset + length):
                raise RegistryError(f"{what}: {answer.host}: responds with another range")
            data = bytearray()
            for piece in answer.pieces():
                data += piece
                if len(data) > length:
                    raise RegistryError(f"{what}: {answer.host}: the response is too long")
            if len(data) != length:
                raise RegistryError(f"{what}: {answer.host}: the response is too short", retriable=True)
            return bytes(data)

    return endpoint.retried(attempt)


def _complete(
    endpoint: Endpoint, scopes: Scopes, digest: str, size: int, partial: PartialBlob, report: Report
) -> None:
    """Download until *partial* is complete; retry as long as the download advances."""
    retries = endpoint.retries()
    best = partial.offset
    use_range = True
    while not partial.complete:
        report(partial.offset)
        try:
            use_range = _attempt(endpoint, scopes, digest, size, partial, report, use_range=use_range)
            if not partial.complete:
                raise RegistryError(
                    f"{endpoint}: {digest}: the response ends after {partial.offset} of {size} bytes",
                    hint="try again later",
                    retriable=True,
                )
        except RegistryError as error:
            # Only new content counts: a server that ignores Range and cuts the connection makes no progress.
            if partial.offset >= best + endpoint.limits.advance:
                best = partial.offset
                retries.reset()
            retries.pause(error)
    report(partial.offset)


def _attempt(
    endpoint: Endpoint,
    scopes: Scopes,
    digest: str,
    size: int,
    partial: PartialBlob,
    report: Report,
    *,
    use_range: bool,
) -> bool:
    """Make one request for the rest of the blob; return whether a further one may use Range."""
    if partial.offset > 0 and not use_range:
        partial.restart()
    start = partial.offset
    what = f"{endpoint}: {digest}"
    with endpoint.open(
        "GET",
        endpoint.url("blobs", digest),
        what=what,
        scopes=scopes,
        ok=(200, 206, 416) if start else (200,),
        headers={"Range": range_header(start)} if start else {},
    ) as answer:
        if (
            answer.status == 416
        ):  # the registry's blob ends before: it is another one, or a proxy has a part of it
            return False
        if answer.status == 206:
            found = parse_content_range(answer.headers.get("Content-Range"))
            if found is None or found.start != start or found.size not in (None, size) or found.end > size:
                return False
        elif start:
            partial.restart()
        _check_length(answer, size if answer.status == 200 else None, what, partial)
        for data in answer.pieces():
            partial.append(data)
            report(partial.offset)
    return True


def _check_length(answer: Answer, size: int | None, what: str, partial: PartialBlob) -> None:
    """Refuse a response with a whole blob of another *size* before its body is read."""
    length = answer.headers.get("Content-Length")
    if size is not None and length is not None and length.isdecimal() and int(length) != size:
        partial.restart()
        raise WrongContentError(
            f"{what}: {answer.host}: the blob has {int(length)} bytes, not {size}", hint=_WRONG
        )

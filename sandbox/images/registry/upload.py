"""Upload one blob to a registry, or have the registry take it from another of its repositories.

The requests are those of the distribution specification, "Pushing blobs". A blob that fits one chunk is sent with the request
that completes the upload. A larger one is sent in chunks. After a cut connection, the registry reports how much it has, and the
upload continues there; if the registry has dropped the upload, it begins anew.
"""

from __future__ import annotations

import os
import re

from sandbox.errors import ImageError
from sandbox.images.registry.failures import RegistryError
from sandbox.images.registry.ranges import parse_uploaded
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.images.registry.authorization import Scopes
    from sandbox.images.registry.endpoint import Endpoint, Retries
    from sandbox.images.registry.transport import Answer

    Report = Callable[[int], None]

_PIECE = 1 << 15
"""The most bytes that are sent at once: few, because the time limit of the connection counts for each."""

_OCTETS = {"Content-Type": "application/octet-stream"}
_GONE = frozenset((404, 405, 410, 416))
"""Statuses of a request for the state of an upload that the registry no longer has, or of which it gives no state."""


@dataclass(frozen=True, slots=True)
class _Session:
    """An upload that the registry has begun."""

    url: str
    #: The least size of a chunk but the last.
    least: int


class Upload:
    """The upload of one blob from a file, which the caller opens and closes."""

    def __init__(
        self, endpoint: Endpoint, scopes: Scopes, digest: str, size: int, fd: int, report: Report
    ) -> None:
        """Send nothing yet.

        Args:
            endpoint: the repository.
            scopes: scopes for reading and writing it.
            digest: the blob's digest, which the registry verifies.
            size: the blob's size in bytes.
            fd: a file with the blob.
            report: receives the bytes that were sent so far.
        """
        self._endpoint = endpoint
        self._scopes = scopes
        self._digest = digest
        self._size = size
        self._fd = fd
        self._report = report
        self._what = f"{endpoint}: {digest}"

    def run(self) -> None:
        """Upload the blob.

        Raises:
            RegistryError: the registry refuses it, or the upload failed.
            ImageError: the file cannot be read, or is shorter than the blob.
        """
        retries = self._endpoint.retries()
        session: _Session | None = None
        sent = best = 0
        while True:
            try:
                if session is None:
                    session, sent = self._begin(), 0
                session, sent = self._send_chunks(session, sent)
                self._finish(session, sent)
                break
            except _Interrupted as cut:
                if cut.sent >= best + self._endpoint.limits.advance:
                    best = cut.sent
                    retries.reset()
                retries.pause(cut.error)
                session, sent = self._resumed(cut.session, retries)
                if session is None and self._is_stored():
                    break  # only the response was lost
            except RegistryError as error:
                retries.pause(error)
        self._report(self._size)

    def _begin(self) -> _Session:
        with self._endpoint.open(
            "POST",
            self._endpoint.url("blobs", "uploads", ""),
            what=self._what,
            scopes=self._scopes,
            ok=(202,),
            headers={"Content-Length": "0"},
        ) as answer:
            least = answer.headers.get("OCI-Chunk-Min-Length", "")
            number = int(least) if re.fullmatch("[0-9]{1,18}", least) else 0
            return _Session(_location(answer, self._what), number)

    def _send_chunks(self, session: _Session, sent: int) -> tuple[_Session, int]:
        """Send all chunks but the last; return the session and how many bytes were sent."""
        chunk = max(self._endpoint.limits.chunk, session.least)
        while self._size - sent > chunk:
            end = sent + chunk
            try:
                session, sent = self._send(session, sent, end), end
            except RegistryError as error:
                raise _Interrupted(error, session, sent) from None
        return session, sent

    def _send(self, session: _Session, start: int, end: int) -> _Session:
        with self._endpoint.open(
            "PATCH",
            session.url,
            what=self._what,
            scopes=self._scopes,
            ok=(202,),
            # The specification's form, without a unit.
            headers={**_OCTETS, "Content-Range": f"{start}-{end - 1}", "Content-Length": str(end - start)},
            body=lambda: self._pieces(start, end),
        ) as answer:
            range_ = answer.headers.get("Range")
            if range_ is not None and parse_uploaded(range_) != end:
                raise RegistryError(
                    f"{self._what}: {answer.host}: has taken another range than the one that was sent",
                    hint="try again later",
                    retriable=True,
                )
            return _Session(_location(answer, self._what), session.least)

    def _finish(self, session: _Session, sent: int) -> None:
        """Send the rest of the blob, and have the registry verify the whole."""
        rest = self._size - sent
        headers = {**_OCTETS, "Content-Length": str(rest)}
        if sent and rest:
            headers["Content-Range"] = f"{sent}-{self._size - 1}"
        separator = "&" if "?" in session.url else "?"
        try:
            with self._endpoint.open(
                "PUT",
                f"{session.url}{separator}digest={self._digest}",
                what=self._what,
                scopes=self._scopes,
                ok=(201, 204),
                headers=headers,
                body=(lambda: self._pieces(sent, self._size)) if rest else None,
                extra=self._size / self._endpoint.limits.verification,
            ) as answer:
                check_digest(answer, self._digest, self._what)
        except RegistryError as error:
            raise _Interrupted(error, session, sent) from None

    def _resumed(self, session: _Session, retries: Retries) -> tuple[_Session | None, int]:
        """Return the state of *session* after an interruption; no session if the registry has dropped it."""
        while True:
            try:
                with self._endpoint.open(
                    "GET", session.url, what=self._what, scopes=self._scopes, ok=(204, *_GONE)
                ) as answer:
                    sent = parse_uploaded(answer.headers.get("Range"))
                    if answer.status in _GONE or sent is None or sent > self._size:
                        return None, 0
                    # `0-0` is one byte or none: the first chunk is sent again from its start.
                    url = _location(answer, self._what) if "Location" in answer.headers else session.url
                    return _Session(url, session.least), 0 if sent == 1 else sent
            except RegistryError as error:
                if not error.retriable:
                    return None, 0
                retries.pause(error)

    def _is_stored(self) -> bool:
        url = self._endpoint.url("blobs", self._digest)
        try:
            with self._endpoint.open(
                "HEAD", url, what=self._what, scopes=self._scopes, ok=(200, 404)
            ) as answer:
                return answer.status == 200
        except RegistryError as error:
            if not error.retriable:
                raise
            return False  # the blob is uploaded again

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        at = start
        while at < end:
            self._report(at)
            try:
                data = os.pread(self._fd, min(_PIECE, end - at), at)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise ImageError(f"{self._what}: the file of the blob cannot be read: {reason}") from None
            if not data:
                raise ImageError(f"{self._what}: the file of the blob ends after {at} of {self._size} bytes")
            yield data
            at += len(data)


class _Interrupted(Exception):
    """A request of an upload failed, and the session may still exist."""

    def __init__(self, error: RegistryError, session: _Session, sent: int) -> None:
        super().__init__()
        # The registry has dropped the session: a new one may succeed.
        error.retriable = error.retriable or error.status in (404, 416)
        self.error = error
        self.session = session
        self.sent = sent


def mount(endpoint: Endpoint, scopes: Scopes, digest: str, source: str) -> bool:
    """Have the registry take the blob *digest* from its repository *source*; return whether it has.

    Raises:
        RegistryError: the request failed.
    """
    from urllib.parse import urlencode

    what = f"{endpoint}: {digest}"
    query = urlencode({"mount": digest, "from": source})

    def attempt() -> bool:
        with endpoint.open(
            "POST",
            f"{endpoint.url('blobs', 'uploads', '')}?{query}",
            what=what,
            scopes=scopes,
            ok=(201, 202),
            headers={"Content-Length": "0"},
        ) as answer:
            if answer.status == 201:
                check_digest(answer, digest, what)
                return True
            url = _location(answer, what)
        # The registry has begun an upload instead, which nothing will complete.
        try:
            endpoint.open("DELETE", url, what=what, scopes=scopes, ok=(202, 204, *_GONE)).close()
        except RegistryError:
            pass  # the registry will drop it some day
        return False

    return endpoint.retried(attempt)


def check_digest(answer: Answer, digest: str, what: str) -> None:
    """Compare the digest that the registry reports for what it has stored.

    Raises:
        RegistryError: it is another one.
    """
    stored = answer.headers.get("Docker-Content-Digest", "")
    if stored.startswith("sha256:") and stored != digest:
        raise RegistryError(
            f"{what}: {answer.host}: has stored other content, {stored[:71]}", hint="push again"
        )


def _location(answer: Answer, what: str) -> str:
    """Return the URL of an upload, which may be relative and on another host (distribution specification)."""
    from sandbox.images.registry.transport import checked_url

    url = (
        checked_url(answer.headers.get("Location", ""), answer.url) if "Location" in answer.headers else None
    )
    if url is None:
        raise RegistryError(f"{what}: {answer.host}: begins no upload: its response has no valid Location")
    return url

"""Read and write one repository of a registry: manifests, blobs, and parts of blobs.

:class:`RegistryClient` chooses the host: for reading, mirrors come first, and the first host that has the image serves the rest
of it. Writing goes to the registry itself.
"""

from __future__ import annotations

import threading

from sandbox.errors import ImageError
from sandbox.images.registry import registries_conf
from sandbox.images.registry.credentials import CredentialStore
from sandbox.images.registry.download import PartialBlob, download, read_range
from sandbox.images.registry.endpoint import Endpoint
from sandbox.images.registry.failures import CancelledError, RegistryError
from sandbox.images.registry.reference import is_digest, is_tag
from sandbox.images.registry.registries_conf import Location
from sandbox.images.registry.settings import Limits, TlsSettings
from sandbox.images.registry.upload import Upload, check_digest, mount
from sandbox.images.registry.watchdog import Watchdog
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.hashlib import sha256

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Literal, Self, TypeVar

    from sandbox.images.registry.authorization import Scopes
    from sandbox.images.registry.credentials import CredentialSource
    from sandbox.images.registry.reference import Reference

    T = TypeVar("T")
    Report = Callable[[int], None]

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
"""The types of manifests that are requested: those of the OCI image specification, and Docker's schema 2."""


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest as the registry serves it."""

    #: The type by the registry's Content-Type, without parameters; "" if it gives none.
    media_type: str
    #: The digest of `content`. It was compared with the requested one.
    digest: str
    content: bytes


def _no_report(_: int) -> None: ...


class RegistryClient:
    """A client for one repository. Threads may share it. The caller closes it, or uses it in `with`.

    A thread of its own exists until then, so a program that forks closes the client first.
    """

    def __init__(
        self,
        locations: Sequence[Location],
        *,
        credentials: CredentialSource,
        environ: Mapping[str, str],
        tls: TlsSettings | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Make no connection yet.

        Args:
            locations: where the repository is, in the order of the attempts; see :func:`client_for`.
            credentials: finds the user's credentials.
            environ: HOME, for certificates of hosts, and the variables of proxies.
            tls: the user's settings of TLS.
            limits: limits of time, size and attempts.
        """
        self._locations = locations
        self._credentials = credentials
        self._environ = environ
        self._tls = tls or TlsSettings()
        self.limits = limits or Limits()
        self._watchdog = Watchdog(self.limits.stall, self.limits.least_progress)
        self._lock = threading.Lock()
        self._endpoints: dict[int, Endpoint] = {}
        self._first = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. No other thread may use the client any more."""
        for endpoint in self._endpoints.values():
            endpoint.close()
        self._watchdog.close()

    def cancel(self) -> None:
        """End all requests of all threads at once, with CancelledError. The client can only be closed then."""
        self._watchdog.cancel()

    def check_login(self) -> None:
        """Make a request that needs the user's credential where the registry requires one.

        Raises:
            RegistryError: the registry refuses it, or cannot be reached.
        """
        self._own().check_login()

    def manifest(self, tag_or_digest: str) -> FetchedManifest:
        """Return the manifest or index with a tag or a digest. Its content is verified, but not parsed.

        Raises:
            RegistryError: there is none, it is larger than `limits.manifest`, or it has another digest.
        """
        _check_target(tag_or_digest)
        return self._read(lambda endpoint: self._manifest(endpoint, tag_or_digest))

    def download(self, digest: str, size: int, fd: int, report: Report = _no_report) -> None:
        """Complete the file *fd* with the blob *digest*, and verify it. The file may have the blob's beginning.

        Args:
            digest: the blob's digest.
            size: the blob's size in bytes, by its descriptor.
            fd: a regular file, open for reading and writing.
            report: receives the bytes that the file has; fewer than before after a new start.

        Raises:
            RegistryError: the download failed; the file has what has arrived. Or the content is wrong; the file is empty.
            ImageError: the file cannot be written.
        """
        _check_digest(digest)
        partial = PartialBlob(fd, digest, size, f"{self._locations[-1]}: {digest}")
        self._read(
            lambda endpoint: download(endpoint, _pull(endpoint), digest, size, partial, report),
        )

    def read_range(self, digest: str, offset: int, length: int) -> bytes:
        """Return *length* bytes of the blob *digest* from *offset*. They are not verified, because only the caller has a digest of them.

        Raises:
            RegistryError: the request failed, or the registry does not serve ranges.
            ValueError: *length* is 0 or exceeds `limits.range`.
        """
        _check_digest(digest)
        if not 0 < length <= self.limits.range or offset < 0:
            raise ValueError(f"a range of {length} bytes from {offset}")
        return self._read(lambda endpoint: read_range(endpoint, _pull(endpoint), digest, offset, length))

    def has_blob(self, digest: str) -> bool:
        """Tell whether the registry itself has the blob *digest*, for a push. Raises RegistryError."""
        _check_digest(digest)
        endpoint = self._own()

        def attempt() -> bool:
            url = endpoint.url("blobs", digest)
            what = f"{endpoint}: {digest}"
            with endpoint.open("HEAD", url, what=what, scopes=_push(endpoint), ok=(200, 404)) as answer:
                return answer.status == 200

        return endpoint.retried(attempt)

    def mount(self, digest: str, from_path: str) -> bool:
        """Have the registry take the blob from its repository *from_path*; return whether it has. Raises RegistryError."""
        _check_digest(digest)
        endpoint = self._own()
        scopes = (*_push(endpoint), f"repository:{from_path}:pull")
        return mount(endpoint, scopes, digest, from_path)

    def upload(self, digest: str, size: int, fd: int, report: Report = _no_report) -> None:
        """Upload the blob *digest* of *size* bytes from the file *fd*. *report* receives the bytes that were sent.

        Raises:
            RegistryError: the upload failed.
            ImageError: the file cannot be read.
        """
        _check_digest(digest)
        endpoint = self._own()
        Upload(endpoint, _push(endpoint), digest, size, fd, report).run()

    def push_blob(
        self,
        digest: str,
        size: int,
        fd: int,
        *,
        mount_from: Sequence[str] = (),
        report: Report = _no_report,
    ) -> Literal["present", "mounted", "uploaded"]:
        """Bring a blob to the registry the cheapest way: it is there, or in a repository of *mount_from*, or is uploaded.

        Returns:
            which of the three it was.

        Raises:
            RegistryError: the upload failed.
            ImageError: the file *fd* cannot be read.
        """
        if self.has_blob(digest):
            return "present"
        for path in mount_from:
            try:
                if self.mount(digest, path):
                    return "mounted"
            except RegistryError as error:
                if isinstance(error, CancelledError) or error.status is None:
                    raise  # no access to the other repository is no reason to fail
        self.upload(digest, size, fd, report)
        return "uploaded"

    def put_manifest(self, tag_or_digest: str, media_type: str, content: bytes) -> str:
        """Store the manifest *content*, exactly these bytes, under a tag or its digest; return its digest.

        Raises:
            RegistryError: the registry refuses it.
            ImageError: it is larger than `limits.manifest`.
        """
        _check_target(tag_or_digest)
        endpoint = self._own()
        digest = f"sha256:{sha256(content).hexdigest()}"
        what = f"{endpoint}: manifest {tag_or_digest}"
        if len(content) > self.limits.manifest:
            raise ImageError(f"{what}: has more than {self.limits.manifest} bytes, which registries refuse")

        def attempt() -> None:
            with endpoint.open(
                "PUT",
                endpoint.url("manifests", tag_or_digest),
                what=what,
                scopes=_push(endpoint),
                ok=(200, 201, 202),
                headers={"Content-Type": media_type, "Content-Length": str(len(content))},
                body=lambda: [content],
            ) as answer:
                check_digest(answer, digest, what)

        endpoint.retried(attempt)
        return digest

    def _manifest(self, endpoint: Endpoint, target: str) -> FetchedManifest:
        what = f"{endpoint}: manifest {target}"

        def attempt() -> FetchedManifest:
            with endpoint.open(
                "GET",
                endpoint.url("manifests", target),
                what=what,
                scopes=_pull(endpoint),
                ok=(200,),
                headers={"Accept": ", ".join(MANIFEST_TYPES)},
            ) as answer:
                content = answer.content(self.limits.manifest)
                digest = f"sha256:{sha256(content).hexdigest()}"
                expected = target if is_digest(target) else answer.headers.get("Docker-Content-Digest", "")
                if expected.startswith("sha256:") and expected != digest:
                    raise RegistryError(
                        f"{what}: {answer.host}: the content has the digest {digest}",
                        hint="the registry, or something on the way, serves other content: try another registry",
                    )
                media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
                return FetchedManifest(media_type, digest, content)

        return endpoint.retried(attempt)

    def _own(self) -> Endpoint:
        return self._endpoint(len(self._locations) - 1)

    def _endpoint(self, number: int) -> Endpoint:
        with self._lock:
            if number not in self._endpoints:
                location = self._locations[number]
                self._endpoints[number] = Endpoint(
                    location,
                    self._credentials.find(location.registry, location.path),
                    self._tls,
                    self.limits,
                    self._watchdog,
                    self._environ,
                )
            return self._endpoints[number]

    def _read(self, operation: Callable[[Endpoint], T]) -> T:
        """Return the result of *operation* at the first location that succeeds. Later reads begin there."""
        for number in range(self._first, len(self._locations)):
            try:
                result = operation(self._endpoint(number))
            except RegistryError as error:
                if isinstance(error, CancelledError) or number == len(self._locations) - 1:
                    raise
            else:
                self._first = number
                return result
        raise AssertionError("the last location returns or raises")


def client_for(
    reference: Reference,
    environ: Mapping[str, str],
    *,
    push: bool = False,
    authfile: str | None = None,
    tls: TlsSettings | None = None,
    limits: Limits | None = None,
) -> RegistryClient:
    """Return a client for the repository of *reference*, with the user's registries.conf and credentials.

    Args:
        reference: the image; whether it has a digest may decide about mirrors.
        environ: the environment variables of the user.
        push: whether the image will be written.
        authfile: `--authfile`.
        tls: `--cert-dir` and `--tls-verify`.
        limits: limits of time, size and attempts.

    Raises:
        ImageError: a file is malformed, or registries.conf blocks the image.
    """
    limits = limits or Limits()
    conf = registries_conf.load(environ)
    locations = (conf.push_location(reference),) if push else conf.pull_locations(reference)
    credentials = CredentialStore(environ, authfile, helper_timeout=limits.helper)
    return RegistryClient(locations, credentials=credentials, environ=environ, tls=tls, limits=limits)


def _pull(endpoint: Endpoint) -> Scopes:
    return (f"repository:{endpoint.location.path}:pull",)


def _push(endpoint: Endpoint) -> Scopes:
    return (f"repository:{endpoint.location.path}:pull,push",)


def _check_digest(digest: str) -> None:
    """Refuse anything else in the URL of a blob: it comes from a manifest that another person wrote."""
    if not is_digest(digest):
        raise ImageError(f"{digest[:100]!r} is not a digest", hint="sha256: and 64 digits of 0-9 and a-f")


def _check_target(target: str) -> None:
    if not is_digest(target) and not is_tag(target):
        raise ImageError(f"{target[:100]!r} is neither a tag nor a digest")

"""Blobs and manifests are uploaded as the distribution specification says, and survive cut connections."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.registry.failures import RegistryError
from tests.unit.sandbox.images.registry.clients import PATH, client_of, content, digest_of
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Handle, Reply, Request

Serve = Callable[[Handle], FaultyServer]

DATA = content(250_000)
DIGEST = digest_of(DATA)
UPLOADS = f"/v2/{PATH}/blobs/uploads/"


class Registry:
    """A registry that accepts uploads in order, and refuses whatever the specification does not allow."""

    def __init__(self, least: int | None = None) -> None:
        self.least = least
        self.sessions: dict[str, bytearray] = {}
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.chunks: list[int] = []
        self.faults: list[Callable[[Request], Reply | None]] = []
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            if request.path == "/v2/":
                return Reply()
            if self.faults and request.method in ("PATCH", "PUT"):
                fault = self.faults.pop(0)(request)
                if fault is not None:
                    return fault
            return self.correct(request)

    def correct(self, request: Request) -> Reply:
        if request.method == "POST" and request.path == UPLOADS:
            name = f"{UPLOADS}{len(self.sessions)}"
            self.sessions[name] = bytearray()
            return Reply(202, self.state(name))
        if request.path in self.sessions:
            return self._session(request, self.sessions[request.path])
        if request.method == "HEAD" and request.path.startswith(f"/v2/{PATH}/blobs/"):
            data = self.blobs.get(request.path.rpartition("/")[2])
            return Reply(404) if data is None else Reply(headers={"Content-Length": str(len(data))})
        if request.method == "PUT" and "/manifests/" in request.path:
            self.manifests[request.path.rpartition("/")[2]] = request.headers["content-type"], request.body
            return Reply(201, {"Docker-Content-Digest": digest_of(request.body)})
        return Reply(404)

    def _session(self, request: Request, data: bytearray) -> Reply:
        if request.method == "GET":
            return Reply(204, self.state(request.path))
        if request.method in ("PATCH", "PUT") and request.body:
            wanted = request.headers.get("content-range")
            if (wanted is None and data) or (
                wanted is not None and wanted != f"{len(data)}-{len(data) + len(request.body) - 1}"
            ):
                return Reply(416, self.state(request.path))
            data += request.body
            self.chunks.append(len(request.body))
        if request.method == "PATCH":
            return Reply(202, self.state(request.path))
        if digest_of(bytes(data)) != request.query["digest"]:
            return Reply(400, body=b'{"errors":[{"code":"DIGEST_INVALID"}]}')
        self.blobs[request.query["digest"]] = bytes(self.sessions.pop(request.path))
        return Reply(201, {"Docker-Content-Digest": request.query["digest"]})

    def state(self, name: str) -> dict[str, str]:
        state = {"Location": name, "Range": f"0-{max(len(self.sessions[name]) - 1, 0)}"}
        return state if self.least is None else {**state, "OCI-Chunk-Min-Length": str(self.least)}


@pytest.fixture
def blob(file: BinaryIO) -> BinaryIO:
    file.write(DATA)
    return file


def upload(server: FaultyServer, blob: BinaryIO, **limits: object) -> list[int]:
    positions: list[int] = []
    with client_of(server, **limits) as client:
        client.upload(DIGEST, len(DATA), blob.fileno(), positions.append)
    return positions


def test_a_small_blob_is_sent_with_the_request_that_completes_it(serve: Serve, blob: BinaryIO) -> None:
    registry = Registry()
    server = serve(registry)
    assert upload(server, blob)[-1] == len(DATA)
    assert registry.blobs == {DIGEST: DATA}
    assert [one.method for one in server.requests] == ["GET", "POST", "PUT"]


@pytest.mark.parametrize(
    ("least", "chunks"),
    [(None, [100_000, 100_000, 50_000]), (120_000, [120_000, 120_000, 10_000]), (10**17, [250_000])],
)
def test_a_large_blob_is_sent_in_chunks_of_at_least_the_size_that_the_registry_demands(
    serve: Serve, blob: BinaryIO, least: int | None, chunks: list[int]
) -> None:
    registry = Registry(least)
    positions = upload(serve(registry), blob, chunk=100_000)
    assert registry.blobs == {DIGEST: DATA}
    assert registry.chunks == chunks
    assert positions == sorted(positions)


def test_a_blob_of_whole_chunks_ends_with_a_chunk(serve: Serve, blob: BinaryIO) -> None:
    registry = Registry()
    upload(serve(registry), blob, chunk=125_000)
    assert (registry.blobs, registry.chunks) == ({DIGEST: DATA}, [125_000, 125_000])


def fault(kind: str, registry: Registry) -> Callable[[Request], Reply | None]:
    def reply(request: Request) -> Reply | None:
        if kind == "lost":  # the request is handled, but the response lost
            registry.correct(request)
            return Reply(raw=b"")
        if kind == "dropped":
            registry.sessions.pop(request.path, None)
            return Reply(404, body=b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
        if kind == "short":  # the registry takes less than was sent, and reports that
            registry.sessions[request.path] += request.body[: len(request.body) // 2]
            return Reply(202, registry.state(request.path)) if request.method == "PATCH" else Reply(503)
        if kind == "half":
            registry.sessions[request.path] += request.body[: len(request.body) // 2]
        return Reply(raw=b"") if kind in ("cut", "half") else Reply(503) if kind == "busy" else None

    return reply


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.sampled_from(["lost", "cut", "half", "short", "busy", "dropped", "none"]), max_size=3)
)
def test_an_upload_survives_what_happens_to_its_requests(
    serve: Serve, blob: BinaryIO, kinds: list[str]
) -> None:
    registry = Registry()
    registry.faults = [fault(kind, registry) for kind in kinds]
    upload(serve(registry), blob, chunk=100_000)
    assert registry.blobs == {DIGEST: DATA}


def test_what_the_registry_has_is_not_sent_again(serve: Serve, blob: BinaryIO) -> None:
    registry = Registry()
    registry.faults = [fault(kind, registry) for kind in ("lost", "half", "lost")]
    upload(serve(registry), blob, chunk=100_000)
    assert registry.blobs == {DIGEST: DATA}
    assert sum(registry.chunks) + 50_000 == len(
        DATA
    )  # half of the second chunk was stored before its connection was cut


def test_a_registry_that_takes_less_than_was_sent_gets_the_rest(serve: Serve, blob: BinaryIO) -> None:
    registry = Registry()
    registry.faults = [fault("short", registry)]
    server = serve(registry)
    upload(server, blob, chunk=100_000)
    assert registry.blobs == {DIGEST: DATA}
    sent = [one.headers["content-range"] for one in server.requests if one.method in ("PATCH", "PUT")]
    assert sent == ["0-99999", "50000-149999", "150000-249999"]


def test_an_upload_that_always_fails_is_one_error(serve: Serve, blob: BinaryIO) -> None:
    server = serve(lambda request: Reply() if request.path == "/v2/" else Reply(500))
    with pytest.raises(RegistryError, match=r"failed \(HTTP 500\)") as failed:
        upload(server, blob)
    assert DIGEST in failed.value.message
    assert server.count("POST") == 4


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413])
def test_an_upload_that_is_refused_is_not_retried(serve: Serve, blob: BinaryIO, status: int) -> None:
    registry = Registry()
    registry.faults = [lambda _: Reply(status)]
    server = serve(registry)
    with pytest.raises(RegistryError) as failed:
        upload(server, blob)
    assert failed.value.status == status
    assert server.count("PUT") == 1


def test_a_registry_that_has_stored_other_content_is_an_error(serve: Serve, blob: BinaryIO) -> None:
    registry = Registry()
    registry.faults = [lambda _: Reply(201, {"Docker-Content-Digest": digest_of(b"x")})]
    with pytest.raises(RegistryError, match="has stored other content"):
        upload(serve(registry), blob)


@pytest.mark.parametrize("headers", [{}, {"Location": "ftp://x/"}, {"Location": "http://["}])
def test_an_upload_without_a_location_is_an_error(
    serve: Serve, blob: BinaryIO, headers: dict[str, str]
) -> None:
    server = serve(lambda request: Reply() if request.path == "/v2/" else Reply(202, headers))
    with pytest.raises(RegistryError, match="has no valid Location"):
        upload(server, blob)


def test_a_file_that_is_shorter_than_the_blob_is_an_error(serve: Serve, file: BinaryIO) -> None:
    file.write(DATA[:1000])
    with pytest.raises(ImageError, match="the file of the blob ends after 1000 of 250000 bytes"):
        upload(serve(Registry()), file)


def test_an_upload_without_progress_is_ended(serve: Serve, blob: BinaryIO) -> None:
    registry = Registry()
    registry.faults = [lambda _: Reply(raw=b"HTTP/1.1 ", stall=True)]
    with pytest.raises(RegistryError, match=r"no progress for 0\.5"):
        upload(serve(registry), blob, stall=0.5)


def test_an_upload_over_a_slow_line_has_progress(blob: BinaryIO) -> None:
    registry = Registry()

    def small_buffer(server: ThreadingHTTPServer) -> None:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)

    with FaultyServer(registry, small_buffer) as server:
        server.seconds_per_read = 0.08
        begin = time.monotonic()
        upload(server, blob, stall=0.6)
    # Most of that time, the whole blob was in the buffer of the client's socket.
    assert time.monotonic() - begin > 1.1
    assert registry.blobs == {DIGEST: DATA}


def test_the_requests_of_an_upload_use_one_connection(serve: Serve, blob: BinaryIO) -> None:
    threads = set()
    registry = Registry()

    def handle(request: Request) -> Reply:
        threads.add(threading.get_ident())
        return registry(request)

    server = serve(handle)
    upload(server, blob, chunk=50_000)
    assert (len(server.requests), len(threads)) == (7, 1)


# --- mounts and the whole of a push ---


def test_a_push_tries_head_then_mount_then_upload(serve: Serve, blob: BinaryIO) -> None:
    registry = Registry()

    def handle(request: Request) -> Reply:
        if "mount" in request.query and request.query["from"] == "has/it":
            registry.blobs[request.query["mount"]] = DATA
            return Reply(201)
        return registry(request)

    def push(*mount_from: str) -> str:
        with client_of(server) as client:
            return client.push_blob(DIGEST, len(DATA), blob.fileno(), mount_from=mount_from)

    server = serve(handle)
    assert push("lacks/it") == "uploaded"
    assert push("has/it") == "present"
    registry.blobs.clear()
    assert push("lacks/it", "has/it") == "mounted"
    # A mount that the registry does not make begins an upload, which is ended.
    assert server.count("DELETE") == 2


def test_a_mount_that_is_denied_is_followed_by_an_upload(serve: Serve, blob: BinaryIO) -> None:
    registry = Registry()
    server = serve(lambda request: Reply(403) if "mount" in request.query else registry(request))
    with client_of(server) as client:
        assert client.push_blob(DIGEST, len(DATA), blob.fileno(), mount_from=["secret/one"]) == "uploaded"
    assert registry.blobs == {DIGEST: DATA}


# --- manifests ---

TYPE = "application/vnd.oci.image.manifest.v1+json"


@given(body=st.binary(max_size=2000), tag=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_manifest_is_stored_with_exactly_its_bytes(serve: Serve, body: bytes, tag: str) -> None:
    registry = Registry()
    with client_of(serve(registry)) as client:
        digest = client.put_manifest(tag, TYPE, body)
    assert digest == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert registry.manifests == {tag: (TYPE, body)}


def test_a_manifest_that_the_registry_changes_is_an_error(serve: Serve) -> None:
    server = serve(lambda _: Reply(201, {"Docker-Content-Digest": digest_of(b"other")}))
    with client_of(server) as client, pytest.raises(RegistryError, match="has stored other content"):
        client.put_manifest("v1", TYPE, b"{}")


def test_a_manifest_that_is_too_large_is_refused_before_any_request(serve: Serve) -> None:
    server = serve(Registry())
    with client_of(server) as client, pytest.raises(ImageError, match="has more than 4194304 bytes"):
        client.put_manifest("v1", TYPE, bytes((4 << 20) + 1))
    assert server.requests == []

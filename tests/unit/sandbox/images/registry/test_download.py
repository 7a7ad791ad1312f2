"""A blob is downloaded, resumed and verified, whatever the server does; a failure is one error with digest and source."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.registry.download import WrongContentError
from sandbox.images.registry.failures import RegistryError
from tests.unit.sandbox.images.registry.clients import (
    PATH,
    client_of,
    content,
    digest_of,
    served,
    whole_or_part,
)
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Handle, Reply, Request

Serve = Callable[[Handle], FaultyServer]

DATA = content(300_000)
DIGEST = digest_of(DATA)
BLOB = f"blobs/{DIGEST}"


def read(file: BinaryIO) -> bytes:
    return os.pread(file.fileno(), 1 << 20, 0)


def replies(*scripted: Reply | None) -> Handle:
    """Return the responses to requests for the blob, one after another; None is the correct one, and the last one repeats."""
    numbers = itertools.count()

    def handle(request: Request) -> Reply:
        if request.path == "/v2/":
            return Reply()
        reply = scripted[min(next(numbers), len(scripted) - 1)]
        return whole_or_part(request, DATA) if reply is None else reply

    return handle


def download(server: FaultyServer, file: BinaryIO, size: int = len(DATA), **limits: object) -> list[int]:
    """Download the blob; return the reported positions."""
    positions: list[int] = []
    with client_of(server, **limits) as client:
        client.download(DIGEST, size, file.fileno(), positions.append)
    return positions


def failure(server: FaultyServer, file: BinaryIO, size: int = len(DATA), **limits: object) -> RegistryError:
    """Return the error of a download that names the digest and the source, in less than 20 seconds."""
    begin = time.monotonic()
    with pytest.raises(RegistryError) as failed:
        download(server, file, size, **limits)
    assert time.monotonic() - begin < 20
    assert DIGEST in failed.value.message
    assert f"docker://{server.host}/{PATH}" in failed.value.message
    return failed.value


def test_a_blob_is_downloaded_and_its_progress_reported(serve: Serve, file: BinaryIO) -> None:
    server = serve(served({BLOB: DATA}))
    positions = download(server, file)
    assert read(file) == DATA
    assert (positions[0], positions[-1]) == (0, len(DATA))
    assert positions == sorted(positions)


def test_an_empty_blob_needs_no_request(serve: Serve, file: BinaryIO) -> None:
    server = serve(served({}))
    with client_of(server) as client:
        client.download(digest_of(b""), 0, file.fileno())
    assert server.requests == []


@pytest.mark.parametrize("present", [1, 1000, len(DATA) - 1])
def test_a_download_continues_where_an_earlier_one_ended(serve: Serve, file: BinaryIO, present: int) -> None:
    file.write(DATA[:present])
    server = serve(served({BLOB: DATA}))
    assert download(server, file)[0] == present
    assert read(file) == DATA
    assert [one.headers.get("range") for one in server.requests if BLOB in one.path] == [f"bytes={present}-"]


def test_a_complete_file_is_only_verified(serve: Serve, file: BinaryIO) -> None:
    file.write(DATA)
    server = serve(served({BLOB: DATA}))
    assert download(server, file) == [len(DATA)]
    assert server.requests == []


@pytest.mark.parametrize(
    "present", [b"x" * 1000, DATA[:-1] + b"x", DATA + b"x"], ids=["begins", "complete", "longer"]
)
def test_a_file_with_another_content_is_downloaded_anew(serve: Serve, file: BinaryIO, present: bytes) -> None:
    file.write(present)
    server = serve(served({BLOB: DATA}))
    download(server, file)
    assert read(file) == DATA


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, len(DATA)), max_size=3), ranges=st.booleans())
def test_a_connection_that_is_cut_anywhere_is_resumed(
    serve: Serve, file: BinaryIO, cuts: list[int], ranges: bool
) -> None:
    os.ftruncate(file.fileno(), 0)
    left = list(cuts)

    def handle(request: Request) -> Reply:
        if request.path == "/v2/":
            return Reply()
        reply = whole_or_part(request, DATA) if ranges else Reply(body=DATA)
        return Reply(reply.status, reply.headers, reply.body, cut=left.pop()) if left else reply

    server = serve(handle)
    download(server, file)
    assert read(file) == DATA
    assert server.count("GET", BLOB) <= len(cuts) + 1


def test_a_resumed_download_transfers_nothing_twice(serve: Serve, file: BinaryIO) -> None:
    sent = []

    def handle(request: Request) -> Reply:
        if request.path == "/v2/":
            return Reply()
        reply = whole_or_part(request, DATA)
        cut = min(len(reply.body), 100_000)
        sent.append(cut)
        return Reply(reply.status, reply.headers, reply.body, cut=cut)

    download(serve(handle), file)
    assert read(file) == DATA
    assert sum(sent) == len(DATA)


def test_as_long_as_a_download_advances_it_is_not_given_up(serve: Serve, file: BinaryIO) -> None:
    def handle(request: Request) -> Reply:
        if request.path == "/v2/":
            return Reply()
        reply = whole_or_part(request, DATA)
        return Reply(reply.status, reply.headers, reply.body, cut=min(len(reply.body), 20_000))

    server = serve(handle)
    download(server, file, attempts=3, advance=15_000, pause=0.001)
    assert server.count("GET", BLOB) == 15


def test_a_server_that_always_cuts_at_the_same_place_is_given_up(serve: Serve, file: BinaryIO) -> None:
    server = serve(replies(Reply(body=DATA, cut=200_000)))
    error = failure(server, file, attempts=3, advance=1000)
    assert "the connection was cut" in error.message
    assert server.count("GET", BLOB) == 3
    assert read(file) == DATA[:200_000]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes 0-299999/300000",
        "bytes 1001-299999/300000",
        "bytes 1000-299999/300001",
        "bytes 1000-300000/*",
        "bytes 1000-1/300000",
        "octets 1000-299999/300000",
    ],
)
def test_a_206_with_another_content_range_is_not_used(
    serve: Serve, file: BinaryIO, header: str | None
) -> None:
    file.write(DATA[:1000])
    headers = {} if header is None else {"Content-Range": header}
    server = serve(replies(Reply(206, headers, bytes(299_000)), None))
    assert download(server, file)[:2] == [1000, 1000]  # before each of the two requests
    assert read(file) == DATA
    ranges = [one.headers.get("range") for one in server.requests if BLOB in one.path]
    assert ranges == ["bytes=1000-", None]


def test_a_206_with_less_than_was_requested_is_continued(serve: Serve, file: BinaryIO) -> None:
    file.write(DATA[:1000])
    part = Reply(206, {"Content-Range": "bytes 1000-1999/300000"}, DATA[1000:2000])
    server = serve(replies(part, None))
    download(server, file)
    assert read(file) == DATA
    ranges = [one.headers.get("range") for one in server.requests if BLOB in one.path]
    assert ranges == ["bytes=1000-", "bytes=2000-"]


def test_a_200_to_a_request_with_range_is_a_new_start(serve: Serve, file: BinaryIO) -> None:
    file.write(b"x" * 1000)
    server = serve(replies(Reply(body=DATA)))
    download(server, file)
    assert read(file) == DATA
    assert server.count("GET", BLOB) == 1


def test_a_416_is_followed_by_a_request_for_the_whole(serve: Serve, file: BinaryIO) -> None:
    file.write(DATA[:1000])
    server = serve(replies(Reply(416, {"Content-Range": "bytes */10"}), None))
    download(server, file)
    assert read(file) == DATA


def test_a_blob_with_another_content_is_refused_and_the_file_emptied(serve: Serve, file: BinaryIO) -> None:
    wrong = DATA[:-1] + b"x"
    error = failure(serve(served({BLOB: wrong})), file)
    assert isinstance(error, WrongContentError)
    assert digest_of(wrong) in error.message
    assert read(file) == b""


@pytest.mark.parametrize("length", [0, 1, 299_999, 300_001, 10**15])
def test_a_blob_with_another_length_is_refused_before_it_is_read(
    serve: Serve, file: BinaryIO, length: int
) -> None:
    server = serve(replies(Reply(headers={"Content-Length": str(length)}, body=DATA[:length], cut=0)))
    error = failure(server, file)
    assert f"the blob has {length} bytes, not 300000" in error.message
    assert read(file) == b""


def test_an_endless_body_is_ended_at_the_size_of_the_blob(serve: Serve, file: BinaryIO) -> None:
    server = serve(replies(Reply(endless=itertools.repeat(bytes(65536)))))
    error = failure(server, file)
    assert "is longer than its size of 300000 bytes" in error.message
    assert read(file) == b""


def test_a_body_without_length_that_ends_early_is_continued(serve: Serve, file: BinaryIO) -> None:
    server = serve(replies(Reply(endless=[DATA[:1000]]), None))
    download(server, file)
    assert read(file) == DATA
    assert [one.headers.get("range") for one in server.requests if BLOB in one.path] == [None, "bytes=1000-"]


@pytest.mark.parametrize("cut", [0, 100_000])
def test_a_transfer_without_progress_is_ended(serve: Serve, file: BinaryIO, cut: int) -> None:
    server = serve(replies(Reply(body=DATA, cut=cut, stall=True)))
    begin = time.monotonic()
    error = failure(server, file, stall=0.6)
    assert time.monotonic() - begin < 5
    assert "no progress for 0." in error.message
    assert read(file) == DATA[:cut]


def test_a_byte_now_and_then_is_no_progress(serve: Serve, file: BinaryIO) -> None:
    def drip() -> object:
        for at in itertools.count():
            time.sleep(0.05)
            yield DATA[at : at + 1]

    server = serve(replies(Reply(endless=drip())))  # type: ignore[arg-type]
    assert "no progress for 0." in failure(server, file, stall=0.6).message


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Range\r\n: x\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-299999/300000\r\n\r\n",
    ],
)
def test_a_response_that_is_no_http_is_one_error(serve: Serve, file: BinaryIO, raw: bytes) -> None:
    failure(serve(replies(Reply(raw=raw))), file, attempts=2)


def test_a_blob_that_is_missing_is_told_from_one_that_is_forbidden(serve: Serve, file: BinaryIO) -> None:
    missing = failure(serve(replies(Reply(404))), file)
    assert (missing.status, "not found (HTTP 404)" in missing.message) == (404, True)
    assert "check name, tag and digest" in (missing.hint or "")
    server = serve(replies(Reply(403, body=b'{"errors":[{"code":"DENIED","message":"no entry"}]}')))
    denied = failure(server, file)
    assert (denied.status, "denies access (HTTP 403: DENIED: no entry)" in denied.message) == (403, True)
    assert f"`sandbox login {server.host}`" in (denied.hint or "")
    assert server.count("GET", BLOB) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_failures_are_retried_a_limited_number_of_times(
    serve: Serve, file: BinaryIO, status: int
) -> None:
    server = serve(replies(Reply(status), Reply(status), None))
    download(server, file)
    assert read(file) == DATA
    server = serve(replies(Reply(status)))
    os.ftruncate(file.fileno(), 0)
    assert failure(server, file).status == status
    assert server.count("GET", BLOB) == 4


def test_retry_after_is_obeyed(serve: Serve, file: BinaryIO) -> None:
    server = serve(replies(Reply(429, {"Retry-After": "1"}), None))
    begin = time.monotonic()
    download(server, file)
    assert 1 <= time.monotonic() - begin < 5


@pytest.mark.parametrize("value", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_registry_that_requests_a_long_pause_is_an_error_at_once(
    serve: Serve, file: BinaryIO, value: str
) -> None:
    server = serve(replies(Reply(429, {"Retry-After": value}), None))
    begin = time.monotonic()
    error = failure(server, file)
    assert time.monotonic() - begin < 1.5
    assert "try again in " in (error.hint or "")
    assert server.count("GET", BLOB) == 1


@pytest.mark.parametrize("value", ["soon", "", "-1", "9" * 400, "Wed, 99 Foo"])
def test_a_malformed_retry_after_is_ignored(serve: Serve, file: BinaryIO, value: str) -> None:
    download(serve(replies(Reply(503, {"Retry-After": value}), None)), file)
    assert read(file) == DATA


def test_a_full_disk_is_an_error_of_this_machine(serve: Serve) -> None:
    with (
        open("/dev/full", "w+b", buffering=0) as full,
        client_of(serve(served({BLOB: DATA}))) as client,
        pytest.raises(ImageError, match=r"cannot be written: no space left on device \(ENOSPC\)") as failed,
    ):
        client.download(DIGEST, len(DATA), full.fileno())
    assert DIGEST in failed.value.message
    assert "free space" in (failed.value.hint or "")


def test_what_is_no_digest_is_refused_before_any_request(serve: Serve, file: BinaryIO) -> None:
    server = serve(served({}))
    with client_of(server) as client:
        for digest in ("sha256:../../x", "sha512:00", f"{DIGEST}?x", ""):
            with pytest.raises(ImageError, match="is not a digest"):
                client.download(digest, 1, file.fileno())
            with pytest.raises(ImageError, match="is not a digest"):
                client.read_range(digest, 0, 1)
    assert server.requests == []


# --- parts of blobs ---


def test_a_range_is_read_exactly(serve: Serve) -> None:
    with client_of(serve(served({BLOB: DATA}))) as client:
        assert client.read_range(DIGEST, 0, 1) == DATA[:1]
        assert client.read_range(DIGEST, 1000, 70_000) == DATA[1000:71_000]
        assert client.read_range(DIGEST, len(DATA) - 5, 5) == DATA[-5:]
        for offset, length in ((0, 0), (0, 1 << 40), (-1, 1)):
            with pytest.raises(ValueError, match="a range of"):
                client.read_range(DIGEST, offset, length)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, body=DATA),
        Reply(206, {}, DATA[10:20]),
        Reply(206, {"Content-Range": "bytes 11-20/300000"}, DATA[11:21]),
        Reply(206, {"Content-Range": "bytes 10-18/300000"}, DATA[10:19]),
        Reply(206, {"Content-Range": "bytes 10-19/300000"}, DATA[10:30]),
        Reply(206, {"Content-Range": "bytes 10-19/300000"}, DATA[10:15]),
        Reply(206, {"Content-Range": "bytes 10-19/300000"}, endless=itertools.repeat(bytes(65536))),
        Reply(416),
    ],
)
def test_any_other_response_than_the_range_is_an_error(serve: Serve, reply: Reply) -> None:
    with client_of(serve(replies(reply))) as client, pytest.raises(RegistryError) as failed:
        client.read_range(DIGEST, 10, 10)
    assert DIGEST in failed.value.message

"""Manifests are fetched with their exact bytes, in bounded memory, from the registry or a mirror."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from sandbox.errors import ImageError
from sandbox.images.registry.client import MANIFEST_TYPES, client_for
from sandbox.images.registry.failures import CancelledError, RegistryError, UnreachableError
from sandbox.images.registry.reference import parse_reference
from sandbox.images.registry.settings import TlsSettings
from tests.unit.sandbox.images.registry.clients import (
    PATH,
    client_of,
    content,
    digest_of,
    served,
    short_limits,
    whole_or_part,
)
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Handle, Reply, Request

Serve = Callable[[Handle], FaultyServer]

MANIFEST = b'{"schemaVersion": 2,\n  "layers": []}'
DIGEST = digest_of(MANIFEST)
TYPE = MANIFEST_TYPES[1]


def always(reply: Reply) -> Handle:
    return lambda request: Reply() if request.path == "/v2/" else reply


def test_a_manifest_is_fetched_by_tag_and_by_digest(serve: Serve) -> None:
    server = serve(always(Reply(headers={"Content-Type": f"{TYPE}; charset=utf-8"}, body=MANIFEST)))
    with client_of(server) as client:
        by_tag, by_digest = client.manifest("v1"), client.manifest(DIGEST)
    assert by_tag == by_digest
    assert (by_tag.media_type, by_tag.digest, by_tag.content) == (TYPE, DIGEST, MANIFEST)
    accepted = server.requests[-1].headers["accept"].split(", ")
    assert accepted == list(MANIFEST_TYPES)


def test_a_manifest_with_another_digest_is_refused(serve: Serve) -> None:
    wanted = digest_of(b"other")
    server = serve(always(Reply(body=MANIFEST)))
    with (
        client_of(server) as client,
        pytest.raises(RegistryError, match="the content has the digest") as failed,
    ):
        client.manifest(wanted)
    assert wanted in failed.value.message
    assert DIGEST in failed.value.message
    server = serve(always(Reply(headers={"Docker-Content-Digest": wanted}, body=MANIFEST)))
    with client_of(server) as client, pytest.raises(RegistryError, match="the content has the digest"):
        client.manifest("v1")


@pytest.mark.parametrize(
    "reply",
    [Reply(body=bytes((4 << 20) + 1)), Reply(endless=itertools.repeat(bytes(65536)))],
    ids=["large", "endless"],
)
def test_a_manifest_that_is_too_large_is_refused(serve: Serve, reply: Reply) -> None:
    server = serve(always(reply))
    with client_of(server) as client, pytest.raises(RegistryError, match="has more than 4194304 bytes"):
        client.manifest("v1")


def test_the_largest_manifest_is_accepted(serve: Serve) -> None:
    with client_of(serve(always(Reply(body=bytes(4 << 20))))) as client:
        assert len(client.manifest("v1").content) == 4 << 20


@pytest.mark.parametrize(
    "body", [b"[" * 16_000, b'{"errors":' * 1600, b'{"errors":[{"message":5}]}', b"\xff\xfe", b"null"]
)
def test_an_error_whose_body_is_nonsense_is_reported_by_its_status(serve: Serve, body: bytes) -> None:
    server = serve(always(Reply(404, body=body)))
    with client_of(server) as client, pytest.raises(RegistryError, match=r"not found \(HTTP 404\)$"):
        client.manifest("v1")


def test_an_error_whose_body_never_ends_is_reported_by_its_status(serve: Serve) -> None:
    server = serve(always(Reply(404, endless=itertools.repeat(bytes(65536)))))
    with client_of(server) as client, pytest.raises(RegistryError, match=r"not found \(HTTP 404\)$"):
        client.manifest("v1")


def test_a_long_message_of_a_registry_is_shortened_and_made_printable(serve: Serve) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"\\u001b[31m' + b"x" * 5000 + b'"}]}'
    server = serve(always(Reply(403, body=body)))
    with client_of(server) as client, pytest.raises(RegistryError) as failed:
        client.manifest("v1")
    assert len(failed.value.message) < 400
    assert "\x1b" not in failed.value.render()


@pytest.mark.parametrize("target", ["../x", "a/b", "", "sha256:00", "a?b", "a\r\nX: y"])
def test_what_is_no_tag_or_digest_is_refused_before_any_request(serve: Serve, target: str) -> None:
    server = serve(always(Reply()))
    with client_of(server) as client:
        with pytest.raises(ImageError, match="is neither a tag nor a digest"):
            client.manifest(target)
        with pytest.raises(ImageError, match="is neither a tag nor a digest"):
            client.put_manifest(target, TYPE, b"{}")
    assert server.requests == []


# --- connections ---


def test_a_refused_connection_is_an_error_at_once(serve: Serve) -> None:
    begin = time.monotonic()
    with client_of("127.0.0.1:9") as client, pytest.raises(UnreachableError) as failed:
        client.manifest("v1")
    assert time.monotonic() - begin < 2
    assert "127.0.0.1:9: no connection: connection refused" in failed.value.message
    assert f"docker://127.0.0.1:9/{PATH}" in failed.value.message


def test_plain_http_is_used_only_if_it_is_allowed(serve: Serve) -> None:
    server = serve(always(Reply(body=MANIFEST)))
    with (
        client_of(server, insecure=False) as client,
        pytest.raises(RegistryError, match="does not respond with TLS") as failed,
    ):
        client.manifest("v1")
    assert "--tls-verify=false" in (failed.value.hint or "")
    assert server.requests == []
    with client_of(server, tls=TlsSettings(verify=True)) as client, pytest.raises(RegistryError):
        client.manifest("v1")
    assert server.requests == []
    with client_of(server, insecure=False, tls=TlsSettings(verify=False)) as client:
        assert client.manifest("v1").content == MANIFEST


def test_one_connection_serves_many_requests(serve: Serve) -> None:
    threads = set()

    def handle(request: Request) -> Reply:
        threads.add(threading.get_ident())
        return always(Reply(body=MANIFEST))(request)

    with client_of(serve(handle)) as client:
        for _ in range(5):
            client.manifest("v1")
    assert len(threads) == 1


def test_a_connection_that_the_server_closes_between_requests_is_made_again(serve: Serve) -> None:
    server = serve(always(Reply(body=MANIFEST, cut=len(MANIFEST))))
    with client_of(server) as client:
        for _ in range(3):
            assert client.manifest("v1").content == MANIFEST


# --- mirrors ---


def test_mirrors_are_tried_in_order_and_the_first_that_has_the_image_serves_the_rest(
    serve: Serve, file: BinaryIO
) -> None:
    data = content(5000)
    without = serve(always(Reply(404)))
    mirror = serve(served({"manifests/v1": MANIFEST, f"blobs/{digest_of(data)}": data}))
    own = serve(served({}))
    with client_of("127.0.0.1:9", without, mirror, own) as client:
        assert client.manifest("v1").content == MANIFEST
        client.download(digest_of(data), len(data), file.fileno())
    assert own.requests == []
    assert without.count("GET", "blobs") == 0


def test_a_mirror_that_fails_in_the_middle_is_left_for_the_registry(serve: Serve, file: BinaryIO) -> None:
    data = content(300_000)
    blob = f"blobs/{digest_of(data)}"
    mirror = serve(
        lambda request: Reply(body=MANIFEST) if "manifests" in request.path else Reply(body=data, cut=100_000)
    )
    own = serve(lambda request: whole_or_part(request, data))
    with client_of(mirror, own, attempts=1) as client:
        client.manifest("v1")
        client.download(digest_of(data), len(data), file.fileno())
    assert [one.headers.get("range") for one in own.requests if blob in one.path] == ["bytes=100000-"]


def test_if_no_location_has_the_image_the_error_is_that_of_the_registry(serve: Serve) -> None:
    mirror, own = serve(always(Reply(500))), serve(always(Reply(404)))
    with client_of(mirror, own, attempts=1) as client, pytest.raises(RegistryError) as failed:
        client.manifest("v1")
    assert own.host in failed.value.message
    assert failed.value.status == 404


def test_a_push_goes_to_the_registry_alone(serve: Serve) -> None:
    mirror, own = serve(always(Reply(500))), serve(always(Reply(201)))
    with client_of(mirror, own) as client:
        client.put_manifest("v1", TYPE, MANIFEST)
    assert mirror.requests == []


def test_registries_conf_and_credentials_of_the_user_are_in_effect(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.images.registry.registries_conf._SYSTEM", str(tmp_path / "none"))
    server = serve(
        lambda request: (
            Reply(body=MANIFEST)
            if request.headers.get("authorization") == "Basic bWU6cHc="
            else Reply(401, {"WWW-Authenticate": "Basic realm=x"})
        )
    )
    (tmp_path / "conf").write_text(
        f'[[registry]]\nprefix = "registry.invalid"\nlocation = "{server.host}"\ninsecure = true'
    )
    (tmp_path / "auth").write_text(f'{{"auths": {{"{server.host}": {{"auth": "bWU6cHc="}}}}}}')
    environ = {
        "CONTAINERS_REGISTRIES_CONF": str(tmp_path / "conf"),
        "REGISTRY_AUTH_FILE": str(tmp_path / "auth"),
    }
    reference = parse_reference(f"docker://registry.invalid/{PATH}:v1")
    with client_for(reference, environ, limits=short_limits()) as client:
        assert client.manifest(reference.target).content == MANIFEST
    assert server.requests[-1].path == f"/v2/{PATH}/manifests/v1"


# --- cancelling ---


def test_cancelling_ends_requests_and_pauses_of_all_threads_at_once(serve: Serve) -> None:
    stalled = serve(always(Reply(body=MANIFEST, cut=5, stall=True)))
    busy = serve(always(Reply(503, {"Retry-After": "30"})))
    errors: list[BaseException] = []

    def fetch() -> None:
        try:
            client.manifest("v1")
        except RegistryError as error:
            errors.append(error)

    for server in (stalled, busy):
        with client_of(server, stall=60, patience=60) as client:
            thread = threading.Thread(target=fetch)
            thread.start()
            while not server.count("GET", "manifests"):
                time.sleep(0.01)
            begin = time.monotonic()
            client.cancel()
            thread.join(10)
            assert time.monotonic() - begin < 2
            with pytest.raises(CancelledError):
                client.manifest("v1")
    assert [type(error) for error in errors] == [CancelledError, CancelledError]

"""Requests are authorized by challenge, credentials reach only whom they are for, and messages have no secret."""

from __future__ import annotations

import base64
import logging
import tempfile
import threading
from collections.abc import Callable

import pytest

from sandbox.images.registry.failures import RegistryError
from tests.unit.sandbox.images.registry.clients import (
    PATH,
    SECRET,
    Given,
    client_of,
    content,
    credential,
    digest_of,
    served,
)
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Handle, Reply, Request

Serve = Callable[[Handle], FaultyServer]

DATA = content(1000)
DIGEST = digest_of(DATA)
BASIC = f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"
MANIFEST = b'{"schemaVersion": 2}'
CONTENTS = {f"blobs/{DIGEST}": DATA, "manifests/v1": MANIFEST}


def basic(request: Request) -> Reply:
    """Respond as a registry with Basic authentication."""
    if request.headers.get("authorization") != BASIC:
        return Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
    return served(CONTENTS)(request)


class Bearer:
    """Responds as a registry with a token server at its own address."""

    def __init__(self, *, expired: int = 0, token: str = "t0ken") -> None:
        self.token = token
        self.expired = expired
        self.realm = ""
        self.reply: Reply | None = None
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        if request.path == "/token":
            return self.reply or Reply(body=f'{{"token": "{self.token}", "expires_in": 300}}'.encode())
        if request.headers.get("authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.realm}/token",service="reg",scope="repository:other/secret:*"'
            return Reply(401, {"WWW-Authenticate": challenge})
        with self.lock:
            if self.expired:
                self.expired -= 1
                return Reply(
                    401, {"WWW-Authenticate": f'Bearer realm="{self.realm}/token",error="invalid_token"'}
                )
        return served(CONTENTS)(request)


def bearer(serve: Serve, **options: int | str) -> tuple[FaultyServer, Bearer]:
    registry = Bearer(**options)  # type: ignore[arg-type]
    server = serve(registry)
    registry.realm = f"http://{server.host}"
    return server, registry


def failure(server: FaultyServer, given: Given | None = None, target: str = "v1") -> RegistryError:
    with client_of(server, credentials=given) as client, pytest.raises(RegistryError) as failed:
        client.manifest(target)
    assert f"docker://{server.host}/{PATH}: manifest {target}" in failed.value.message
    return failed.value


def test_basic_credentials_are_sent_after_the_challenge(serve: Serve) -> None:
    server = serve(basic)
    with client_of(server, credentials=Given(credential())) as client:
        assert client.manifest("v1").content == MANIFEST
        assert client.read_range(DIGEST, 0, 5) == DATA[:5]
    sent = [one.headers.get("authorization") for one in server.requests]
    assert sent == [None, None, BASIC, BASIC]  # the first finds out whether the server has TLS


def test_a_registry_without_authentication_receives_no_credential(serve: Serve) -> None:
    server = serve(served(CONTENTS))
    with client_of(server, credentials=Given(credential())) as client:
        client.manifest("v1")
    assert {one.headers.get("authorization") for one in server.requests} == {None}


def test_a_token_is_requested_for_the_scope_of_the_client_and_used_again(serve: Serve) -> None:
    server, _ = bearer(serve)
    with client_of(server, credentials=Given(credential())) as client:
        client.manifest("v1")
        client.read_range(DIGEST, 0, 5)
    [token] = [one for one in server.requests if one.path == "/token"]
    assert token.headers["authorization"] == BASIC
    # Not the scope of the challenge, which is for another repository.
    assert token.query == {"service": "reg", "scope": f"repository:{PATH}:pull", "account": "me"}


def test_an_anonymous_user_gets_a_token_without_credentials(serve: Serve) -> None:
    server, _ = bearer(serve)
    with client_of(server) as client:
        client.manifest("v1")
    [token] = [one for one in server.requests if one.path == "/token"]
    assert "authorization" not in token.headers
    assert "account" not in token.query


def test_a_push_requests_a_token_for_reading_and_writing(serve: Serve) -> None:
    server, _ = bearer(serve)
    with client_of(server, credentials=Given(credential())) as client:
        assert client.has_blob(DIGEST)
        with pytest.raises(RegistryError):
            client.mount(digest_of(b"x"), "other/one")
    scopes = [one.query["scope"] for one in server.requests if one.path == "/token"]
    assert scopes == [f"repository:{PATH}:pull,push", "repository:other/one:pull"]


def test_an_expired_token_is_replaced_once(serve: Serve) -> None:
    server, _ = bearer(serve, expired=1)
    with client_of(server, credentials=Given(credential())) as client:
        with pytest.raises(RegistryError):
            client.manifest("v1")  # a new token that is refused is an error
        assert client.manifest("v1").content == MANIFEST
        server.handle.expired = 1  # type: ignore[attr-defined]
        assert client.manifest("v1").content == MANIFEST
    assert server.count("GET", "/token") == 2


def test_several_threads_request_one_token(serve: Serve) -> None:
    server, _ = bearer(serve)
    with client_of(server, credentials=Given(credential())) as client:
        threads = [threading.Thread(target=client.manifest, args=("v1",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 1 <= server.count("GET", "/token") <= 2


def test_an_identity_token_is_exchanged_in_the_body_of_a_request(serve: Serve) -> None:
    server, _ = bearer(serve)
    with client_of(server, credentials=Given(credential(user="", is_token=True))) as client:
        client.manifest("v1")
    [token] = [one for one in server.requests if one.path == "/token"]
    assert (token.method, token.query) == ("POST", {})
    assert b"grant_type=refresh_token&refresh_token=s3cr3t-pass%3Aword&client_id=sandbox" in token.body
    assert f"&scope=repository%3A{PATH.replace('/', '%2F')}%3Apull".encode() in token.body


# --- failures ---


def test_401_without_credentials_tells_to_log_in(serve: Serve) -> None:
    server = serve(basic)
    error = failure(server)
    assert error.status == 401
    assert "requires a login (HTTP 401: UNAUTHORIZED)" in error.message
    assert error.hint == f"`sandbox login {server.host}`"


def test_401_with_credentials_names_their_file(serve: Serve) -> None:
    server = serve(basic)
    error = failure(server, Given(credential(secret="wrong")))
    assert (
        error.hint
        == f"the credentials of /home/me/auth.json were refused: `sandbox login {server.host}` again"
    )


def test_401_without_a_challenge_that_is_known_is_an_error(serve: Serve) -> None:
    server = serve(lambda _: Reply(401, {"WWW-Authenticate": "Negotiate"}))
    assert failure(server, Given(credential())).status == 401
    assert server.count("GET", "manifests") == 1


def test_404_and_403_are_told_apart(serve: Serve) -> None:
    server = serve(basic)
    missing = failure(server, Given(credential()), "nope")
    assert (missing.status, missing.hint) == (404, "check name, tag and digest")
    denied = failure(serve(lambda _: Reply(403)), Given(credential()))
    assert denied.status == 403
    assert "the user of /home/me/auth.json lacks access" in (denied.hint or "")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b""),
        Reply(body=b"[]"),
        Reply(body=b'"token"'),
        Reply(body=b"{}"),
        Reply(body=b'{"token": 5}'),
        Reply(body=b'{"token": "a\\r\\nX-Injected: 1"}'),
        Reply(body=b'{"token": ""}'),
        Reply(body=b"[" * 200_000),
        Reply(body=b'{"token":' * 200_000),
        Reply(body=bytes(2 << 20)),
        Reply(endless=iter(lambda: bytes(65536), None)),
        Reply(raw=b"nonsense"),
        Reply(401),
        Reply(403),
        Reply(404),
    ],
)
def test_a_token_server_that_gives_no_token_is_one_error(serve: Serve, reply: Reply) -> None:
    server, registry = bearer(serve)
    registry.reply = reply
    error = failure(server, Given(credential()))
    assert SECRET not in error.message


def test_a_token_server_that_fails_for_a_moment_is_asked_again(serve: Serve) -> None:
    server, registry = bearer(serve)
    count = iter(range(10))

    def handle(request: Request) -> Reply:
        if request.path == "/token" and next(count) < 2:
            return Reply(503)
        return registry(request)

    server.handle = handle
    with client_of(server) as client:
        assert client.manifest("v1").content == MANIFEST


@pytest.mark.parametrize(
    "realm", ["", "token", "ftp://127.0.0.1", "http://", "https://[", "file:///etc/passwd"]
)
def test_a_realm_that_is_no_url_is_one_error(serve: Serve, realm: str) -> None:
    server = serve(lambda _: Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}))
    failure(server, Given(credential()))


# --- who receives credentials ---


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("same_host", [True, False])
def test_no_credential_is_sent_after_a_redirect(serve: Serve, status: int, same_host: bool) -> None:
    other = serve(served({}, lambda request: Reply(body=DATA[:5] if "range" in request.headers else DATA)))

    def handle(request: Request) -> Reply:
        if request.path.startswith("/elsewhere"):
            return Reply(206, {"Content-Range": "bytes 0-4/1000"}, DATA[:5])
        reply = basic(request)
        if reply.status == 206:
            target = "" if same_host else f"http://{other.host}"
            return Reply(status, {"Location": f"{target}/elsewhere?signature={SECRET}"})
        return reply

    other.handle = lambda _: Reply(206, {"Content-Range": "bytes 0-4/1000"}, DATA[:5])
    server = serve(handle)
    with client_of(server, credentials=Given(credential())) as client:
        assert client.read_range(DIGEST, 0, 5) == DATA[:5]
    [redirected] = [one for one in (*server.requests, *other.requests) if one.path == "/elsewhere"]
    assert (redirected in other.requests) is not same_host
    assert "authorization" not in redirected.headers
    assert redirected.headers["range"] == "bytes=0-4"


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_host_to_which_the_registry_redirects_cannot_challenge(serve: Serve, scheme: str) -> None:
    other = serve(basic)
    challenge = f'{scheme} realm="http://{other.host}/token"'
    other.handle = lambda _: Reply(401, {"WWW-Authenticate": challenge})
    server = serve(
        lambda request: (
            Reply() if request.path == "/v2/" else Reply(307, {"Location": f"http://{other.host}/x"})
        )
    )
    assert failure(server, Given(credential())).status == 401
    assert [(one.path, one.headers.get("authorization")) for one in other.requests] == [("/x", None)]


def test_an_upload_to_another_host_sends_no_credential(serve: Serve) -> None:
    other = serve(lambda _: Reply(201))

    def handle(request: Request) -> Reply:
        reply = basic(request)
        if request.method == "POST" and reply.status == 404:
            return Reply(202, {"Location": f"http://{other.host}/upload?x=y"})
        return reply

    server = serve(handle)
    with tempfile.TemporaryFile() as file, client_of(server, credentials=Given(credential())) as client:
        file.write(DATA)
        file.flush()
        client.upload(DIGEST, len(DATA), file.fileno())
    [put] = other.requests
    assert (put.method, put.body, put.query) == ("PUT", DATA, {"x": "y", "digest": DIGEST})
    assert "authorization" not in put.headers


@pytest.mark.parametrize(
    "location", [None, "", "ftp://127.0.0.1/", "http://", "//", "https://[::", "file:///etc/passwd"]
)
def test_a_redirect_that_leads_nowhere_is_one_error(serve: Serve, location: str | None) -> None:
    headers = {} if location is None else {"Location": location}
    server = serve(lambda request: Reply() if request.path == "/v2/" else Reply(307, headers))
    failure(server)


def test_redirects_in_a_circle_are_one_error(serve: Serve) -> None:
    server = serve(
        lambda request: Reply() if request.path == "/v2/" else Reply(307, {"Location": request.path})
    )
    assert "more than 5 redirects" in failure(server).message
    assert server.count("GET", "manifests") == 6


# --- secrets ---


def test_no_message_has_a_secret_even_if_the_registry_repeats_it(
    serve: Serve, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    registry = Bearer(token="t0ken-t0ken")

    def echo(request: Request) -> Reply:
        secrets = (request.headers.get("authorization", ""), SECRET, registry.token)
        if request.path.endswith("/v1"):
            text = " ".join(secrets).replace("\\", "").replace('"', "")
            reply = registry(request)
            return (
                reply
                if reply.status == 401
                else Reply(400, body=f'{{"errors":[{{"message":"{text}"}}]}}'.encode())
            )
        if request.path.endswith("/redirected"):
            target = f"http://127.0.0.1:9/x?X-Amz-Signature={SECRET}"
            reply = registry(request)
            return (
                reply if reply.status == 401 else Reply(307, {"Location": target}, more=((": broken", "x"),))
            )
        return registry(request)

    server = serve(echo)
    registry.realm = f"http://{server.host}"
    given = Given(credential())
    errors = [failure(server, given), failure(server, given, "redirected")]
    registry.reply = Reply(401, body=f'{{"errors":[{{"code":"X","message":"{BASIC} {SECRET}"}}]}}'.encode())
    errors.append(failure(server, given))
    assert "***" in errors[0].message
    shown = (
        [one.render() for one in errors] + [repr(one) for one in errors] + [caplog.text, *capfd.readouterr()]
    )
    for secret in (SECRET, BASIC.removeprefix("Basic "), registry.token, "Signature"):
        assert not any(secret in text for text in shown)


def test_a_credential_is_printed_without_its_secret() -> None:
    assert SECRET not in repr(credential())
    assert "me" in repr(credential())

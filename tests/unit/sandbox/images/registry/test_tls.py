"""TLS: authorities of a directory, client certificates, and what happens without trust."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.images.registry.failures import RegistryError
from sandbox.images.registry.settings import TlsSettings
from sandbox.images.registry.tls import certificate_directory, make_context
from tests.unit.sandbox.images.registry.certificates import make_authority, make_certificate
from tests.unit.sandbox.images.registry.clients import client_of
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Handle, Reply

pytestmark = pytest.mark.openssl

MANIFEST = b"{}"
ServeTls = Callable[..., FaultyServer]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with two authorities, and certificates of a server and a client."""
    directory = tmp_path_factory.mktemp("certificates")
    make_authority(directory)
    make_authority(directory, "other")
    make_certificate(directory, "server")
    make_certificate(directory, "wrong-name", "DNS:example.com")
    make_certificate(directory, "client", "email:me@example.com")
    return directory


@pytest.fixture
def serve_tls(certificates: Path) -> Iterator[ServeTls]:
    """Return a function that starts a server with TLS."""
    with ExitStack() as servers:

        def start(handle: Handle, name: str = "server", *, client: bool = False) -> FaultyServer:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates / f"{name}.cert", certificates / f"{name}.key")
            if client:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(certificates / "ca.crt")

            def wrap(server: ThreadingHTTPServer) -> None:
                # The handshake is made in the thread of the request.
                server.socket = context.wrap_socket(
                    server.socket, server_side=True, do_handshake_on_connect=False
                )

            return servers.enter_context(FaultyServer(handle, wrap))

        yield start


def directory(certificates: Path, tmp_path: Path, *names: str) -> str:
    for name in names:
        shutil.copy(certificates / name, tmp_path)
    return str(tmp_path)


def fetch(server: FaultyServer, tls: TlsSettings | None = None, home: Path | None = None) -> bytes:
    environ = {} if home is None else {"HOME": str(home)}
    with client_of(server, insecure=False, tls=tls, environ=environ) as client:
        return client.manifest("v1").content


def manifest(_: object) -> Reply:
    return Reply(body=MANIFEST)


def test_an_authority_in_the_given_directory_is_trusted(
    serve_tls: ServeTls, certificates: Path, tmp_path: Path
) -> None:
    tls = TlsSettings(cert_dir=directory(certificates, tmp_path, "ca.crt"))
    assert fetch(serve_tls(manifest), tls) == MANIFEST


def test_an_authority_in_the_directory_of_the_host_is_trusted(
    serve_tls: ServeTls, certificates: Path, tmp_path: Path
) -> None:
    server = serve_tls(manifest)
    place = tmp_path / ".config/containers/certs.d" / server.host
    place.mkdir(parents=True)
    directory(certificates, place, "ca.crt")
    assert fetch(server, home=tmp_path) == MANIFEST


@pytest.mark.parametrize(
    ("authority", "name", "reason"),
    [
        (None, "server", "unable to get local issuer certificate"),
        ("other.crt", "server", "unable to get local issuer certificate"),
        ("ca.crt", "wrong-name", "certificate is not valid for '127.0.0.1'"),
    ],
)
def test_a_certificate_that_is_not_trusted_is_one_error_with_a_remedy(
    serve_tls: ServeTls, certificates: Path, tmp_path: Path, authority: str | None, name: str, reason: str
) -> None:
    server = serve_tls(manifest, name)
    tls = TlsSettings(cert_dir=None if authority is None else directory(certificates, tmp_path, authority))
    with pytest.raises(RegistryError, match="the certificate is not trusted: ") as failed:
        fetch(server, tls)
    assert reason in failed.value.message
    assert "--cert-dir" in (failed.value.hint or "")
    assert server.requests == []


def test_any_certificate_is_accepted_without_verification(serve_tls: ServeTls) -> None:
    assert fetch(serve_tls(manifest, "wrong-name"), TlsSettings(verify=False)) == MANIFEST


def test_a_client_certificate_is_for_the_registry_alone(
    serve_tls: ServeTls, certificates: Path, tmp_path: Path
) -> None:
    tls = TlsSettings(cert_dir=directory(certificates, tmp_path, "ca.crt", "client.cert", "client.key"))
    assert fetch(serve_tls(manifest, client=True), tls) == MANIFEST
    other = serve_tls(manifest, client=True)
    redirecting = serve_tls(lambda _: Reply(307, {"Location": f"https://{other.host}/x"}), client=True)
    with pytest.raises(RegistryError):
        fetch(redirecting, tls)
    assert other.requests == []


def test_a_redirect_from_tls_to_plain_http_is_refused(
    serve_tls: ServeTls, serve: Callable[[Handle], FaultyServer], certificates: Path, tmp_path: Path
) -> None:
    plain = serve(manifest)
    server = serve_tls(lambda _: Reply(307, {"Location": f"http://{plain.host}/x"}))
    tls = TlsSettings(cert_dir=directory(certificates, tmp_path, "ca.crt"))
    with pytest.raises(RegistryError, match=f"redirects to {plain.host} without TLS"):
        fetch(server, tls)
    assert plain.requests == []
    assert fetch(server, TlsSettings(verify=False)) == MANIFEST


def test_an_upload_at_a_url_without_tls_is_refused(
    serve_tls: ServeTls, serve: Callable[[Handle], FaultyServer], certificates: Path, tmp_path: Path
) -> None:
    plain = serve(manifest)
    server = serve_tls(lambda _: Reply(202, {"Location": f"http://{plain.host}/x"}))
    tls = TlsSettings(cert_dir=directory(certificates, tmp_path, "ca.crt"))
    with (
        client_of(server, insecure=False, tls=tls) as client,
        pytest.raises(RegistryError, match="begins an upload at a URL without TLS"),
    ):
        client.upload(f"sha256:{'0' * 64}", 5, -1)
    assert plain.requests == []


def test_a_token_server_without_tls_gets_no_credential(
    serve_tls: ServeTls, serve: Callable[[Handle], FaultyServer], certificates: Path, tmp_path: Path
) -> None:
    plain = serve(manifest)
    server = serve_tls(
        lambda _: Reply(401, {"WWW-Authenticate": f'Bearer realm="http://{plain.host}/token"'})
    )
    tls = TlsSettings(cert_dir=directory(certificates, tmp_path, "ca.crt"))
    with pytest.raises(RegistryError, match=f"the token server {plain.host} does not use TLS"):
        fetch(server, tls)
    assert plain.requests == []


def test_a_malformed_directory_is_an_error_that_names_the_file(certificates: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="absent: is not a directory"):
        certificate_directory("a.com", str(tmp_path / "absent"), {})
    place = directory(certificates, tmp_path, "client.cert")
    with pytest.raises(ImageError, match=r"client\.cert: lacks its key"):
        make_context(place, verify=True, client_certificate=True)
    make_context(place, verify=True, client_certificate=False)
    (tmp_path / "bad.crt").write_text("no certificate")
    with pytest.raises(ImageError, match=r"bad\.crt: "):
        make_context(place, verify=True, client_certificate=False)

"""Requests go by the proxy that the environment names, and its password is in no message."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import ssl
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from sandbox.images.registry.failures import RegistryError
from sandbox.images.registry.proxies import Proxies, Proxy
from sandbox.images.registry.settings import TlsSettings
from sandbox.images.registry.tls import make_context
from sandbox.images.registry.transport import Call, Transport
from sandbox.images.registry.watchdog import Watchdog
from tests.unit.sandbox.images.registry.certificates import make_authority, make_certificate
from tests.unit.sandbox.images.registry.clients import PATH, client_of, short_limits
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Handle, Reply
from tests.unit.sandbox.images.registry.tunnel import Tunnel

MANIFEST = b"{}"
SECRET = "p@ss/w:örd"
BASIC = f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"


def found(url: str, **environ: str) -> str | None:
    proxy = Proxies(environ).find(url)
    return None if proxy is None else f"{proxy.url} {proxy.variable}"


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({}, "https://a.example/", None),
        ({"http_proxy": "http://p:1"}, "https://a.example/", None),
        ({"http_proxy": "http://p:1"}, "http://a.example/", "http://p:1 http_proxy"),
        ({"HTTPS_PROXY": "http://p"}, "https://a.example/", "http://p:80 HTTPS_PROXY"),
        ({"HTTPS_PROXY": "http://upper", "https_proxy": "low:2"}, "https://a.example/", "http://low:2 https_proxy"),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": ""}, "https://a.example/", "http://upper:1 HTTPS_PROXY"),
        ({"https_proxy": "https://p"}, "https://a.example/", "https://p:443 https_proxy"),
        ({"https_proxy": "http://[::1]:3128/"}, "https://a.example/", "http://[::1]:3128 https_proxy"),
        ({"https_proxy": "http://p:1"}, "https://localhost:5000/", None),
        ({"https_proxy": "http://p:1"}, "https://127.3.4.5/", None),
        ({"https_proxy": "http://p:1"}, "https://[::1]/", None),
    ],
)  # fmt: skip
def test_the_proxy_is_that_of_the_scheme(environ: dict[str, str], url: str, expected: str | None) -> None:
    assert found(url, **environ) == expected


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_used"),
    [
        ("*", "https://a.example/", False),
        ("other, a.example", "https://a.example/", False),
        ("A.Example", "https://b.a.example/", False),
        (".a.example", "https://a.example/", True),
        (".a.example", "https://b.a.example/", False),
        ("*.a.example", "https://b.a.example/", False),
        ("example", "https://aexample/", True),
        ("a.example:443", "https://a.example/", False),
        ("a.example:5000", "https://a.example/", True),
        ("10.0.0.0/8", "https://10.1.2.3:5000/", False),
        ("10.0.0.0/8", "https://11.1.2.3/", True),
        ("10.0.0.0/8", "https://a.example/", True),
        ("10.1.2.3", "https://10.1.2.3/", False),
        ("10.1.2.3:5000", "https://10.1.2.3:5000/", False),
        ("10.1.2.3:5000", "https://10.1.2.3/", True),
        ("2001:db8::/32", "https://[2001:db8::7]/", False),
        ("[2001:db8::7]:5000", "https://[2001:db8::7]:5000/", False),
        ("1.2.3.4", "https://a1.2.3.4.example/", True),
        (",, ", "https://a.example/", True),
    ],
)
def test_hosts_of_no_proxy_are_reached_without_one(no_proxy: str, url: str, is_used: bool) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        assert (found(url, https_proxy="http://p:1", **{name: no_proxy}) is not None) == is_used


@pytest.mark.parametrize(
    "value", ["socks5://me:s3cret@p:1", "http://me:s3cret@", "http://me:s3cret@p:port", "s3cret@:1"]
)
def test_a_malformed_variable_is_refused_without_its_value(value: str) -> None:
    with pytest.raises(RegistryError, match=r"^https_proxy: ") as caught:
        found("https://a.example/", https_proxy=value)
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


def test_the_printed_form_of_a_proxy_has_no_password() -> None:
    proxy = Proxies({"http_proxy": "http://me:p%40ss@p:1"}).find("http://a.example/")
    assert proxy == Proxy("http://p:1", "http_proxy", "me:p@ss")
    assert "p@ss" not in repr(proxy)


def manifest(_: object) -> Reply:
    return Reply(body=MANIFEST)


def given(tunnel: Tunnel, secret: str = "p%40ss%2Fw%3A%C3%B6rd") -> str:
    return f"http://me:{secret}@{tunnel.host}"


def test_a_request_without_tls_goes_to_the_proxy_as_a_whole(serve: Callable[[Handle], FaultyServer]) -> None:
    server = serve(manifest)
    with Tunnel({"registry.test:5000": server.host}, required=BASIC) as tunnel:
        environ = {"http_proxy": given(tunnel), "https_proxy": given(tunnel), "no_proxy": "other.test"}
        with client_of("registry.test:5000", environ=environ) as client:
            assert client.manifest("v1").content == MANIFEST
        assert tunnel.targets()[-1] == f"GET http://registry.test:5000/v2/{PATH}/manifests/v1"
    assert server.requests[-1].headers["host"] == "registry.test:5000"
    assert "proxy-authorization" not in server.requests[-1].headers


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with an authority, and certificates of a registry, of a proxy and of a client."""
    directory = tmp_path_factory.mktemp("certificates")
    make_authority(directory)
    make_certificate(directory, "registry", "DNS:registry.test")
    make_certificate(directory, "proxy")
    make_certificate(directory, "client", "email:me@example.com")
    (directory / "trusted").mkdir()
    for name in ("ca.crt", "client.cert", "client.key"):
        shutil.copy(directory / name, directory / "trusted")
    return directory


def context_of(certificates: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.cert", certificates / f"{name}.key")
    return context


def with_tls(certificates: Path) -> FaultyServer:
    context = context_of(certificates, "registry")

    def wrap(server: ThreadingHTTPServer) -> None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)

    return FaultyServer(manifest, wrap)


@pytest.mark.openssl
def test_a_request_with_tls_goes_through_a_tunnel(certificates: Path) -> None:
    with (
        with_tls(certificates) as server,
        Tunnel({"registry.test:443": server.host}, required=BASIC) as tunnel,
    ):
        tls = TlsSettings(cert_dir=str(certificates / "trusted"))
        environ = {"HTTPS_PROXY": given(tunnel)}
        with client_of("registry.test", environ=environ, insecure=False, tls=tls) as client:
            assert client.manifest("v1").content == MANIFEST
            assert client.manifest("v1").content == MANIFEST
        assert tunnel.targets() == ["CONNECT registry.test:443"]  # one connection for both
        assert "proxy-authorization" not in server.requests[-1].headers
        # Redirects to this machine need no proxy.
        server.handle = lambda _: Reply(307, {"Location": f"https://{server.host}/elsewhere"})
        with (
            client_of("registry.test", environ=environ, insecure=False, tls=tls) as client,
            pytest.raises(RegistryError, match=f"{server.host}: the certificate is not trusted"),
        ):
            client.manifest("v1")


@pytest.mark.openssl
def test_a_proxy_may_have_tls_and_gets_no_client_certificate(
    certificates: Path, serve: Callable[[Handle], FaultyServer]
) -> None:
    context = context_of(certificates, "proxy")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(certificates / "ca.crt")
    plain = serve(manifest)
    tls = TlsSettings(cert_dir=str(certificates / "trusted"))
    with (
        with_tls(certificates) as server,
        Tunnel(
            {"registry.test:443": server.host, "registry.test:5000": plain.host},
            required=BASIC,
            context=context,
        ) as tunnel,
    ):
        environ = {"https_proxy": given(tunnel).replace("http:", "https:")}
        with client_of("registry.test", environ=environ, insecure=False, tls=tls) as client:
            assert client.manifest("v1").content == MANIFEST
        environ["http_proxy"] = environ["https_proxy"]
        transport = Transport(
            short_limits(),
            watchdog := Watchdog(1.0, 1),
            make_context(tls.cert_dir, verify=True, client_certificate=True),
            make_context(tls.cert_dir, verify=True, client_certificate=False),
            host="registry.test:5000",
            insecure=False,
            proxies=Proxies(environ),
        )
        try:
            with transport.request(
                Call(what="it", method="GET", url="http://registry.test:5000/v2/")
            ) as answer:
                assert answer.status == 200
        finally:
            transport.close()
            watchdog.close()
    assert [target.partition(" ")[0] for target in tunnel.targets()] == ["CONNECT", "GET"]
    assert tunnel.certificates == [None, None]


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize(
    ("secret", "hint"),
    [("wrong", "correct the user and the password"), ("", "write https?_proxy=http://USER:PASSWORD@127")],
)
def test_a_proxy_that_refuses_the_password_is_named_without_it(
    insecure: bool, secret: str, hint: str
) -> None:
    with Tunnel({}, required=BASIC) as tunnel:
        value = given(tunnel, secret) if secret else tunnel.host
        environ = {"https_proxy": value, "http_proxy": value}
        with (
            client_of("registry.test", environ=environ, insecure=insecure) as client,
            pytest.raises(
                RegistryError, match=rf"the proxy {tunnel.host} of https_proxy refuses .*\(HTTP 407\)"
            ) as caught,
        ):
            client.manifest("v1")
        assert len(tunnel.requests) == 1
    assert re.match(hint, str(caught.value.hint))
    assert "wrong" not in f"{caught.value} {caught.value.hint}"


def test_a_proxy_without_access_to_the_host_is_named() -> None:
    with (
        Tunnel({}) as tunnel,
        client_of("registry.test", environ={"https_proxy": tunnel.host}, insecure=False) as client,
        pytest.raises(
            RegistryError, match=rf"the proxy {tunnel.host} of https_proxy refuses .*\(HTTP 403\)"
        ) as caught,
    ):
        client.manifest("v1")
    assert "no_proxy" in str(caught.value.hint)


def test_a_proxy_that_does_not_exist_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        environ = {"https_proxy": f"http://me:{'s3cret'}@{host}"}
        with (
            client_of("registry.test", environ=environ, insecure=False) as client,
            pytest.raises(
                RegistryError, match=f"the proxy {host} of https_proxy: no connection: connection refused"
            ) as caught,
        ):
            client.manifest("v1")
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"

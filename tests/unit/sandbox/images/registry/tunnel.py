"""An HTTP proxy on loopback for tests. It knows the hosts that a test names, which no name server does."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit


class Tunnel:
    """The proxy. It runs from `with` to its end and records the requests: their methods, targets and headers."""

    def __init__(
        self, hosts: Mapping[str, str], *, required: str = "", context: ssl.SSLContext | None = None
    ) -> None:
        """Connect requests for a host of *hosts* to HOST:PORT there.

        *required* is the value of Proxy-Authorization. With *context*, clients connect to the proxy by TLS.
        """
        self.hosts = hosts
        self.required = required
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        #: The certificates of the clients, with TLS.
        self.certificates: list[object] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def targets(self) -> list[str]:
        """Return the method and the target of each request."""
        return [f"{method} {target}" for method, target, _ in self.requests]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    owner: Tunnel
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_: object) -> None:
        pass

    def _place(self, host: str) -> str | None:
        """Record the request; return where *host* is, or refuse it."""
        assert isinstance(self.server, _Server)
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner.requests.append((self.command, self.path, headers))
        if isinstance(self.connection, ssl.SSLSocket):
            owner.certificates.append(self.connection.getpeercert() or None)
        status = 407 if headers.get("proxy-authorization", "") != owner.required else 403
        if status == 407 or host not in owner.hosts:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.close_connection = True
            return None
        return owner.hosts[host]

    def do_CONNECT(self) -> None:
        place = self._place(self.path)
        if place is None:
            return
        name, _, port = place.partition(":")
        with socket.create_connection((name, int(port))) as other:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: other, other: self.connection}
            while ready := select.select(list(ends), [], [], 60)[0]:
                for end in ready:
                    if not (data := end.recv(1 << 16)):
                        self.close_connection = True
                        return
                    while isinstance(end, ssl.SSLSocket) and end.pending():  # which select(2) does not see
                        data += end.recv(1 << 16)
                    ends[end].sendall(data)

    def forward(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place = self._place(url.netloc)
        if place is None:
            return
        connection = http.client.HTTPConnection(place, timeout=60)
        headers = {
            name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")
        }
        connection.request(self.command, f"{url.path}{url.query and '?'}{url.query}", body, headers)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = forward  # noqa: N815 - the names of http.server

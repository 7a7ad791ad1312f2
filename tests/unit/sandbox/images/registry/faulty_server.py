"""An HTTP server on loopback that responds as a test wishes: correctly, wrongly, slowly, or not to the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Request:
    """A request as the server has received it."""

    method: str
    path: str
    query: dict[str, str]
    #: Names in lower case.
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """A response. Content-Length is that of the body, unless `headers` has another."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: Send only so many bytes of the body, and close the connection.
    cut: int | None = None
    #: Then keep the connection open without sending anything, until the server is closed.
    stall: bool = False
    #: Send these pieces instead of the body, without a length, for as long as the client reads.
    endless: Iterable[bytes] | None = None
    #: Send exactly this, and close the connection.
    raw: bytes | None = None
    #: Headers beside `headers`, which may repeat.
    more: tuple[tuple[str, str], ...] = ()


Handle = Callable[[Request], Reply]


class FaultyServer:
    """The server. It runs from `with` to its end and records all requests."""

    def __init__(self, handle: Handle, wrap: Callable[[ThreadingHTTPServer], None] | None = None) -> None:
        self.handle = handle
        self.requests: list[Request] = []
        #: Wait so long after each 16 KiB of a body.
        self.seconds_per_read = 0.0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        if wrap is not None:
            wrap(self._server)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def count(self, method: str, path: str = "") -> int:
        """Return how many requests with *method* had a path that contains *path*."""
        return sum(one.method == method and path in one.path for one in self.requests)


class _Server(ThreadingHTTPServer):
    owner: FaultyServer
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        pass  # the client has closed the connection


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_: object) -> None:
        pass

    def respond(self) -> None:
        assert isinstance(self.server, _Server)
        url = urlsplit(self.path)
        request = Request(
            self.command,
            url.path,
            dict(parse_qsl(url.query)),
            {name.lower(): value for name, value in self.headers.items()},
            self._body(int(self.headers.get("Content-Length", 0))),
        )
        owner = self.server.owner
        owner.record(request)
        reply = owner.handle(request)
        if reply.raw is not None:
            self.wfile.write(reply.raw)
            self._end(owner, reply)
            return
        self.send_response(reply.status)
        headers = {"Content-Length": str(len(reply.body)), **reply.headers}
        if reply.endless is not None or (
            reply.status in (204, 304) and not reply.headers.get("Content-Length")
        ):
            del headers["Content-Length"]
        for name, value in (*headers.items(), *reply.more):
            self.send_header(name, value)
        if reply.endless is not None:
            self.send_header("Connection", "close")
        self.end_headers()
        if reply.endless is not None:
            for piece in reply.endless:
                if owner.closing.is_set():
                    break
                self.wfile.write(piece)
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(reply.body[: reply.cut])
        if reply.cut is not None or reply.stall:
            self._end(owner, reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = respond  # noqa: N815 - the names of http.server

    def _body(self, size: int) -> bytes:
        assert isinstance(self.server, _Server)
        body = bytearray()
        while len(body) < size and (piece := self.rfile.read1(min(1 << 14, size - len(body)))):
            body += piece
            self.server.owner.closing.wait(self.server.owner.seconds_per_read)
        return bytes(body)

    def _end(self, owner: FaultyServer, reply: Reply) -> None:
        self.wfile.flush()
        if reply.stall:
            owner.closing.wait(60)
        self.close_connection = True

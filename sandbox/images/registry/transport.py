"""Make HTTP requests to the hosts of one registry: connections, redirects, limits of time and size.

One request is one attempt. The module does not retry and does not authenticate. It decides which host receives a credential:
only the host to which the caller's URL leads. A redirect is followed without credentials, wherever it leads.

urllib3 is imported with this module, so only functions import it.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InsecureRequestWarning,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
)
from urllib3.util import Timeout, parse_url

from sandbox.images.registry.failures import CancelledError, NoTlsError, RegistryError, UnreachableError
from sandbox.images.registry.proxies import PROXY_LOGIN
from sandbox.images.registry.watchdog import attach_to_current, sockets_belong_to
from unionfs._stdlib.dataclasses import dataclass, field, replace
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    from urllib3.response import BaseHTTPResponse

    from sandbox.images.registry.proxies import Proxies, Proxy
    from sandbox.images.registry.settings import Limits
    from sandbox.images.registry.watchdog import Watch, Watchdog

PIECE = 1 << 17
"""The most bytes of a body that are read at once."""

_DRAINED = 1 << 14
"""The most bytes of a body that are read without a use, so that the connection can be used again."""

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_AGENT = "sandbox"

# Messages of urllib3 have whole URLs, and the query of a redirect is often a signature that grants access.
logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request."""

    #: The object and its source, for messages.
    what: str
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    #: The value of the Authorization header; None sends none.
    authorization: str | None = field(default=None, repr=False)
    #: Makes the body anew for each attempt, in pieces; None without one. Content-Length is in `headers`.
    body: Callable[[], Iterable[bytes]] | None = None
    #: Seconds that the response may take longer than others.
    extra: float = 0.0


class Answer:
    """The response to one request. :meth:`Transport.request` makes it; the caller closes it, or uses it in `with`."""

    def __init__(
        self, call: Call, response: BaseHTTPResponse, watch: Watch, release: Callable[[], None]
    ) -> None:
        self.what = call.what
        self.url = call.url
        self.status = response.status
        self.headers = response.headers
        self.host = host_of(call.url)
        self._response = response
        self._watch = watch
        self._release = release
        self._complete = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back if the body was read or little of it is left, else close it."""
        left = self._response.length_remaining
        if not self._complete and left is not None and left <= _DRAINED:
            try:
                self.beginning(_DRAINED + 1)
            except RegistryError:
                pass  # the connection is closed
        if self._complete:
            self._response.release_conn()
        else:
            self._response.close()
        self._release()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives. The time limit counts from the last progress.

        Raises:
            RegistryError: the connection was cut, or brings nothing more.
        """
        while data := self._read(PIECE):
            self._watch.advance(len(data))
            yield data

    def content(self, limit: int) -> bytes:
        """Return the whole body, which must arrive within the time limit of one request.

        Raises:
            RegistryError: it has more than *limit* bytes; or as :meth:`pieces`.
        """
        data = self.beginning(limit + 1)
        if len(data) > limit:
            raise RegistryError(f"{self.what}: {self.host}: the response has more than {limit} bytes")
        return data

    def beginning(self, limit: int) -> bytes:
        """Return the first *limit* bytes of the body, or all of a shorter one. Raises as :meth:`pieces`."""
        data = bytearray()
        while len(data) < limit and (piece := self._read(min(PIECE, limit - len(data)))):
            data += piece
        return bytes(data)

    def _read(self, size: int) -> bytes:
        try:
            data = self._response.read1(size, decode_content=False)
        except (HTTPError, OSError, ValueError) as error:
            raise _failure(self.what, self.url, error, self._watch) from None
        if data:
            return data
        if self._watch.expired or self._watch.cancelled:  # a body without a length seems to end
            raise _failure(self.what, self.url, None, self._watch)
        self._complete = True
        return b""


class Transport:
    """Connections to the hosts of one registry. Threads may share it. The caller closes it."""

    def __init__(
        self,
        limits: Limits,
        watchdog: Watchdog,
        own: ssl.SSLContext,
        others: ssl.SSLContext,
        *,
        host: str,
        insecure: bool,
        proxies: Proxies,
    ) -> None:
        """Make no connection yet.

        Args:
            limits: limits of time and redirects.
            watchdog: ends requests without progress.
            own: the TLS context for *host*, which may have a client certificate.
            others: the TLS context for other hosts, to which *host* redirects.
            host: the host of the registry, and its port where it is given.
            insecure: whether redirects may lead from https to http.
            proxies: chooses the proxy of each request.
        """
        if own.verify_mode == ssl.CERT_NONE:
            urllib3.disable_warnings(InsecureRequestWarning)  # the user has requested it
        self._limits = limits
        self._watchdog = watchdog
        self._host = host_of(f"https://{host}")  # in the form of the URLs of requests
        self._insecure = insecure
        self._own = own
        self._others = others
        self._proxies = proxies
        self._lock = threading.Lock()
        self._pools: dict[tuple[bool, Proxy | None], urllib3.PoolManager] = {}

    def close(self) -> None:
        """Close the connections."""
        for manager in self._pools.values():
            # `clear` only drops the pools: a traceback that refers to one would keep its connections open.
            keys = manager.pools.keys()  # a set: the container itself refuses iteration
            for key in keys:
                manager.pools[key].close()
            manager.clear()

    def request(self, call: Call) -> Answer:
        """Make one request, and follow the redirects of GET and HEAD without credentials.

        Raises:
            UnreachableError: there is no connection.
            NoTlsError: the host does not respond with TLS.
            CancelledError: the watchdog was cancelled.
            RegistryError: the connection was cut, brings nothing more, or is not trusted; or a redirect leads nowhere.
        """
        for _ in range(self._limits.redirects + 1):
            answer = self._request(call)
            if answer.status not in _REDIRECTS or call.method not in ("GET", "HEAD"):
                return answer
            with answer:
                location = answer.headers.get("Location")
            call = replace(call, url=self._target(call, location), authorization=None)
        raise RegistryError(f"{call.what}: {host_of(call.url)}: more than {self._limits.redirects} redirects")

    def _request(self, call: Call) -> Answer:
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity", **call.headers}
        if call.authorization is not None:
            headers["Authorization"] = call.authorization
        proxy = self._proxies.find(call.url)
        # urllib3 2.3 uses the context for the connection to a proxy if the request has no TLS. The client certificate is not for it.
        own = host_of(call.url) == self._host and call.url.startswith("https:")
        pools = self._pools_for(proxy, own=own)
        watch = self._watchdog.open_watch(call.extra)
        try:
            with sockets_belong_to(watch):
                response = pools.urlopen(
                    call.method,
                    call.url,
                    headers=headers,
                    body=None if call.body is None else _watched(call.body(), watch),
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                    # The watchdog has the deadline of the response. It also sees that a slow line still sends the request.
                    timeout=Timeout(connect=self._limits.connect, read=None),
                )
        except (HTTPError, OSError, ValueError) as error:
            self._watchdog.release(watch)
            raise _failure(call.what, call.url, error, watch, proxy) from None
        except BaseException:
            self._watchdog.release(watch)
            raise
        if response.status == PROXY_LOGIN and proxy is not None:
            response.close()
            self._watchdog.release(watch)
            raise proxy.refusal(call.what, response.status)
        return Answer(call, response, watch, lambda: self._watchdog.release(watch))

    def _pools_for(self, proxy: Proxy | None, *, own: bool) -> urllib3.PoolManager:
        """Return the connections by *proxy* to the registry's host, or without *own* to other hosts."""
        with self._lock:
            key = own, proxy
            if key not in self._pools:
                self._pools[key] = _pools(self._own if own else self._others, proxy, self._others)
            return self._pools[key]

    def _target(self, call: Call, location: str | None) -> str:
        """Return the URL to which a response redirects *call*."""
        target = None if location is None else checked_url(location, call.url)
        host = host_of(call.url)
        if target is None:
            raise RegistryError(f"{call.what}: {host}: redirects to no valid URL")
        if call.url.startswith("https:") and not target.startswith("https:") and not self._insecure:
            raise RegistryError(
                f"{call.what}: {host}: redirects to {host_of(target)} without TLS",
                hint="add --tls-verify=false if you trust the network",
            )
        return target


def checked_url(text: str, base: str) -> str | None:
    """Return the URL that *text*, which a server has sent, means in relation to *base*; None if it is not http or https.

    Name, password and fragment are dropped.
    """
    try:
        url = parse_url(urljoin(base, text))
    except (ValueError, LocationValueError):
        return None
    if url.scheme not in ("http", "https") or not url.host:
        return None
    return url._replace(auth=None, fragment=None).url


def host_of(url: str) -> str:
    """Return the host of *url*, and its port where it is given."""
    return parse_url(url).netloc or ""


def is_same_origin(one: str, other: str) -> bool:
    """Tell whether two URLs have the same scheme, host and port (RFC 6454)."""
    first, second = parse_url(one), parse_url(other)
    ports = {"http": 80, "https": 443}
    return (first.scheme, first.host, first.port or ports.get(first.scheme or "")) == (
        second.scheme,
        second.host,
        second.port or ports.get(second.scheme or ""),
    )


def _watched(body: Iterable[bytes], watch: Watch) -> Iterator[bytes]:
    for piece in body:
        yield piece
        watch.advance(len(piece))  # the piece was sent: the caller requests the next one


class _WatchedSockets:
    """Makes the sockets of a connection known to the watch of the request that uses it."""

    sock: socket.socket | None

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc] # of urllib3's connection
        attach_to_current(sock)
        return sock

    def request(self, *arguments: Any, **options: Any) -> None:
        if self.sock is not None:
            attach_to_current(self.sock)
        super().request(*arguments, **options)  # type: ignore[misc] # as above


class _HttpConnection(_WatchedSockets, HTTPConnection):
    pass


class _HttpsConnection(_WatchedSockets, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


def _pools(
    context: ssl.SSLContext, proxy: Proxy | None, proxy_context: ssl.SSLContext
) -> urllib3.PoolManager:
    settings: dict[str, Any] = {"num_pools": 8, "maxsize": 8, "ssl_context": context, "blocksize": PIECE}
    if proxy is None:
        pools = urllib3.PoolManager(**settings)
    else:
        pools = urllib3.ProxyManager(
            proxy.url, proxy_headers=proxy.headers(), proxy_ssl_context=proxy_context, **settings
        )
    pools.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pools


def _failure(
    what: str, url: str, error: Exception | None, watch: Watch, proxy: Proxy | None = None
) -> RegistryError:
    """Return the error for *error*, which ended the request to *url* by *proxy*; None if only *watch* has the reason."""
    host = host_of(url)
    if watch.cancelled:
        return CancelledError(f"{what}: cancelled")
    if proxy is not None:
        if (status := _tunnel_status(error)) is not None:
            return proxy.refusal(what, status)
        if isinstance(error, ProxyError):
            error = error.original_error
            host = f"the proxy {proxy.host} of {proxy.variable}"
    # Both are kinds of ConnectTimeoutError.
    if isinstance(error, NameResolutionError):
        return UnreachableError(
            f"{what}: {host}: the name cannot be resolved", hint="check the name and the network"
        )
    if isinstance(error, NewConnectionError):
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else "failed"
        return UnreachableError(f"{what}: {host}: no connection: {reason.lower()}", hint=_UNREACHABLE)
    if isinstance(error, ConnectTimeoutError):
        return UnreachableError(f"{what}: {host}: no connection: timed out", hint=_UNREACHABLE)
    if watch.expired or isinstance(error, urllib3.exceptions.TimeoutError):
        return RegistryError(
            f"{what}: {host}: no progress for {watch.limit:.3g} seconds", hint="try again later"
        )
    if isinstance(error, SSLError):
        return _tls_failure(what, host, error)
    return RegistryError(f"{what}: {host}: the connection was cut", hint="try again later", retriable=True)


_UNREACHABLE = "check the name, the port and the network"


def _tunnel_status(error: Exception | None) -> int | None:
    """Return the status with which a proxy has refused CONNECT; None if *error* is of another kind."""
    cause: object = error.original_error if isinstance(error, ProxyError) else None
    if isinstance(error, ProtocolError):
        cause = error.args[-1]
    # http.client, HTTPConnection._tunnel
    found = re.match(r"Tunnel connection failed: (\d{3})", str(cause)) if isinstance(cause, OSError) else None
    return None if found is None else int(found[1])


def _tls_failure(what: str, host: str, error: SSLError) -> RegistryError:
    cause = error.args[0] if error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RegistryError(
            f"{what}: {host}: the certificate is not trusted: {cause.verify_message or cause.reason}",
            hint=f"put the certificate of its authority into --cert-dir, as *.crt, or /etc/containers/certs.d/{host}",
        )
    reason = cause.reason if isinstance(cause, ssl.SSLError) and cause.reason else "failed"
    if reason in (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "RECORD_LAYER_FAILURE",
        "UNEXPECTED_EOF_WHILE_READING",
    ):
        return NoTlsError(
            f"{what}: {host}: does not respond with TLS",
            hint="for plain HTTP, add --tls-verify=false or `insecure = true` in registries.conf",
            retriable=reason == "UNEXPECTED_EOF_WHILE_READING",
        )
    return RegistryError(f"{what}: {host}: TLS: {reason.replace('_', ' ').lower()}")

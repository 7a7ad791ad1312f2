"""Choose the HTTP proxy of a request from the environment: http_proxy, https_proxy and no_proxy. Pure.

A variable may also be in upper case; the one in lower case has precedence, as for curl(1). The rules of no_proxy, and that no proxy
is used for this machine, are those of golang.org/x/net/http/httpproxy, which podman and skopeo use.
"""

from __future__ import annotations

from base64 import b64encode
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from sandbox.images.registry.failures import RegistryError, UnreachableError
from unionfs._stdlib.dataclasses import dataclass, field

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PROXY_LOGIN = 407
"""The status by which a proxy requests credentials (RFC 9110, 15.5.8)."""

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy. Its printed form has no secret."""

    #: SCHEME://HOST:PORT, without a name and a password.
    url: str
    #: The variable that names it, for messages.
    variable: str
    #: USER:PASSWORD, or "".
    credentials: str = field(default="", repr=False)

    @property
    def host(self) -> str:
        """HOST:PORT, for messages."""
        return self.url.partition("://")[2]

    def headers(self) -> dict[str, str]:
        """Return the headers for the proxy alone."""
        if not self.credentials:
            return {}
        return {"Proxy-Authorization": f"Basic {b64encode(self.credentials.encode()).decode()}"}

    def refusal(self, what: str, status: int) -> RegistryError:
        """Return the error that the proxy has refused a request for *what* with *status*."""
        message = f"{what}: the proxy {self.host} of {self.variable} refuses the request (HTTP {status})"
        if status != PROXY_LOGIN:
            hint = "the proxy does not allow that host or port; add the host to no_proxy if it needs no proxy"
            return UnreachableError(message, hint=hint, status=status)
        hint = (
            f"correct the user and the password in {self.variable}"
            if self.credentials
            else f"write {self.variable}=http://USER:PASSWORD@{self.host}"
        )
        return RegistryError(message, hint=hint, status=status)


class Proxies:
    """The proxies of one user. Owns nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Use the variables of *environ*. Nothing is parsed yet: a variable may be malformed and never be needed."""
        self._environ = environ

    def find(self, url: str) -> Proxy | None:
        """Return the proxy for a request to *url*, whose scheme is http or https; None if there is none.

        Raises:
            RegistryError: the variable is malformed. The message does not have its value, which may have a password.
        """
        from urllib.parse import urlsplit

        target = urlsplit(url)
        variable, value = self._value(f"{target.scheme}_proxy")
        host = target.hostname or ""
        if not value or self._is_excluded(host, target.port or _PORTS[target.scheme]):
            return None
        return _parsed(variable, value)

    def _value(self, name: str) -> tuple[str, str]:
        """Return the variable *name* as it is written, and its value, "" if it is not set."""
        found = next((one for one in (name, name.upper()) if self._environ.get(one, "").strip()), name)
        return found, self._environ.get(found, "").strip()

    def _is_excluded(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        entries = self._value("no_proxy")[1].lower().split(",")
        return any(_covers(entry.strip(), host, port) for entry in entries)


def _covers(entry: str, host: str, port: int) -> bool:
    """Return whether *entry* of no_proxy covers *host*: "*", an address, a network, or a domain; a port may follow."""
    if not entry:
        return False
    if entry == "*":
        return True
    address = _address(host)
    if address is not None:
        try:
            return address in ip_network(entry, strict=False)  # also a single address
        except ValueError:
            pass
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal():
        if int(number) != port:
            return False
        entry = name
    entry = entry.removeprefix("*")
    if address is not None:
        return _address(entry) == address
    return host == entry or host.endswith(entry if entry.startswith(".") else f".{entry}")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _parsed(variable: str, value: str) -> Proxy:
    from urllib.parse import unquote, urlsplit

    url = urlsplit(value if "://" in value else f"http://{value}")
    try:
        host, port = url.hostname, url.port or _PORTS.get(url.scheme)
    except ValueError:  # the port
        host, port = None, None
    if url.scheme not in _PORTS:
        scheme = url.scheme if url.scheme.isalnum() else "its scheme"
        raise RegistryError(
            f"{variable}: {scheme} is not supported for a proxy",
            hint="write http://HOST:PORT or https://HOST:PORT",
        )
    if not host or not port:
        raise RegistryError(
            f"{variable}: not the URL of a proxy", hint="write http://[USER:PASSWORD@]HOST:PORT"
        )
    credentials = ""
    if url.username is not None:
        credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
    shown = f"[{host}]" if ":" in host else host
    return Proxy(f"{url.scheme}://{shown}:{port}", variable, credentials)

"""Authorize requests to one repository: Basic, or Bearer with tokens of a token server.

The flow is that of the distribution project, "Token Authentication Specification": a response 401 has a challenge, which names
the token server, and that gives a token for the requested scopes. The scopes are the client's own, never those of the
challenge. Without credentials, the client requests a token for anonymous users.
"""

from __future__ import annotations

import re
import threading
import time

from sandbox.images.registry.challenge import parse_challenges, preferred
from sandbox.images.registry.failures import RegistryError, refusal

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from sandbox.images.registry.challenge import Challenge
    from sandbox.images.registry.credential import Credential
    from sandbox.images.registry.settings import Limits
    from sandbox.images.registry.transport import Call, Transport

_LIFETIME = 60.0
"""Seconds that a token is valid if the response has no lifetime: the default of the token specification."""
_MARGIN = 10.0
"""Seconds before its end after which a token is not used for a new request."""

_TOKEN = re.compile(r"[!-~]{1,65536}")  # what a header may contain

Scopes = tuple[str, ...]


class Authorizer:
    """The authorization of one client at one registry. Threads may share it."""

    def __init__(
        self,
        transport: Transport,
        credential: Credential | None,
        limits: Limits,
        *,
        login: str,
        insecure: bool,
    ) -> None:
        """Send nothing yet: a registry may require no authorization.

        Args:
            transport: makes the requests to the token server.
            credential: the user's; None for an anonymous user.
            limits: limits of sizes.
            login: what `sandbox login` is called with, for hints.
            insecure: whether credentials may be sent to a token server without TLS.
        """
        self._transport = transport
        self._credential = credential
        self._limits = limits
        self._login = login
        self._insecure = insecure
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, tuple[str, float]] = {}
        self._secrets: set[str] = set() if credential is None else set(credential.secrets())

    @property
    def secrets(self) -> frozenset[str]:
        """Texts that no message may contain: the user's, and all tokens so far."""
        with self._lock:
            return frozenset(self._secrets)

    @property
    def credential_from(self) -> str | None:
        """The origin of the credential, None without one."""
        return None if self._credential is None else self._credential.origin

    def header(self, what: str, scopes: Scopes) -> str | None:
        """Return the value of the Authorization header for a request with *scopes*; None before the first challenge.

        Raises:
            RegistryError: the token server cannot be reached, or gives no token; the message begins with *what*.
        """
        with self._lock:  # also while a token is fetched, so that four threads fetch one
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return None if self._credential is None else self._credential.basic()
            token, end = self._tokens.get(scopes, ("", 0.0))
            if time.monotonic() >= end:
                token, lifetime = self._fetch(self._challenge, what, scopes)
                self._secrets.add(token)
                self._tokens[scopes] = token, time.monotonic() + lifetime - _MARGIN
            return f"Bearer {token}"

    def accept(self, headers: Iterable[str], scopes: Scopes, used: str | None) -> bool:
        """Take the challenge of a response 401; return whether the request may succeed with another authorization.

        Args:
            headers: the WWW-Authenticate headers of the response.
            scopes: those of the request.
            used: the value of the Authorization header that the request had, None for none.
        """
        challenge = preferred(parse_challenges(headers))
        if challenge is None:
            return False
        if challenge.scheme == "basic":
            credential = self._credential
            if credential is None or credential.is_token or used == credential.basic():
                return False
        with self._lock:
            self._challenge = challenge
            token, _ = self._tokens.get(scopes, ("", 0.0))
            if used == f"Bearer {token}":
                del self._tokens[scopes]  # expired, or revoked
        return True

    def _fetch(self, challenge: Challenge, what: str, scopes: Scopes) -> tuple[str, float]:
        """Return a token for *scopes*, and its lifetime in seconds."""
        call = self._call(challenge, what, scopes)
        with self._transport.request(call) as answer:
            if answer.status != 200:
                raise refusal(
                    f"{what}: no token",
                    answer.host,
                    answer.status,
                    answer.headers,
                    answer.beginning(1 << 14),
                    login=self._login,
                    secrets=self._secrets,
                    credential_from=self.credential_from,
                )
            content = answer.content(self._limits.document)
            token, lifetime = _parse(content)
            if token is None:
                raise RegistryError(f"{what}: {answer.host}: the token server's response has no token")
            return token, lifetime

    def _call(self, challenge: Challenge, what: str, scopes: Scopes) -> Call:
        from urllib.parse import urlencode

        from sandbox.images.registry.transport import Call, checked_url, host_of

        realm = challenge.parameters["realm"]
        url = checked_url(realm, "") if "://" in realm else None
        if url is None:
            raise RegistryError(f"{what}: the registry names no valid token server")
        credential = self._credential
        if not url.startswith("https:") and not self._insecure:
            raise RegistryError(
                f"{what}: the token server {host_of(url)} does not use TLS",
                hint="add --tls-verify=false if you trust the network",
            )
        fields: list[tuple[str, str]] = []
        if service := challenge.parameters.get("service"):
            fields.append(("service", service))
        if credential is not None and credential.is_token:
            fields += [
                ("grant_type", "refresh_token"),
                ("refresh_token", credential.secret),
                ("client_id", "sandbox"),
            ]
            if scopes:
                fields.append(("scope", " ".join(scopes)))
            form = urlencode(fields).encode()
            headers = {
                "Content-Type": "application/x-www-form-urlencoded",
                "Content-Length": str(len(form)),
            }
            return Call(what=what, method="POST", url=url, headers=headers, body=lambda: [form])
        fields += [("scope", scope) for scope in scopes]
        if credential is not None:
            fields.append(("account", credential.user))
        separator = "&" if "?" in url else "?"
        return Call(
            what=what,
            method="GET",
            url=f"{url}{separator if fields else ''}{urlencode(fields)}",
            authorization=None if credential is None else credential.basic(),
        )


def _parse(content: bytes) -> tuple[str | None, float]:
    """Return the token in *content*, None without one, and its lifetime in seconds."""
    import json

    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None, 0.0
    if not isinstance(document, dict):
        return None, 0.0
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        return None, 0.0
    lifetime = document.get("expires_in")
    if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or not lifetime > 0:
        lifetime = _LIFETIME
    return token, float(min(lifetime, 86400))

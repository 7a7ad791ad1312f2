"""Define the errors of the registry client, and turn responses of a registry into them.

A message names the object (a digest or a reference, with the source), and what happened. It never contains a header or the
query of a URL, which may be a secret. Text of the registry is shortened, and secrets of the client in it are masked.
"""

from __future__ import annotations

import re

from sandbox.errors import ImageError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_MAX_REASON = 200
"""The most characters of a registry's own text that a message shows."""

_RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses after which the same request may succeed (RFC 9110, section 15; RFC 6585)."""

_MEANINGS = {
    400: "refuses the request",
    401: "requires a login",
    403: "denies access",
    404: "not found",
    405: "does not support this request",
    413: "refuses the size",
    416: "refuses the range",
    429: "receives too many requests",
}


class RegistryError(ImageError):
    """A request to a registry failed."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        status: int | None = None,
        retriable: bool = False,
        after: float | None = None,
    ) -> None:
        """Make the error.

        Args:
            message: what happened to which object.
            hint: the remedy.
            status: the status of the response, None without one.
            retriable: whether the same request may succeed later.
            after: the seconds after which the registry allows the next attempt, None if it gives none.
        """
        super().__init__(message, hint=hint)
        self.status = status
        self.retriable = retriable
        self.after = after


class UnreachableError(RegistryError):
    """No connection to the host was made."""


class NoTlsError(RegistryError):
    """The host does not respond with TLS."""


class CancelledError(RegistryError):
    """The transfer was ended because another one failed or the user interrupted it."""


def refusal(
    what: str,
    host: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    login: str,
    secrets: Collection[str] = (),
    credential_from: str | None = None,
) -> RegistryError:
    """Return the error for the response of *host* with *status* about *what*.

    Args:
        what: the object and its source.
        host: the host that has responded.
        status: the status of the response.
        headers: its headers; Retry-After is read.
        body: the beginning of its body, from which a JSON document of errors is read.
        login: what `sandbox login` is called with for this repository.
        secrets: texts that are masked in the registry's own text.
        credential_from: where the credentials that were sent come from; None if none were sent.
    """
    meaning = _MEANINGS.get(status, "failed")
    reason = _reason(body, secrets)
    message = f"{what}: {host}: {meaning} (HTTP {status}{': ' if reason else ''}{reason})"
    hint = None
    if status == 401:
        hint = (
            f"`sandbox login {login}`"
            if credential_from is None
            else f"the credentials of {credential_from} were refused: `sandbox login {login}` again"
        )
    elif status == 403:
        hint = (
            f"`sandbox login {login}` as a user who has access"
            if credential_from is None
            else f"the user of {credential_from} lacks access: `sandbox login {login}` as another one"
        )
    elif status == 404:
        hint = "check name, tag and digest"
        if credential_from is None:
            hint += f"; if the repository is private, `sandbox login {login}`"
    retriable = status in _RETRIED
    after = retry_after(headers.get("Retry-After")) if retriable else None
    if retriable and hint is None:
        hint = "try again later" if after is None else f"try again in {after:.0f} seconds"
    return RegistryError(message, hint=hint, status=status, retriable=retriable, after=after)


def retry_after(header: str | None) -> float | None:
    """Return the seconds that a Retry-After *header* requests (RFC 9110, section 10.2.3); None if it is missing or malformed."""
    if header is None or len(header) > 64:
        return None
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return Retry().parse_retry_after(header)
    except (InvalidHeader, ValueError, OverflowError):
        return None


def masked(text: str, secrets: Collection[str]) -> str:
    """Return *text* with each of the *secrets* replaced by "***"."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _reason(body: bytes, secrets: Collection[str]) -> str:
    """Return the code and the message of the first error in *body* (distribution specification, "Error Codes"); "" without one."""
    import json

    try:
        errors = json.loads(body)["errors"]
        first = errors[0]
        code, message = first.get("code"), first.get("message")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    parts = []
    if isinstance(code, str) and re.fullmatch(r"[A-Z_]{1,40}", code):
        parts.append(code)
    if isinstance(message, str) and message:
        message = masked(message, secrets)
        parts.append(message if len(message) <= _MAX_REASON else f"{message[:_MAX_REASON]}...")
    return ": ".join(parts)

"""Make authorized requests to one repository on one host, and retry them.

A request that fails for a passing reason is made again: the connection was cut, or the status is 429 or 5xx. Pauses double,
are shortened at random so that many clients do not return at once, and are at least as long as Retry-After. They are bounded
together, so that an operation ends with its error soon.
"""

from __future__ import annotations

import random
import threading

from sandbox.images.registry.authorization import Authorizer
from sandbox.images.registry.failures import (
    CancelledError,
    NoTlsError,
    RegistryError,
    UnreachableError,
    refusal,
)
from sandbox.images.registry.proxies import Proxies
from sandbox.images.registry.reference import api_host
from sandbox.images.registry.tls import certificate_directory, make_context

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from typing import TypeVar

    from sandbox.images.registry.authorization import Scopes
    from sandbox.images.registry.credential import Credential
    from sandbox.images.registry.registries_conf import Location
    from sandbox.images.registry.settings import Limits, TlsSettings
    from sandbox.images.registry.transport import Answer, Call
    from sandbox.images.registry.watchdog import Watchdog

    T = TypeVar("T")

_ERROR_BODY = 1 << 14
"""The most bytes of the body of an error that are read."""


class Retries:
    """The pauses of one operation. :meth:`pause` waits, or ends the operation with its error."""

    def __init__(self, limits: Limits, watchdog: Watchdog) -> None:
        self._limits = limits
        self._watchdog = watchdog
        self._failed = 0
        self._patience = limits.patience

    def pause(self, error: RegistryError) -> None:
        """Wait before the next attempt after *error*.

        Raises:
            RegistryError: *error*, if another attempt would not help, or no attempt or time is left.
        """
        self._failed += 1
        pause = self._limits.pause * 2 ** (self._failed - 1) * random.uniform(0.5, 1)
        pause = max(pause, error.after or 0)
        if not error.retriable or self._failed >= self._limits.attempts or pause > self._patience:
            raise error
        self._patience -= pause
        self._watchdog.pause(pause)

    def reset(self) -> None:
        """Allow as many attempts as at the beginning, because the operation has advanced."""
        self._failed = 0
        self._patience = self._limits.patience


class Endpoint:
    """One repository on one host. Threads may share it. The caller closes it."""

    def __init__(
        self,
        location: Location,
        credential: Credential | None,
        tls: TlsSettings,
        limits: Limits,
        watchdog: Watchdog,
        environ: Mapping[str, str],
    ) -> None:
        """Make no connection yet.

        Args:
            location: the host and the repository.
            credential: the user's; None for an anonymous user.
            tls: the settings of TLS.
            limits: limits of time, size and attempts.
            watchdog: ends requests without progress.
            environ: HOME, for the directories of certificates, and the variables of proxies.

        Raises:
            ImageError: a file with certificates is malformed.
        """
        from sandbox.images.registry.transport import Transport

        self.location = location
        self.limits = limits
        self._watchdog = watchdog
        self._host = api_host(location.registry)
        self._insecure = tls.is_insecure(location.insecure)
        directory = certificate_directory(location.registry, tls.cert_dir, environ)
        own = make_context(directory, verify=not self._insecure, client_certificate=True)
        others = make_context(directory, verify=not self._insecure, client_certificate=False)
        self._transport = Transport(
            limits,
            watchdog,
            own,
            others,
            host=self._host,
            insecure=self._insecure,
            proxies=Proxies(environ),
        )
        self._login = location.registry
        self._authorizer = Authorizer(
            self._transport, credential, limits, login=self._login, insecure=self._insecure
        )
        self._base: str | None = None if self._insecure else f"https://{self._host}"
        self._lock = threading.Lock()
        self._responded = False

    def __str__(self) -> str:
        return str(self.location)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def url(self, *parts: str) -> str:
        """Return the URL of *parts*, which are valid in a URL, below the repository."""
        return "/".join((self.base(), "v2", self.location.path, *parts))

    def retries(self) -> Retries:
        """Return the pauses of a new operation."""
        return Retries(self.limits, self._watchdog)

    def retried(self, attempt: Callable[[], T]) -> T:
        """Return what *attempt* returns, after as many attempts as the limits allow. *attempt* raises RegistryError."""
        retries = self.retries()
        while True:
            try:
                return attempt()
            except RegistryError as error:
                retries.pause(error)

    def check_login(self) -> None:
        """Make a request that requires the credential, where the registry requires any.

        Raises:
            RegistryError: the registry refuses it, or cannot be reached.
        """
        what = f"docker://{self.location.registry}"
        url = f"{self.base()}/v2/"
        self.retried(lambda: self.open("GET", url, what=what, scopes=(), ok=(200,)).close())

    def open(
        self,
        method: str,
        url: str,
        *,
        what: str,
        scopes: Scopes,
        ok: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Iterable[bytes]] | None = None,
        extra: float = 0.0,
    ) -> Answer:
        """Make one request with authorization; return its response, which the caller closes.

        Args:
            method: the method.
            url: a URL of this host; one of another host gets no credential.
            what: the object, for messages.
            scopes: the scopes that the request needs.
            ok: the statuses to return; any other is an error.
            headers: further headers.
            body: makes the body; it is called again if the request is repeated with authorization.
            extra: seconds that the response may take longer than others.

        Raises:
            RegistryError: the request failed.
        """
        from sandbox.images.registry.transport import Call, is_same_origin

        base = self.base()
        is_own = is_same_origin(url, base)
        if base.startswith("https:") and not url.startswith("https:") and not self._insecure:
            raise RegistryError(
                f"{what}: {self._host}: begins an upload at a URL without TLS",
                hint="correct the registry, which may be behind a proxy that has TLS; or add --tls-verify=false",
            )
        authorization = None
        for is_last in (False, True):
            authorization = self._authorizer.header(what, scopes) if is_own else None
            call = Call(
                what=what,
                method=method,
                url=url,
                headers=headers or {},
                authorization=authorization,
                body=body,
                extra=extra,
            )
            answer = self._send(call)
            if answer.status in ok:
                return answer
            with answer:
                error = self._refusal(answer, what)
                if answer.status != 401 or not is_own or answer.url != url or is_last:
                    raise error
                challenges = answer.headers.getlist("WWW-Authenticate")
            if not self._authorizer.accept(challenges, scopes, authorization):
                raise error
        raise AssertionError("the second attempt returns or raises")

    def base(self) -> str:
        """Return the URL of the host, without a slash at its end.

        For an insecure host, the first call tries https and then http, as podman does.

        Raises:
            RegistryError: it cannot be reached.
        """
        with self._lock:
            if self._base is None:
                self._base = self._probed()
            return self._base

    def _probed(self) -> str:
        from sandbox.images.registry.transport import Call

        failures: list[RegistryError] = []
        for scheme in ("https", "http"):
            base = f"{scheme}://{self._host}"
            try:
                self._transport.request(Call(what=str(self), method="GET", url=f"{base}/v2/")).close()
            except (NoTlsError, UnreachableError) as error:
                failures.append(error)
            except RegistryError as error:
                if isinstance(error, CancelledError) or not error.retriable:
                    raise
                failures.append(error)  # a server of plain HTTP may cut the connection when it receives TLS
            else:
                return base
        raise failures[-1]

    def _send(self, call: Call) -> Answer:
        try:
            answer = self._transport.request(call)
        except UnreachableError as error:
            # A host that has responded before may be restarting. Another one is probably wrong, and the user waits.
            error.retriable = self._responded
            raise
        self._responded = True
        return answer

    def _refusal(self, answer: Answer, what: str) -> RegistryError:
        try:
            body = answer.beginning(_ERROR_BODY)
        except RegistryError as error:
            if isinstance(error, CancelledError):
                raise
            body = b""  # the status is the error
        return refusal(
            what,
            answer.host,
            answer.status,
            answer.headers,
            body,
            login=self._login,
            secrets=self._authorizer.secrets,
            credential_from=self._authorizer.credential_from,
        )

"""Log in to a registry and out again: verify a credential with the registry, store it, remove it."""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.images.registry import registries_conf
from sandbox.images.registry.client import RegistryClient
from sandbox.images.registry.credential import Credential
from sandbox.images.registry.credentials import CredentialStore
from sandbox.images.registry.failures import RegistryError
from sandbox.images.registry.reference import parse_registry
from sandbox.images.registry.registries_conf import Location
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.images.registry.credentials import Removal, RemovalOfAll
    from sandbox.images.registry.settings import Limits, TlsSettings

MAX_PASSWORD = 1 << 16
"""The most characters of a password; identity tokens of some registries have a few thousand."""


@dataclass(frozen=True, slots=True)
class _Given:
    """The credential of this login, before it is stored."""

    credential: Credential

    def find(self, registry: str, path: str = "") -> Credential | None:  # noqa: ARG002 - see CredentialSource
        return self.credential


def log_in(
    name: str,
    user: str,
    password: str,
    environ: Mapping[str, str],
    *,
    authfile: str | None = None,
    tls: TlsSettings | None = None,
    limits: Limits | None = None,
) -> tuple[str, str]:
    """Verify *user* and *password* with the registry *name*, and store them; return the key, and the place for a message.

    Args:
        name: HOST[:PORT], or that and a namespace, for which alone the credential is used.
        user: the user's name, which has no colon (RFC 7617).
        password: the password or access token.
        environ: the environment variables of the user.
        authfile: `--authfile`.
        tls: `--cert-dir` and `--tls-verify`.
        limits: limits of time and attempts.

    Raises:
        ImageError: the registry refuses the credential or cannot be reached, or the credential cannot be stored.
    """
    key = parse_registry(name)
    if not user or ":" in user or not user.isprintable():
        raise ImageError(
            f"{key}: {user!r} is not the name of a user", hint="a name is not empty and has no colon"
        )
    if not password or len(password) > MAX_PASSWORD or "\n" in password or "\0" in password:
        raise ImageError(
            f"{key}: the password is empty, too long or has several lines",
            hint="give the password or token alone",
        )
    registry, _, path = key.partition("/")
    store = CredentialStore(environ, authfile, helper_timeout=30.0 if limits is None else limits.helper)
    credential = Credential(user=user, secret=password, origin="this login")
    location = Location(registry, path, registries_conf.load(environ).is_insecure(registry))
    with RegistryClient(
        [location], credentials=_Given(credential), environ=environ, tls=tls, limits=limits
    ) as client:
        try:
            client.check_login()
        except RegistryError as error:
            if error.status != 401:
                raise
            raise ImageError(
                f"{key}: the registry refuses this user and password",
                hint="check both; a registry with two-factor login requires an access token as password",
            ) from None
    return key, store.store(key, credential)


def log_out(name: str, environ: Mapping[str, str], *, authfile: str | None = None) -> tuple[str, Removal]:
    """Remove the credential of the registry *name* that a login has stored; return the key, and what was removed.

    Raises:
        ImageError: a file is malformed or cannot be written, or a credential helper fails.
    """
    key = parse_registry(name)
    return key, CredentialStore(environ, authfile).remove(key)


def log_out_of_all(environ: Mapping[str, str], *, authfile: str | None = None) -> RemovalOfAll:
    """Remove all credentials that logins have stored. Raises as :func:`log_out`."""
    return CredentialStore(environ, authfile).remove_all()

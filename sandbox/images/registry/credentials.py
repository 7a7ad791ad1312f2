"""Find credentials for repositories, and store those of a login, in the files of containers-auth.json(5) and of docker.

`--authfile`, else $REGISTRY_AUTH_FILE, is the only file if it is given. Otherwise they are, in this order:

    $XDG_RUNTIME_DIR/containers/auth.json, without that variable /run/containers/UID/auth.json
    $XDG_CONFIG_HOME/containers/auth.json, by default ~/.config/containers/auth.json
    $DOCKER_CONFIG/config.json, by default ~/.docker/config.json
    ~/.dockercfg, which docker before 1.7 has written

A login goes to the first of them; without $XDG_RUNTIME_DIR to the second, which a user may create.
"""

from __future__ import annotations

import os

from sandbox.errors import ImageError
from sandbox.images.registry import auth_file, credential_helper
from sandbox.images.registry.auth_file import AuthFile
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Protocol

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.images.registry.credential import Credential

_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
"""The key of docker.io in docker's file and for credential helpers."""

_LEGACY = ".dockercfg"


class CredentialStore:
    """The credentials of one user. It reads the files anew for each search."""

    def __init__(
        self, environ: Mapping[str, str], authfile: str | None = None, *, helper_timeout: float = 30.0
    ) -> None:
        """Use the files that *authfile*, else *environ*, selects.

        Args:
            environ: the variables that this module's docstring names, HOME, and PATH for helpers.
            authfile: the file of `--authfile`.
            helper_timeout: seconds after which a credential helper is ended.
        """
        self._environ = environ
        self._timeout = helper_timeout
        given = authfile or environ.get("REGISTRY_AUTH_FILE")
        self._only = given
        self._files = [given] if given else _default_files(environ)

    def find(self, registry: str, path: str = "") -> Credential | None:
        """Return the credential for the repository *path* of *registry*; None if there is none.

        In each file, the most specific key has precedence: the repository, the namespaces around it, the host. A credential
        helper has precedence for its host, because docker uses it alone.

        Raises:
            ImageError: a file is malformed or cannot be read, or a credential helper fails. A file that does not exist is an
                error only if the user has named it.
        """
        for place in self._files:
            content = self._read(place)
            if content is None:
                if place == self._only:
                    raise ImageError(
                        f"{place}: no such file", hint="`sandbox login` with the same --authfile"
                    )
                continue
            if (found := self._find_in(content, registry, path)) is not None:
                return found
        return None

    def store(self, key: str, credential: Credential) -> str:
        """Store *credential* for *key*, a host or a host and a namespace; return the place, for a message.

        If the file has a credential helper for the host, the helper stores it.

        Raises:
            ImageError: the file cannot be written or is malformed, or the helper fails.
        """
        place = self._writable()
        with auth_file.locked(place):
            content = auth_file.read(place) or AuthFile.empty(place)
            helper = content.helper(key)
            if helper is not None:
                credential_helper.store(helper, _helper_key(key), credential, self._environ, self._timeout)
                return f"docker-credential-{helper}"
            auth_file.write(content.with_credential(key, credential))
        return place

    def remove(self, key: str) -> Removal:
        """Remove the credential of *key* from the file to which a login goes, and from its credential helper.

        Raises:
            ImageError: as :meth:`store`.
        """
        place = self._writable()
        registry, _, path = key.partition("/")
        removed = None
        with auth_file.locked(place):
            content = auth_file.read(place)
            if content is not None:
                helper = content.helper(key)
                if helper is not None:
                    credential_helper.erase(helper, _helper_key(key), self._environ, self._timeout)
                    removed = f"docker-credential-{helper}"
                rest = content.without(_host_keys(registry) if not path else (key,))
                if rest is not None:
                    auth_file.write(rest)
                    removed = place
        left = None if self._only is not None and removed is None else self.find(registry, path)
        return Removal(removed, None if left is None else left.origin)

    def remove_all(self) -> RemovalOfAll:
        """Remove all credentials from the file to which a login goes, and those of its entries from credential helpers.

        Raises:
            ImageError: as :meth:`store`.
        """
        place = self._writable()
        removed: dict[str, str] = {}
        with auth_file.locked(place):
            content = auth_file.read(place)
            if content is not None:
                for key in content.helper_keys():
                    helper = content.helper(key)
                    if helper is not None:
                        credential_helper.erase(helper, _helper_key(key), self._environ, self._timeout)
                        removed[key] = f"docker-credential-{helper}"
                keys = content.keys()
                removed |= dict.fromkeys(keys, place)
                if (rest := content.without(keys)) is not None:
                    auth_file.write(rest)
        others = (self._read(other) for other in self._files if other != place)
        return RemovalOfAll(removed, tuple(one.place for one in others if one is not None and one.keys()))

    def _read(self, place: str) -> AuthFile | None:
        return auth_file.read(place, legacy=place != self._only and os.path.basename(place) == _LEGACY)

    def _find_in(self, content: AuthFile, registry: str, path: str) -> Credential | None:
        helper = content.helper(registry)
        if helper is not None:
            for key in _host_keys(registry):
                found = credential_helper.get(helper, key, self._environ, self._timeout)
                if found is not None:
                    return found
        parts = path.split("/") if path else []
        specific = ["/".join((registry, *parts[:count])) for count in range(len(parts), 0, -1)]
        for key in (*specific, *_host_keys(registry)):
            found = content.credential(key)
            if found is not None:
                return found
        return None

    def _writable(self) -> str:
        if self._only is not None or self._environ.get("XDG_RUNTIME_DIR"):
            return self._files[0]
        if not (self._environ.get("XDG_CONFIG_HOME") or self._environ.get("HOME")):
            raise ImageError(
                "there is no place for credentials: HOME is not set", hint="set HOME, or use --authfile"
            )
        return self._files[1]


class CredentialSource(Protocol):
    """Finds credentials for a client; :class:`CredentialStore` does."""

    def find(self, registry: str, path: str = "") -> Credential | None:
        """Return the credential for the repository *path* of *registry*; None if there is none. Raises ImageError."""


@dataclass(frozen=True, slots=True)
class Removal:
    """The result of a logout."""

    #: The file or helper from which a credential was removed; None if there was none.
    removed: str | None
    #: The origin of a credential for the same key that is still found; None if there is none.
    left: str | None


@dataclass(frozen=True, slots=True)
class RemovalOfAll:
    """The result of a logout from all registries."""

    #: The file or helper from which a credential was removed, by its key.
    removed: Mapping[str, str]
    #: The other files that have credentials.
    left: tuple[str, ...]


def _default_files(environ: Mapping[str, str]) -> list[str]:
    home = environ.get("HOME", "")
    config = environ.get("XDG_CONFIG_HOME") or (os.path.join(home, ".config") if home else "")
    docker = environ.get("DOCKER_CONFIG") or (os.path.join(home, ".docker") if home else "")
    runtime = environ.get("XDG_RUNTIME_DIR")
    files = [
        os.path.join(runtime, "containers", "auth.json")
        if runtime
        else f"/run/containers/{os.geteuid()}/auth.json"
    ]
    if config:
        files.append(os.path.join(config, "containers", "auth.json"))
    if docker:
        files.append(os.path.join(docker, "config.json"))
    if home:
        files.append(os.path.join(home, _LEGACY))
    return files


def _host_keys(registry: str) -> tuple[str, ...]:
    """Return the keys under which files and helpers may have the whole host *registry*."""
    # docker once wrote URLs, and still does so for its own registry.
    hub = (_DOCKER_HUB_KEY,) if registry == "docker.io" else ()
    return (registry, *hub, f"https://{registry}", f"https://{registry}/", f"https://{registry}/v1/")


def _helper_key(key: str) -> str:
    return _DOCKER_HUB_KEY if key == "docker.io" else key

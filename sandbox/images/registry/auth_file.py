"""Read and write one file of credentials: containers-auth.json(5), or docker's config.json. Read the older .dockercfg.

Every other key of the file is kept. The file is replaced in one step and has mode 0600, as it contains passwords.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
from contextlib import contextmanager

from sandbox.errors import ImageError
from sandbox.images.registry.credential import Credential
from sandbox.images.registry.credential_helper import is_name
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_MAX_SIZE = 1 << 20
"""The most bytes of a file that is read."""


@dataclass(frozen=True, slots=True)
class AuthFile:
    """The content of one file. It is never printed, because it has secrets."""

    place: str
    content: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"AuthFile({self.place!r})"

    @classmethod
    def empty(cls, place: str) -> AuthFile:
        """Return the content of the file *place* before the first login."""
        return cls(place, {})

    def credential(self, key: str) -> Credential | None:
        """Return the credential of *key* in `auths`; None if it has none.

        Raises:
            ImageError: the entry is malformed.
        """
        entry = self._table("auths").get(key)
        if entry is None:
            return None
        if not isinstance(entry, dict):
            raise self._malformed(key)
        if token := self._text(entry, "identitytoken", key):
            return Credential(user="", secret=token, is_token=True, origin=self.place)
        user, secret = self._text(entry, "username", key), self._text(entry, "password", key)
        if auth := self._text(entry, "auth", key):
            try:
                user, colon, secret = base64.b64decode(auth, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise self._malformed(key) from None
            if not colon:
                raise self._malformed(key)
            secret = secret.rstrip("\0")  # docker pads with NUL
        return Credential(user=user, secret=secret, origin=self.place) if user or secret else None

    def helper(self, key: str) -> str | None:
        """Return the name of the credential helper for the host of *key*; None if the file names none.

        Raises:
            ImageError: the name is malformed.
        """
        host = key.partition("/")[0]
        helpers = self._table("credHelpers")
        names = [helpers.get(host), self.content.get("credsStore")]
        if host == "docker.io":
            names.insert(1, helpers.get("https://index.docker.io/v1/"))
        name = next(filter(None, names), None)
        if name is not None and not (isinstance(name, str) and is_name(name)):
            raise ImageError(
                f"{self.place}: {name!r} is not the name of a credential helper", hint="correct the file"
            )
        return name

    def keys(self) -> tuple[str, ...]:
        """Return the keys of `auths`.

        Raises:
            ImageError: it is malformed.
        """
        return tuple(self._table("auths"))

    def helper_keys(self) -> tuple[str, ...]:
        """Return the keys for which credential helpers may have credentials: of `credHelpers`, and with `credsStore` of `auths`.

        Raises:
            ImageError: one of them is malformed.
        """
        keys = dict.fromkeys(self._table("credHelpers"))
        return tuple(keys | dict.fromkeys(self._table("auths") if self.content.get("credsStore") else ()))

    def with_credential(self, key: str, credential: Credential) -> AuthFile:
        """Return the content with *credential* for *key*."""
        entry: dict[str, str] = {"auth": credential.basic().removeprefix("Basic ")}
        return AuthFile(self.place, {**self.content, "auths": {**self._table("auths"), key: entry}})

    def without(self, keys: Collection[str]) -> AuthFile | None:
        """Return the content without the entries for *keys*; None if it has none of them."""
        before = self._table("auths")
        auths = {name: entry for name, entry in before.items() if name not in keys}
        return AuthFile(self.place, {**self.content, "auths": auths}) if len(auths) < len(before) else None

    def _table(self, name: str) -> Mapping[str, Any]:
        table = self.content.get(name)
        if table is None:
            return {}
        if not isinstance(table, dict):
            raise ImageError(
                f"{self.place}: {name} is not an object", hint="correct the file, see containers-auth.json(5)"
            )
        return table

    def _text(self, entry: Mapping[str, Any], name: str, key: str) -> str:
        value = entry.get(name) or ""
        if not isinstance(value, str):
            raise self._malformed(key)
        return value

    def _malformed(self, key: str) -> ImageError:
        return ImageError(
            f"{self.place}: the entry of {key} is malformed",
            hint=f"`sandbox login {key}` with this file as --authfile",
        )


def read(place: str, *, legacy: bool = False) -> AuthFile | None:
    """Return the content of the file *place*; None if it does not exist. With *legacy* it has the form of .dockercfg.

    Raises:
        ImageError: it cannot be read, is not a regular file, has more than a MiB, or is not a JSON object.
    """
    import json

    from sandbox.kernel.files import NotRegularError, open_regular

    try:
        with open(open_regular(place), "rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotRegularError:
        raise ImageError(f"{place}: is not a regular file", hint="name a file of credentials") from None
    except OSError as error:
        raise ImageError(
            f"{place}: {(error.strerror or str(error)).lower()}",
            hint="your user must be able to read the file",
        ) from None
    if len(data) > _MAX_SIZE:
        raise ImageError(f"{place}: is larger than {_MAX_SIZE} bytes")
    if not data.strip():
        return AuthFile.empty(place)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None  # the exception may quote a secret
    if not isinstance(content, dict):
        raise ImageError(
            f"{place}: is not a JSON object", hint="correct the file, or remove it and log in again"
        )
    return AuthFile(place, {"auths": _of_legacy(content)} if legacy else content)


def _of_legacy(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a file .dockercfg, whose keys are URLs or hosts, by their hosts."""
    found = {}
    for key, entry in content.items():
        host = key.removeprefix("http://").removeprefix("https://").partition("/")[0]
        found["docker.io" if host == "index.docker.io" else host] = entry
    return found


def write(content: AuthFile) -> None:
    """Replace the file of *content*, or what a symbolic link there leads to, and keep it after a crash of the machine.

    Raises:
        ImageError: it cannot be written.
    """
    from sandbox.state.trusted_files import replace_json

    place = os.path.realpath(content.place)
    try:
        replace_json(place, content.content, lasting=True)
    except OSError as error:
        raise _unwritable(content.place, error) from None


@contextmanager
def locked(place: str) -> Iterator[None]:
    """Make the directory of *place* if it is missing, mode 0700, and lock it: one login writes at a time.

    Raises:
        ImageError: the directory cannot be made or opened.
    """
    directory = os.path.dirname(os.path.realpath(place))
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritable(place, error) from None
    try:
        # The directory itself: a lock file would stay there, and in a directory of other programs.
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _unwritable(place: str, error: OSError) -> ImageError:
    reason = (error.strerror or str(error)).lower()
    return ImageError(f"{place}: cannot be written: {reason}", hint="use --authfile with another file")

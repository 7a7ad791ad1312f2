"""Call credential helpers: programs `docker-credential-NAME` that keep credentials outside of files.

The protocol is that of github.com/docker/docker-credential-helpers: one argument is the request, the text on standard input
names the registry or is JSON, the reply is JSON or a message on standard output. Secrets are on pipes only, never among the
arguments, which other users can see.
"""

from __future__ import annotations

import re

from sandbox.errors import ImageError
from sandbox.images.registry.credential import Credential

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN_USER = "<token>"  # noqa: S105 - the name that marks an identity token
_NOT_FOUND = "credentials not found in native keychain"
"""The message of a helper that has no credential (`errCredentialsNotFoundMessage` of the helpers)."""
_MAX_REPLY = 1 << 20
_MAX_REASON = 200


def get(name: str, key: str, environ: Mapping[str, str], timeout: float) -> Credential | None:
    """Return the credential that the helper *name* has for *key*; None if it has none.

    Raises:
        ImageError: the helper does not exist, fails, takes longer than *timeout* seconds, or its reply is malformed.
    """
    import json

    status, reply = _call(name, "get", key, environ, timeout)
    if status != 0:
        text = reply.decode(errors="replace").strip()
        if text == _NOT_FOUND:
            return None
        raise _failed(name, "get", text)
    try:
        found = json.loads(reply)
        user, secret = found["Username"], found["Secret"]
    except (ValueError, RecursionError, LookupError, TypeError):
        user = secret = None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise ImageError(
            f"docker-credential-{name}: its reply is not a credential",
            hint=f"try `docker-credential-{name} list`",
        )
    if not secret:
        return None
    is_token = user == _TOKEN_USER
    return Credential(
        user="" if is_token else user, secret=secret, is_token=is_token, origin=f"docker-credential-{name}"
    )


def store(name: str, key: str, credential: Credential, environ: Mapping[str, str], timeout: float) -> None:
    """Have the helper *name* store *credential* for *key*. Raises as :func:`get`."""
    import json

    user = _TOKEN_USER if credential.is_token else credential.user
    text = json.dumps({"ServerURL": key, "Username": user, "Secret": credential.secret})
    status, _ = _call(name, "store", text, environ, timeout)
    if status != 0:
        raise _failed(name, "store", "")  # its message may repeat the input


def erase(name: str, key: str, environ: Mapping[str, str], timeout: float) -> None:
    """Have the helper *name* remove its credential for *key*, if there is one. Raises as :func:`get`."""
    status, reply = _call(name, "erase", key, environ, timeout)
    text = reply.decode(errors="replace").strip()
    if status != 0 and text != _NOT_FOUND:
        raise _failed(name, "erase", text)


def is_name(text: str) -> bool:
    """Tell whether *text* can be the name of a helper: a part of a file name, without slashes."""
    return _NAME.fullmatch(text) is not None


def _call(
    name: str, request: str, text: str, environ: Mapping[str, str], timeout: float
) -> tuple[int, bytes]:
    import shutil
    import subprocess

    program = f"docker-credential-{name}"
    if not is_name(name):
        raise ImageError(
            f"{name!r} is not the name of a credential helper", hint="correct credHelpers and credsStore"
        )
    path = shutil.which(program, path=environ.get("PATH"))
    if path is None:
        raise ImageError(
            f"{program}: not found in PATH", hint="install it, or remove it from credHelpers and credsStore"
        )
    try:
        # A session of its own, so that a helper that waits can be ended with its children.
        with subprocess.Popen(
            [path, request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environ),
            start_new_session=True,
        ) as process:
            try:
                reply, _ = process.communicate(text.encode(), timeout=timeout)
            except BaseException:
                _end(process.pid)
                raise
    except subprocess.TimeoutExpired:
        raise ImageError(f"{program} {request}: no reply within {timeout:.0f} seconds") from None
    except OSError as error:
        raise ImageError(
            f"{program}: {(error.strerror or str(error)).lower()}", hint="it must be executable"
        ) from None
    if len(reply) > _MAX_REPLY:
        raise ImageError(f"{program} {request}: its reply has more than {_MAX_REPLY} bytes")
    return process.returncode, reply


def _end(leader: int) -> None:
    import os
    import signal

    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _failed(name: str, request: str, text: str) -> ImageError:
    text = text[:_MAX_REASON]
    return ImageError(
        f"docker-credential-{name} {request} failed{': ' if text else ''}{text}",
        hint=f"try `docker-credential-{name} list`",
    )

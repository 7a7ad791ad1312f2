"""Make the TLS contexts of connections to a registry.

The authorities are those of the machine, and those of one directory: `--cert-dir`, else the first of containers-certs.d(5)
that has the name of the registry. The client certificate in it is a credential: only the context for the registry itself has
it, not the one for hosts to which the registry redirects.
"""

from __future__ import annotations

import os

from sandbox.errors import ImageError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from ssl import SSLContext

_SYSTEM = ("/etc/containers/certs.d", "/etc/docker/certs.d")


def certificate_directory(registry: str, chosen: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the directory with the certificates for *registry* (host, and port where it is given); None if there is none.

    *chosen* is `--cert-dir`.

    Raises:
        ImageError: *chosen* is not a directory.
    """
    if chosen is not None:
        if not os.path.isdir(chosen):
            raise ImageError(f"{chosen}: is not a directory", hint="--cert-dir names a directory with *.crt")
        return chosen
    home = environ.get("HOME")
    own = (os.path.join(home, ".config", "containers", "certs.d"),) if home else ()
    candidates = [os.path.join(place, registry) for place in (*own, *_SYSTEM)]
    return next(filter(os.path.isdir, candidates), None)


def make_context(directory: str | None, *, verify: bool, client_certificate: bool) -> SSLContext:
    """Return a TLS context with the authorities of the machine and those in *directory*.

    Args:
        directory: what :func:`certificate_directory` returns.
        verify: whether certificates of servers are verified.
        client_certificate: whether the context has the client certificate of *directory*.

    Raises:
        ImageError: a file in *directory* cannot be read or is malformed; a client certificate lacks its key.
    """
    import ssl

    context = ssl.create_default_context()
    # CPython 3.13 made this a default. podman and docker accept private authorities that lack the extensions it requires,
    # and so does this program under CPython 3.11.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for name in _names(directory):
        assert directory is not None
        path = os.path.join(directory, name)
        try:
            if name.endswith(".crt"):
                context.load_verify_locations(path)
            elif name.endswith(".cert") and client_certificate:
                key = f"{path.removesuffix('.cert')}.key"
                if not os.path.exists(key):
                    raise ImageError(f"{path}: lacks its key {key}", hint="put the key there")
                # Without a password, OpenSSL would prompt for one on the terminal.
                context.load_cert_chain(path, key, password=_no_password)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            reason = (
                getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
            ).lower()
            raise ImageError(f"{path}: {reason}", hint="the file must be readable PEM") from None
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")


def _names(directory: str | None) -> list[str]:
    if directory is None:
        return []
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        raise ImageError(f"{directory}: {(error.strerror or str(error)).lower()}") from None

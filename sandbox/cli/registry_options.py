"""Declare and interpret the options of verbs that use a registry: credentials and TLS."""

from __future__ import annotations

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from sandbox.images.registry.settings import TlsSettings

CREDENTIALS = """\
The files with credentials are those of containers-auth.json(5), which podman and skopeo use: --authfile, else
REGISTRY_AUTH_FILE, else $XDG_RUNTIME_DIR/containers/auth.json (without that variable ~/.config/containers/auth.json)."""
"""The paragraph about files for the descriptions of verbs."""

PROXIES = """\
The variables http_proxy, https_proxy and no_proxy, also in upper case, name the HTTP proxies of requests."""
"""The paragraph about proxies for the descriptions of verbs."""


def add_authfile(parser: argparse.ArgumentParser) -> None:
    """Add --authfile."""
    parser.add_argument(
        "--authfile", metavar="FILE", help="the file with credentials, see containers-auth.json(5)"
    )


def add_tls(parser: argparse.ArgumentParser) -> None:
    """Add --cert-dir and --tls-verify."""
    parser.add_argument(
        "--cert-dir",
        metavar="DIR",
        help="a directory with certificates: *.crt of authorities, *.cert and *.key of the client",
    )
    parser.add_argument(
        "--tls-verify",
        metavar="BOOL",
        choices=("true", "false"),
        help="false: accept any certificate, and plain HTTP; default: the setting of registries.conf, else true",
    )


def tls_settings(arguments: argparse.Namespace) -> TlsSettings:
    """Return the settings of TLS that *arguments* request."""
    from sandbox.images.registry.settings import TlsSettings

    verify = None if arguments.tls_verify is None else arguments.tls_verify == "true"
    return TlsSettings(verify=verify, cert_dir=arguments.cert_dir)

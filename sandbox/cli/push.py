"""`sandbox push`: send an image of the store to a registry."""

from __future__ import annotations

import argparse
import os

from sandbox.cli.image import add_image, print_added
from sandbox.cli.options import add_json
from sandbox.cli.registry_options import CREDENTIALS, PROXIES, add_authfile, add_tls, tls_settings

DESCRIPTION = f"""\
Send an image of the store to a registry. Blobs that the registry has are not sent again. The image keeps its digest.

{CREDENTIALS}

{PROXIES}"""
EPILOG = """\
examples:
  sandbox push toolbox:1 docker://registry.example.com/team/toolbox:1
  sandbox push image:toolbox:1 docker://registry.example.com/team/toolbox:1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_image(parser)
    parser.add_argument("destination", metavar="DEST", help="docker://HOST[:PORT]/NAME[:TAG]")
    add_authfile(parser)
    add_tls(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Send the image; return the exit status."""
    from sandbox.cli.progress import ImageProgress
    from sandbox.images.pulling import push
    from sandbox.state.location import locate

    digest = push(
        locate(os.environ, os.geteuid()).images,
        arguments.image,
        arguments.destination,
        progress=ImageProgress(),
        authfile=arguments.authfile,
        tls=tls_settings(arguments),
    )
    print_added(arguments, arguments.destination.removeprefix("docker://"), digest)
    return 0

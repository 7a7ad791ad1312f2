"""`sandbox commit`: make an image of a sandbox."""

from __future__ import annotations

import argparse

from sandbox.cli.image import print_added
from sandbox.cli.options import add_compression, add_json

DESCRIPTION = """\
Make an image of a sandbox, and add it to the store: the layers of its root, and its changes as one more layer. Layers
of images keep their digests. A tar: layer becomes a layer of the image; a dir: layer is refused, unless --flatten makes
one layer of the whole root.

The sandbox may be running, or have ended and kept its writable layer. A sandbox uses the image by the layer
"image:IMAGE"; `sandbox push` and `sandbox export` pass it on."""
EPILOG = """\
examples:
  sandbox commit toolbox toolbox:1
  sandbox commit --flatten toolbox toolbox:1

Equal changes give an image with an equal digest if the variable SOURCE_DATE_EPOCH is set."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "sandbox",
        metavar="FILE|NAME",
        help="an environment file (it contains / or ends in .toml), or the name of a sandbox",
    )
    parser.add_argument("image", metavar="IMAGE", help="the name of the image, NAME or NAME:TAG")
    parser.add_argument(
        "--flatten", action="store_true", help="make one layer of the whole root, with all layers below"
    )
    add_compression(parser)
    parser.add_argument(
        "--comment", metavar="TEXT", default="", help="a comment for the history of the image"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Make the image; return the exit status."""
    from sandbox.changes.committing import commit
    from sandbox.images.stored_images import check_new_name, normalized

    name = normalized(check_new_name(arguments.image))
    record = commit(
        arguments.sandbox,
        name,
        flatten=arguments.flatten,
        compression=arguments.compression,
        comment=arguments.comment,
    )
    print_added(arguments, name, record.digest)
    return 0

"""`sandbox lock`: record the digests of the sources of an environment file."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.options import add_file, add_json, add_overrides, load_spec
from sandbox.cli.output import print_json
from sandbox.errors import SandboxError, printable

DESCRIPTION = """\
Write FILE.lock.toml, which names every archive and image of an environment file with its digest. The tags of images are
looked up in their registries, and images that the store does not have are fetched.

`sandbox up --locked FILE` uses exactly these digests, and refuses sources that have changed. A dir: layer has no
digest, and is not locked."""
EPILOG = """\
examples:
  sandbox lock web.toml
  sandbox up --locked web.toml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_file(parser, optional=True)
    add_overrides(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the lock file; return the exit status."""
    from sandbox.cli.planning import usual_fetch
    from sandbox.images.lock_file import lock_path, write_lock
    from sandbox.images.resolve import digests_of
    from sandbox.state.directory import make_image_directory
    from sandbox.state.location import locate

    spec = load_spec(arguments, unenforced="keep")
    if spec.file not in spec.read_from:
        raise SandboxError("standard input cannot be locked", hint="name a file")
    images = locate(os.environ, os.geteuid()).images
    make_image_directory(images)
    digests = digests_of(spec, images, usual_fetch(images))
    write_lock(lock_path(spec.file), digests)
    if arguments.json:
        print_json({"file": lock_path(spec.file), "digests": digests})
        return 0
    for source, digest in digests.items():
        print(printable(f"{source} {digest}"))
    for layer in spec.root.layers:
        if layer.kind == "dir":
            print(printable(f"sandbox: {layer.shown()} has no digest, and is not locked"), file=sys.stderr)
    return 0

"""`sandbox lock`: record the digests of the sources of an environment file or a Containerfile."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.options import add_file, add_json, add_overrides, load_spec
from sandbox.cli.output import print_json
from sandbox.errors import SandboxError, printable

DESCRIPTION = """\
Write FILE.lock.toml, which names every archive and image of FILE with its digest. The tags of images are looked up in
their registries, and images that the store does not have are fetched. FILE is an environment file if its name ends in
.toml or if it is -, else a Containerfile.

`sandbox up --locked FILE` and `sandbox build --locked FILE` use exactly these digests, and refuse sources that have
changed. A dir: layer has no digest, and is not locked."""
EPILOG = """\
examples:
  sandbox lock web.toml
  sandbox up --locked web.toml
  sandbox lock Containerfile"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_file(parser, optional=True)
    add_overrides(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the lock file; return the exit status."""
    from sandbox.images.lock_file import lock_path, write_lock
    from sandbox.state.directory import make_image_directory
    from sandbox.state.location import locate

    images = locate(os.environ, os.geteuid()).images
    make_image_directory(images)
    unlocked: list[str] = []
    if arguments.file.endswith(".toml") or arguments.file == "-":
        file, digests, unlocked = _of_environment(arguments, images)
    else:
        file, digests = os.path.realpath(arguments.file), _of_containerfile(arguments.file, images)
    write_lock(lock_path(file), digests)
    if arguments.json:
        print_json({"file": lock_path(file), "digests": digests})
        return 0
    for source, digest in digests.items():
        print(printable(f"{source} {digest}"))
    for layer in unlocked:
        print(printable(f"sandbox: {layer} has no digest, and is not locked"), file=sys.stderr)
    return 0


def _of_environment(arguments: argparse.Namespace, images: str) -> tuple[str, dict[str, str], list[str]]:
    """Return the path of the environment file, the digests of its sources, and its layers without a digest."""
    from sandbox.cli.planning import usual_fetch
    from sandbox.images.resolve import digests_of

    spec = load_spec(arguments, unenforced="keep")
    if spec.file not in spec.read_from:
        raise SandboxError("standard input cannot be locked", hint="name a file")
    unlocked = [layer.shown() for layer in spec.root.layers if layer.kind == "dir"]
    return spec.file, digests_of(spec, images, usual_fetch(images)), unlocked


def _of_containerfile(file: str, images: str) -> dict[str, str]:
    from sandbox.builder.bases import Bases
    from sandbox.builder.load import fetch_sources, load_plan
    from sandbox.cli.progress import ImageProgress
    from sandbox.images.collection import importing

    bases = Bases(images, os.path.dirname(os.path.realpath(file)), always_pull=True, progress=ImageProgress)
    with importing(images):
        fetch_sources(load_plan(file, bases, platform=None, target="", arguments={}), bases)
    return bases.digests

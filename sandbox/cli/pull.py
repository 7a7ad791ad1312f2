"""`sandbox pull`: fetch an image, or the images that environment files name."""

from __future__ import annotations

import argparse
import os

from sandbox.cli.image import add_platform, import_source, print_added
from sandbox.cli.options import add_json
from sandbox.cli.output import print_json, warn
from sandbox.cli.registry_options import CREDENTIALS, PROXIES, add_authfile, add_tls, tls_settings
from sandbox.errors import SandboxError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.location import Locations

DESCRIPTION = f"""\
Fetch an image into the store, and unpack its layers: from a registry (docker://HOST/NAME[:TAG|@DIGEST]), a layout
(oci:PATH[:TAG]) or an archive of `docker save` (docker-archive:PATH[:NAME:TAG]). NAME is its name in the store. An image
of a registry is called as its reference, without docker://, if there is no NAME.

With environment files, fetch the images that they name, so that a later `sandbox up` needs no network.

Layers that the store has are not fetched again. A download that was interrupted continues where it ended.

{CREDENTIALS}

{PROXIES}"""
EPILOG = """\
examples:
  sandbox pull docker://docker.io/library/debian:13
  sandbox pull docker://registry.example.com/tools@sha256:... tools:1
  sandbox pull web.toml worker.toml"""
USAGE = "sandbox pull [OPTION ...] SOURCE [NAME]\n       sandbox pull [OPTION ...] FILE ..."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "what",
        metavar="SOURCE",
        nargs="+",
        help="the image and its name in the store, or environment files, whose names end in .toml",
    )
    add_platform(parser)
    add_authfile(parser)
    add_tls(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fetch the images; return the exit status."""
    from sandbox.state.location import locate

    where = locate(os.environ, os.geteuid())
    words: list[str] = arguments.what
    if all(word.endswith(".toml") for word in words):
        return _pull_files(arguments, where, words)
    if len(words) > 2:
        raise SandboxError("more than a source and a name", hint="fetch one image at a time")
    return _pull_image(arguments, where, words[0], words[1] if len(words) > 1 else None)


def _pull_image(arguments: argparse.Namespace, where: Locations, source: str, name: str | None) -> int:
    if not source.startswith("docker://"):
        if name is None:
            raise SandboxError(f"{source} has no name of its own", hint="add NAME, the name in the store")
        return import_source(arguments, where, source, name)
    from sandbox.cli.planning import usual_ids
    from sandbox.cli.progress import ArchiveProgress, ImageProgress
    from sandbox.images.adding import unpacker
    from sandbox.images.pulling import pull
    from sandbox.images.registry.reference import parse_reference
    from sandbox.images.stored_images import check_new_name, normalized

    stored = str(parse_reference(source)).removeprefix("docker://")
    if name is not None:
        stored = normalized(check_new_name(name))
    record = pull(
        where.images,
        source,
        stored,
        platform=arguments.platform,
        progress=ImageProgress(),
        prepare=unpacker(where.images, usual_ids(), warn, ArchiveProgress),
        authfile=arguments.authfile,
        tls=tls_settings(arguments),
        repair=True,
    )
    print_added(arguments, stored, record.digest)
    return 0


def _pull_files(arguments: argparse.Namespace, where: Locations, files: list[str]) -> int:
    from sandbox.cli.planning import usual_fetch
    from sandbox.images.resolve import find_images
    from sandbox.images.stored_images import StoredImages
    from sandbox.spec.load import load

    if arguments.platform is not None:
        raise SandboxError(
            "--platform does not apply to environment files: a sandbox runs images of this machine's platform",
            hint="leave it out, or name one image",
        )
    fetch = usual_fetch(where.images, authfile=arguments.authfile, tls=tls_settings(arguments))
    stored = StoredImages(where.images)
    found = {}
    for file in files:
        spec = load(file, unenforced="keep")
        images = find_images(spec, where.images, fetch=fetch)
        for number, image in images.items():
            record = stored.record(image.digest)
            if record is not None:
                fetch.unpack(record, image.name if spec.root.layers[number].mount else None)
            found[image.name] = image.digest
    if arguments.json:
        print_json([{"name": name, "digest": digest} for name, digest in found.items()])
    else:
        for name, digest in found.items():
            print(f"{name}@{digest}")
    return 0

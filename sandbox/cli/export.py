"""`sandbox export`: copy files out of a sandbox as it shows them, or write an image that other tools read."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json
from sandbox.errors import SandboxError, printable

DESCRIPTION = """\
Copy files out of a sandbox as it shows them: whole files, and whole directories with what all layers contribute. The
sandbox may be running, or have ended and kept its writable layer. It may have any kind of layers.

DEST is tar:FILE, an archive, or an existing directory of this machine. An archive has the paths as the sandbox shows
them; without PATH it has the whole root file system. A directory gets each PATH under its last name, as with cp(1).
Files are replaced one by one, each atomically, and never through a symbolic link.

DEST may also be an image, which podman, docker, skopeo and umoci read: oci:DIR[:TAG], a layout; oci-archive:FILE[:TAG],
a tar of one; or docker-archive:FILE[:NAME:TAG], which `docker load` reads. The image is made of the sandbox as `sandbox
commit` does, or it is the image of the store that "image:NAME" names.

bundle:DIR is a bundle, which runc and crun run. For root it has the ids of this machine, for another user the id maps of
the sandbox."""
EPILOG = """examples:
  sandbox export toolbox /usr/local/bin/tool .
  sandbox export toolbox tar:root.tar
  sandbox export toolbox --changes tar:layer.tar
  sandbox export toolbox oci-archive:toolbox.tar:1
  sandbox export image:debian:13 docker-archive:debian.tar:debian:13

exit status: 0, 125 if something could not be copied"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "sandbox",
        metavar="FILE|NAME|IMAGE",
        help="an environment file (it contains / or ends in .toml), the name of a sandbox, or image:NAME",
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", help="copy this file or directory; its path begins with a slash"
    )
    parser.add_argument(
        "destination",
        metavar="DEST",
        help="tar:FILE, tar:- (standard output), a directory, or an image: oci:, oci-archive: or docker-archive:, or bundle:DIR",
    )
    parser.add_argument(
        "--changes",
        action="store_true",
        help="copy only what the sandbox has added or changed; with tar: as a layer of an OCI image, with marks for "
        "deleted files",
    )
    parser.add_argument(
        "--flatten", action="store_true", help="make one layer of the whole root, with all layers below"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Copy the files; return the exit status."""
    from sandbox.changes.exporting import (
        IMAGE_KINDS,
        TAR,
        export_archive,
        export_directory,
        export_image,
    )
    from sandbox.cli.diff import checked

    paths = [checked(path) for path in arguments.paths]
    destination: str = arguments.destination
    kind, colon, image = destination.partition(":")
    if colon and kind == "bundle":
        return _export_bundle(arguments, image)
    if colon and kind in IMAGE_KINDS:
        if paths or arguments.changes:
            raise SandboxError(
                "an image has the whole root", hint="leave PATH and --changes out, or use tar:FILE"
            )
        digest = export_image(arguments.sandbox, kind, image, flatten=arguments.flatten)
        result: dict[str, object] = {"destination": destination, "digest": digest}
        text = f"wrote {destination}"
    elif arguments.flatten or arguments.sandbox.startswith("image:"):
        raise SandboxError(
            f"{destination} is not an image", hint="write oci:DIR, oci-archive:FILE or docker-archive:FILE"
        )
    elif destination.startswith(TAR):
        target = destination.removeprefix(TAR)
        if target == "-" and arguments.json:
            raise SandboxError("tar:- uses standard output", hint="leave --json out, or name a file")
        size = export_archive(arguments.sandbox, paths, target, changes=arguments.changes)
        result = {"destination": destination, "bytes": size}
        text = f"wrote {target}"
    else:
        if not paths:
            raise SandboxError(
                "the whole root file system is exported into an archive only",
                hint="name a PATH, or use tar:FILE",
            )
        count = export_directory(arguments.sandbox, paths, destination, changes=arguments.changes)
        result = {"destination": destination, "files": count}
        text = f"copied {count} file{'s' * (count != 1)} to {destination}"
    if arguments.json:
        print_json(result)
    else:
        print(printable(text), file=sys.stderr)
    return 0


def _export_bundle(arguments: argparse.Namespace, target: str) -> int:
    import os

    from sandbox.cli.output import warn
    from sandbox.cli.planning import usual_ids
    from sandbox.oci_runtime.export import export_bundle
    from sandbox.state import run_directory
    from sandbox.state.directory import StateDirectory
    from sandbox.state.location import locate

    if arguments.paths or arguments.changes or arguments.flatten:
        raise SandboxError("a bundle has the whole root", hint="leave PATH, --changes and --flatten out")
    where = locate(os.environ, os.geteuid())
    run_path, _ = run_directory.prepare(run_directory.default_path(os.environ, os.geteuid()), warn)
    state = StateDirectory(where.state, run_path, where.images)
    try:
        notices = export_bundle(arguments.sandbox, target, where, state, usual_ids())
    finally:
        state.close()
    for notice in notices:
        warn(notice)
    if arguments.json:
        print_json({"destination": f"bundle:{target}", "notices": list(notices)})
    else:
        print(printable(f"wrote bundle:{target}"), file=sys.stderr)
    return 0

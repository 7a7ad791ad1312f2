"""`sandbox image`: list, inspect, name, remove, verify and import the images of the store."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.options import add_common, add_json
from sandbox.cli.output import print_json, print_table, warn
from sandbox.errors import printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.images.collection import Collected
    from sandbox.state.location import Locations

    # Its help, and the functions that declare its arguments and execute it.
    _Action = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]

DESCRIPTION = """\
Manage the images of the store. An image is a stack of layers, with defaults for the program. Images and sandboxes share
equal layers.

`sandbox pull` fetches images from registries, `sandbox image import` imports those of layouts and archives. A file uses
an image by the layer "image:NAME"."""
EPILOG = """\
examples:
  sandbox image import oci:./layout:latest debian:13
  sandbox image ls
  sandbox image rm debian:13"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    actions = parser.add_subparsers(
        title="actions", metavar="ACTION", required=True, parser_class=type(parser), help="one of:"
    )
    for name, (text, declare, function) in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
        declare(action)
        add_json(action)
        add_common(action, function)


def run(_arguments: argparse.Namespace) -> int:
    """Do nothing: each action has a function of its own."""
    raise AssertionError("argparse requires an action")


def _where() -> Locations:
    from sandbox.state.directory import check_image_directory
    from sandbox.state.location import locate

    where = locate(os.environ, os.geteuid())
    check_image_directory(where.images)
    return where


def _no_arguments(_parser: argparse.ArgumentParser) -> None: ...


def add_image(parser: argparse.ArgumentParser) -> None:
    """Add the name of an image of the store."""
    parser.add_argument(
        "image", metavar="IMAGE", help='NAME, NAME:TAG or NAME@DIGEST; "image:" may precede it'
    )


# ls, inspect, history


def _ls(arguments: argparse.Namespace) -> int:
    from sandbox.images.listing import list_images
    from sandbox.sizes import human_size

    found = list_images(_where().images)
    if arguments.json:
        print_json([one.as_dict() for one in found])
        return 0
    rows = [
        [
            printable(one.name.name),
            one.name.digest[:19],
            "?" if one.record is None else printable(one.record.platform),
            human_size(one.own),
            human_size(one.shared),
        ]
        for one in found
    ]
    print_table(rows, header=("NAME", "DIGEST", "PLATFORM", "OWN", "SHARED") if rows else ())
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from sandbox.images.listing import inspect

    found = inspect(_where().images, arguments.image)
    if arguments.json:
        print_json(found)
        return 0
    for key, value in found.items():
        if key not in ("layers", "config"):
            print(printable(f"{key}: {'-' if value is None else value}"))
    for number, layer in enumerate(found["layers"], 1):
        print(printable(f"layer {number}: {layer['digest']} ({layer['bytes']} bytes)"))
    for key, value in found["config"].items():
        print(printable(f"{key}: {value}"))
    return 0


def _history(arguments: argparse.Namespace) -> int:
    from sandbox.images.listing import history
    from sandbox.sizes import human_size

    found = history(_where().images, arguments.image)
    if arguments.json:
        print_json(found)
        return 0
    rows = [
        [
            one["created"] or "-",
            human_size(one["bytes"]),
            printable(" ".join((one["created_by"] or one["comment"] or "-").split())),
        ]
        for one in found
    ]
    print_table(rows, header=("CREATED", "SIZE", "STEP") if rows else ())
    return 0


# verify, tag, rm, prune


def _verify(arguments: argparse.Namespace) -> int:
    from sandbox.images.verification import verify

    problems = verify(_where().images)
    if arguments.json:
        print_json({"problems": problems})
    else:
        for problem in problems:
            print(printable(problem))
    return 1 if problems else 0


def _tag_arguments(parser: argparse.ArgumentParser) -> None:
    add_image(parser)
    parser.add_argument("new", metavar="NEW", help="the new name, NAME or NAME:TAG")


def _tag(arguments: argparse.Namespace) -> int:
    from sandbox.images.collection import tag
    from sandbox.images.stored_images import normalized

    tag(_where().images, arguments.image, arguments.new)
    if arguments.json:
        print_json({"name": normalized(arguments.new)})
    return 0


def _rm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="IMAGE", nargs="*", help="NAME or NAME:TAG")
    parser.add_argument("--all", action="store_true", help="remove all images that no sandbox uses")


def _rm(arguments: argparse.Namespace) -> int:
    from sandbox.errors import SandboxError
    from sandbox.images.collection import remove, unused

    where = _where()
    if bool(arguments.names) == arguments.all:
        raise SandboxError("name the images to remove, or give --all")
    names = unused(where) if arguments.all else arguments.names
    gone = remove(where, names)
    _print_removed(arguments, names, gone)
    return 0


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--all", action="store_true", help="also remove the images with names that no sandbox uses"
    )


def _prune(arguments: argparse.Namespace) -> int:
    from sandbox.images.collection import collect, remove, unused

    where = _where()
    names = unused(where) if arguments.all else []
    gone = remove(where, names) if names else collect(where)
    _print_removed(arguments, names, gone)
    return 0


def _print_removed(arguments: argparse.Namespace, names: list[str], gone: Collected) -> None:
    from sandbox.sizes import human_size

    if arguments.json:
        print_json(
            {
                "removed": [*names, *gone.names],
                "images": list(gone.images),
                "blobs": list(gone.blobs),
                "layers": list(gone.layers),
                "bytes": gone.bytes,
            }
        )
        return
    for name in (*names, *gone.names):
        print(printable(name))
    print(
        f"{human_size(gone.bytes)} of blobs and {len(gone.layers)} unpacked layers removed", file=sys.stderr
    )


# import


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="oci:PATH[:TAG], docker-archive:PATH[:NAME:TAG] or docker://HOST/NAME[:TAG]",
    )
    parser.add_argument("name", metavar="NAME", help="the name in the store, NAME or NAME:TAG")
    add_platform(parser)


def add_platform(parser: argparse.ArgumentParser) -> None:
    """Add --platform."""
    parser.add_argument(
        "--platform",
        metavar="PLATFORM",
        help="choose OS/ARCHITECTURE[/VARIANT] from an index; default: that of this machine",
    )


def _import(arguments: argparse.Namespace) -> int:
    return import_source(arguments, _where(), arguments.source, arguments.name)


def import_source(arguments: argparse.Namespace, where: Locations, source: str, name: str) -> int:
    """Import the image of *source* as *name* for the platform of *arguments*, and print it; return the exit status."""
    from sandbox.cli.planning import usual_ids
    from sandbox.cli.progress import ArchiveProgress, ImageProgress
    from sandbox.images.adding import add

    added = add(
        where,
        source,
        name,
        ids=usual_ids(),
        platform=arguments.platform,
        warn=warn,
        progress=ImageProgress(),
        unpacking=ArchiveProgress,
    )
    print_added(arguments, added.name, added.digest)
    return 0


def print_added(arguments: argparse.Namespace, name: str, digest: str) -> None:
    """Print the name and digest of an image that is in the store now."""
    if arguments.json:
        print_json({"name": name, "digest": digest})
    else:
        print(printable(name if name.endswith(f"@{digest}") else f"{name}@{digest}"))


_ACTIONS: dict[str, _Action] = {
    "ls": ("list the images with their sizes", _no_arguments, _ls),
    "inspect": ("print all that is known about an image", add_image, _inspect),
    "history": ("print the steps by which an image was made", add_image, _history),
    "verify": ("compare every blob and layer with its digest", _no_arguments, _verify),
    "tag": ("give an image another name", _tag_arguments, _tag),
    "rm": ("remove images, and what no other image uses", _rm_arguments, _rm),
    "prune": ("remove blobs and layers that no image uses", _prune_arguments, _prune),
    "import": ("import an image of a layout, an archive or a registry", _import_arguments, _import),
}

"""`sandbox build`: build an image from a Containerfile or an environment file."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import contextmanager

from sandbox.cli.image import add_platform, print_added
from sandbox.cli.options import add_compression, add_json, add_locked
from sandbox.cli.output import print_json, warn
from sandbox.errors import SandboxError, printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.builder.machine import Machine

DESCRIPTION = """\
Build an image from FILE, and add it to the store. FILE is an environment file with [[build]] steps if its name ends in
.toml, else a Containerfile. Commands run in sandboxes, without a network unless the step or --network gives them one.
Their output is shown as it comes.

Each step that changes files makes a layer. A step that was executed before, over the same layers and with the same
files, is not executed again. `sandbox image prune` removes the layers that no image has, and so forgets these steps.

Two builds of the same files give the same digest. Times are those of the newest input, or of SOURCE_DATE_EPOCH."""
EPILOG = """\
examples:
  sandbox build Containerfile -t web:1
  sandbox build web.toml -t web:1 --context src
  sandbox build Containerfile --shell    # in what a failed command has left

exit status: that of the command that failed, 125 for any other failure"""
USAGE = "sandbox build [OPTION ...] FILE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("file", metavar="FILE", help="a Containerfile, or an environment file (*.toml)")
    parser.add_argument(
        "-t",
        "--tag",
        metavar="NAME",
        action="append",
        default=[],
        help="the name of the image, NAME or NAME:TAG; repeatable; without one, the next removal of images removes it",
    )
    parser.add_argument(
        "--context", metavar="DIR", help="the directory that files are copied from; default: that of FILE"
    )
    parser.add_argument(
        "--build-arg",
        dest="build_args",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="the value of an ARG; NAME alone takes that of the variable; repeatable",
    )
    parser.add_argument(
        "--target",
        metavar="STAGE",
        default="",
        help="build this stage of a Containerfile; default: the last one",
    )
    add_platform(parser)
    add_locked(parser)
    parser.add_argument("--no-cache", action="store_true", help="execute every step again")
    parser.add_argument("--pull", action="store_true", help="fetch base images although the store has them")
    parser.add_argument(
        "--network",
        choices=("none", "host"),
        default="none",
        help="the network of commands that do not set one; default: none",
    )
    add_compression(parser)
    parser.add_argument(
        "--shell",
        action="store_true",
        help="build nothing; start a shell where the last build of FILE failed",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build the image; return the exit status."""
    from sandbox.builder.machine import examine_machine
    from sandbox.cli.progress import ArchiveProgress
    from sandbox.images.stored_images import check_new_name, normalized

    # SIG_IGN is inherited from the parent. With it, the kernel would reap child processes before waitpid(2) returns their status.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    names = tuple(normalized(check_new_name(name)) for name in arguments.tag)
    given = dict(_argument(text) for text in arguments.build_args)
    if not os.path.exists(arguments.file):
        raise SandboxError(f"{arguments.file}: no such file", hint="name a Containerfile, or a file *.toml")
    machine = examine_machine(warn, ArchiveProgress)
    try:
        if arguments.shell:
            return _shell(arguments, machine)
        digest = _build(arguments, machine, names, given)
    finally:
        machine.close()
    if names:
        print_added(arguments, names[0], digest)
    elif arguments.json:
        print_json({"name": None, "digest": digest})
    else:
        print(digest)
    return 0


def _build(
    arguments: argparse.Namespace, machine: Machine, names: tuple[str, ...], given: dict[str, str]
) -> str:
    from sandbox.builder.bases import Bases
    from sandbox.builder.executor import Settings, execute
    from sandbox.builder.failed_step import building
    from sandbox.builder.load import load_ignore_rules, load_plan
    from sandbox.cli.progress import ImageProgress
    from sandbox.images.collection import importing
    from sandbox.images.lock_file import lock_path

    file = os.path.realpath(arguments.file)
    directory = os.path.dirname(file)
    context = os.path.abspath(arguments.context or os.path.dirname(arguments.file) or ".")
    rules = load_ignore_rules(arguments.file, context)
    images = machine.where.images
    lock = lock_path(file) if arguments.locked else None
    bases = Bases(images, directory, always_pull=arguments.pull, progress=ImageProgress, lock=lock)
    with building(machine.state.path, file), importing(images):
        plan = load_plan(
            arguments.file, bases, platform=arguments.platform, target=arguments.target, arguments=given
        )
        for name in plan.unused_arguments:
            warn(f"--build-arg {name}: the file has no ARG {name}")
        settings = Settings(
            file=file,
            context=context,
            rules=rules,
            network=arguments.network,
            compression=arguments.compression,
            use_cache=not arguments.no_cache,
            report=_report,
            debug=arguments.debug,
        )
        with _descriptors(as_json=arguments.json):
            return execute(machine, plan, bases, settings, names).digest


def _shell(arguments: argparse.Namespace, machine: Machine) -> int:
    from sandbox.builder.copy_step import LATEST, Output
    from sandbox.builder.failed_step import find_failed, looking
    from sandbox.builder.run_step import discard_kept, layer_of, run_command
    from sandbox.images.collection import importing

    file = os.path.realpath(arguments.file)
    with looking(machine.state.path), importing(machine.where.images):
        failed = find_failed(machine.state.path, file)
        if failed is None:
            raise SandboxError(
                f"no step of {arguments.file} has failed since its last build",
                hint=f"to build it: sandbox build {arguments.file}",
            )
        _report(f"the state that this step left: {failed.text}")
        layer = layer_of(machine, failed.kept, Output(compression="", latest=LATEST))
        layers = failed.layers if layer is None else (*failed.layers, layer)
        ended = run_command(machine, layers, failed.command, file=file, terminal=True)
        discard_kept(ended.kept)
    if ended.error is not None:
        raise ended.error
    return ended.status


@contextmanager
def _descriptors(*, as_json: bool) -> Iterator[None]:
    """Give the commands an empty standard input, and with *as_json* standard error as their standard output."""
    sys.stdout.flush()
    kept = [os.dup(0), os.dup(1)]
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.dup2(null, 0)
        if as_json:
            os.dup2(2, 1)
        yield
    finally:
        for number, fd in enumerate(kept):
            os.dup2(fd, number)
            os.close(fd)
        os.close(null)


def _argument(text: str) -> tuple[str, str]:
    """Return the name and the value that --build-arg *text* gives."""
    name, equals, value = text.partition("=")
    if not name or (not equals and name not in os.environ):
        raise SandboxError(
            f"--build-arg {text}: no value" if name else f"--build-arg {text}: no name",
            hint="write NAME=VALUE, or NAME for a variable that is set",
        )
    return name, value if equals else os.environ[name]


def _report(text: str) -> None:
    print(f"sandbox: {printable(text)}", file=sys.stderr, flush=True)

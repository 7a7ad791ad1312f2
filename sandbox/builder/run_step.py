"""Execute RUN: a command in a sandbox over the layers so far, whose changes become a layer.

The sandbox is that of an environment file with nothing but its layers and its process: no network unless the step has one, no volumes,
no variables besides those of the step. Its writable layer outlives it until the layer of the image is written.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from sandbox.builder.layer_output import image_layer, not_written
from sandbox.builder.machine import LAYERS
from sandbox.changes.discarding import discard
from sandbox.changes.reader import has_changes, start
from sandbox.changes.writable_layers import find
from sandbox.errors import SandboxError, StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.build.plan import SCRIPT_PATH
from sandbox.images.oci.layer_writer import write_layer
from sandbox.images.places import partial_in
from sandbox.plan.image_values import StoredImage
from sandbox.spec.model import Spec
from sandbox.spec.settings import Invalid
from sandbox.spec.tables import Network, Process, Root, Sandbox, Volume
from sandbox.spec.values.accounts import User, parse_user
from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs._stdlib.hashlib import sha256

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.builder.copy_step import Output
    from sandbox.builder.machine import Machine
    from sandbox.images.build.plan import RunCommand
    from sandbox.plan.image_values import ImageLayer

STACK_NAME = "layers of a build"
"""The name of the layers so far in the record of a run. No image of the store has a name with spaces."""

_SCRIPT = "/.sandbox-build-script"
"""Where the script of a step is while it runs: /dev belongs to the sandbox, so it cannot be at SCRIPT_PATH."""

_RESOLVER = "/etc/resolv.conf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the command of a step ended: its exit status, and the id of the run whose writable layer is kept; "" if there is none."""

    status: int
    kept: str
    #: Why the command was not executed, or the sandbox failed.
    error: SandboxError | None = None


def run_command(
    machine: Machine,
    layers: Sequence[ImageLayer],
    action: RunCommand,
    *,
    file: str,
    more_env: Sequence[str] = (),
    debug: bool = False,
    terminal: bool = False,
) -> Ended:
    """Run the command of *action* over *layers*, and keep its changes.

    *file* is recorded as the file of the sandbox. A step that leaves its network open has none. *more_env* are NAME=VALUE strings,
    which those of the step precede. With *terminal* the command is interactive.

    Raises:
        SandboxError: there are no layers, or this machine cannot run the command. A command that cannot be executed, or a sandbox
            that fails, is in the result.
    """
    from sandbox.runtime.supervisor import Supervisor
    from sandbox.runtime.unionfs_server import Server

    if not layers:
        raise SandboxError(
            "there are no files to run a command from", hint="begin with an image, or copy a program first"
        )
    if not terminal:  # the terminal of a build is not that of its commands
        machine = replace(machine, facts=replace(machine.facts, terminal=False, background=False))
    spec = _spec(action, file=file, terminal=terminal)
    plan = machine.plan(spec, StoredImage(name=STACK_NAME, digest=chain_of(layers), layers=tuple(layers)))
    variables = (text.partition("=") for text in (*more_env, *action.env))
    env = {name: value for name, _, value in variables}
    if terminal:
        env.setdefault("TERM", os.environ.get("TERM", "xterm"))
    plan = replace(plan, process=replace(plan.process, env=env))
    kept: list[str] = []
    supervisor = Supervisor(
        plan,
        machine.facts,
        machine.state,
        Server(),
        trace=_trace if debug else _ignore,
        warn=machine.warn,
        secret=machine.secret,
        progress=machine.progress,
        keep_changes=True,
        on_end=kept.append,
    )
    error: SandboxError | None = None
    status = 0
    try:
        status = supervisor.run()
    except SandboxError as failure:
        error, status = failure, failure.exit_code
    return Ended(status=status, kept=kept[0] if kept else "", error=error)


def layer_of(machine: Machine, kept: str, output: Output) -> ImageLayer | None:
    """Write the changes of the run *kept* to a layer in the image store; return it, None if there are none.

    Raises:
        ImageError: the changes cannot be in a layer.
        SandboxError: the changes cannot be read, or the layer cannot be written.
    """
    layer = find(machine.state.path, kept)
    if not has_changes(layer):
        return None
    images = machine.where.images
    try:
        with ExitStack() as undo:
            blob = undo.enter_context(BlobStore(images).writing())
            process = start(layer, ["--archive=layer"], [], undo)
            with process.explaining(), open(process.output_fd, "rb", closefd=False) as stream:
                written = write_layer(
                    stream,
                    blob,
                    temporary=partial_in(images),
                    compression=output.compression,
                    latest=output.latest,
                )
            if written is None:
                return None
            blob.publish(written.descriptor.digest)
    except OSError as error:
        raise not_written(error) from None
    return image_layer(written)


def discard_kept(kept: str) -> None:
    """Remove the writable layer of the run *kept*, if there is one.

    Raises:
        SandboxError: it cannot be removed.
    """
    if kept:
        discard(kept)


def chain_of(layers: Sequence[ImageLayer]) -> str:
    """Return a digest of the whole of *layers*: the same layers have the same, other ones have another."""
    return f"sha256:{sha256(' '.join(layer.diff_id for layer in layers).encode()).hexdigest()}"


def _spec(action: RunCommand, *, file: str, terminal: bool) -> Spec:
    command = action.command
    volumes: tuple[Volume, ...] = ()
    if action.script is not None:
        command = tuple(_SCRIPT if word == SCRIPT_PATH else word for word in command)
        volumes = (Volume(type="file", target=_SCRIPT, content=action.script, mode=0o755),)
    mode = "none" if action.network == "default" else action.network
    if mode == "host" and os.path.isfile(_RESOLVER):
        source = os.path.realpath(_RESOLVER)
        volumes += (Volume(type="bind", source=source, target=_RESOLVER, read_only=True),)
    return Spec(
        file=file,
        directory=os.path.dirname(file),
        read_from=(file,),
        sandbox=Sandbox(name="build"),
        root=Root(layers=(LAYERS,)),
        process=Process(
            command=command,
            cwd=action.cwd,
            user=_user(action.user),
            terminal="auto" if terminal else False,
        ),
        network=Network(mode=mode),
        volumes=volumes,
    )


def _user(text: str) -> User:
    if not text:
        return User(0)
    try:
        return parse_user(text)
    except Invalid as error:
        raise StateError(f"the user of the step: {error.message}", hint="write an id or a name") from None


def _trace(text: str) -> None:
    os.write(2, f"+ {text}\n".encode(errors="backslashreplace"))


def _ignore(_text: str) -> None: ...

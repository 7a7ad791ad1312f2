"""Load an environment file and draft its plan on this machine, for the verbs that plan. Change nothing."""

from __future__ import annotations

import os

from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from sandbox.errors import SandboxError
    from sandbox.host.facts import HostFacts
    from sandbox.host.network_facts import NetworkFacts
    from sandbox.host.paths import PathFact
    from sandbox.host.private_directories import PrivateFacts
    from sandbox.images.registry.settings import TlsSettings
    from sandbox.images.resolve import Fetch
    from sandbox.plan import Draft, IdPlan, PersistentState
    from sandbox.plan.image_values import StoredImage
    from sandbox.spec.diagnostic import Diagnostic
    from sandbox.spec.model import Spec
    from sandbox.spec.valid_part import ValidPart
    from sandbox.state.joined_namespaces import Found


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """A draft, and the facts that it was made from."""

    #: The specification, with the defaults of its images.
    spec: Spec
    draft: Draft
    facts: HostFacts
    paths: Mapping[str, PathFact]
    #: The state directory; empty if its path is unusable. *state* is the reason why the state cannot be used, if there is one.
    state_directory: str
    state: SandboxError | None
    #: The persistent layer and named volumes in it that the file would use.
    persistent: PersistentState


def load_to_plan(arguments: argparse.Namespace, command: tuple[str, ...] | None = None) -> Spec:
    """Load the file that *arguments* name, for a plan with *command* instead of the file's.

    The plan refuses settings that this version does not enforce, together with those that this machine refuses.

    Raises:
        SpecError: with all mistakes, and with the refusals of this machine for the rest of the file.
    """
    from sandbox.cli.options import load_spec
    from sandbox.errors import SpecError
    from sandbox.spec.diagnostic import Diagnostic
    from unionfs._stdlib.typing import cast

    try:
        return load_spec(arguments, unenforced="keep")
    except SpecError as error:
        rest: ValidPart | None = error.valid_part() if error.valid_part is not None else None
        if rest is None:
            raise
        mistakes = cast("list[Diagnostic]", error.diagnostics)
        together = [*mistakes, *refusals_of_valid_part(rest, command)]
    together.sort(key=Diagnostic.sort_key)
    raise SpecError(together)


def refusals_of_valid_part(rest: ValidPart, command: tuple[str, ...] | None = None) -> list[Diagnostic]:
    """Return the refusals of this machine for *rest*, the part without mistakes of a file, as far as it can be planned."""
    from sandbox.errors import SandboxError

    try:
        # Existing persistent layers cannot be compared: the name or the layers may be among the mistakes.
        found = plan(rest.spec, command, with_persistent=False).draft.diagnostics()
    except SandboxError:
        return []  # the caller reports the mistakes
    return [refusal for one in found if (refusal := rest.in_file(one)) is not None]


def plan(
    spec: Spec,
    command: tuple[str, ...] | None = None,
    *,
    accept_layers: bool = False,
    with_persistent: bool = True,
    locked: bool = False,
) -> Planning:
    """Gather the facts of this machine and draft the plan of *spec*, with *command* instead of the file's.

    With *accept_layers*, a persistent layer that was made over other layers is accepted. Without *with_persistent*, persistent
    layers and named volumes are not examined. With *locked*, sources that differ from the lock file of *spec* are an error.
    """
    from sandbox.errors import StateError
    from sandbox.host import facts as host
    from sandbox.host.paths import inspect_all
    from sandbox.plan import PersistentState, draft, host_details, host_files, host_paths
    from sandbox.state import directory as state
    from sandbox.state.layer_records import look
    from sandbox.state.location import default_image_path, default_path

    facts = host.gather()
    problem: SandboxError | None
    stored: dict[int, StoredImage] = {}
    try:
        path, images = default_path(os.environ, facts.uid), default_image_path(os.environ, facts.uid)
        directory = os.path.realpath(path)
        problem = state.examine(directory)
    except StateError as error:
        path, images, directory, problem = "", "", "", error
    if images:
        spec, stored = with_images(spec, os.path.realpath(images), locked=locked)
    persistent = PersistentState()
    try:
        persistent = look(spec, directory) if with_persistent else persistent
    except StateError as error:
        problem = problem or error
    paths = inspect_all(host_paths(spec, facts), read=host_files(spec), **host_details(spec, facts))
    made = draft(
        spec,
        facts,
        paths,
        environ=os.environ,
        state_directory=directory,
        private=private_directories(path, images, facts.uid),
        joined=joined_namespaces(spec, directory),
        command=command,
        persistent=persistent,
        images=stored,
        network=network_facts(spec),
        accept_layers=accept_layers,
    )
    return Planning(
        spec=spec,
        draft=made,
        facts=facts,
        paths=paths,
        state_directory=directory,
        state=problem,
        persistent=persistent,
    )


def with_images(
    spec: Spec,
    images: str,
    *,
    fetch: Callable[[], Fetch | None] | None = None,
    locked: bool = False,
) -> tuple[Spec, dict[int, StoredImage]]:
    """Return *spec* with the defaults of its images, and these images by the number of their layer.

    They are in the image directory *images*. With *fetch*, missing ones are fetched as it tells. With *locked*, the lock file of
    *spec* decides which.

    Raises:
        SpecError: an image cannot be fetched, or its defaults are not valid.
        StateError: the image directory cannot be read or written.
    """
    from sandbox.spec.values.layers import IMAGE_KINDS

    if not locked and not any(layer.kind in IMAGE_KINDS for layer in spec.root.layers):
        return spec, {}
    from sandbox.errors import ImageError, SpecError
    from sandbox.images.resolve import find_images
    from sandbox.plan.images import with_image_defaults

    lock = None
    if locked:
        from sandbox.images.lock_file import lock_path

        lock = lock_path(spec.file)
    found = find_images(spec, images, fetch=None if fetch is None else fetch(), lock=lock)
    try:
        return with_image_defaults(spec, found), found
    except ImageError as error:
        raise SpecError([spec.diagnose(f"root.layers[{max(found)}]", error.message, error.hint)]) from error


def usual_ids() -> IdPlan:
    """Return the id maps of a sandbox whose file sets none, under which images are unpacked in advance."""
    from sandbox.host import facts as host
    from sandbox.plan.findings import Findings
    from sandbox.plan.ids import plan_ids
    from sandbox.spec.load import parse

    spec = parse(b'[root]\nlayers = ["dir:/"]\n', path="usual.toml", environ={})
    return plan_ids(spec, host.gather(), Findings.of(spec))


def usual_fetch(images: str, *, authfile: str | None = None, tls: TlsSettings | None = None) -> Fetch:
    """Return how to fetch images into the image directory *images* without a sandbox, whose ids would be known.

    *authfile* and *tls* are those of the command line.
    """
    from sandbox.cli.output import warn
    from sandbox.cli.progress import ArchiveProgress, ImageProgress
    from sandbox.images.adding import unpacker
    from sandbox.images.resolve import Fetch

    unpack = unpacker(images, usual_ids(), warn, ArchiveProgress)
    return Fetch(progress=ImageProgress, unpack=unpack, authfile=authfile, tls=tls)


def private_directories(state: str, images: str, uid: int) -> PrivateFacts:
    """Return facts about the state directory *state*, the image directory *images* and the run directory of the user *uid*.

    An empty path stands for none.
    """
    from sandbox.host import private_directories as private
    from sandbox.state import run_directory

    return private.look(
        state=state,
        images=images,
        run=run_directory.default_path(os.environ, uid),
        usual_run=run_directory.default_path({}, uid),
    )


def network_facts(spec: Spec) -> NetworkFacts:
    """Return facts about the network that *spec* wants; without one, nothing is examined."""
    from sandbox.host.network_facts import NOT_EXAMINED, look

    return NOT_EXAMINED if spec.network.mode == "none" else look(os.environ.get("PATH", ""))


def joined_namespaces(spec: Spec, state_directory: str) -> Found:
    """Return facts about the namespaces that *spec* joins; import the code for that only if there are any."""
    names = spec.namespaces
    kinds = (names.user, names.pid, names.net, names.ipc, names.uts, names.cgroup, names.time)
    if not any(isinstance(value, str) and ":" in value for value in kinds):
        return {}
    from sandbox.state.joined_namespaces import inspect

    return inspect(spec, state_directory)

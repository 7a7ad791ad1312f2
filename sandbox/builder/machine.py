"""Gather what each step of a build needs: the facts of this machine, the state and image directories, and the ids of files."""

from __future__ import annotations

import os
from contextlib import contextmanager

from sandbox.as_container_root import run_with_ids
from sandbox.errors import HostError, SpecError
from sandbox.host import facts as host
from sandbox.host import private_directories
from sandbox.host.paths import inspect_all
from sandbox.images.image_layers import ImageLayers
from sandbox.plan import Plan, host_details, host_files, host_paths, make_plan
from sandbox.plan.findings import Findings
from sandbox.plan.ids import plan_ids
from sandbox.runtime.bridge_sweep import sweep_bridge
from sandbox.spec.model import Spec
from sandbox.spec.rules import unify_network
from sandbox.spec.tables import Root
from sandbox.spec.values.layers import Layer
from sandbox.state import run_directory
from sandbox.state.directory import StateDirectory
from sandbox.state.location import locate
from unionfs._stdlib.dataclasses import dataclass, field

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sandbox.host.facts import HostFacts
    from sandbox.images.reading import Progress
    from sandbox.images.unpacked_trees import StoredLayer
    from sandbox.plan import IdPlan
    from sandbox.plan.image_values import ImageLayer, StoredImage
    from sandbox.state.location import Locations

LAYERS = Layer(kind="image", path="the layers so far")
"""The only layer of the specification of a step; the plan gets the real ones as a stored image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts and directories of one build. :func:`examine_machine` creates it, and the caller closes it.

    `warn` receives warnings; `progress` creates the receiver of reports about a layer that is unpacked.
    """

    where: Locations
    facts: HostFacts
    state: StateDirectory
    secret: bytes | None
    ids: IdPlan
    warn: Callable[[str], None]
    progress: Callable[[], Progress] | None
    warned: set[str] = field(default_factory=set)

    def plan(self, spec: Spec, image: StoredImage) -> Plan:
        """Return the plan of *spec*, whose only layer is *image*.

        Each of its warnings is given to `warn` once in a build.

        Raises:
            HostError: a setting is refused on this machine, or the machine lacks what every sandbox needs.
        """
        spec = unify_network(spec)
        facts = self.facts
        try:
            plan = make_plan(
                spec,
                facts,
                inspect_all(host_paths(spec, facts), read=host_files(spec), **host_details(spec, facts)),
                environ=os.environ,
                state_directory=self.state.path,
                private=private_directories.look(
                    state=self.where.state,
                    images=self.where.images,
                    run=run_directory.default_path(os.environ, facts.uid),
                    usual_run=run_directory.default_path({}, facts.uid),
                ),
                images={0: image},
            )
        except SpecError as error:
            # There is no environment file whose lines the diagnostics could show.
            first = error.diagnostics[0].as_dict()
            raise HostError(str(first["message"]), hint=str(first["hint"] or "") or None) from None
        for warning in plan.warnings:
            if warning not in self.warned:
                self.warned.add(warning)
                self.warn(warning)
        return plan

    @contextmanager
    def opened(self, layers: Sequence[ImageLayer]) -> Iterator[list[StoredLayer]]:
        """Unpack *layers*, bottom first, where necessary, and give them in this order, locked within the context.

        Raises:
            ImageError: a layer is damaged, or cannot be unpacked.
        """
        opened = ImageLayers(self.where.images, self.progress).open(layers, self.ids)
        try:
            for stored in opened:
                for notice in stored.notices:
                    self.warn(notice)
            yield opened
        finally:
            for stored in opened:
                stored.close()

    def as_root(self, layers: Sequence[ImageLayer], action: Callable[[], str]) -> str:
        """Run *action* with the ids that may read unpacked *layers*, and return its text. Without layers, run it in this process.

        Raises:
            SandboxError: *action* has raised an error.
        """
        return run_with_ids(self.ids, action) if layers else action()

    def close(self) -> None:
        """Close the state directory."""
        self.state.close()


def examine_machine(warn: Callable[[str], None], progress: Callable[[], Progress] | None = None) -> Machine:
    """Return the facts and directories for a build; remove leftovers of earlier sandboxes in the state directory.

    Raises:
        StateError: a directory cannot be used.
        HostError: the ids of a sandbox cannot be determined.
    """
    facts = host.gather(scopes=False)
    where = locate(os.environ, facts.uid)
    run_path, secret = run_directory.prepare(run_directory.default_path(os.environ, facts.uid), warn)
    state = StateDirectory(where.state, run_path, where.images)
    state.sweep()
    sweep_bridge(state.run_path, warn)
    spec = Spec(file="", directory="/", root=Root(layers=(LAYERS,)))
    findings = Findings.of(spec)
    ids = plan_ids(spec, facts, findings)
    if findings.refusals:
        state.close()
        raise HostError(findings.refusals[0].message, hint=findings.refusals[0].hint)
    return Machine(
        where=where, facts=facts, state=state, secret=secret, ids=ids, warn=warn, progress=progress
    )

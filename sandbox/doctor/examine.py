"""Run the probes, then the checks, for this machine and for one environment file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from sandbox.doctor.check import Check
from sandbox.doctor.checks.control import check_control
from sandbox.doctor.checks.namespaces import check_namespaces
from sandbox.doctor.checks.needs import Needs, default_needs, needs_of
from sandbox.doctor.checks.programs import check_base, check_programs
from sandbox.doctor.checks.run_directory import check_leftovers, check_run_directory, unusable_because
from sandbox.doctor.checks.storage import check_storage
from sandbox.doctor.facts import MachineFacts, StateFacts
from sandbox.doctor.probes import control, namespaces, storage, surroundings, uplinks
from sandbox.errors import SandboxError, SpecError, printable
from sandbox.host import facts as host
from sandbox.host import network_facts, private_directories
from sandbox.host.facts import HostFacts
from sandbox.host.paths import inspect_all
from sandbox.plan import Plan, host_details, host_files, host_paths, make_plan, warnings_of
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.model import Spec
from sandbox.spec.values.layers import IMAGE_KINDS
from sandbox.state import run_directory
from sandbox.state.joined_namespaces import inspect
from sandbox.state.layer_records import look
from sandbox.state.location import default_image_path, default_path
from unionfs._stdlib.dataclasses import dataclass

if TYPE_CHECKING:
    from sandbox.errors import RenderableDiagnostic
    from sandbox.plan.image_values import StoredImage


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOutcome:
    """The result of planning an environment file: the plan, or the error.

    *unenforced* are the optional settings of the file that this version cannot enforce on any machine.
    """

    file: str
    plan: Plan | None = None
    unenforced: tuple[Diagnostic, ...] = ()
    error: SandboxError | None = None


def examine(
    *, environ: Mapping[str, str], file: str | None = None, load: Callable[[], Spec] | None = None
) -> list[Check]:
    """Probe this machine and return every check. Those of the environment file *file*, which *load* loads, are last.

    Nothing is left behind, and every probe has a time limit.
    """
    facts = host.gather()
    machine = probe_machine(facts, environ)
    outcome = None if file is None or load is None else plan_file(file, load, facts, machine, environ)
    return check_machine(facts, machine, outcome)


def probe_machine(facts: HostFacts, environ: Mapping[str, str]) -> MachineFacts:
    """Run every probe."""
    # The interpreter starts first and runs during the other probes.
    running = surroundings.ServerInterpreter()
    mountinfo = _read("/proc/self/mountinfo")
    try:
        with storage.probe_state(facts, environ, mountinfo) as tried:
            found_namespaces = namespaces.probe_namespaces(facts, tried.files)
        run = storage.probe_run_directory(facts, environ, mountinfo)
        cgroups = control.probe_cgroups(facts.cgroup_levels[0][1], mountinfo=mountinfo)
        session = surroundings.look_at_session(facts, environ)
        security = surroundings.probe_security()
        search_path = environ.get("PATH", os.defpath)
        pasta, slirp4netns = uplinks.probe_pasta(facts, search_path), None
        if pasta.path is None or pasta.problem is not None:
            slirp4netns = uplinks.probe_slirp4netns(facts, search_path)
        path = tried.facts.path if isinstance(tried.facts, StateFacts) else None
        leftovers = storage.look_for_leftovers(
            path, run.path if unusable_because(run) is None else None, mountinfo
        )
    except BaseException:
        running.abandon()
        raise
    return MachineFacts(
        namespaces=found_namespaces,
        cgroups=cgroups,
        session=session,
        security=security,
        pasta=pasta,
        slirp4netns=slirp4netns,
        nft=network_facts.look(search_path).nft,
        server=running.facts(),
        state=tried.facts,
        leftovers=leftovers,
        mtab=os.path.exists("/etc/mtab"),
        run=run,
        free_subid=surroundings.first_free_subid([_read("/etc/subuid"), _read("/etc/subgid")]),
    )


def plan_file(
    file: str,
    load: Callable[[], Spec],
    facts: HostFacts,
    machine: MachineFacts,
    environ: Mapping[str, str],
) -> FileOutcome:
    """Load and plan *file* as `sandbox up` does."""
    # An unusable state directory has a check of its own. The plan works with any path instead.
    known = isinstance(machine.state, StateFacts)
    path = machine.state.path if isinstance(machine.state, StateFacts) else "/var/lib/sandbox"
    try:
        spec = load()
        paths = inspect_all(host_paths(spec, facts), read=host_files(spec), **host_details(spec, facts))
        joined = inspect(spec, path)
        persistent = look(spec, path)
        given = default_path(environ, facts.uid) if known else path
        images = default_image_path(environ, facts.uid) if known else os.path.join(path, "images")
        hidden = private_directories.look(
            state=given,
            images=images,
            run=run_directory.default_path(environ, facts.uid),
            usual_run=run_directory.default_path({}, facts.uid),
        )
        stored: dict[int, StoredImage] = {}
        if any(layer.kind in IMAGE_KINDS for layer in spec.root.layers):
            from sandbox.images.resolve import find_images
            from sandbox.plan.images import with_image_defaults

            stored = find_images(spec, images)
            spec = with_image_defaults(spec, stored)
        plan = make_plan(
            spec,
            facts,
            paths,
            environ=environ,
            state_directory=path,
            private=hidden,
            joined=joined,
            persistent=persistent,
            images=stored,
            network=network_facts.look(environ.get("PATH", os.defpath)),
        )
    except SandboxError as error:
        return FileOutcome(file=file, error=error)
    return FileOutcome(file=file, plan=plan, unenforced=spec.unenforced)


def check_machine(facts: HostFacts, machine: MachineFacts, outcome: FileOutcome | None) -> list[Check]:
    """Return every check, in the order of the output. Pure."""
    plan = None if outcome is None else outcome.plan
    needs: Needs = default_needs(facts) if plan is None else needs_of(plan)
    checks = [
        *check_base(facts, machine, needs),
        *check_namespaces(facts, machine, needs),
        *check_control(facts, machine, needs),
        *check_programs(machine, needs),
        *check_storage(machine, needs),
        check_run_directory(machine.run),
        check_leftovers(machine.leftovers),
    ]
    return checks if outcome is None else [*checks, check_file(outcome)]


def check_file(outcome: FileOutcome) -> Check:
    """Return the check `file`: whether the file can be planned, with the diagnostics if it is refused."""
    error = outcome.error
    if error is None:
        # Unenforced settings have diagnostics with a position, so their warnings are left out.
        reported = {diagnostic.key for diagnostic in outcome.unenforced}
        differences = () if outcome.plan is None else outcome.plan.differences
        warnings = warnings_of(one for one in differences if one.key not in reported)
        if warnings or outcome.unenforced:
            count = len(warnings) + len(outcome.unenforced)
            return Check(
                id="file",
                level="warning",
                summary=f"{outcome.file} can be planned here, with {count} warning{'s' if count != 1 else ''}",
                cost="`up` starts without the settings listed above",
                facts={
                    "diagnostics": [one.as_dict() for one in outcome.unenforced],
                    "warnings": list(warnings),
                },
                details=(*_lines(outcome.unenforced), *map(printable, warnings)),
            )
        return Check(
            id="file",
            level="ok",
            summary=f"{outcome.file} can be planned here",
            facts={"diagnostics": [], "warnings": []},
        )
    if isinstance(error, SpecError):
        count = len(error.diagnostics)
        return Check(
            id="file",
            level="failure",
            summary=f"{outcome.file} is refused: {count} mistake{'s' if count != 1 else ''}",
            cost="`up` refuses it",
            remedy="correct each of them as shown above",
            facts={"diagnostics": [one.as_dict() for one in error.diagnostics], "warnings": []},
            details=_lines(error.diagnostics),
        )
    return Check(
        id="file",
        level="failure",
        summary=f"{outcome.file} cannot be planned: {error.message}",
        cost="`up` refuses it",
        remedy=error.hint or "",
        facts={"diagnostics": [], "warnings": []},
    )


def _lines(diagnostics: Iterable[RenderableDiagnostic]) -> tuple[str, ...]:
    return tuple(line for one in diagnostics for line in one.render().split("\n"))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""

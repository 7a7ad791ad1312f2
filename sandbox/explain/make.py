"""Make the whole report from a case. Pure."""

from __future__ import annotations

from sandbox.explain.case import Case
from sandbox.explain.isolation import ids_section, namespaces_section, security_section
from sandbox.explain.limits import limits_section
from sandbox.explain.network import network_section
from sandbox.explain.program import environment_section, program_section, settings_section
from sandbox.explain.report import Deviation, Fact, Report
from sandbox.explain.risks import risks
from sandbox.explain.storage import mounts_section, root_section
from sandbox.plan import Degradation, describe, written
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.notation import parse_key_path

_SECTIONS = {
    "program": program_section,
    "root": root_section,
    "mounts": mounts_section,
    "ids": ids_section,
    "namespaces": namespaces_section,
    "network": network_section,
    "environment": environment_section,
    "limits": limits_section,
    "security": security_section,
}


def make_report(case: Case) -> Report:
    """Return the report on *case*."""
    sections = {name: tuple(section(case)) for name, section in _SECTIONS.items()}
    reported: list[Fact] = [fact for facts in sections.values() for fact in facts]
    sections["settings"] = tuple(settings_section(case, reported))
    facts = case.facts
    return Report(
        file=case.spec.file,
        files=case.spec.files,
        name=case.plan.name,
        account=f"{facts.user_name or 'user'} (uid {facts.uid})",
        risks=risks(case),
        sections=sections,
        deviations=_deviations(case),
        refusals=_refusals(case),
        plan=tuple(describe(case.plan)),
    )


def _deviations(case: Case) -> tuple[Deviation, ...]:
    allowed = [
        Deviation(difference=difference, origin=case.origin(difference.key), refused=False)
        for difference in case.plan.differences
    ]
    refused = [
        Deviation(
            difference=Degradation(
                key=diagnostic.key,
                asked=written(case.spec, parse_key_path(diagnostic.key)),
                effective=None,
                reason=diagnostic.message,
            ),
            origin=case.origin(diagnostic.key),
            refused=True,
        )
        for diagnostic in case.spec.unenforced
    ]
    return (*allowed, *refused)


def _refusals(case: Case) -> tuple[Diagnostic, ...]:
    """Return the errors of `up`: those about this machine, which have no place in the file, and those about the file."""
    found = [
        Diagnostic(file=case.spec.file, message=error.message, hint=error.hint)
        for error in (case.draft.host, case.state)
        if error is not None
    ]
    return (*found, *case.draft.refusals)

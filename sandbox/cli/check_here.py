"""Add to the results of `check --here` what `up` would refuse on this machine before it starts anything."""

from __future__ import annotations

from unionfs._stdlib.dataclasses import replace

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.spec.check import CheckResult, Variant
    from sandbox.spec.diagnostic import Diagnostic


def with_refusals(checked: CheckResult) -> CheckResult:
    """Return *checked* with the refusals of this machine for the file and for each of its profiles. Change nothing."""
    from sandbox.spec.check import identity
    from sandbox.spec.diagnostic import Diagnostic

    # The check and the plan report the same mistake if no machine could use a setting, or this version does not enforce it.
    found = {identity(one): one for one in checked.diagnostics}
    for variant in checked.variants:
        for one in _refusals(variant):
            if identity(one) in found:
                continue
            diagnostic = one
            if variant.profile is not None:
                diagnostic = replace(one, message=f"{one.message} (with --profile {variant.profile})")
            found.setdefault(identity(diagnostic), diagnostic)
    return replace(checked, diagnostics=sorted(found.values(), key=Diagnostic.sort_key))


def _refusals(variant: Variant) -> list[Diagnostic]:
    from sandbox.cli.planning import plan, refusals_of_valid_part
    from sandbox.spec.diagnostic import Diagnostic

    if variant.spec is None:
        rest = None if variant.valid_part is None else variant.valid_part()
        return [] if rest is None else refusals_of_valid_part(rest)
    planning = plan(variant.spec)
    found = list(planning.draft.diagnostics())
    if planning.state is not None:
        state = planning.state
        found.append(Diagnostic(file=variant.spec.file, message=state.message, hint=state.hint))
    return found

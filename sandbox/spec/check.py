"""Report all mistakes of an environment file: of the file alone, and of the file with each of its profiles."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from sandbox.errors import SpecError
from sandbox.spec.assignments import Option
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.file_types import wrong_file_types
from sandbox.spec.load import ParsedFiles, Unenforced, parse, read
from sandbox.spec.model import MAX_PROFILES, Spec
from sandbox.spec.requests import Request, requests
from unionfs._stdlib import dataclasses
from unionfs._stdlib.typing import Any, cast

MAX_ENTRIES_CHECKED = 200_000
"""Limit of keys and values per check, counted again for each profile: takes seconds, and far exceeds real files."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The file with one profile, or without any (*profile* is None): its specification, or the valid part of it."""

    profile: str | None
    spec: Spec | None = None
    #: Returns a sandbox.spec.valid_part.ValidPart. None if `spec` is set, or if no part of the file is valid by itself.
    valid_part: Callable[[], Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of a check: the mistakes of a file, and what the file requests from the user who starts it."""

    diagnostics: list[Diagnostic]
    #: None if they were not requested, or if mistakes prevent computing them.
    requests: tuple[Request, ...] | None = None
    #: The specifications that the requests come from: the file alone, then with each of its profiles.
    specs: tuple[Spec, ...] = ()
    #: Everything that was checked: the file alone first, then with each of its profiles.
    variants: tuple[Variant, ...] = ()


def check(
    path: str,
    *,
    environ: Mapping[str, str] | None = None,
    profiles: Sequence[str] = (),
    assignments: Sequence[str | Option] = (),
) -> list[Diagnostic]:
    """Return the mistakes of the file *path*, or of standard input if *path* is "-", in the order of the file.

    Without *profiles*, the file is checked alone and then with each of its profiles; mistakes of the file itself are not
    repeated.
    """
    return examine(path, environ=environ, profiles=profiles, assignments=assignments).diagnostics


def examine(
    path: str,
    *,
    environ: Mapping[str, str] | None = None,
    profiles: Sequence[str] = (),
    assignments: Sequence[str | Option] = (),
    requested: bool = False,
) -> CheckResult:
    """Return what :func:`check` returns and, if *requested*, also the requests of the file and of each of its profiles."""
    environ = os.environ if environ is None else environ
    try:
        data = read(path)
        parsed_files = ParsedFiles()
        # The names of the file's own profiles are known even if the file has mistakes.
        main = parsed_files.main(data, path)
        known = _profiles_of(main.tree)
    except SpecError as error:
        return CheckResult(diagnostics=_diagnostics_of(error))

    def load(names: Sequence[str], unenforced: Unenforced) -> Spec:
        return parse(
            data,
            path=path,
            environ=environ,
            profiles=names,
            assignments=assignments,
            unenforced=unenforced,
            parsed_files=parsed_files,
        )

    variants: list[Variant] = []

    def check_with(names: Sequence[str], profile: str | None = None) -> list[Diagnostic]:
        try:
            spec = load(names, "refuse")
        except SpecError as error:
            variants.append(Variant(profile=profile, valid_part=error.valid_part))
            return _diagnostics_of(error)
        variants.append(Variant(profile=profile, spec=spec))
        known.update(dict.fromkeys(spec.profile))
        return [*spec.unenforced, *spec.warnings, *wrong_file_types(spec)]

    found = check_with(profiles)
    seen = {identity(diagnostic) for diagnostic in found}
    checked: set[str] = set()
    while (
        not profiles and len(known) <= MAX_PROFILES
    ):  # more profiles are one mistake, which is already reported
        # A profile may repair the mistake that prevented reading the profiles of the extended files.
        profile = next((name for name in known if name not in checked), None)
        if profile is None:
            break
        if parsed_files.entries > MAX_ENTRIES_CHECKED:
            message = f"too large to be checked with each of its {len(known)} profiles"
            found.append(main.origins.main.diagnostic(None, message, "check it with --profile NAME"))
            requested = False
            break
        checked.add(profile)
        found += [
            dataclasses.replace(diagnostic, message=f"{diagnostic.message} (with --profile {profile})")
            for diagnostic in check_with((profile,), profile)
            if identity(diagnostic) not in seen
        ]
    all_requests = None
    specs: tuple[Spec, ...] = ()
    if requested:
        try:
            all_requests, specs = _all_requests(load, profiles, () if profiles else tuple(known))
        except SpecError:
            pass
    return CheckResult(
        diagnostics=sorted(found, key=Diagnostic.sort_key),
        requests=all_requests,
        specs=specs,
        variants=tuple(variants),
    )


def _all_requests(
    load: Callable[[Sequence[str], Unenforced], Spec], profiles: Sequence[str], others: Sequence[str]
) -> tuple[tuple[Request, ...], tuple[Spec, ...]]:
    """Return the requests of the file with *profiles*, the additional ones with each of *others*, and all specifications."""
    specs = [load(profiles, "keep")]
    found = dict.fromkeys(requests(specs[0]))
    for profile in others:
        specs.append(load((profile,), "keep"))
        for one in requests(specs[-1]):
            if one not in found:
                found[dataclasses.replace(one, profile=profile)] = None
    return tuple(found), tuple(specs)


def _profiles_of(tree: Mapping[str, object]) -> dict[str, None]:
    profiles = tree.get("profile")
    return dict.fromkeys(profiles) if isinstance(profiles, dict) else {}


def identity(diagnostic: Diagnostic) -> tuple[object, ...]:
    """Return a key that is equal for a mistake in a profile and for the same mistake after the profile is applied."""
    return (*diagnostic.sort_key(), diagnostic.message)


def _diagnostics_of(error: SpecError) -> list[Diagnostic]:
    return cast("list[Diagnostic]", error.diagnostics)

"""All that is wrong with a file: as it stands, and with each of its profiles."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from sandbox.errors import SpecError
from sandbox.spec.assignments import Option
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.load import ParsedFiles, Unenforced, parse, read
from sandbox.spec.model import MAX_PROFILES, Spec
from sandbox.spec.requests import Request, requests
from sandbox.spec.unusable import unusable
from unionfs._stdlib import dataclasses
from unionfs._stdlib.typing import Any, cast

MAX_ENTRIES_CHECKED = 200_000
"""Keys and values of one file, counted once for each profile that it is checked with: seconds, and far more than files have."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The file with one profile, or as it is (*profile* is None): the specification, or what is right of one with mistakes."""

    profile: str | None
    spec: Spec | None = None
    #: Returns a sandbox.spec.remainder.Remainder; None where there is a specification, or nothing is right by itself.
    remainder: Callable[[], Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What is wrong with a file, and what it asks for of whoever starts it."""

    diagnostics: list[Diagnostic]
    #: None where mistakes keep it from being told.
    requests: tuple[Request, ...] | None = None
    #: What the requests are of: the file as it is, and with each of its profiles.
    specs: tuple[Spec, ...] = ()
    #: All that was checked: the file as it is first, then with each of its profiles.
    variants: tuple[Variant, ...] = ()


def check(
    path: str,
    *,
    environ: Mapping[str, str] | None = None,
    profiles: Sequence[str] = (),
    assignments: Sequence[str | Option] = (),
) -> list[Diagnostic]:
    """Return what is wrong with the file *path*, or with standard input if that is "-", in the order of the file.

    Without *profiles* the file is checked as it is and once more with each of its profiles, where a mistake of the
    file itself is not repeated. What `up` would go on without, because the file lists it as optional, is a warning.
    """
    return examine(path, environ=environ, profiles=profiles, assignments=assignments).diagnostics


def examine(
    path: str,
    *,
    environ: Mapping[str, str] | None = None,
    profiles: Sequence[str] = (),
    assignments: Sequence[str | Option] = (),
    requested: bool = False,
) -> Checked:
    """Return what :func:`check` returns and, if it is *requested*, all that the file asks for, with each of its profiles."""
    environ = os.environ if environ is None else environ
    try:
        data = read(path)
        parsed_files = ParsedFiles()
        # Those of the file itself are known although it may have mistakes.
        main = parsed_files.main(data, path)
        known = _profiles_of(main.tree)
    except SpecError as error:
        return Checked(diagnostics=_of(error))

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
            variants.append(Variant(profile=profile, remainder=error.remainder))
            return _of(error)
        variants.append(Variant(profile=profile, spec=spec))
        known.update(dict.fromkeys(spec.profile))
        return [*spec.unenforced, *spec.warnings, *unusable(spec)]

    found = check_with(profiles)
    seen = {identity(diagnostic) for diagnostic in found}
    checked: set[str] = set()
    while not profiles and len(known) <= MAX_PROFILES:  # more are a mistake, and one is enough
        # One profile may mend what hid those of the files that this one extends.
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
    asked = None
    specs: tuple[Spec, ...] = ()
    if requested:
        try:
            asked, specs = _all_requests(load, profiles, () if profiles else tuple(known))
        except SpecError:
            pass
    return Checked(
        diagnostics=sorted(found, key=Diagnostic.sort_key),
        requests=asked,
        specs=specs,
        variants=tuple(variants),
    )


def _all_requests(
    load: Callable[[Sequence[str], Unenforced], Spec], profiles: Sequence[str], others: Sequence[str]
) -> tuple[tuple[Request, ...], tuple[Spec, ...]]:
    """Return what the file asks for with *profiles*, and what it asks for besides with each of *others*; and each specification."""
    specs = [load(profiles, "keep")]
    asked = dict.fromkeys(requests(specs[0]))
    for profile in others:
        specs.append(load((profile,), "keep"))
        for one in requests(specs[-1]):
            if one not in asked:
                asked[dataclasses.replace(one, profile=profile)] = None
    return tuple(asked), tuple(specs)


def _profiles_of(tree: Mapping[str, object]) -> dict[str, None]:
    profiles = tree.get("profile")
    return dict.fromkeys(profiles) if isinstance(profiles, dict) else {}


def identity(diagnostic: Diagnostic) -> tuple[object, ...]:
    """Return what a mistake in a profile has in common with what becomes of it where the profile is applied."""
    return (*diagnostic.sort_key(), diagnostic.message)


def _of(error: SpecError) -> list[Diagnostic]:
    return cast("list[Diagnostic]", error.diagnostics)

"""All that is wrong with a file: as it stands, and with each of its profiles."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from sandbox import records
from sandbox.errors import SpecError
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.document import parse_document
from sandbox.spec.load import Unenforced, parse, read
from sandbox.spec.model import MAX_PROFILES, Spec
from sandbox.spec.requests import Request, requests
from sandbox.spec.unusable import unusable
from sandbox.typed import cast


@records.dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What is wrong with a file, and what it asks for of whoever starts it."""

    diagnostics: list[Diagnostic]
    #: None where mistakes keep it from being told.
    requests: tuple[Request, ...] | None = None
    #: What the requests are of: the file as it is, and with each of its profiles.
    specs: tuple[Spec, ...] = ()


def check(
    path: str,
    *,
    environ: Mapping[str, str] | None = None,
    profiles: Sequence[str] = (),
    assignments: Sequence[str] = (),
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
    assignments: Sequence[str] = (),
    requested: bool = False,
) -> Checked:
    """Return what :func:`check` returns and, if it is *requested*, all that the file asks for, with each of its profiles."""
    environ = os.environ if environ is None else environ
    try:
        data = read(path)
    except SpecError as error:
        return Checked(diagnostics=_of(error))

    def load(names: Sequence[str], unenforced: Unenforced) -> Spec:
        return parse(
            data, path=path, environ=environ, profiles=names, assignments=assignments, unenforced=unenforced
        )

    def check_with(names: Sequence[str]) -> list[Diagnostic]:
        try:
            spec = load(names, "refuse")
        except SpecError as error:
            return _of(error)
        known.update(dict.fromkeys(spec.profile))
        return [*spec.unenforced, *unusable(spec)]

    known = _profiles_of(data)
    found = check_with(profiles)
    seen = {_identity(diagnostic) for diagnostic in found}
    checked: set[str] = set()
    while not profiles and len(checked) < MAX_PROFILES:
        # One profile may mend what hid those of the files that this one extends.
        profile = next((name for name in known if name not in checked), None)
        if profile is None:
            break
        checked.add(profile)
        found += [
            records.replace(diagnostic, message=f"{diagnostic.message} (with --profile {profile})")
            for diagnostic in check_with((profile,))
            if _identity(diagnostic) not in seen
        ]
    asked = None
    specs: tuple[Spec, ...] = ()
    if requested:
        try:
            specs = (load(profiles, "keep"),)
            asked = requests(specs[0])
            for profile in () if profiles else known:
                specs = (*specs, load((profile,), "keep"))
                more = requests(specs[-1])
                asked += tuple(records.replace(one, profile=profile) for one in more if one not in asked)
        except SpecError:
            asked = None
    return Checked(diagnostics=sorted(found, key=Diagnostic.sort_key), requests=asked, specs=specs)


def _identity(diagnostic: Diagnostic) -> tuple[object, ...]:
    """Return what a mistake in a profile has in common with what becomes of it where the profile is applied."""
    return (*diagnostic.sort_key(), diagnostic.message)


def _profiles_of(data: bytes) -> dict[str, None]:
    """Return the names of the profiles in *data* itself, which are known although it may have mistakes."""
    try:
        tree, _ = parse_document(data, file="", directory="/")
    except SpecError:
        return {}
    profiles = tree.get("profile")
    return dict.fromkeys(profiles) if isinstance(profiles, dict) else {}


def _of(error: SpecError) -> list[Diagnostic]:
    return cast("list[Diagnostic]", error.diagnostics)

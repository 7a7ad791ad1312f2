"""Find what the program can change of its own next start, through bind volumes that it may write to.

    named_paths                 every host path that a spec names, or is read from
    refuse_redirectable_paths   refuses paths that contain a symbolic link in such a volume
    exposures                   warns about files in such a volume that decide the next start

A program can replace everything in its writable volumes, symbolic links included. Paths are compared with the contents of a
volume by the identity of directories and by their place in the file system. So the comparison finds them through a second
path or a bind mount of the host, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sandbox.host.paths import PathFact, PathStep
from sandbox.kernel.capabilities import DEFAULT, effective_set
from sandbox.kernel.namespaces import NamespaceFact
from sandbox.plan.findings import Findings
from sandbox.plan.storage import PATH_KINDS, inside
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.model import Spec
from sandbox.spec.notation import literal
from sandbox.spec.tables import Seccomp
from unionfs._stdlib.dataclasses import dataclass, replace

_NAMESPACES = ("user", "pid", "net", "ipc", "uts", "cgroup", "time")
_PATH = "path:"
_LAUNCHER = "the launcher's own code"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPath:
    """A host path that the setting *key* names."""

    path: str
    key: str
    #: Its role in the next start, if its content decides about that; empty if only the identity of the object matters.
    what: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exposed:
    """A host path that the program can change, and the path in the sandbox on which a mount would protect it."""

    path: str
    what: str
    cover: str


def named_paths(spec: Spec) -> tuple[NamedPath, ...]:
    """Return every host path that *spec* names, and the files from which *spec* was read."""
    return tuple(_named_paths(spec))


def _named_paths(spec: Spec) -> Iterator[NamedPath]:
    for path in spec.read_from:
        if path == spec.file:
            yield NamedPath(path=path, key="", what="the environment file")
        else:
            yield NamedPath(path=path, key="extends", what="a file that it extends")
    for number, layer in enumerate(spec.root.layers):
        if layer.kind in PATH_KINDS:
            yield NamedPath(path=layer.path, key=f"root.layers[{number}]", what="a layer")
    for number, volume in enumerate(spec.volumes):
        if volume.type == "bind" and volume.source is not None:
            # The program may change a writable volume anyway.
            what = "the source of a read-only volume" if volume.read_only else ""
            yield NamedPath(path=volume.source, key=f"volumes[{number}].source", what=what)
    for number, device in enumerate(spec.devices):
        yield NamedPath(path=device.path, key=f"devices[{number}].path")
    if spec.process.env_file is not None:
        yield NamedPath(path=spec.process.env_file, key="process.env_file", what="variables of the program")
    seccomp = spec.security.seccomp
    profile = seccomp.profile if isinstance(seccomp, Seccomp) else seccomp
    if "/" in profile:
        key = "security.seccomp.profile" if isinstance(seccomp, Seccomp) else "security.seccomp"
        yield NamedPath(path=profile, key=key, what="the profile of its filter")
    for number, limit in enumerate(spec.limits.io):
        yield NamedPath(path=limit.path, key=f"limits.io[{number}].path")
    for kind in _NAMESPACES:
        value = getattr(spec.namespaces, kind)
        if isinstance(value, str) and value.startswith(_PATH):
            yield NamedPath(path=value.removeprefix(_PATH), key=f"namespaces.{kind}")


def writable_volumes(spec: Spec) -> dict[int, str]:
    """Return the sources of the writable bind volumes of *spec*, by their number."""
    return {
        number: volume.source
        for number, volume in enumerate(spec.volumes)
        if volume.type == "bind" and volume.source is not None and not volume.read_only
    }


def watched_paths(spec: Spec, *, trees: Iterable[str], others: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the paths whose facts :func:`exposures` needs, and those whose mounts below have to be known, too.

    Both lists are empty if *spec* has no writable bind volume.
    """
    volumes = writable_volumes(spec)
    if not volumes:
        return [], []
    shown = [*volumes.values(), *trees]
    return [*(named.path for named in named_paths(spec)), *trees, *others], shown


def shown_at(fact: PathFact, step: PathStep) -> tuple[str, ...]:
    """Return the relative paths below the object of *fact* at which *step* is visible; "" for the object itself."""
    names = step.place.path.strip("/").split("/") if step.place.path != "/" else []
    found = [
        "/".join(names[number:])
        for number, identity in enumerate(step.place.chain)
        if identity == fact.identity
    ]
    if step.location is not None:
        for location in fact.visible_locations:
            if location.device == step.location.device and inside(step.location.path, location.path):
                rest = step.location.path[len(location.path.rstrip("/")) :].strip("/")
                found.append("/".join(part for part in (location.below, rest) if part))
    return tuple(dict.fromkeys(found))


def refuse_redirectable_paths(
    spec: Spec, paths: Mapping[str, PathFact], joined: Mapping[str, NamespaceFact], findings: Findings
) -> Mapping[str, PathFact]:
    """Return *paths*, with those marked as refused that lead through a symbolic link in a volume writable by the program.

    *joined* are the facts of :func:`sandbox.state.joined_namespaces.inspect`. It opens the paths again, so the identities of
    both are compared. This function also adds the refusals of extended files and of namespaces to *findings*, because no
    other part of the plan reads their facts.
    """
    volumes = writable_volumes(spec)
    changed: dict[str, PathFact] = {}
    for named in named_paths(spec):
        fact = paths.get(named.path)
        if not volumes or fact is None or not named.key:
            continue
        problem = next(_redirectable(fact, volumes, paths), None)
        other = joined.get(named.key.removeprefix("namespaces."))
        swapped = other is not None and not other.problem and fact.identity not in (None, other.identity)
        if problem is None and swapped:
            problem = "was replaced by another namespace after it was examined", "start the sandbox again"
        if problem is None:
            continue
        reason, remedy = problem
        changed[named.path] = replace(
            fact,
            kind="refused",
            reason=reason,
            remedy=remedy,
            content=None,
            devices=(),
            device=None,
            no_device=reason,
        )
        if named.key == "extends" or named.key.startswith("namespaces."):
            findings.refuse(named.key, f"{named.path}: {reason}", remedy)
    return {**paths, **changed}


def _redirectable(
    fact: PathFact, volumes: Mapping[int, str], paths: Mapping[str, PathFact]
) -> Iterator[tuple[str, str]]:
    for step in fact.steps:
        if step.target is None:
            continue
        for number, source in volumes.items():
            if source in paths and shown_at(paths[source], step):
                reason = (
                    f"{step.place.path} is a symbolic link to {step.target}, and lies in {source} (volumes[{number}]), "
                    "where the program can redirect it to any path"
                )
                remedy = f"replace the link by its target, or name a path without this link, or set read_only = true in volumes[{number}]"
                yield reason, remedy


def exposures(
    spec: Spec,
    paths: Mapping[str, PathFact],
    *,
    trees: Iterable[str],
    others: Iterable[str],
) -> tuple[Diagnostic, ...]:
    """Return a warning for each volume through which the program can change files that decide its next start.

    Args:
        spec: the environment file.
        paths: facts of :func:`named_paths`, *trees* and *others*.
        trees: directories that contain only the launcher's own code.
        others: further paths of the launcher.
    """
    unmounts = _can_unmount(spec)
    deciding = [(named.path, named.what) for named in named_paths(spec) if named.what]
    deciding += [(path, _LAUNCHER) for path in dict.fromkeys([*trees, *others])]
    found = []
    for number, source in writable_volumes(spec).items():
        if source not in paths or paths[source].kind in ("missing", "refused"):
            continue
        target = spec.volumes[number].target
        exposed = [
            one
            for path, what in deciding
            if path in paths
            for one in _exposed(paths[path], what, paths[source], target, spec, unmounts=unmounts)
        ]
        exposed += [
            _Exposed(path=source, what=_LAUNCHER, cover=target)
            for path in trees
            if path in paths and paths[source].steps and shown_at(paths[path], paths[source].steps[-1])
        ]
        if exposed:
            found.append(_warning(spec, number, exposed, unmounts=unmounts))
    return tuple(found)


def _can_unmount(spec: Spec) -> bool:
    """Tell whether the program may unmount, so that no mount protects a path."""
    wanted = spec.security.capabilities
    try:
        return "SYS_ADMIN" in effective_set(DEFAULT, wanted.drop, wanted.add)
    except ValueError:
        return False  # plan_process refuses these capabilities


def _exposed(
    fact: PathFact, what: str, volume: PathFact, target: str, spec: Spec, *, unmounts: bool
) -> Iterator[_Exposed]:
    for step in fact.steps:
        for below in shown_at(volume, step):
            path = f"{target.rstrip('/')}/{below}".rstrip("/") or "/"
            is_link = step.target is not None
            if not unmounts and _covered(path, target, spec, is_link=is_link):
                continue
            # mount(2) follows a symbolic link: only a mount on a directory above it protects the link itself.
            cover = path if not is_link else path.rpartition("/")[0] or "/"
            yield _Exposed(path=step.place.path, what=what, cover=cover)


def _covered(path: str, target: str, spec: Spec, *, is_link: bool) -> bool:
    """Tell whether a mount protects *path*, a path in the sandbox within the volume on *target*, from changes."""
    security = spec.security
    if any(
        _matches(pattern, path, is_link) for pattern in (*security.readonly_paths, *security.masked_paths)
    ):
        return True
    return any(
        volume.target != target and inside(volume.target, target) and _matches(volume.target, path, is_link)
        for volume in spec.volumes
    )


def _matches(pattern: str, path: str, is_link: bool) -> bool:
    """Tell whether *path* matches *pattern* or lies below a match; a symbolic link has to lie below.

    ``*`` matches the rest of a name.
    """
    wanted, names = pattern.strip("/").split("/"), path.strip("/").split("/")
    if len(wanted) > len(names) - is_link:
        return False
    return all(
        name.startswith(word.partition("*")[0]) if "*" in word else name == word
        for word, name in zip(wanted, names, strict=False)
    )


def _describe(exposed: list[_Exposed]) -> Iterator[str]:
    """Yield a description of each exposed path, once; of nested directories of the launcher only the outermost."""
    own = [one.path for one in exposed if one.what == _LAUNCHER]
    seen = set()
    for one in exposed:
        inner = one.what == _LAUNCHER and any(one.path != path and inside(one.path, path) for path in own)
        if not inner and one.path not in seen:
            seen.add(one.path)
            yield f"{one.path} ({one.what})"


def _warning(spec: Spec, number: int, exposed: list[_Exposed], *, unmounts: bool) -> Diagnostic:
    message = f"the program can change files that the next start uses: {', '.join(_describe(exposed))}"
    made = spec.diagnose(
        f"volumes[{number}].source", message, _hint(spec, number, exposed, unmounts=unmounts)
    )
    return replace(made, severity="warning")


def _hint(spec: Spec, number: int, exposed: list[_Exposed], *, unmounts: bool) -> str:
    elsewhere = f"or set read_only = true in volumes[{number}], or move files that the program must not change out of {spec.volumes[number].source}"
    if unmounts:
        return f"remove the capability SYS_ADMIN, with which the program can unmount, {elsewhere}"
    covers = list(dict.fromkeys(one.cover for one in exposed))
    covers = [one for one in covers if not any(one != other and inside(one, other) for other in covers)]
    if spec.volumes[number].target in covers or any("*" in one for one in covers):
        return elsewhere.removeprefix("or ")
    return f"write readonly_paths = {literal([*spec.security.readonly_paths, *covers])} in [security], {elsewhere}"

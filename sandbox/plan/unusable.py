"""What is at the paths of an environment file and could be used on no machine: for `sandbox check`, which plans nothing."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.plan.filters import seccomp_profile
from sandbox.plan.storage import LAYER_KINDS, wrong_kind
from sandbox.sources import PathFact
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.model import Spec


def readable_paths(spec: Spec) -> list[str]:
    """Return the paths of layers and of files that are read, for :func:`unusable`."""
    layers = [layer.path for layer in spec.root.layers if layer.kind in LAYER_KINDS]
    return layers + [path for path, _ in _files(spec)]


def unusable(spec: Spec, paths: Mapping[str, PathFact]) -> list[Diagnostic]:
    """Return a mistake for each path at which there is something of a kind that can never be used there.

    A path that does not exist here, or may not be read here, is none.
    """
    found = []
    for number, layer in enumerate(spec.root.layers):
        wrong = wrong_kind(layer.kind, layer.path, paths[layer.path]) if layer.kind in LAYER_KINDS else None
        if wrong is not None:
            found.append(spec.diagnose(f"root.layers[{number}]", *wrong))
    for path, key in _files(spec):
        fact = paths[path]
        what = fact.special or ("a directory" if fact.kind == "directory" else "")
        if what:
            found.append(spec.diagnose(key, f"{path} is {what}, not a regular file"))
    return found


def _files(spec: Spec) -> list[tuple[str, str]]:
    seccomp = "security.seccomp" if isinstance(spec.security.seccomp, str) else "security.seccomp.profile"
    files = ((spec.process.env_file, "process.env_file"), (seccomp_profile(spec), seccomp))
    return [(path, key) for path, key in files if path is not None]

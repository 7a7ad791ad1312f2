"""Collect the refusals and degradations of a plan, so that the user sees all of them at once."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.plan.values import Degradation
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.lookup import codec_at
from sandbox.spec.model import Spec
from sandbox.spec.notation import KeyPath, literal, parse_key_path
from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import Any


@dataclass(slots=True)
class Findings:
    """Collects refusals and degradations of the plan for *spec*; :func:`sandbox.plan.make.draft` creates it."""

    spec: Spec
    refusals: list[Diagnostic] = field(default_factory=list)
    differences: list[Degradation] = field(default_factory=list)

    @classmethod
    def of(cls, spec: Spec) -> Findings:
        """Begin with the settings that this version does not enforce: each is refused."""
        return cls(spec, refusals=list(spec.unenforced))

    def refuse(self, key: str, message: str, hint: str | None = None) -> None:
        """Record that the setting *key* cannot be fulfilled on this machine."""
        self.refusals.append(self.spec.diagnose(key, message, hint))

    def degrade(
        self,
        key: str,
        effective: str | None,
        reason: str,
        *,
        warned: bool = True,
        value: object = None,
    ) -> None:
        """Record that the setting *key* will not be in effect as requested; a limit is recorded with its *value*."""
        self.differences.append(
            Degradation(
                key=key,
                asked=written(self.spec, parse_key_path(key)),
                effective=effective,
                reason=reason,
                warned=warned,
                value=value,
            )
        )


def written(spec: Spec, path: KeyPath) -> str:
    """Return the value of *spec* at *path*, or of the innermost existing table around it, as TOML on one line."""
    value: Any = spec
    for length, part in enumerate(path):
        try:
            inside: Any = value
            value = inside[part] if isinstance(value, Mapping | tuple) else getattr(inside, str(part))
        except (LookupError, TypeError, AttributeError):
            return written(spec, path[:length])
    codec = codec_at(path)
    return literal(value if codec is None or value is None else codec.encode(value))

"""Define the report as values: facts with their origins, risks and deviations. The other modules find them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from sandbox.plan import Degradation
from sandbox.spec.assignments import OPTIONS
from sandbox.spec.diagnostic import Diagnostic
from unionfs._stdlib.dataclasses import dataclass, replace

Level = Literal["danger", "caution", "note"]

#: The sections with their headings, in the order in which they are shown.
SECTIONS: Mapping[str, str] = {
    "program": "Program",
    "root": "Root file system, layers bottom first",
    "mounts": "Mounts and volumes, in the order of mounting",
    "ids": "User and group ids",
    "namespaces": "Namespaces",
    "network": "Network and sockets",
    "environment": "Environment of the program",
    "limits": "Limits",
    "security": "Capabilities, seccomp and Landlock",
    "settings": "Other settings of the file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The origin of a value: a place in a file, the command line, an image, a default, this machine, or this version.

    For "machine" and "version", *file*, *line* and *column* are the place of the requested value, and *reason* is why the
    effective value differs. For "image", *reason* is the name of the image.
    """

    kind: Literal["file", "command line", "image", "default", "machine", "version"]
    file: str | None = None
    line: int | None = None
    column: int | None = None
    reason: str | None = None

    @property
    def is_set(self) -> bool:
        """Tell whether a file, the command line or an image sets the value, or requests another one than the effective value."""
        return self.file is not None or self.kind == "image"

    def text(self) -> str:
        """Return "FILE:LINE", "--set" or another option, "default", "image NAME", "this machine: REASON" or "this version: REASON"."""
        if self.kind == "default":
            return "default"
        if self.kind == "image":
            return f"image {self.reason}"
        # A --set is one line, and in no file.
        place = self.file if self.file in OPTIONS else f"{self.file}:{self.line}"
        if self.kind not in ("machine", "version"):
            return place
        request = "" if self.file is None else f" (requested in {place})"
        return f"this {self.kind}: {self.reason}{request}"

    def because(self, kind: Literal["machine", "version"], reason: str) -> Origin:
        """Return the origin of the effective value, if that is not the value requested at this origin."""
        return replace(self, kind=kind, reason=reason)

    def as_dict(self) -> dict[str, object]:
        """Return the origin for JSON."""
        return {
            "kind": self.kind,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "reason": self.reason,
        }


DEFAULT = Origin(kind="default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One property of the sandbox.

    *text* describes it for people; *value*, made of JSON types, is for programs. *keys* are the settings that the fact
    covers, each with all settings below it.
    """

    label: str
    text: str
    value: object
    origin: Origin
    keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the fact for JSON."""
        return {
            "label": self.label,
            "text": self.text,
            "value": self.value,
            "origin": self.origin.as_dict(),
            "keys": list(self.keys),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """One sentence of the summary. *keys* are the settings that cause it, if any."""

    level: Level
    text: str
    keys: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the risk for JSON."""
        return {
            "level": self.level,
            "text": self.text,
            "keys": list(self.keys),
            "origins": [origin.as_dict() for origin in self.origins],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """A difference between a requested and the effective setting, and the origin of the request.

    *refused* is true if `up` refuses to start because of it.
    """

    difference: Degradation
    origin: Origin
    refused: bool

    def as_dict(self) -> dict[str, object]:
        """Return the deviation for JSON."""
        return {
            "key": self.difference.key,
            "asked": self.difference.asked,
            "effective": self.difference.effective,
            "reason": self.difference.reason,
            "warned": self.difference.warned,
            "refused": self.refused,
            "origin": self.origin.as_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole report. *refusals* are the diagnostics with which `up` would refuse the file; it starts if there are none."""

    file: str
    files: tuple[str, ...]
    name: str
    account: str
    risks: tuple[Risk, ...]
    sections: Mapping[str, tuple[Fact, ...]]
    deviations: tuple[Deviation, ...]
    refusals: tuple[Diagnostic, ...]
    plan: tuple[str, ...]

    @property
    def refused(self) -> bool:
        """Tell whether `up` would refuse the file on this machine."""
        return bool(self.refusals)

    def facts(self) -> Iterator[Fact]:
        """Yield the facts of all sections."""
        for section in self.sections.values():
            yield from section

    def as_dict(self) -> dict[str, object]:
        """Return the report for JSON; the docstring of the package describes it."""
        return {
            "version": 1,
            "file": self.file,
            "files": list(self.files),
            "name": self.name,
            "account": self.account,
            "refused": self.refused,
            "refusals": [diagnostic.as_dict() for diagnostic in self.refusals],
            "risks": [risk.as_dict() for risk in self.risks],
            **{name: [fact.as_dict() for fact in facts] for name, facts in self.sections.items()},
            "differences": [deviation.as_dict() for deviation in self.deviations],
            "plan": list(self.plan),
        }

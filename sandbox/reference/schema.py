"""Make the JSON Schema of an environment file, for editors that support TOML."""

from __future__ import annotations

from typing import Any

from sandbox.spec.decode import Record, table_schema
from sandbox.spec.model import NOT_IN_PROFILES, Spec
from sandbox.spec.settings import settings_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, object]:
    """Return the schema, in the dialect of draft 2020-12.

    It accepts every file that `sandbox check` accepts. It also accepts some wrong files, because it cannot expand references,
    compose files, or check combinations of settings.
    """
    whole: dict[str, Any] = table_schema(Spec, partial=True)
    changes: dict[str, Any] = table_schema(Spec, partial=True)
    for key in NOT_IN_PROFILES:
        del changes["properties"][key]
    return {
        "$schema": DIALECT,
        "title": "environment file of sandbox",
        "description": "The description of one sandbox: layers, volumes, namespaces, limits. See `sandbox reference`.",
        **whole,
        # A file with `extends` may lack required keys, because the extended files may have them.
        "if": {"not": {"required": ["extends"]}},
        "then": _required(Spec),
        "$defs": {"changes": changes},
    }


def _required(cls: type) -> dict[str, object]:
    """Return the schema of the required keys of a table of *cls*, and of the tables in it, if present."""
    settings = settings_of(cls)
    names = [key for key, setting in settings.items() if setting.required]
    inside = {
        key: required
        for key, setting in settings.items()
        if isinstance(setting.codec, Record) and (required := _required(setting.codec.cls))
    }
    return ({"required": names} if names else {}) | ({"properties": inside} if inside else {})

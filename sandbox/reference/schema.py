"""The JSON Schema of an environment file, for editors that know TOML."""

from __future__ import annotations

from typing import Any

from sandbox.spec.decode import Record, table_schema
from sandbox.spec.model import NOT_IN_PROFILES, Spec
from sandbox.spec.settings import settings_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, object]:
    """Return the schema, in the dialect of draft 2020-12.

    It takes every file that `sandbox check` takes. It cannot tell what a reference stands for, what files add up to
    nor what settings say together, so a file that it takes may still be wrong.
    """
    whole: dict[str, Any] = table_schema(Spec, partial=True)
    changes: dict[str, Any] = table_schema(Spec, partial=True)
    for key in NOT_IN_PROFILES:
        del changes["properties"][key]
    return {
        "$schema": DIALECT,
        "title": "environment file of sandbox",
        "description": "What `sandbox up` starts: layers, volumes, namespaces, limits. See `sandbox reference`.",
        **whole,
        # What a file leaves out may stand in those that it extends.
        "if": {"not": {"required": ["extends"]}},
        "then": _required(Spec),
        "$defs": {"changes": changes},
    }


def _required(cls: type) -> dict[str, object]:
    """Return the schema of what has to be in a table of *cls*, and in the tables in it that are there."""
    settings = settings_of(cls)
    names = [key for key, setting in settings.items() if setting.required]
    inside = {
        key: required
        for key, setting in settings.items()
        if isinstance(setting.codec, Record) and (required := _required(setting.codec.cls))
    }
    return ({"required": names} if names else {}) | ({"properties": inside} if inside else {})

"""Parse environment files: TOML text becomes frozen, typed objects, and every mistake is reported with its place.

    patterns, relations         regular expressions compiled at first use; paths below others, circular dependencies
    notation, units, names      spelling of keys and quantities; pure functions on text
    locate, diagnostic, origin  positions of keys and values in a text, and messages that point to them
    document                    bytes to a TOML tree with positions
    settings, codecs/, decode   the mechanism: one declaration per setting, from which everything else is derived
    short_forms, other_engines  notations and names of container engines, for hints and the command line
    values/, tables/, model     the language itself
    lookup, assignments         from a key to its declaration; KEY=VALUE
    expand, compose, rules/     references in strings; several files to one; rules about combinations of settings
    load, valid_part            from a path to a specification; the valid part of a file with mistakes
    requests, file_types        what a file requests from the user; paths whose file type cannot be used
    dump, check                 back to TOML, with the place of every value; all mistakes, with every profile

Except inside functions, a line imports only from itself and from lines above it. Callers use `load`, and `Spec.diagnose` for
mistakes that only the host reveals.
"""

from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.load import load, parse
from sandbox.spec.model import Spec
from sandbox.spec.names import signal_number
from sandbox.spec.origin import Place
from sandbox.spec.tables import (
    Capabilities,
    Device,
    Ids,
    Limits,
    Namespaces,
    Network,
    Process,
    Root,
    Sandbox,
    Security,
    Volume,
)
from sandbox.spec.values import Layer, User

__all__ = [
    "Capabilities",
    "Device",
    "Diagnostic",
    "Ids",
    "Layer",
    "Limits",
    "Namespaces",
    "Network",
    "Place",
    "Process",
    "Root",
    "Sandbox",
    "Security",
    "Spec",
    "User",
    "Volume",
    "load",
    "parse",
    "signal_number",
]

"""The environment file: TOML text to frozen, typed objects, every mistake with its place.

    notation, units, names      how keys and quantities are written; pure text
    locate, diagnostic, origin  where things stand in a text, and how to point there
    document                    bytes to a TOML tree with places
    settings, codecs/, decode   the mechanism: one declaration per setting, and what is derived from it
    short_forms, foreign        what container engines write, and what that means here; read for mistakes and the command line
    values/, tables/, model     the language itself
    lookup, assignments         from a key to its declaration; KEY=VALUE
    expand, compose, rules      references in strings; several files to one; what settings say together
    load, remainder             all of it, from a path; what is right of a file with mistakes
    dump, check                 back to TOML, with the place of every value; all mistakes, with every profile

A line imports only lines above it. Use `load`, and `Spec.diagnose` to report what only the host can tell.
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

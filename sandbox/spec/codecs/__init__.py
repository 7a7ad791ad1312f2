"""Codecs: each class decodes, encodes and describes the values of one kind.

    scalars      booleans, numbers, strings, words from a list
    quantities   sizes, durations, permission bits
    paths        paths on the host and in the sandbox
    containers   arrays, and tables whose keys the user chooses
    words        capabilities, signals, names of environment variables

Kinds with a syntax of their own (a layer, a port, a user) are in `sandbox.spec.values`.
"""

from sandbox.spec.codecs.containers import ListOf, TableOf, plural
from sandbox.spec.codecs.paths import HostPath, SandboxPath, check_sandbox_path, resolve_host_path
from sandbox.spec.codecs.quantities import Duration, Octal, OrUnlimited, Size, Unlimited, WholeSeconds
from sandbox.spec.codecs.scalars import (
    ID_MAX,
    Boolean,
    Choice,
    Integer,
    Number,
    Parsed,
    Text,
    check_bounds,
    described_words,
    expect_text,
    hint_of_words,
    mismatch,
    text_schema,
    words_schema,
)
from sandbox.spec.codecs.words import capability, check_env_name, env_name, signal_name

__all__ = [
    "ID_MAX",
    "Boolean",
    "Choice",
    "Duration",
    "HostPath",
    "Integer",
    "ListOf",
    "Number",
    "Octal",
    "OrUnlimited",
    "Parsed",
    "SandboxPath",
    "Size",
    "TableOf",
    "Text",
    "Unlimited",
    "WholeSeconds",
    "capability",
    "check_bounds",
    "check_env_name",
    "check_sandbox_path",
    "described_words",
    "env_name",
    "expect_text",
    "hint_of_words",
    "mismatch",
    "plural",
    "resolve_host_path",
    "signal_name",
    "text_schema",
    "words_schema",
]

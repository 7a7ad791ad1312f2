"""Codecs of names that the kernel or the system defines: capabilities, signals, environment variables."""

from __future__ import annotations

from sandbox.spec import names
from sandbox.spec.codecs.scalars import Parsed, Text, expect_text
from sandbox.spec.notation import shown
from sandbox.spec.settings import Codec, Cursor, Invalid


def check_env_name(name: str) -> str:
    """Return *name* if it can name an environment variable (environ(7)); raise Invalid otherwise."""
    if not name or "=" in name or "\0" in name:
        raise Invalid(
            f"{shown(name)} cannot name an environment variable",
            'a name is not empty and contains neither "=" nor NUL',
        )
    return name


def check_inherited_name(name: str) -> str:
    """Return *name* if it can name a variable to inherit; raise Invalid otherwise.

    The kernel accepts a name with a "*". It is refused because its author most likely means a pattern, and would
    inherit no variable.
    """
    if "*" in name:
        raise Invalid(
            f"{shown(name)} is a pattern", "list each variable by its name: patterns are not supported"
        )
    return check_env_name(name)


def capability() -> Codec[str]:
    """Return the codec of a capability name or "all"."""
    return Parsed(
        names.parse_capability,
        expects="string",
        hint='a name such as "NET_RAW", or "all"; see capabilities(7)',
        candidates=lambda: [name.removeprefix("CAP_") for name in names.CAPABILITIES],
    )


def signal_name() -> Codec[str]:
    """Return the codec of a signal name."""
    return Parsed(
        names.parse_signal,
        expects="string",
        hint='a name such as "SIGTERM" or "SIGRTMIN+3"',
        candidates=names.signal_names,
    )


def env_name() -> Codec[str]:
    """Return the codec of the name of an environment variable that is inherited."""
    return _EnvName()


class _EnvName(Text):
    def decode(self, value: object, _cursor: Cursor, /) -> str:
        return check_inherited_name(expect_text(self, value))

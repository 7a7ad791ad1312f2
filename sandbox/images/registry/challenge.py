"""Parse the challenges of WWW-Authenticate headers (RFC 9110, section 11.6.1). Pure.

A header may have several challenges, and a response several headers. Commas separate challenges as well as their parameters,
so the parser looks ahead: a word that "=" follows is a parameter, any other word begins a challenge.
"""

from __future__ import annotations

import re

from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MAX_LENGTH = 1 << 13
"""The most characters of one header that are parsed; a real one has a few hundred."""

# RFC 9110, 5.6.2 token, 11.2 token68, 5.6.4 quoted-string. Each pattern matches in linear time.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar of a token
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")[ \t]*(?=,|$)')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,|$))")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_SEPARATORS = re.compile(r"[ \t,]*")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: its scheme in lower case, and its parameters, whose names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Return the challenges of the WWW-Authenticate *headers* in their order.

    The rest of a header behind a mistake is ignored, because a server may use a scheme that this module does not support.
    """
    return tuple(challenge for header in headers for challenge in _parse(header[:_MAX_LENGTH]))


def preferred(challenges: Iterable[Challenge]) -> Challenge | None:
    """Return the challenge to respond to: Bearer, else Basic; None if there is neither.

    A Bearer challenge is usable only with a realm, which is the URL of the token server.
    """
    found = {one.scheme: one for one in challenges if one.scheme != "bearer" or one.parameters.get("realm")}
    return found.get("bearer") or found.get("basic")


def _parse(header: str) -> list[Challenge]:
    challenges: list[Challenge] = []
    parameters: dict[str, str] = {}
    at = _end(_SEPARATORS.match(header))
    while at < len(header):
        if challenges and (parameter := _PARAMETER.match(header, at)) is not None:
            name, plain, quoted = parameter.groups()
            parameters.setdefault(name.lower(), plain or _ESCAPED.sub(r"\1", quoted or ""))
            at = parameter.end()
        elif (scheme := _SCHEME.match(header, at)) is not None:
            parameters = {}
            challenges.append(Challenge(scheme[1].lower(), parameters))
            at = scheme.end()
            # Negotiate and NTLM have one token68 instead of parameters.
            if _PARAMETER.match(header, at) is None and (token := _TOKEN68.match(header, at)) is not None:
                at = token.end()
        else:
            break
        at = _end(_SEPARATORS.match(header, at))
    return challenges


def _end(match: re.Match[str] | None) -> int:
    assert match is not None  # the pattern matches the empty string
    return match.end()

"""Decide which files of a build context are left out: the patterns of .dockerignore.

The rules are those of the Dockerfile reference (".dockerignore file") and of moby's packages ignorefile and patternmatcher:

    # comment         only at the beginning of a line
    dir/*.log         a path from the top of the context; a leading slash changes nothing
    **/*.log          in every directory
    !dir/keep.log     an exception: the last pattern that matches decides
    dir               also everything below it
"""

from __future__ import annotations

import posixpath

from sandbox.errors import SpecError
from sandbox.images.build.patterns import Pattern, PatternError, has_wildcards
from sandbox.images.build.source_text import BLANKS, decode
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.locate import Span
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.spec.origin import Source

MAX_PATTERNS = 1000
"""Patterns of one file: each path of the context is compared with every one."""

NAME = ".dockerignore"

_MAX_DIAGNOSTICS = 100


@dataclass(frozen=True, slots=True)
class _Rule:
    """A pattern: `matches` returns whether a path, or a directory above it, matches."""

    matches: Callable[[str], bool]
    exception: bool


class IgnoreRules:
    """The patterns of one file in their order. It is immutable and needs no closing."""

    def __init__(self, rules: tuple[_Rule, ...] = ()) -> None:
        self._rules = rules

    def excludes(self, path: str) -> bool:
        """Return whether *path* is left out. It is relative to the top of the context, without "." and ".." parts."""
        excluded = False
        for rule in self._rules:
            # A pattern that would change nothing is not compared.
            if rule.exception is excluded and rule.matches(path):
                excluded = not rule.exception
        return excluded

    @property
    def has_exceptions(self) -> bool:
        """Whether files below a directory that is left out may be part of the context. If not, none has to be looked at."""
        return any(rule.exception for rule in self._rules)


def ignore_files(containerfile: str, context: str) -> tuple[str, str]:
    """Return the paths of the files with patterns for a Containerfile and a context. The first one that exists counts.

    `FILE.dockerignore` beside the Containerfile has precedence over `.dockerignore` of the context.
    """
    return f"{containerfile}{NAME}", posixpath.join(context, NAME)


def parse(data: bytes, file: str) -> IgnoreRules:
    """Return the rules in *data*, the content of *file*.

    Raises:
        SpecError: the file is too large, is not UTF-8, has more than MAX_PATTERNS patterns, or a pattern is malformed.
    """
    source = decode(data, file)
    rules: list[_Rule] = []
    mistakes: list[Diagnostic] = []
    for span, text in _patterns(source):
        if len(rules) == MAX_PATTERNS:
            message = f"more than {MAX_PATTERNS} patterns"
            raise SpecError([source.diagnostic(span, message, "name directories instead of files")])
        exception = text.startswith("!")
        pattern = _clean(text[1:].strip(BLANKS) if exception else text)
        if not pattern:
            mistakes.append(source.diagnostic(span, "an exception without pattern", "write !PATTERN"))
            continue
        try:
            rules.append(_Rule(_matcher(pattern), exception))
        except PatternError as error:
            message = f"malformed pattern: {error}"
            mistakes.append(
                source.diagnostic(span, message, "see `.dockerignore file` of the Dockerfile reference")
            )
    if mistakes:
        raise SpecError(mistakes[:_MAX_DIAGNOSTICS])
    return IgnoreRules(tuple(rules))


def _patterns(source: Source) -> Iterator[tuple[Span, str]]:
    """Yield the pattern of each line that has one, with its place."""
    offset = 0
    for line in source.text.split("\n"):
        text = line.strip(BLANKS)
        if text and not line.startswith("#"):
            start = offset + line.index(text)
            yield Span(start, start + len(text)), text
        offset += len(line) + 1


def _clean(pattern: str) -> str:
    """Return *pattern* without repeated slashes, "." and ".." parts and leading slash."""
    if not pattern:
        return ""
    cleaned = posixpath.normpath(pattern)
    # normpath() keeps two leading slashes; "/" alone stays, and matches nothing.
    return cleaned.lstrip("/") or "/"


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that returns whether a path, or a directory above it, matches *pattern*.

    patternmatcher treats "**" at the beginning or at the end of a pattern without other wildcards as any text: "**.log" also
    matches "a.log", and "a**" also "ab/c".
    """
    compiled = Pattern(pattern, double_star=True)  # also checks patterns that need none of its states
    first, last = pattern.removeprefix("**"), pattern.removesuffix("**")
    if not has_wildcards(pattern):
        below = pattern + "/"
        return lambda path: path == pattern or path.startswith(below)
    if pattern == "**":
        return lambda _path: True
    if first != pattern and not _is_general(first):
        name = first.removeprefix("/")
        whole = first.startswith("/")
        return lambda path: any(
            upper.endswith(first) or (whole and upper == name) for upper in _path_and_parents(path)
        )
    if last != pattern and not _is_general(last):
        return lambda path: any(upper.startswith(last) for upper in _path_and_parents(path))
    return compiled.matches_path_or_parent


def _is_general(pattern: str) -> bool:
    """Return whether patternmatcher compiles *pattern* to a regular expression: also for a "]" alone."""
    return has_wildcards(pattern) or "]" in pattern


def _path_and_parents(path: str) -> Iterator[str]:
    end = len(path)
    while end > 0:
        yield path[:end]
        end = path.rfind("/", 0, end)

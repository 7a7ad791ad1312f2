r"""Match paths with the wildcards of COPY sources and .dockerignore files, in linear time.

    *       characters other than "/"
    ?       one character other than "/"
    [a-z]   one character of a class; [^a-z] one that is not in it
    \x      the character x
    **/     any number of directories, and none (`.dockerignore` only)

The rules are those of Match of Go's package path/filepath, and those of moby's package patternmatcher for "**". A backtracking
regular expression would take time that grows with a power of the length: a context may come from others.

A pattern is a list of states, of which a match is in several at once. They are the bits of an integer, so that one step for
all states is a few operations on integers (Baeza-Yates and Gonnet, 1992, "A new approach to text searching").
"""

from __future__ import annotations

from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_PATTERN = 4096
"""Characters. A longer pattern matches no path: PATH_MAX is 4096."""

_WILDCARDS = frozenset("*?[\\")


class PatternError(Exception):
    """A pattern has a syntax error. The message says which."""


@dataclass(frozen=True, slots=True)
class Class:
    """A character of a pattern: the ranges that it matches, or with `negated` does not match."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool = False

    def matches(self, char: str) -> bool:
        """Return whether the class has *char*."""
        return any(low <= char <= high for low, high in self.ranges) is not self.negated


ANY = Class(())
"""`*`: characters other than "/"."""

DIRECTORIES = Class((("/", "/"),))
"""`**/`: nothing, or text that ends with "/"."""

NOT_SLASH = Class((("/", "/"),), negated=True)
EVERYTHING = Class((), negated=True)


def has_wildcards(text: str) -> bool:
    """Return whether *text* has a character with a meaning in patterns."""
    return not _WILDCARDS.isdisjoint(text)


class Pattern:
    """A compiled pattern. It is immutable except for a cache, and needs no closing."""

    def __init__(self, text: str, *, double_star: bool = False) -> None:
        """Compile *text*; with *double_star*, "**" matches directories.

        Raises:
            PatternError: the pattern is malformed or longer than MAX_PATTERN.
        """
        if len(text) > MAX_PATTERN:
            raise PatternError(f"it is longer than {MAX_PATTERN} characters")
        self.text = text
        states = _States()
        for token in _tokens(text, double_star=double_star):
            if token is ANY:
                states.add_loop(NOT_SLASH)
            elif token is DIRECTORIES:
                states.add_directories()
            elif token is EVERYTHING:
                states.add_loop(EVERYTHING)
            else:
                states.add(token)
        self._states = states
        self._accepted = 1 << len(states.steps)
        self._moves: dict[str, tuple[int, int]] = {}
        self._start = states.closure(1)

    def matches(self, path: str) -> bool:
        """Return whether the whole *path* matches."""
        return self._run(path)[0]

    def matches_path_or_parent(self, path: str) -> bool:
        """Return whether *path*, or a directory above it, matches."""
        return any(self._run(path))

    def _run(self, path: str) -> tuple[bool, bool]:
        """Return whether *path* matches, and whether a directory above it does."""
        states, accepted, closure = self._start, self._accepted, self._states.closure
        parent = False
        for char in path:
            parent = parent or (char == "/" and bool(states & accepted))
            move = self._moves.get(char)
            if move is None:
                move = self._moves[char] = self._states.moves(char)
            stay, advance = move
            states = closure((states & stay) | ((states & advance) << 1))
            if not states:
                return False, parent
        return bool(states & accepted), parent


class _States:
    """The states of a pattern: how a character leads from one to the next."""

    def __init__(self) -> None:
        self.steps: list[Class | None] = []  # what a state consumes to reach the next one; None: nothing does
        self.loops: list[Class | None] = []  # what a state consumes and remains
        self._skip_one = 0  # the states that reach the next one without a character
        self._skip_two = 0

    def add(self, step: Class) -> None:
        self._append(step, None)

    def add_loop(self, loop: Class) -> None:
        self._skip_one |= 1 << len(self.steps)
        self._append(None, loop)

    def add_directories(self) -> None:
        # (.*/)? : the first state skips both, or enters the second one, which a slash leaves.
        number = len(self.steps)
        self._skip_one |= 1 << number
        self._skip_two |= 1 << number
        self._append(None, None)
        self._append(DIRECTORIES, EVERYTHING)

    def moves(self, char: str) -> tuple[int, int]:
        """Return the states that remain when they get *char*, and those that advance, as bits."""
        stay = sum(1 << n for n, loop in enumerate(self.loops) if loop is not None and loop.matches(char))
        advance = sum(1 << n for n, step in enumerate(self.steps) if step is not None and step.matches(char))
        return stay, advance

    def closure(self, states: int) -> int:
        """Return *states* with those that they reach without a character."""
        while True:
            more = states | ((states & self._skip_one) << 1) | ((states & self._skip_two) << 2)
            if more == states:
                return states
            states = more

    def _append(self, step: Class | None, loop: Class | None) -> None:
        self.steps.append(step)
        self.loops.append(loop)


def glob(pattern: str, names_in: Callable[[str], list[str]]) -> list[str]:
    """Return the paths that *pattern* matches, sorted, without leading slash; "" is the directory at the top.

    *names_in* returns the names in a directory, and nothing for other files; it is called for directories that have to be
    searched only. Parts before the first wildcard are not looked up: the caller finds out whether a path without wildcards
    exists.

    Raises:
        PatternError: the pattern is malformed.
    """
    found = [""]
    searched = False
    for part in filter(None, pattern.split("/")):
        if not searched and not has_wildcards(part):
            found = [_joined(parent, part) for parent in found]
            continue
        searched = True
        matcher = Pattern(part)
        found = [
            _joined(parent, name) for parent in found for name in names_in(parent) if matcher.matches(name)
        ]
    return sorted(found)


def _joined(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


def _tokens(text: str, *, double_star: bool) -> Iterator[Class]:
    at = 0
    while at < len(text):
        char = text[at]
        if char == "*" and double_star and text.startswith("**", at):
            at += 3 if text.startswith("**/", at) else 2
            yield EVERYTHING if at == len(text) else DIRECTORIES
        elif char == "*":
            at += 1
            yield ANY
        elif char == "?":
            at += 1
            yield NOT_SLASH
        elif char == "[":
            found, at = _class(text, at + 1)
            yield found
        else:
            if char == "\\":
                at += 1
                if at == len(text):
                    raise PatternError('it ends with "\\"')
            yield Class(((text[at], text[at]),))
            at += 1


def _class(text: str, at: int) -> tuple[Class, int]:
    """Return the class that begins behind the "[" before *at*, and the position behind it."""
    negated = text.startswith("^", at)
    at += negated
    ranges: list[tuple[str, str]] = []
    while not (ranges and text.startswith("]", at)):
        low, at = _member(text, at)
        high = low
        if text.startswith("-", at):
            high, at = _member(text, at + 1)
        ranges.append((low, high))
    return Class(tuple(ranges), negated), at + 1


def _member(text: str, at: int) -> tuple[str, int]:
    if text.startswith(("-", "]"), at):
        raise PatternError(f'"{text[at]}" is not allowed there in [...]: write "\\{text[at]}"')
    at += text.startswith("\\", at)
    if at >= len(text):
        raise PatternError('"[" is not closed')
    return text[at], at + 1

"""Parse a Containerfile: bytes become instructions with their places, or all mistakes at once.

The grammar is that of the Dockerfile reference. What this version does not support is an error with file, line and column.
"""

from __future__ import annotations

from sandbox.errors import SpecError
from sandbox.images.build import instruction_parsers
from sandbox.images.build.instruction_parsers import Arguments, MistakeError
from sandbox.images.build.instructions import Arg, From, Instruction, Onbuild
from sandbox.images.build.source_text import Line, decode, split
from sandbox.images.build.words import json_array, keyword
from sandbox.spec.notation import guesses, quote, shown
from sandbox.spec.origin import MAX_DIAGNOSTICS, Source
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.spec.diagnostic import Diagnostic

_WITH_HEREDOC = frozenset({"RUN", "COPY", "ADD"})

_NOT_TRIGGERS = frozenset({"FROM", "ONBUILD"})
"""Instructions that ONBUILD cannot record (Dockerfile reference, "ONBUILD")."""


@dataclass(frozen=True, slots=True)
class Containerfile:
    """A parsed file: its text, its escape character, and its instructions. The first is FROM, or ARG before it."""

    source: Source
    escape: str
    instructions: tuple[Instruction, ...]


def parse(data: bytes, file: str) -> Containerfile:
    """Return the instructions in *data*, the content of *file*, whose name is for messages.

    Raises:
        SpecError: the file has mistakes; it has up to 100 of them, in the order of the file.
    """
    source = decode(data, file)
    found = _parse(source)
    _check_beginning(found)
    return found


def parse_trigger(text: str, image: str) -> Containerfile:
    """Return the instructions in *text*, which ONBUILD of the image *image* recorded: exactly one.

    Raises:
        SpecError: the instruction has mistakes, there are several, or it cannot be a trigger.
    """
    source = decode(text.encode("utf-8", "replace"), f"ONBUILD of {image}")
    found = _parse(source)
    if len(found.instructions) != 1 or isinstance(found.instructions[0], (From, Onbuild)):
        message = f"{image} has a trigger that is not one instruction: {shown(text)}"
        raise SpecError([source.diagnostic(None, message, "build that image again")])
    return found


def _parse(source: Source) -> Containerfile:
    lines = split(source, _can_have_heredoc)
    instructions: list[Instruction] = []
    mistakes: list[Diagnostic] = []
    guess = guesses()
    for line in lines.lines:
        try:
            instructions.append(_instruction(Arguments(line, lines.escape), guess))
        except MistakeError as mistake:
            mistakes.append(source.diagnostic(mistake.span, mistake.message, mistake.hint))
            if len(mistakes) == MAX_DIAGNOSTICS:
                break
    if mistakes:
        raise SpecError(mistakes)
    return Containerfile(source, lines.escape, tuple(instructions))


def _check_beginning(found: Containerfile) -> None:
    """Raise SpecError unless an ARG or a FROM is first, and there is a FROM."""
    source = found.source
    first = next((item for item in found.instructions if not isinstance(item, Arg)), None)
    if first is None:
        what = "no instructions" if not found.instructions else "no FROM"
        hint = "begin it with FROM and the image that the build starts from, or FROM scratch"
        raise SpecError([source.diagnostic(None, f"the file has {what}", hint)])
    if not isinstance(first, From):
        message = f"{keyword(first.text)[0].text.upper()} is before the first FROM"
        hint = "only ARG may be there; begin the file with FROM IMAGE or FROM scratch"
        raise SpecError([source.diagnostic(first.span, message, hint)])


def _can_have_heredoc(text: str) -> bool:
    name, arguments = keyword(text)
    word = name.text.upper()
    if word == "ONBUILD" and arguments.text:
        name, arguments = keyword(arguments.text)
        word = name.text.upper()
    # In the exec form, "<<" is a part of a string.
    return word in _WITH_HEREDOC and "<<" in arguments.text and not _is_array(arguments.text)


def _is_array(text: str) -> bool:
    try:
        return json_array(text) is not None
    except ValueError:
        return True


def _instruction(arguments: Arguments, guess: Callable[[str, list[str]], str | None]) -> Instruction:
    name, rest = keyword(arguments.line.text)
    word = name.text.upper()
    span = arguments.line.span(name.start, name.end)
    if word == "ONBUILD":
        return _onbuild(arguments, guess)
    if word == "MAINTAINER":
        hint = f"write LABEL org.opencontainers.image.authors={quote(rest.text or 'NAME')}"
        raise MistakeError(span, "MAINTAINER is deprecated and not supported", hint)
    parser = instruction_parsers.PARSERS.get(word)
    if parser is None:
        known = [*instruction_parsers.PARSERS, "ONBUILD"]
        meant = guess(word, known)
        hint = f"did you mean {meant.upper()}?" if meant else f"instructions are {', '.join(sorted(known))}"
        raise MistakeError(span, f"unknown instruction {shown(name.text)}", hint)
    return parser(arguments)


def _onbuild(arguments: Arguments, guess: Callable[[str, list[str]], str | None]) -> Onbuild:
    line = arguments.line
    name, rest = keyword(line.text)
    if not rest.text:
        hint = "write ONBUILD RUN make, for example"
        raise MistakeError(line.span(name.start, name.end), "ONBUILD without an instruction", hint)
    trigger, _ = keyword(rest.text)
    if trigger.text.upper() in _NOT_TRIGGERS:
        span = line.span(rest.start + trigger.start, rest.start + trigger.end)
        message = f"ONBUILD cannot record {trigger.text.upper()}"
        raise MistakeError(span, message, "record another instruction, such as RUN or COPY")
    # The instruction is checked now, because a mistake in it would only appear in the build of somebody else.
    pieces = tuple(
        (max(index - rest.start, 0), offset + max(rest.start - index, 0)) for index, offset in line.pieces
    )
    inner = Line(rest.text, pieces, line.end, line.heredocs)
    _instruction(Arguments(inner, arguments.escape), guess)
    documents = "".join(f"\n{heredoc.content}{heredoc.opening.name}" for heredoc in line.heredocs)
    return Onbuild(text=line.text, span=arguments.whole, trigger=rest.text + documents)

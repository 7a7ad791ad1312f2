"""Parse the arguments of each instruction. The rules are those of the Dockerfile reference.

Each parser raises MistakeError for the first mistake of its instruction.
"""

from __future__ import annotations

import re

from sandbox.images.build import instructions
from sandbox.images.build.durations import parse_duration
from sandbox.images.build.here_documents import Heredoc, opening_of
from sandbox.images.build.instructions import Command, HealthTimes, Instruction, Word
from sandbox.images.build.source_text import Line
from sandbox.images.build.words import (
    NotStringsError,
    Piece,
    fields,
    flags,
    json_array,
    keyword,
    stripped,
    words,
)
from sandbox.spec.locate import Span
from sandbox.spec.notation import nearest, shown
from unionfs._stdlib.typing import Any, NoReturn, cast

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_RETRIES = re.compile(r"[0-9]{1,9}")
_REMOTE = re.compile(r"(?:https?|ftp|git|ssh)://|git@|github\.com/", re.IGNORECASE)

_NETWORKS = ("default", "none", "host")
_STEP_LAYER = "each step is a layer of its own already: remove it"
_REFUSED_FLAGS: Mapping[tuple[str, str], str] = {
    (
        "RUN",
        "mount",
    ): "COPY the files that the command needs, and remove them in the same RUN if they are large",
    ("RUN", "device"): "remove it: a build has no devices",
    ("COPY", "link"): _STEP_LAYER,
    ("COPY", "parents"): "name the target directory of each source",
    ("COPY", "exclude"): "add the patterns to .dockerignore",
    ("ADD", "link"): _STEP_LAYER,
    ("ADD", "exclude"): "add the patterns to .dockerignore",
    ("ADD", "checksum"): "remove it: only local files are added",
    ("ADD", "keep-git-dir"): "remove it: only local files are added",
    ("ADD", "unpack"): "use COPY for an archive that is to stay one",
}
"""Flags of BuildKit that this version does not have, and what to do without them."""


class MistakeError(Exception):
    """A mistake in an instruction, with its place and the remedy."""

    def __init__(self, span: Span, message: str, hint: str) -> None:
        super().__init__(message)
        self.span = span
        self.message = message
        self.hint = hint


class Arguments:
    """The arguments of one instruction, which may begin with flags. Nothing has to be closed."""

    def __init__(self, line: Line, escape: str) -> None:
        self.line = line
        self.escape = escape
        name, self.rest = keyword(line.text)
        self.name = name.text.upper()
        self.name_span = line.span(name.start, name.end)
        self.whole = line.span(0, len(line.text.rstrip()))

    @property
    def fields(self) -> dict[str, Any]:
        """The arguments of the constructors of all instructions."""
        return {"text": self.line.text.rstrip(), "span": self.whole}

    def span(self, piece: Piece) -> Span:
        return self.line.span(piece.start, piece.end)

    def word(self, piece: Piece) -> Word:
        return Word(piece.text, self.span(piece))

    def refuse(self, piece: Piece | None, message: str, hint: str) -> NoReturn:
        """Raise the mistake *message* about *piece*, or about the name of the instruction."""
        raise MistakeError(self.name_span if piece is None else self.span(piece), message, hint)

    def take_flags(self, *allowed: str) -> dict[str, Word]:
        """Remove the flags from the arguments, and return their values by name."""
        found, self.rest = flags(self.line.text, self.rest, self.escape)
        values: dict[str, Word] = {}
        for piece in found:
            name, equals, value = piece.text.removeprefix("--").partition("=")
            if name not in allowed:
                hint = _REFUSED_FLAGS.get((self.name, name))
                if hint is not None:
                    self.refuse(piece, f"{self.name} --{name} is not supported", hint)
                meant = nearest(name, allowed)
                hint = f"did you mean --{meant}?" if meant else "remove it"
                if not meant and allowed:
                    hint = f"flags of {self.name} are {', '.join('--' + flag for flag in allowed)}"
                self.refuse(piece, f"{self.name} has no flag {shown('--' + name)}", hint)
            if not equals or not value:
                self.refuse(piece, f"--{name} has no value", f"write --{name}=VALUE")
            if name in values:
                self.refuse(piece, f"--{name} is repeated", "remove one of them")
            values[name] = Word(value, self.span(piece))
        return values

    def require(self, example: str) -> None:
        """Raise MistakeError if there are no arguments."""
        if not self.rest.text:
            self.refuse(None, f"{self.name} without arguments", f"write {example}, for example")

    def array(self, piece: Piece) -> tuple[str, ...] | None:
        """Return the strings of the JSON array that *piece* is; None if it is none."""
        try:
            found = json_array(piece.text)
        except NotStringsError:
            self.refuse(
                piece, "the array has an element that is not a string", "put each element in double quotes"
            )
        if found is not None and any("\0" in item for item in found):
            self.refuse(piece, "a NUL character cannot be passed to a program", "remove \\u0000")
        return found

    def array_or_fields(self) -> list[Word]:
        """Return the elements of a JSON array, or the words between blanks."""
        found = self.array(self.rest)
        if found is None:
            return [self.word(piece) for piece in fields(self.rest)]
        return [Word(item, self.span(self.rest)) for item in found]

    def command(self, piece: Piece) -> Command:
        """Return the command in *piece*, with the here-documents of the line if it has the shell form."""
        argv = self.array(piece)
        return (
            Command(argv=argv) if argv is not None else Command(shell=piece.text, heredocs=self.line.heredocs)
        )


def _from(arguments: Arguments) -> Instruction:
    values = arguments.take_flags("platform")
    arguments.require("FROM docker.io/library/debian:13, or FROM scratch")
    image, *more = fields(arguments.rest)
    name, name_span = "", None
    if more:
        if len(more) != 2 or more[0].text.upper() != "AS":
            piece = Piece("", more[0].start, more[-1].end)
            arguments.refuse(piece, "expected nothing or AS NAME after the image", "write FROM IMAGE AS NAME")
        name, name_span = more[1].text.lower(), arguments.span(more[1])
        if not _STAGE_NAME.fullmatch(name):
            hint = 'a name begins with a letter, and has letters, digits, "_", "." and "-"'
            arguments.refuse(more[1], f"{shown(more[1].text)} cannot name a stage", hint)
    return instructions.From(
        image=arguments.word(image),
        name=name,
        name_span=name_span,
        platform=values.get("platform"),
        **arguments.fields,
    )


def _run(arguments: Arguments) -> Instruction:
    values = arguments.take_flags("network", "security")
    network = values.get("network")
    if network is not None and network.text not in _NETWORKS:
        hint = f"write one of {', '.join(_NETWORKS)}"
        raise MistakeError(network.span, f"unknown network {shown(network.text)}", hint)
    security = values.get("security")
    if security is not None and security.text != "sandbox":
        message = f"RUN --security={security.text} is not supported"
        raise MistakeError(security.span, message, "remove it: a build step gets no further privileges")
    arguments.require("RUN make")
    command = arguments.command(arguments.rest)
    if command.argv is not None and (not command.argv or not command.argv[0]):
        arguments.refuse(arguments.rest, "the command is empty", 'write RUN ["PROGRAM", "ARGUMENT"]')
    return instructions.Run(
        command=command,
        network=cast("instructions.Network", network.text if network else "default"),
        **arguments.fields,
    )


def _copy(arguments: Arguments) -> Instruction:
    add = arguments.name == "ADD"
    values = arguments.take_flags(*(() if add else ("from",)), "chown", "chmod")
    arguments.require(f"{arguments.name} src /src")
    found = arguments.array_or_fields()
    if len(found) < 2:
        hint = f"write {arguments.name} SOURCE TARGET"
        arguments.refuse(arguments.rest, f"{arguments.name} needs a source and a target", hint)
    *given, target = found
    documents = list(arguments.line.heredocs)
    if opening_of(target.text):
        raise MistakeError(target.span, "the target cannot be a here-document", "write the target last")
    sources: list[Word | Heredoc] = []
    for word in given:
        if documents and opening_of(word.text):
            sources.append(_document(documents.pop(0), word, from_stage="from" in values))
            continue
        if add and is_remote(word.text):
            raise MistakeError(word.span, *remote_source(word.text))
        sources.append(word)
    if documents:
        opening = documents[0].opening
        piece = Piece("", opening.start, opening.end)
        message = f"the here-document {shown(opening.name)} is not a source"
        arguments.refuse(piece, message, f"write <<{opening.name}, without blanks, before the target")
    return instructions.Copy(
        sources=tuple(sources),
        target=target,
        origin=values.get("from"),
        owner=values.get("chown"),
        mode=values.get("chmod"),
        unpack=add,
        **arguments.fields,
    )


def _document(heredoc: Heredoc, word: Word, *, from_stage: bool) -> Heredoc:
    name = heredoc.opening.name
    if from_stage:
        message = "a here-document is not part of another stage"
        raise MistakeError(word.span, message, "remove --from, or write a COPY of its own")
    if "/" in name or name in {".", ".."}:
        message = f"{shown(name)} cannot be the name of the new file"
        raise MistakeError(word.span, message, "name the file in the target, and use a name such as EOF")
    return heredoc


def is_remote(source: str) -> bool:
    """Return whether *source* of ADD is a URL or a repository of git."""
    return _REMOTE.match(source) is not None


def remote_source(source: str) -> tuple[str, str]:
    """Return message and hint for the *source* of ADD that `is_remote`."""
    message = f"ADD of {shown(source)} is not supported: a build reads local files only"
    return message, "download it before the build and COPY it, or download it with RUN --network=host"


def _pairs(arguments: Arguments) -> Instruction:
    arguments.take_flags()
    arguments.require(f"{arguments.name} NAME=VALUE")
    found = words(arguments.line.text, arguments.rest, arguments.escape)
    kind = instructions.Env if arguments.name == "ENV" else instructions.Label
    if "=" not in found[0].text:
        return kind(pairs=(_old_pair(arguments),), **arguments.fields)
    pairs = []
    for piece in found:
        at = piece.text.find("=")
        if at < 0:
            hint = f"write {arguments.name} NAME=VALUE, with quotes around a value that has blanks"
            arguments.refuse(piece, f"{shown(piece.text)} is not NAME=VALUE", hint)
        name = Piece(piece.text[:at], piece.start, piece.start + at)
        value = Piece(piece.text[at + 1 :], piece.start + at + 1, piece.end)
        if not name.text:
            arguments.refuse(piece, f"{arguments.name} with an empty name", "write NAME=VALUE")
        pairs.append((arguments.word(name), arguments.word(value)))
    return kind(pairs=tuple(pairs), **arguments.fields)


def _old_pair(arguments: Arguments) -> tuple[Word, Word]:
    """Return name and value of the old form `ENV NAME VALUE`, whose value has all of the rest."""
    name, *more = fields(arguments.rest)
    if not more:
        hint = f"write {arguments.name} {name.text}=VALUE"
        arguments.refuse(name, f"{arguments.name} {shown(name.text)} without a value", hint)
    value = stripped(arguments.line.text, more[0].start, arguments.rest.end)
    return arguments.word(name), arguments.word(value)


def _arg(arguments: Arguments) -> Instruction:
    arguments.take_flags()
    arguments.require("ARG NAME, or ARG NAME=DEFAULT")
    pairs: list[tuple[str, Word | None]] = []
    for piece in words(arguments.line.text, arguments.rest, arguments.escape):
        name, equals, value = piece.text.partition("=")
        if not name or any(char in name for char in "'\"$\\`"):
            arguments.refuse(piece, f"{shown(name)} cannot name an argument", 'write ARG NAME="DEFAULT"')
        start = piece.start + len(name) + 1
        pairs.append((name, arguments.word(Piece(value, start, piece.end)) if equals else None))
    return instructions.Arg(pairs=tuple(pairs), **arguments.fields)


def _workdir(arguments: Arguments) -> Instruction:
    arguments.take_flags()
    arguments.require("WORKDIR /srv")
    return instructions.Workdir(path=arguments.word(arguments.rest), **arguments.fields)


def _user(arguments: Arguments) -> Instruction:
    arguments.take_flags()
    arguments.require("USER 1000:1000")
    return instructions.User(user=arguments.word(arguments.rest), **arguments.fields)


def _stop_signal(arguments: Arguments) -> Instruction:
    arguments.take_flags()
    arguments.require("STOPSIGNAL SIGINT")
    return instructions.StopSignal(signal=arguments.word(arguments.rest), **arguments.fields)


def _cmd(arguments: Arguments) -> Instruction:
    arguments.take_flags()
    arguments.require('CMD ["PROGRAM", "ARGUMENT"], or CMD [] for none')
    return instructions.Cmd(command=arguments.command(arguments.rest), **arguments.fields)


def _entrypoint(arguments: Arguments) -> Instruction:
    arguments.take_flags()
    arguments.require('ENTRYPOINT ["PROGRAM"], or ENTRYPOINT [] for none')
    return instructions.Entrypoint(command=arguments.command(arguments.rest), **arguments.fields)


def _expose(arguments: Arguments) -> Instruction:
    arguments.take_flags()
    arguments.require("EXPOSE 80/tcp")
    ports = tuple(arguments.word(piece) for piece in fields(arguments.rest))
    return instructions.Expose(ports=ports, **arguments.fields)


def _volume(arguments: Arguments) -> Instruction:
    arguments.take_flags()
    arguments.require("VOLUME /data")
    paths = tuple(arguments.array_or_fields())
    if not paths:
        arguments.refuse(arguments.rest, "VOLUME without a path", "write VOLUME /data")
    return instructions.Volume(paths=paths, **arguments.fields)


def _shell(arguments: Arguments) -> Instruction:
    arguments.take_flags()
    example = 'SHELL ["/bin/bash", "-c"]'
    arguments.require(example)
    argv = arguments.array(arguments.rest)
    if not argv or not argv[0]:
        arguments.refuse(arguments.rest, "the shell is not an array of strings", f"write {example}")
    return instructions.Shell(argv=argv, **arguments.fields)


def _healthcheck(arguments: Arguments) -> Instruction:
    values = arguments.take_flags("interval", "timeout", "start-period", "start-interval", "retries")
    arguments.require("HEALTHCHECK CMD curl -f http://localhost/, or HEALTHCHECK NONE")
    line = arguments.line.text
    kind, *_ = fields(arguments.rest)
    rest = stripped(line, kind.end, arguments.rest.end)
    if kind.text.upper() == "NONE":
        if rest.text or values:
            arguments.refuse(rest if rest.text else None, "HEALTHCHECK NONE has no arguments", "remove them")
        return instructions.Healthcheck(command=None, **arguments.fields)
    if kind.text.upper() != "CMD":
        arguments.refuse(
            kind, f"unknown kind of health check {shown(kind.text)}", "write CMD COMMAND, or NONE"
        )
    command = arguments.command(rest)
    if not (command.argv or command.shell):
        arguments.refuse(kind, "the command is empty", "write HEALTHCHECK CMD COMMAND")
    retries = values.get("retries")
    if retries is not None and not _RETRIES.fullmatch(retries.text):
        raise MistakeError(
            retries.span, f"{shown(retries.text)} is not a number of retries", "write 3, for example"
        )
    times = HealthTimes(
        interval=_duration(values.get("interval")),
        timeout=_duration(values.get("timeout")),
        start_period=_duration(values.get("start-period")),
        start_interval=_duration(values.get("start-interval")),
        retries=int(retries.text) if retries else 0,
    )
    return instructions.Healthcheck(command=command, times=times, **arguments.fields)


def _duration(word: Word | None) -> int:
    if word is None:
        return 0
    nanoseconds = parse_duration(word.text)
    if nanoseconds is None or 0 < nanoseconds < 1_000_000:
        message = f"{shown(word.text)} is not a duration of at least 1ms"
        raise MistakeError(word.span, message, "write 30s or 1m30s, for example")
    return nanoseconds


PARSERS: Mapping[str, Callable[[Arguments], Instruction]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _pairs,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _pairs,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
"""The parser of each instruction. ONBUILD, which has an instruction inside, is parsed by `containerfile`."""

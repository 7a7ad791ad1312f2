"""Load a specification from a file: the entry point of the package, and its only module that reads files."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping, Sequence

from sandbox.errors import SpecError
from sandbox.spec.assignments import SET, VARIABLE, Option
from sandbox.spec.compose import Document, compose
from sandbox.spec.decode import decode_table
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.document import parse_document
from sandbox.spec.expand import expand_tree, unexpanded, variables
from sandbox.spec.model import Spec
from sandbox.spec.notation import KeyPath, format_key_path
from sandbox.spec.origin import Origins, Problem
from sandbox.spec.rules import check_rules, unify_network
from sandbox.spec.settings import Context, Cursor, Problems
from unionfs._stdlib import dataclasses
from unionfs._stdlib.typing import Any, Literal

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.spec.valid_part import ValidPart

Unenforced = Literal["refuse", "keep"]

STDIN = "-"
_STDIN_FILE = "<stdin>"

DEFAULT_FILE = "sandbox.toml"
"""The file, in the current directory, that commands use when no file is named."""

MAX_FILE_SIZE = 1 << 20
"""Bytes. More than any environment file needs, and small enough to parse at once."""


def load(
    path: str,
    *,
    environ: Mapping[str, str] | None = None,
    profiles: Sequence[str] = (),
    assignments: Sequence[str | Option] = (),
    unenforced: Unenforced = "refuse",
) -> Spec:
    """Return the specification in the file *path*, or on standard input if that is "-".

    *environ* gives the values of ${env:NAME} and ~; the default is the environment of this process. *profiles* are applied
    in their order, then *assignments*: "KEY=VALUE", or an option with its value. Settings that this version does not
    enforce are mistakes, unless *unenforced* is "keep": then they are listed in `Spec.unenforced`.

    Raises SpecError with all mistakes, in the order of the file; it is also raised if a file cannot be read.
    """
    return parse(
        read(path),
        path=path,
        environ=os.environ if environ is None else environ,
        profiles=profiles,
        assignments=assignments,
        unenforced=unenforced,
        parsed_files=ParsedFiles(),
    )


def parse(
    data: bytes,
    *,
    path: str,
    environ: Mapping[str, str],
    profiles: Sequence[str] = (),
    assignments: Sequence[str | Option] = (),
    unenforced: Unenforced = "refuse",
    parsed_files: ParsedFiles | None = None,
) -> Spec:
    """Return the specification that *data* holds, as if it had been read from the file *path*.

    The files that it extends are read. Raises SpecError with all mistakes, in the order of the file. *parsed_files* has the files that were
    parsed for an earlier call with the same *data* and *path*.
    """
    file = os.path.abspath(path)
    parsed_files = ParsedFiles() if parsed_files is None else parsed_files
    composition = compose(
        parsed_files.main(data, path),
        read=parsed_files.base,
        environ=environ,
        profiles=profiles,
        assignments=[(SET, one) if isinstance(one, str) else one for one in assignments],
        directory=os.getcwd() if assignments else "/",
    )
    # A profile that is not applied requests nothing.
    requested = {key: value for key, value in composition.tree.items() if key != "profile"}
    references = {name: format_key_path(path) for name, path in variables(requested)}

    def cursor_of(origins: Origins) -> Cursor:
        return Cursor(Context(origins=origins, home=environ.get("HOME"), root=Spec), Problems())

    def decode(tree: dict[str, Any], cursor: Cursor) -> Spec:
        spec = decode_table(
            Spec,
            tree,
            cursor,
            file=file,
            directory=os.path.dirname(file),
            origins=cursor.context.origins,
            files=composition.files,
            read_from=tuple(
                os.path.abspath(name) for name in composition.files if path != STDIN or name != _STDIN_FILE
            ),
            variables=references,
        )
        check_rules(spec, cursor.problems)
        return spec

    origins = composition.origins
    cursor = cursor_of(origins)
    problems = cursor.problems
    tree = expand_tree(composition.tree, environ, cursor, except_for=("extends", "profile"))
    spec = decode(tree, cursor)
    if problems.mistakes or (problems.found and unenforced == "refuse"):

        def again(rest: dict[str, Any], places: Origins) -> tuple[Spec, list[KeyPath]]:
            here = cursor_of(places)
            decoded = decode(rest, here)
            wrong = [problem.path for problem in here.problems.mistakes]
            return decoded if wrong else unify_network(decoded), wrong

        error = SpecError(origins.diagnose_all(problems.found))
        error.valid_part = lambda: _valid_part(tree, origins, problems, again)
        raise error
    suspicious = [problem for problem in unexpanded(requested) if not _is_variable_of_shell(origins, problem)]
    return dataclasses.replace(
        unify_network(spec), problems=tuple(problems.found), suspicious=tuple(suspicious)
    )


def _valid_part(
    tree: dict[str, Any],
    origins: Origins,
    problems: Problems,
    decode: Callable[[dict[str, Any], Origins], tuple[Spec, list[KeyPath]]],
) -> ValidPart | None:
    from sandbox.spec.valid_part import valid_part  # only for files with mistakes

    return valid_part(tree, origins, [problem.path for problem in problems.mistakes], decode)


def _is_variable_of_shell(origins: Origins, problem: Problem) -> bool:
    """Return whether *problem* is about a value of -e, in which the shell has already expanded its own references."""
    origin = origins.find(problem.path)
    return origin is not None and origin.source.file == VARIABLE


class ParsedFiles:
    """The file and the files that it extends. Each is read and parsed once, however often the files are merged."""

    def __init__(self) -> None:
        """Parse nothing yet."""
        #: Keys and values of all documents returned so far, counted at each call: a measure of the cost of merging.
        self.entries = 0
        self._main: Document | None = None
        self._bases: dict[str, Document] = {}

    def main(self, data: bytes, path: str) -> Document:
        """Return the document of the file itself, whose content is *data*.

        Raises:
            SpecError: it is not valid TOML.
        """
        if self._main is None:
            self._main = _document(data, path)
        return self._counted(self._main)

    def base(self, name: str) -> Document:
        """Return the document in the file *name*.

        Raises:
            SpecError: it cannot be read, or is not valid TOML.
        """
        identity = os.path.realpath(name)
        if identity not in self._bases:
            self._bases[identity] = _document(read(name, regular=True), name)
        return self._counted(self._bases[identity])

    def _counted(self, document: Document) -> Document:
        self.entries += len(document.origins.by_path)
        return document


def _document(data: bytes, path: str) -> Document:
    file = os.path.abspath(path)
    tree, origins = parse_document(
        data, file=_STDIN_FILE if path == STDIN else path, directory=os.path.dirname(file)
    )
    return Document(tree, origins, os.path.realpath(file))


def read(path: str, *, regular: bool = False) -> bytes:
    """Return the content of the file *path*, or of standard input if *path* is "-"; raise SpecError if it cannot be read.

    With *regular*, only a regular file is read: reading never waits for a writer.
    """
    if path == STDIN and not regular:
        data = sys.stdin.buffer.read(MAX_FILE_SIZE + 1)
        return _checked_size(data, _STDIN_FILE)
    unnamed = path == DEFAULT_FILE
    try:
        with open(path, "rb", opener=_open_regular if regular or unnamed else None) as file:
            if unnamed:
                _refuse_file_of_other_user(os.fstat(file.fileno()))
            data = file.read(MAX_FILE_SIZE + 1)
    except (OSError, ValueError) as error:
        raise SpecError([_unreadable(path, error)]) from None
    return _checked_size(data, path)


def _refuse_file_of_other_user(info: os.stat_result) -> None:
    """Refuse DEFAULT_FILE with the status *info* if it belongs neither to root nor to the user, in a world-writable directory.

    In a directory such as /tmp, another user could plant the file. Since the user does not name it, it would run commands
    as any user that starts a sandbox in that directory.
    """
    if info.st_uid in (0, os.geteuid()) or not os.stat(".").st_mode & stat.S_IWOTH:
        return
    message = f"belongs to user {info.st_uid}, in a directory that every user may write to"
    hint = f"if you trust it, give its path: ./{DEFAULT_FILE}"
    raise SpecError([Diagnostic(file=DEFAULT_FILE, message=message, hint=hint)])


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file, and nothing else: opening a device may have side effects, and a FIFO waits for a writer."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mode = os.fstat(place).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        if not stat.S_ISREG(mode):
            raise SpecError([Diagnostic(file=path, message="is not a regular file")])
        return os.open(f"/proc/self/fd/{place}", flags | os.O_NONBLOCK | os.O_NOCTTY)
    finally:
        os.close(place)


def _checked_size(data: bytes, name: str) -> bytes:
    if len(data) > MAX_FILE_SIZE:
        raise SpecError(
            [
                Diagnostic(
                    file=name,
                    message="the file is larger than 1 MiB",
                    hint="give the path of an environment file",
                )
            ]
        )
    return data


def _unreadable(path: str, error: OSError | ValueError) -> Diagnostic:
    """Return the diagnostic for *error*; open() raises ValueError for a path that holds a NUL character."""
    if isinstance(error, FileNotFoundError):
        if os.path.isfile(f"{path}.toml"):
            hint = f"did you mean {path}.toml?"
        elif path == DEFAULT_FILE:
            hint = "give the path of an environment file, or create this one with `sandbox init`"
        else:
            hint = "give the path of an environment file"
        return Diagnostic(file=path, message="no such file", hint=hint)
    if isinstance(error, IsADirectoryError):
        return Diagnostic(
            file=path, message="is a directory", hint="give the path of the environment file in it"
        )
    if isinstance(error, PermissionError):
        return Diagnostic(
            file=path,
            message="permission denied",
            hint="the file must be readable, and the directories of its path searchable",
        )
    if isinstance(error, OSError):
        return Diagnostic(file=path, message=f"cannot be read: {(error.strerror or str(error)).lower()}")
    return Diagnostic(file=path, message="is not a path: it contains a NUL character")

"""From a file to a specification: the entry point of the package, and its only input and output."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from sandbox.errors import SpecError
from sandbox.spec.decode import decode_table
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.document import parse_document
from sandbox.spec.expand import expand_tree
from sandbox.spec.model import Spec
from sandbox.spec.rules import check_rules, settle
from sandbox.spec.settings import Context, Cursor, Problems

MAX_FILE_SIZE = 1 << 20
"""Bytes. More than any environment needs, and little enough to parse at once."""


def load(
    path: str,
    *,
    environ: Mapping[str, str] | None = None,
    profiles: Sequence[str] = (),  # noqa: ARG001
    assignments: Sequence[str] = (),  # noqa: ARG001
) -> Spec:
    """Return the specification in the file *path*.

    *environ* is what ${env:NAME} and ~ refer to, by default the environment of this process. Raises SpecError with all
    mistakes, in the order of the file; a file that cannot be read is one, too.
    """
    return parse(_read(path), path=path, environ=os.environ if environ is None else environ)


def parse(data: bytes, *, path: str, environ: Mapping[str, str]) -> Spec:
    """Return the specification that *data* holds, as if it had been read from the file *path*.

    Raises SpecError with all mistakes, in the order of the file.
    """
    file = os.path.abspath(path)
    directory = os.path.dirname(file)
    written, origins = parse_document(data, file=path, directory=directory)
    problems = Problems()
    cursor = Cursor(Context(origins=origins, home=environ.get("HOME"), root=Spec), problems)
    tree = expand_tree(written, environ, cursor)
    spec = decode_table(Spec, tree, cursor, file=file, directory=directory, origins=origins)
    check_rules(spec, problems)
    if problems.found:
        raise SpecError(origins.diagnose_all(problems.found))
    return settle(spec)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_SIZE + 1)
    except (OSError, ValueError) as error:
        raise SpecError([_unreadable(path, error)]) from None
    if len(data) > MAX_FILE_SIZE:
        raise SpecError(
            [Diagnostic(file=path, message="the file is larger than 1 MiB", hint="name an environment file")]
        )
    return data


def _unreadable(path: str, error: OSError | ValueError) -> Diagnostic:
    """Return the diagnostic for *error*; open() raises ValueError for a path that holds a NUL character."""
    if isinstance(error, FileNotFoundError):
        return Diagnostic(file=path, message="no such file", hint="give the path of an environment file")
    if isinstance(error, IsADirectoryError):
        return Diagnostic(
            file=path, message="is a directory", hint="give the path of the environment file in it"
        )
    if isinstance(error, PermissionError):
        return Diagnostic(
            file=path,
            message="permission denied",
            hint="the file, and the directories on its way, must be readable",
        )
    if isinstance(error, OSError):
        return Diagnostic(file=path, message=f"cannot be read: {(error.strerror or str(error)).lower()}")
    return Diagnostic(file=path, message="is not a path: it holds a NUL character")

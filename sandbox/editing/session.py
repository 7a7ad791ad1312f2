"""Run the dialogue of `sandbox edit`: the editor gets a copy, which replaces the file only if it is valid, as with visudo(8).

The copy is beside the file, so that relative paths in it mean the same to the editor and its plug-ins. It is removed at
the end, unless it is valid and could not be installed.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Mapping
from types import FrameType

from sandbox.editing.check import Refused, all_warnings
from sandbox.editing.replace import Original, check_replaceable, read_original, replace
from sandbox.errors import EditError, SpecError, printable
from sandbox.spec.diagnostic import Diagnostic

DEFAULT_EDITOR = "vi"
QUESTION = "What now? (e)dit again, e(x)it without saving: "
_ANSWERS = "e: edit your version again\nx: exit without saving, and discard your version"


def editor_of(environ: Mapping[str, str]) -> list[str]:
    """Return the command line of the user's editor: $VISUAL, $EDITOR or vi. Raises EditError for one with unbalanced quotes."""
    for variable in ("VISUAL", "EDITOR"):
        if value := environ.get(variable, "").strip():
            try:
                return shlex.split(value)
            except ValueError as error:
                raise EditError(
                    f"{variable} is not a command line: {str(error).lower()}",
                    hint="quote its arguments as for a shell",
                ) from None
    return [DEFAULT_EDITOR]


def edit_file(
    name: str,
    *,
    environ: Mapping[str, str],
    show: Callable[[str], None],
    ask: Callable[[str], str] | None,
    colour: bool = False,
) -> list[Diagnostic] | None:
    """Let the user edit the file *name*; return the warnings about the installed content, or None if none was installed.

    *show* prints a text. *ask* prints a question and returns the answer, or "" at the end of input; it is None without a
    terminal. Raises EditError when the file or the editor cannot be used, and SpecError when the result is invalid and
    *ask* is None.
    """
    editor = editor_of(environ)
    original = read_original(name)
    check_replaceable(original)
    copy = _copy(original)
    keep = False
    try:
        while True:
            _run(editor, copy, name)
            data = _content(copy, name)
            if data == original.data:
                show(f"{printable(name)} is unchanged")
                return None
            try:
                warnings = all_warnings(name, data, environ)
            except SpecError as error:
                if ask is None:
                    raise Refused(
                        name, [one for one in error.diagnostics if isinstance(one, Diagnostic)]
                    ) from None
                show(error.render(color=colour))
                if not _wants_to_edit_again(ask, show):
                    show(f"{printable(name)} is unchanged")
                    return None
                continue
            try:
                replace(original, data)
            except EditError as error:
                keep = True
                raise EditError(error.message, hint=f"your version is kept in {copy}") from None
            return warnings
    finally:
        if not keep:
            _remove_copy(copy)


def _copy(original: Original) -> str:
    directory, base = os.path.split(original.path)
    path = os.path.join(directory, f".{base.removesuffix('.toml')}.{os.urandom(4).hex()}.toml")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(original.data)
    except OSError as error:
        _remove_copy(path)
        reason = (error.strerror or str(error)).lower()
        raise EditError(f"{original.name}: cannot write a copy in its directory: {reason}") from None
    return path


def _run(editor: list[str], copy: str, name: str) -> None:
    import subprocess

    # Ctrl-C is for the editor. A handler that does nothing is used, because execve(2) would pass SIG_IGN on to the editor.
    before = signal.signal(signal.SIGINT, _ignore_signal)
    try:
        status = subprocess.run([*editor, copy], check=False).returncode
    except OSError as error:
        found = _is_found(editor[0]) and not isinstance(error, FileNotFoundError)
        reason = (error.strerror or str(error)).lower() if found else "not found"
        raise EditError(
            f"the editor {shlex.quote(editor[0])} cannot be started: {reason}", hint="set VISUAL or EDITOR"
        ) from None
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        ending = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        raise EditError(f"the editor {shlex.quote(editor[0])} {ending}; {name} is unchanged")


def _is_found(program: str) -> bool:
    """Tell whether *program* exists. The errno is not enough: execvp(3) also fails with EACCES for an unsearchable PATH entry."""
    return "/" in program or any(os.path.exists(os.path.join(part, program)) for part in os.get_exec_path())


def _ignore_signal(_number: int, _frame: FrameType | None) -> None:
    pass


def _content(copy: str, name: str) -> bytes:
    try:
        # Opened again by its path, because many editors write a new file and rename it.
        return read_original(copy).data
    except EditError:
        raise EditError(f"the editor removed the copy that it was given; {name} is unchanged") from None


def _wants_to_edit_again(ask: Callable[[str], str], show: Callable[[str], None]) -> bool:
    while True:
        answer = ask(QUESTION)
        word = answer.strip().lower()
        if word in {"e", "edit"}:
            return True
        if word in {"x", "exit"} or not answer:
            return False
        show(_ANSWERS)


def _remove_copy(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass

"""Find the namespaces that a spec joins: examine them as values before the plan, and open them again at the start.

A "path:" value is any path of a namespace, such as /proc/PID/ns/net or a file that one is mounted on. A "sandbox:" value is the
name of a running sandbox, whose supervisor keeps its namespaces open: see :func:`sandbox.state.runs.find_running`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from sandbox.errors import SetupError, StateError
from sandbox.kernel import idmaps, namespaces
from sandbox.kernel.namespaces import Identity, NamespaceFact, UserNamespaceFact
from sandbox.spec.model import Spec
from sandbox.state.runs import find_running

Found = Mapping[str, NamespaceFact]
"""Facts of namespaces, by kind."""


def joined(spec: Spec) -> dict[str, str]:
    """Return the namespaces that *spec* joins: by kind, "path:PATH" or "sandbox:NAME"."""
    kinds = {kind: getattr(spec.namespaces, kind) for kind in namespaces.FLAGS}
    return {kind: value for kind, value in kinds.items() if isinstance(value, str) and ":" in value}


def inspect(spec: Spec, state_directory: str) -> Found:
    """Examine every namespace that *spec* joins and return the facts by kind. Joins nothing and never raises."""
    users: dict[Identity, UserNamespaceFact] = {}
    return {kind: _inspect(kind, value, state_directory, users) for kind, value in joined(spec).items()}


def open_again(kind: str, fact_path: str, identity: Identity) -> int:
    """Open the namespace that was found at *fact_path* again.

    Raises:
        SetupError: it is gone, or another namespace is there now, which the plan was not made for.
    """
    hint = "start the process or sandbox that the namespace belongs to again"
    try:
        fd = os.open(fact_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SetupError(f"namespaces.{kind}", f"{fact_path} is gone: {error.strerror}", hint=hint) from None
    if namespaces.identity_of(fd) != identity:
        os.close(fd)
        raise SetupError(f"namespaces.{kind}", f"{fact_path} was replaced by another namespace", hint=hint)
    return fd


def _inspect(
    kind: str, value: str, state_directory: str, users: dict[Identity, UserNamespaceFact]
) -> NamespaceFact:
    word, _, rest = value.partition(":")
    path = rest
    if word == "sandbox":
        try:
            path = find_running(state_directory, rest).namespace(kind)
        except StateError as error:
            return NamespaceFact(path="", problem=error.message, hint=error.hint)
    try:
        # O_NONBLOCK: the path may be that of a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return NamespaceFact(path=path, problem=f"{path}: {_reason(error)}", hint=_hint(path, error))
    try:
        found = namespaces.kind_of(fd)
        if found is None:
            return NamespaceFact(
                path=path, problem=f"{path} is not a namespace", hint="such as /proc/PID/ns/" + kind
            )
        if found != kind:
            text = f"{path} is a namespace of kind {found}"
            return NamespaceFact(
                path=path, problem=text, hint=f"name one of kind {kind}, or join it as {found}"
            )
        identity = namespaces.identity_of(fd)
        own = identity == namespaces.own_identity(kind)
        return NamespaceFact(path=path, identity=identity, own=own, user=_user(kind, fd, users))
    except OSError as error:
        return NamespaceFact(path=path, problem=f"{path}: {_reason(error)}")
    finally:
        os.close(fd)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _hint(path: str, error: OSError) -> str | None:
    if isinstance(error, PermissionError):
        return "the process belongs to another user, or is not dumpable: joining needs permission to trace it, see ptrace(2)"
    if isinstance(error, FileNotFoundError) and path.startswith("/proc/"):
        return "the process has ended"
    return None


def _user(kind: str, fd: int, users: dict[Identity, UserNamespaceFact]) -> UserNamespaceFact | None:
    """Return the owning user namespace of the namespace *fd*, None if it is this process's or not below it."""
    try:
        user_fd = os.dup(fd) if kind == "user" else namespaces.owner_of(fd)
    except PermissionError:
        return None
    try:
        identity = namespaces.identity_of(user_fd)
        if identity == namespaces.own_identity("user"):
            return None
        if identity not in users:
            users[identity] = _look_into(user_fd, identity)
        return users[identity]
    finally:
        os.close(user_fd)


def _look_into(fd: int, identity: Identity) -> UserNamespaceFact:
    """Return the facts of the user namespace *fd*. A child enters it, because /proc shows the maps of a process only."""
    owner = namespaces.owner_uid(fd)
    ready, entered = os.pipe()
    go, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready)
            os.close(done)
            namespaces.join("user", fd)
            os.write(entered, b"1")
            os.read(go, 1)
        finally:
            os._exit(0)
    os.close(entered)
    os.close(go)
    try:
        if not os.read(ready, 1):
            return UserNamespaceFact(identity=identity, owner=owner)
        uid_map, gid_map, setgroups = (
            _read(f"/proc/{child}/{name}") for name in ("uid_map", "gid_map", "setgroups")
        )
        return UserNamespaceFact(
            identity=identity,
            owner=owner,
            uid_map=idmaps.parse_map(uid_map),
            gid_map=idmaps.parse_map(gid_map),
            setgroups=setgroups.strip() != "deny",
        )
    finally:
        os.close(done)
        os.close(ready)
        os.waitpid(child, 0)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()

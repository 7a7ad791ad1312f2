"""The process `sandbox-net`: forked from the supervisor, it confines itself and serves until the supervisor ends.

It has up to two children, which it forks before its confinement: one resolves names (`resolver`), one makes sockets inside the
gate (`socket_maker`). If either ends, so does it. The kernel closes the ports of a process that has ended, so nothing is
reachable then.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import socket
import sys
from collections.abc import Callable

from sandbox.kernel import process
from sandbox.network import control
from sandbox.network.confinement import become, confine, leave_parent
from sandbox.network.request import NetworkRequest
from sandbox.network.resolver import serve_names
from sandbox.network.service import NetworkService
from sandbox.network.socket_maker import enter, serve_sockets
from unionfs._stdlib.dataclasses import replace
from unionfs._stdlib.typing import NoReturn

TITLE = "sandbox-net"
_TITLE_OF_RESOLVER = "sandbox-resolve"
_TITLE_OF_SOCKETS = "sandbox-sockets"
_TRANSPARENT = frozenset({"NET_RAW"})
_DESCRIPTORS_OF_CONNECTION = 6
"""Two sockets, and two pipes while both directions wait for their receivers."""
_OTHER_DESCRIPTORS = 700
"""The sockets of UDP clients, of DNS queries and connections, and what is made ahead; the descriptors of the request excepted."""
_DNS_PORT = 53
_FAILED = 1
_IS_READY = b"+"


def start_network_process(request: NetworkRequest) -> int:
    """Fork `sandbox-net` and return its pid. It ends when this process ends, or closes its end of `request.control`.

    The descriptors of *request* stay open in this process, which should close them: a port is free only after the last copy of its
    descriptor is closed.

    Raises:
        OSError: no process can be made.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            run_network_process(request, parent)
        finally:
            if sys.exc_info()[0] is not None:
                sys.excepthook(*sys.exc_info())
            os._exit(_FAILED)
    return pid


def run_network_process(request: NetworkRequest, parent: int) -> NoReturn:
    """Become `sandbox-net` in a forked child of *parent*, and serve *request*. Exit with 1 after a failure."""
    step = "prepare"
    try:
        leave_parent()
        process.set_title(TITLE)
        _close_descriptors(request.descriptors())
        # The collector would write to every object that the supervisor has made, and so copy its memory.
        gc.disable()
        gc.freeze()
        gc.enable()
        step = "fork"
        ours = os.getpid()
        sockets = resolver = None
        children: list[int] = []
        if any(one.inside for one in request.forwards):
            transparent = any(one.transparent for one in request.forwards if one.inside)
            pid, sockets = _fork_child(
                _TITLE_OF_SOCKETS,
                request,
                lambda: _confine_sockets(request, ours, transparent=transparent),
                lambda end: serve_sockets(end, transparent=transparent),
            )
            children.append(pid)
        if request.egress is not None:
            pid, resolver = _fork_child(
                _TITLE_OF_RESOLVER, request, lambda: _confine_resolver(request, ours), serve_names
            )
            children.append(pid)
        _close_namespaces(request)
        channels = [one for one in (sockets, resolver) if one is not None]
        for channel in channels:
            _wait_for_child(channel)
        step = "listen"
        service = NetworkService(_limited(request), sockets, resolver)
        step = "confine"
        become(request.ids)
        confine(
            parent,
            request.landlock,
            request.filter,
            connect=_connect_ports(request),
            bind=_bind_ports(request),
        )
        step = "serve"
        service.run(children)
        for channel in channels:
            channel.close()
        for pid in children:  # so that the supervisor gets no orphans
            os.waitpid(pid, 0)
        if not service.failure:
            os._exit(0)
        failure = control.Failed(step, 0, service.failure)
    except OSError as error:
        failure = control.Failed(step, error.errno or 0, f"{error.strerror}")
    except ValueError as error:
        failure = control.Failed(step, 0, str(error))
    _report(request.control, failure)
    os._exit(_FAILED)


def _report(fd: int, failure: control.Failed) -> None:
    channel = socket.socket(fileno=fd)
    try:
        control.send(channel, failure, wait=False)
    except OSError:
        pass  # the supervisor has ended


def _close_descriptors(needed: set[int]) -> None:
    """Close all descriptors but *needed* and standard error, where a traceback would be seen."""
    process.empty_standard_input()
    null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    process.close_descriptors_but({0, 1, 2} | needed)


def _limited(request: NetworkRequest) -> NetworkRequest:
    """Raise the limit of descriptors, and return *request* with as many connections as it suffices for.

    So accept(2) always has a descriptor for a connection that is to be refused.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    others = _OTHER_DESCRIPTORS + len(request.descriptors())  # a range of ports can be thousands of listeners
    wanted = request.most_connections * _DESCRIPTORS_OF_CONNECTION + others
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connections = max(16, (wanted - others) // _DESCRIPTORS_OF_CONNECTION)
    return replace(request, most_connections=min(request.most_connections, connections))


def _connect_ports(request: NetworkRequest) -> tuple[int, ...] | None:
    """Return the TCP ports to which the process may connect, None for all of them."""
    if request.egress is not None:
        return None
    ports = {one.port for one in request.forwards if one.protocol == "tcp"}
    if any(one.forwards for one in request.dns):
        ports.add(_DNS_PORT)
    return tuple(sorted(ports))


def _bind_ports(request: NetworkRequest) -> tuple[int, ...] | None:
    """Return the TCP ports that it may bind: all of them if a connection has the address and port of its client."""
    return None if any(one.transparent for one in request.forwards) else ()


def _fork_child(
    title: str,
    request: NetworkRequest,
    confine_child: Callable[[], None],
    serve: Callable[[socket.socket], None],
) -> tuple[int, socket.socket]:
    """Fork a child that calls *confine_child*, and then *serve* with one end of a socket pair. Return its pid and the other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        status = _FAILED
        try:
            process.set_title(title)
            kept = {0, 1, 2, theirs.fileno(), request.gate_user, request.gate_network} - {-1}
            process.close_descriptors_but(kept)
            confine_child()
            theirs.send(_IS_READY)
            serve(theirs)
            status = 0
        except OSError as error:
            theirs.send(f"{error.errno} {title}: {error.strerror}".encode())
        finally:
            os._exit(status)
    theirs.close()
    return pid, ours


def _wait_for_child(channel: socket.socket) -> None:
    """Wait until the child at the other end of *channel* is confined.

    Raises:
        OSError: its error.
    """
    message = channel.recv(1000)
    if message != _IS_READY:
        number, _, text = message.decode().partition(" ")
        raise OSError(int(number or errno.ECHILD), text or "a child has ended")


def _close_namespaces(request: NetworkRequest) -> None:
    for fd in {request.gate_user, request.gate_network} - {-1}:
        os.close(fd)


def _confine_sockets(request: NetworkRequest, parent: int, *, transparent: bool) -> None:
    enter(request.gate_user, request.gate_network)
    _close_namespaces(request)
    # In a user namespace of the gate, the ids of the request need not exist.
    become(None if request.gate_user >= 0 else request.ids, keep=_TRANSPARENT if transparent else frozenset())
    confine(parent, request.landlock, request.filter, connect=(), bind=())


def _confine_resolver(request: NetworkRequest, parent: int) -> None:
    _close_namespaces(request)
    become(request.ids)
    confine(parent, request.landlock, request.resolver_filter, reads_files=True, bind=())

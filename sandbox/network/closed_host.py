"""Keep the addresses of the host from answering in a private network.

pasta(1) connects to every address on behalf of the sandbox, also to those of the host, where services listen that are meant for
the host alone. In the sandbox's network namespace, each such address becomes an address of the sandbox itself: a local route on
its interface. Packets to it never leave the namespace, and connections are refused at once.

Routes of the type "unreachable" and routing rules would not do: the kernel skips them for a socket with SO_BINDTODEVICE, which any
program may set (fib_lookup and ip_route_output_key_hash_rcu, net/ipv4/route.c).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from sandbox.kernel import netlink, routes
from sandbox.kernel.routes import Route
from unionfs._stdlib.dataclasses import replace

METADATA_SERVICE = Route(socket.AF_INET, socket.inet_aton("169.254.169.254"), 32)
"""The address at which clouds give a machine its credentials."""


class ClosedHost:
    """The local routes in one network namespace that stand for the addresses of the host. The private network creates and closes it."""

    def __init__(self, inside: socket.socket, interface: int, trace: Callable[[str], None]) -> None:
        """Close all present addresses of the host.

        Args:
            inside: a netlink socket of the sandbox's network namespace; it remains the caller's.
            interface: the index of the interface there.
            trace: receives each change as a line.

        Raises:
            OSError: the kernel refuses a route.
        """
        self._inside = inside
        self._interface = interface
        self._trace = trace
        self._closed: set[Route] = set()
        # Watching begins before the addresses are read, so that no later one is missed.
        self._watch = netlink.open_socket(netlink.ROUTES)
        try:
            self._close_address(METADATA_SERVICE)
            self._update()
        except BaseException:
            self._watch.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor that can be read after a change of the host's addresses."""
        return self._watch.fileno()

    def close(self) -> None:
        """Stop watching. The routes disappear with the network namespace."""
        self._watch.close()

    def on_change(self) -> None:
        """Follow the changes of the host's addresses.

        Raises:
            OSError: the kernel refuses a route.
        """
        try:
            for change in routes.changes(self._watch):
                if change.added:
                    self._close_address(change.route)
                else:
                    self._open_address(change.route)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._update()

    def _update(self) -> None:
        """Close exactly the present addresses of the host."""
        with netlink.open_socket() as host:
            present = {_of_any_interface(route) for route in routes.local_routes(host)}
        for route in self._closed - present - {METADATA_SERVICE}:
            self._open_address(route)
        for route in present:
            self._close_address(route)

    def _close_address(self, route: Route) -> None:
        route = _of_any_interface(route)
        if route.is_loopback or route in self._closed:
            return
        # If the sandbox has the address already, it is the one that pasta copied from the host.
        if routes.add_local_route(self._inside, replace(route, interface=self._interface)):
            self._closed.add(route)
            self._trace(f"close the host's address {route}")

    def _open_address(self, route: Route) -> None:
        route = _of_any_interface(route)
        if route in self._closed and route != METADATA_SERVICE:
            routes.remove_local_route(self._inside, replace(route, interface=self._interface))
            self._closed.remove(route)
            self._trace(f"no longer an address of the host: {route}")


def _of_any_interface(route: Route) -> Route:
    return replace(route, interface=0)

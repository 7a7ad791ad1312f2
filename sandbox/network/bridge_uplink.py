"""Connect a network namespace with other machines as root: by a port of the bridge `sandbox0` (`host_bridge`)."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

from sandbox.errors import SetupError
from sandbox.kernel import netlink, nftables, routes
from sandbox.network import host_bridge
from sandbox.network.private_network import STEP, failure
from sandbox.network.uplink import NO_DEFAULT_ROUTE, Target, Uplink
from sandbox.plan.network_values import HOST_BRIDGE
from sandbox.state.host_bridge import BridgeDirectory

RULES_REMOVED = f"rules of the nftables table inet {host_bridge.TABLE} were removed by others"


class BridgeUplink(Uplink):
    """A port of the bridge. It notices when others remove the port, the bridge or a rule, and closes the port then."""

    def __init__(
        self,
        target: Target,
        run_directory: str,
        *,
        warn: Callable[[str], None],
        trace: Callable[[str], None],
    ) -> None:
        """Connect *target*.

        Args:
            target: the network namespace.
            run_directory: has the record of the bridge.
            warn: receives what the user has to know.
            trace: receives lines for --debug.

        Raises:
            SetupError: it cannot be connected.
        """
        self._directory = BridgeDirectory(run_directory)
        self._warn = warn
        self._port: host_bridge.Joined | None = None
        self._descriptors = ExitStack()
        try:
            self._host = self._descriptors.enter_context(netlink.open_socket())
            namespace = os.open(f"/proc/{target.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._descriptors.callback(os.close, namespace)
            with self._directory.locked():
                try:
                    self._port = host_bridge.join(self._host, run_directory, warn)
                    # Under the lock, because supervisors remove a table only with it: only removals by others are seen.
                    self._links = self._descriptors.enter_context(netlink.open_socket(netlink.LINKS))
                    self._rules = self._descriptors.enter_context(nftables.open_socket(watch=True))
                    host_bridge.connect(self._host, self._port, target.inside, namespace, target.interface)
                    if not nftables.has_table(host_bridge.TABLE):
                        raise SetupError(STEP, RULES_REMOVED)
                except BaseException:
                    self._leave()
                    raise
            found = routes.default_routes(self._host)
        except OSError as error:
            self.close()
            raise failure(error.filename or f"bridge {HOST_BRIDGE}", _without_place(error)) from None
        except BaseException:
            self.close()
            raise
        if not any(one.family == socket.AF_INET for one in found):
            warn(NO_DEFAULT_ROUTE)
        trace(f"{self._port.address} at the port {self._port.link} of the bridge {HOST_BRIDGE}")

    @property
    def pids(self) -> tuple[int, ...]:
        """No process connects the namespace."""
        return ()

    def interest(self) -> dict[int, int]:
        """Return the descriptors to watch, each with its events (poll(2)): changes of the host's interfaces and rules."""
        if self._port is None:
            return {}
        return dict.fromkeys((self._links.fileno(), self._rules.fileno()), select.POLLIN)

    def handle(self, fd: int) -> str | None:
        """Look whether bridge, port and table are complete; return what is missing, None if nothing is."""
        assert self._port is not None
        if fd == self._rules.fileno():
            try:
                reduced = nftables.is_reduced(self._rules, host_bridge.TABLE)
            except OSError:  # ENOBUFS: some changes were dropped
                reduced = not nftables.has_table(host_bridge.TABLE)
            return RULES_REMOVED if reduced else None
        with suppress(OSError):
            netlink.received(self._links)
        if host_bridge.is_connected(self._host, self._port):
            return None
        return f"the bridge {HOST_BRIDGE}, or the sandbox's port of it, was removed by others"

    def close(self) -> None:
        """Remove the port, and the bridge with the last one. Closing twice does nothing."""
        if self._port is not None:
            try:
                with self._directory.locked():
                    self._leave()
            except OSError as error:
                self._warn(f"{STEP}: the bridge {HOST_BRIDGE} cannot be left: {error.strerror}")
        self._descriptors.close()

    def _leave(self) -> None:
        """Remove the port. The lock is the caller's."""
        port, self._port = self._port, None
        host_bridge.leave(self._host, self._directory, "" if port is None else port.link)


def _without_place(error: OSError) -> OSError:
    return OSError(error.errno, error.strerror)

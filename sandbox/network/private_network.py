"""The private network of one sandbox, whichever way it is connected."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from sandbox.errors import SetupError
from sandbox.plan.network_values import NetworkPlan
from sandbox.spec.values.addresses import Port

STEP = "network"


class PrivateNetwork(ABC):
    """Connects the network namespace of a sandbox. Its supervisor creates it, watches its descriptors, and closes it.

    `OpenNetwork` is connected by pasta alone. `GatedNetwork` has a gate, which all other kinds of networks need.
    """

    def __init__(
        self, plan: NetworkPlan, *, warn: Callable[[str], None], trace: Callable[[str], None]
    ) -> None:
        """Prepare the network of *plan*.

        Args:
            plan: of the network.
            warn: receives what the user has to know.
            trace: receives lines for --debug.
        """
        self.plan = plan
        self.warn = warn
        self.trace = trace
        #: The forwarded ports, with the chosen one in place of each 0.
        self.ports: tuple[Port, ...] = ()
        #: Whether the program that connects the network has ended before the sandbox.
        self.failed = False

    @abstractmethod
    def connect(self, pid: int, inside: socket.socket) -> Sequence[int]:
        """Connect the network namespace of the process *pid*.

        *inside* is a netlink socket of that namespace, which belongs to this object from now on. Returns the pids of the processes that connect it.

        Raises:
            SetupError: the network cannot be connected.
        """

    @abstractmethod
    def interest(self) -> dict[int, int]:
        """Return the descriptors to watch, each with its events (poll(2))."""

    @abstractmethod
    def handle(self, fd: int) -> None:
        """Do what an event of the descriptor *fd* requires."""

    def take_hosts_file(self, fd: int) -> None:
        """Keep the names of members in the sandbox's /etc/hosts, whose writable descriptor *fd* belongs to this object from now on.

        A network without members closes it.
        """
        os.close(fd)

    def count_refused(self) -> int | None:
        """Return how many connections and names were refused; None if this network refuses none, or does not answer."""
        return None

    @abstractmethod
    def close(self) -> None:
        """End the processes that connect the network, and close the descriptors. Nothing is reachable afterwards."""

    @abstractmethod
    def reap(self) -> None:
        """Wait after :meth:`close` until the ports of the host are free. Meanwhile, other things can be ended."""

    def fail(self, reason: str) -> None:
        """Close the network because of *reason*, and warn: nothing is reachable any more."""
        self.close()
        self.failed = True
        self.warn(f"{STEP}: {reason}")


def failure(operation: str, error: OSError) -> SetupError:
    """Return the error for *operation*, which failed with *error* while the network was connected."""
    return SetupError.from_os_error(STEP, operation, error)

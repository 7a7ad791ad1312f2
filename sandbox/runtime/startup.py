"""Bringing a prepared sandbox up: stage1, the id maps, the cgroup, and process 1, until that works on its own.

The result is a handle. Whoever has its descriptors can go on: receive what process 1 reports, send Start, and wait for the end.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from sandbox.errors import EXIT_FAILURE, SetupError
from sandbox.host.facts import HostFacts
from sandbox.kernel import idmaps, process
from sandbox.plan import Plan
from sandbox.runtime import outcome
from sandbox.runtime.messages import (
    Adopted,
    Channel,
    InitStarted,
    Mapped,
    NetworkConnected,
    NetworkCreated,
    SetupFailed,
    Unshared,
)
from sandbox.runtime.process import execve, stage1
from sandbox.runtime.resources import SandboxResources
from sandbox.runtime.signals import CAUGHT
from sandbox.runtime.timeline import Timeline
from sandbox.runtime.unionfs_server import Server
from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import NoReturn, TypeVar

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.network.private_network import PrivateNetwork

M = TypeVar("M")


@dataclass(slots=True)
class SandboxHandle:
    """The processes and namespaces of one sandbox, as descriptors and a pid. The supervisor creates it and closes it.

    It is filled while the sandbox comes up, so that an error at any step leaves what there is to `teardown`.
    """

    channel: Channel
    server: Server
    #: The private network; None for another network.
    network: PrivateNetwork | None = None
    #: The processes that connect it, which it ends itself.
    network_pids: Sequence[int] = ()
    #: Process 1, in the numbers of this pid namespace; 0 before there is one, and once it has been reaped.
    init_pid: int = 0
    user_namespace_fd: int = -1
    #: Kept open where processes are shared, so that its number belongs to no other mount namespace meanwhile.
    mount_namespace_fd: int = -1
    #: The namespaces that other sandboxes can join, by kind.
    namespaces: dict[str, int] = field(default_factory=dict)

    def close(self) -> None:
        """Close the channel and the descriptors of namespaces."""
        self.channel.close()
        for fd in (self.user_namespace_fd, self.mount_namespace_fd, *self.namespaces.values()):
            if fd >= 0:
                os.close(fd)
        self.user_namespace_fd = self.mount_namespace_fd = -1
        self.namespaces = {}


class Startup:
    """The steps from the first fork to process 1. Nothing of it outlives them but the handle."""

    def __init__(
        self,
        plan: Plan,
        facts: HostFacts,
        resources: SandboxResources,
        handle: SandboxHandle,
        *,
        trace: Callable[[str], None],
        confinement: execve.Confinement,
        measure: bool,
        outputs: Sequence[int] = (),
    ) -> None:
        """Prepare to start *plan* and to fill *handle*.

        Args:
            plan: what to start.
            facts: about this machine.
            resources: what was prepared for it.
            handle: without processes yet.
            trace: receives each operation as a line.
            confinement: what the program is started under.
            measure: process 1 counts what the program leaves behind.
            outputs: standard output and error of the program; empty for those of this process.
        """
        self._plan = plan
        self._facts = facts
        self._resources = resources
        self._handle = handle
        self._trace = trace
        self._confinement = confinement
        self._measure = measure
        self._outputs = outputs
        self._stage1 = 0

    def fork_stage1(self, theirs: Channel) -> None:
        """Fork stage1, which has the end *theirs* of the channel.

        Raises:
            SetupError: no process can be made.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            raise SetupError.from_os_error("stage 1", "fork", error) from None
        if pid == 0:
            try:
                self._become_stage1(theirs)
            finally:
                os._exit(EXIT_FAILURE)
        self._stage1 = pid

    def _become_stage1(self, theirs: Channel) -> NoReturn:
        """Give up what is the supervisor's: its signals, its locks, its end of the channel, the server's socket."""
        signal.set_wakeup_fd(-1)
        for number in CAUGHT:
            signal.signal(number, signal.SIG_DFL)

        def give_up() -> None:
            self._handle.channel.close()
            if self._plan.process.empty_input:
                process.empty_standard_input()
            trampoline, joined = self._confinement.trampoline, self._resources.joined
            for place, fd in enumerate(self._outputs, 1):
                os.dup2(fd, place)
            process.close_descriptors_but({0, 1, 2, theirs.fileno(), trampoline, *joined.values()})

        stage1.run_stage1(
            self._plan,
            theirs,
            self._resources.joined,
            self._resources.label,
            self._trace,
            give_up,
            self._confinement,
            self._resources.direct_binds,
        )

    def run(self, timeline: Timeline) -> None:
        """Go on until process 1 has been adopted, which *timeline* gets a mark of.

        Raises:
            SandboxError: a step failed.
        """
        handle, resources = self._handle, self._resources
        try:
            self._expect(Unshared)
            if "user" in self._plan.namespaces and self._plan.inner_maps is None:
                self._write_maps()
            handle.user_namespace_fd = os.open(f"/proc/{self._stage1}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            if resources.cgroup is not None:
                resources.cgroup.add(self._stage1)
                if resources.served:
                    resources.cgroup.add(handle.server.pid, "server")
            if self._plan.process.oom_score_adj is not None and self._facts.sys_resource:
                _set_oom_score(self._stage1, self._plan.process.oom_score_adj)
            handle.channel.send(Mapped())
            if handle.network is not None:
                self._connect_network(handle.network)
            started = self._expect(InitStarted)
            handle.init_pid = started.pid
            for kind in started.namespaces:
                handle.namespaces[kind] = handle.channel.take_fd()
            handle.mount_namespace_fd = handle.namespaces.pop("mount", -1)  # no other sandbox can join it
            self._reap_stage1()
            handle.channel.send(Adopted(self._measure))
            timeline.mark("namespaces")
            # Process 1 goes on meanwhile: the record is for sandboxes that join these namespaces.
            pids = {"init": handle.init_pid, "server": handle.server.pid if resources.served else None}
            resources.run.record({"namespaces": handle.namespaces, **pids})
        except OSError as error:
            raise SetupError.from_os_error("stage 1", "start", error) from None
        finally:
            self._reap_stage1()

    def _connect_network(self, network: PrivateNetwork) -> None:
        handle, cgroup = self._handle, self._resources.cgroup
        self._expect(NetworkCreated)
        inside = socket.socket(fileno=handle.channel.take_fd())
        handle.network_pids = network.connect(self._stage1, inside)
        for pid in handle.network_pids:
            if cgroup is not None and self._resources.served:
                cgroup.add(pid, "server")
        handle.channel.send(NetworkConnected())

    def _reap_stage1(self) -> None:
        """End stage1. Its child, if there is one, ends too, as it finds the channel closed."""
        if not self._stage1:
            return
        if not self._handle.init_pid:
            process.kill_quietly(self._stage1)
        pid, self._stage1 = self._stage1, 0
        os.waitpid(pid, 0)

    def _expect(self, kind: type[M]) -> M:
        message = self._handle.channel.receive()
        if isinstance(message, SetupFailed):
            raise outcome.setup_error(self._plan, message)
        if not isinstance(message, kind):
            raise SetupError("stage 1", "ended unexpectedly", hint="run again with --debug")
        return message

    def _write_maps(self) -> None:
        ids = self._plan.ids
        newuidmap, newgidmap = ids.helpers or (None, None)
        try:
            idmaps.write_maps(
                self._stage1, ids.uid_map, ids.gid_map, newuidmap=newuidmap, newgidmap=newgidmap
            )
        except OSError as error:
            operation = "newuidmap" if ids.helpers else "write uid_map"
            raise SetupError.from_os_error("id maps", operation, error) from None


def _set_oom_score(pid: int, value: int) -> None:
    """Set the score of *pid* and its children to come. Only CAP_SYS_RESOURCE may lower it below what that capability has set."""
    with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(value))

"""Stage1: the process that makes the sandbox's namespaces, forks init into them, and exits.

`startup` forks it from the supervisor; it never returns into the supervisor's code. unshare(CLONE_NEWPID) makes the next child
process 1, so stage1 has to be a process of its own. It opens what only the host user's own ids may open, before it becomes root
of the namespace. Failures are sent over the channel; the exit status is only for a supervisor that has ended.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence

from sandbox.kernel import idmaps, namespaces, netlink, open_paths, process
from sandbox.kernel.idmaps import IdMap
from sandbox.kernel.network import loopback_up
from sandbox.plan import Plan
from sandbox.plan.network_values import NetworkPlan
from sandbox.plan.operations import BindDevice, BindVolume
from sandbox.runtime.messages import Channel, InitStarted, Mapped, NetworkConnected, NetworkCreated, Unshared
from sandbox.runtime.process.execve import Confinement
from sandbox.runtime.process.failures import run_guarded, run_step
from sandbox.runtime.process.init import run_init
from sandbox.runtime.rootfs.direct_bind import DirectBindSource
from sandbox.runtime.rootfs.executor import StepError
from sandbox.spec.values.addresses import HostService
from unionfs._stdlib.typing import NoReturn


def run_stage1(
    plan: Plan,
    channel: Channel,
    joined: Mapping[str, int],
    label: str,
    trace: Callable[[str], None],
    release: Callable[[], None],
    confinement: Confinement,
    direct_binds: Sequence[DirectBindSource] = (),
) -> NoReturn:
    """Give up the supervisor's resources, make the namespaces, fork init into them, send its pid, and exit.

    Args:
        plan: what to do.
        channel: to the supervisor.
        joined: the namespaces to join, by kind; as "user" also one that is entered only to make the sandbox's own in it.
        label: the name of the root in the mount table.
        trace: receives each operation as a line.
        release: closes and resets what belongs to the supervisor.
        confinement: what the program is started under.
        direct_binds: the trees of direct binds, of paths and of the root.
    """

    def action() -> int:
        release()
        return _stage1(plan, channel, joined, label, trace, confinement, direct_binds)

    run_guarded(channel, action)


def _stage1(
    plan: Plan,
    channel: Channel,
    joined: Mapping[str, int],
    label: str,
    trace: Callable[[str], None],
    confinement: Confinement,
    direct_binds: Sequence[DirectBindSource],
) -> int:
    # The user namespace first: joining the others needs its capabilities.
    for kind in ("user", "net", "ipc", "uts", "cgroup", "time"):
        if kind in joined:
            run_step(f"namespaces.{kind}", "setns", _joiner(kind, joined[kind]))
    if plan.inner_maps is not None:
        _unshare_users_inside(plan.inner_maps)
    elif "user" in plan.namespaces:
        run_step("user namespace", "unshare", lambda: namespaces.unshare(["user"]))
    channel.send(Unshared())
    channel.expect(Mapped)
    # Sources are opened before the ids change, because root of the namespace may not reach files of real root. They are
    # opened in the new mount namespace, because a descriptor can be bound only in the mount namespace that it was opened in.
    run_step(
        "namespaces", "unshare", lambda: namespaces.unshare(sorted(plan.namespaces - {"user", "cgroup"}))
    )
    if plan.network is not None:
        _offer_network(channel, plan.network)
    if plan.clocks:
        run_step(
            "namespaces.time", "write timens_offsets", lambda: namespaces.write_clock_offsets(plan.clocks)
        )
    fuse_fd = -1
    if plan.bound is None:
        fuse_fd = run_step(
            "open /dev/fuse", "open /dev/fuse", lambda: os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        )
    paths = [step.source for step in plan.operations if isinstance(step, BindVolume | BindDevice)]
    sources = {path: run_step(f"open {path}", "open", _opener(path)) for path in paths}
    direct_bind_fds = {
        source.target: run_step(f"open {source.tree}", "open", _opener_of_tree(source))
        for source in direct_binds
    }
    if plan.ids.setgroups:
        # The host's supplementary groups would give the sandbox's root access to files of the host. Only the sources above
        # needed them.
        run_step("become root of the namespace", "setgroups", lambda: os.setgroups([]))
    run_step("become root of the namespace", "setresuid", _become_root)
    if "pid" in joined:
        run_step("namespaces.pid", "setns", _joiner("pid", joined["pid"]))
    for fd in joined.values():
        os.close(fd)
    pid = run_step("process 1", "fork", os.fork)
    if pid == 0:
        run_guarded(
            channel,
            lambda: run_init(plan, channel, fuse_fd, sources, direct_bind_fds, label, trace, confinement),
        )
    # Where no pid namespace ends them, the sandbox's processes are those of its mount namespace.
    made = sorted(plan.namespaces - ({"mount", "cgroup"} if "pid" in plan.namespaces else {"cgroup"}))
    channel.send(InitStarted(pid, made), *(namespaces.open_for_children(kind) for kind in made))
    return 0


def _offer_network(channel: Channel, network: NetworkPlan) -> None:
    """Send a netlink socket of the new network namespace, and wait until the network is connected.

    Process 1 inherits sockets that have the ports of services that must not be opened. The program that connects it opens the namespaces of this process in /proc. Later, this process is not dumpable, and then no
    process of the same user may open them.
    """
    if network.other_services:
        run_step("network namespace", "loopback", loopback_up)
        for service in network.other_services:
            run_step("network.host_access", "bind", _binder(service))
    with run_step("network namespace", "socket", netlink.open_socket) as netlink_socket:
        channel.send(NetworkCreated(), netlink_socket.fileno())
    channel.expect(NetworkConnected)


def _binder(service: HostService) -> Callable[[], None]:
    """Return a function that takes the port of *service* in this network namespace for as long as process 1 lives."""

    def action() -> None:
        family = socket.AF_INET6 if ":" in service.address else socket.AF_INET
        kind = socket.SOCK_STREAM if service.protocol == "tcp" else socket.SOCK_DGRAM
        try:
            one = socket.socket(family, kind | socket.SOCK_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT:
                return  # the kernel has no IPv6
            raise
        one.bind((service.address, service.port))
        one.detach()

    return action


def _joiner(kind: str, fd: int) -> Callable[[], None]:
    return lambda: namespaces.join(kind, fd)


def _unshare_users_inside(maps: tuple[Sequence[IdMap], Sequence[IdMap]]) -> None:
    """Make a user namespace in the one that this process has joined.

    A child that stays in the joined namespace writes the id maps: a process in another namespace may not.
    """
    maker = os.getpid()
    go, made = os.pipe()
    child = run_step("id maps", "fork", os.fork)
    if child == 0:
        status = errno.EIO
        try:
            os.close(made)
            if os.read(go, 1):
                idmaps.write_maps(maker, *maps)
            status = 0
        except OSError as error:
            status = error.errno or status
        finally:
            os._exit(status)
    try:
        run_step("user namespace", "unshare", lambda: namespaces.unshare(["user"]))
        os.write(made, b"1")
    finally:
        os.close(go)
        os.close(made)
        _, status = os.waitpid(child, 0)
    if number := os.waitstatus_to_exitcode(status):
        raise StepError("id maps", "write uid_map", OSError(number, os.strerror(number)))


def _opener(path: str) -> Callable[[], int]:
    # The plan resolved all symbolic links: one that is in the path now was put there since, and is refused.
    return lambda: open_paths.open_real(path)


def _opener_of_tree(source: DirectBindSource) -> Callable[[], int]:
    """Return a function that opens the tree of a layer in this mount namespace: it cannot be bound in another one."""

    def action() -> int:
        fd = open_paths.open_real(source.tree, directory=True)
        info = os.fstat(fd)
        if (info.st_dev, info.st_ino) != source.identity:
            os.close(fd)
            raise OSError(errno.ESTALE, "the layer was replaced by another directory", source.tree)
        return fd

    return action


def _become_root() -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    process.set_dumpable(False)

"""Run pasta(1), which connects a network namespace with the network of the host without root.

Every option is given: the defaults forward the ports on which the host listens, and open the host's loopback interface.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence

from sandbox.errors import EXIT_FAILURE, SetupError
from sandbox.kernel import process
from sandbox.plan.network_values import INTERFACE, RESOLVER, NetworkPlan
from sandbox.spec.values.addresses import HostService, Port

STEP = "network.mode"
_READY_SECONDS = 20.0
_OUTPUT_LIMIT = 1 << 14
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def command_line(plan: NetworkPlan, ports: Sequence[Port], pid: int) -> list[str]:
    """Return the arguments with which pasta connects the network namespace of the process *pid* and forwards *ports*.

    pasta runs in the foreground, so that it ends with its parent. It writes its pid to standard output once it is ready.
    """
    namespaces = f"/proc/{pid}/ns"
    return [
        *("pasta", "--foreground", "--quiet", "--pid", "/dev/stdout"),
        *(("--runas", "0") if plan.as_root else ()),
        # It is ended with the sandbox. By itself it would end when the process *pid* does, which is only a part of the start.
        "--no-netns-quit",
        *("--config-net", "--ns-ifname", INTERFACE),
        *("--no-map-gw", "--map-host-loopback", "none", "--map-guest-addr", "none"),
        *("--dns-forward", RESOLVER),
        *_options("-t", [_port(port) for port in ports if port.protocol == "tcp"]),
        *_options("-u", [_port(port) for port in ports if port.protocol == "udp"]),
        *_options("-T", [_service(one) for one in plan.host_access if one.protocol == "tcp"]),
        *_options("-U", [_service(one) for one in plan.host_access if one.protocol == "udp"]),
        *("--userns", f"{namespaces}/user", "--netns", f"{namespaces}/net"),
    ]


def _options(option: str, values: list[str]) -> list[str]:
    return [word for value in values or ["none"] for word in (option, value)]


def _port(port: Port) -> str:
    """Return *port* as pasta writes it: ADDRESS/HOST:SANDBOX."""
    last = port.count - 1
    if not last:
        return f"{port.address}/{port.host}:{port.sandbox}"
    return f"{port.address}/{port.host}-{port.host + last}:{port.sandbox}-{port.sandbox + last}"


def _service(service: HostService) -> str:
    return str(service.port)


class Pasta:
    """A running pasta. The private network creates it, and ends it by :meth:`stop`."""

    def __init__(self, program: str, arguments: Sequence[str]) -> None:
        """Start *program* and return when it has connected the network namespace.

        Raises:
            SetupError: it could not connect it; the message contains what it printed.
        """
        self.pid = 0
        #: Readable once the process has ended (pidfd_open(2)).
        self.pidfd = -1
        #: What the process prints. It must be read, or the process waits when the pipe is full.
        self.output_fd = -1
        ready, theirs = os.pipe2(os.O_CLOEXEC)
        self.output_fd, output = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                self.pid = _start(program, arguments, theirs, output)
                self.pidfd = os.pidfd_open(self.pid)
            finally:
                os.close(theirs)
                os.close(output)
            os.set_blocking(self.output_fd, False)
            if not _is_ready(ready, self.pidfd):
                raise SetupError(STEP, self._failure(), hint="run again with --debug for its command line")
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(ready)

    def _failure(self) -> str:
        printed = " ".join(self.read_output().split())
        return f"pasta cannot connect the network: {printed or 'it prints no reason'}"

    def read_output(self) -> str:
        """Return what the process has printed since the last call."""
        try:
            return os.read(self.output_fd, _OUTPUT_LIMIT).decode("utf-8", "replace")
        except BlockingIOError:
            return ""

    def stop(self) -> None:
        """Kill and reap the process, and close its descriptors. With it, its sockets and its network device disappear."""
        if self.pid:
            process.kill_quietly(self.pid)
            os.waitpid(self.pid, 0)
            self.pid = 0
        for fd in (self.pidfd, self.output_fd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.output_fd = -1


def _start(program: str, arguments: Sequence[str], ready: int, output: int) -> int:
    """Fork and execute *program* with standard output *ready* and standard error *output*; returns its pid."""
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        raise SetupError.from_os_error(STEP, "fork", error) from None
    if pid:
        return pid
    try:
        # posix_spawn(3) cannot set the signal. It is kept over an exec, and pasta gains no privileges that would clear it.
        process.set_parent_death_signal(parent=parent)
        os.setsid()  # signals of the terminal are for the program
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        process.empty_standard_input()
        os.dup2(ready, 1)
        os.dup2(output, 2)
        os.execve(program, list(arguments), _ENVIRONMENT)
    except OSError as error:
        os.write(2, f"{program}: {error.strerror}\n".encode())
    finally:
        os._exit(EXIT_FAILURE)


def _is_ready(ready: int, pidfd: int) -> bool:
    """Wait until the process has written its pid to *ready*; returns False if it ends or takes too long."""
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    events = dict(poll.poll(_READY_SECONDS * 1000))
    return bool(events.get(ready, 0) & select.POLLIN)

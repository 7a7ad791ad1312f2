"""Measure private networks: the start with each of them, the throughput of a published port, and that between two sandboxes.

A start with a network is compared with one without. A port of the sandbox is forwarded by pasta, or by `sandbox-net` with egress;
podman's, with slirp4netns, by its rootlessport. Between two members of a network, bytes go through its gate; the loopback
interface of one sandbox is the comparison. All connections are those of this machine to itself.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.measuring import Sample, Trial
from benchmarks.start import Starter, sandbox, start
from benchmarks.workload import Corpus

GROUP = "network"
NONE, PODMAN = "none", "podman"
PORT, SERVED = 18980, 80
_MEGABYTES = 512
_BLOCK = 1 << 18
_LOOPBACK, _MEMBERS = "loopback", "members"
_INTERNAL, _OPEN = "[networks.bench]\ninternal = true\n", "[networks.bench]\n"
#: Lines of [network], and the tables behind it.
_KINDS = {
    "private": ('mode = "private"', ""),
    "egress": ('egress = { allow = ["example.org:443"] }', ""),
    "internal": ('networks = ["bench"]', _INTERNAL),
    "networks": ('networks = ["bench"]', _OPEN),
}
_WITH_PORTS = ("private", "egress")
STARTS = tuple(f"start, {kind}" for kind in _KINDS)
TRANSFERS = tuple(f"port, {kind}" for kind in _WITH_PORTS)
BETWEEN = "between two sandboxes"
SUMMARIES = {
    **dict.fromkeys(STARTS, "Start `true` with this network, and without a network."),
    **dict.fromkeys(
        TRANSFERS,
        f"Receive {_MEGABYTES} MB from a port of the sandbox, and of a container with rootlessport.",
    ),
    BETWEEN: f"Receive {_MEGABYTES} MB from another member of a network, and over the loopback interface of one sandbox.",
}

#: Sends what its second argument says in MB to each client of the port in the first.
_SENDER = """
import socket, sys
block = bytes(1 << 18)
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    for _ in range(4 * int(sys.argv[2])):
        connection.sendall(block)
    connection.close()
"""


#: Receives everything from a port, and prints the seconds and the number of bytes. Without a place, it starts the sender itself.
_RECEIVER = """
import socket, subprocess, sys, time
place, port, megabytes, sender = sys.argv[1:]
child = None
if not place:
    child = subprocess.Popen([sys.executable, "-c", sender, port, megabytes], stdout=subprocess.PIPE)
    child.stdout.readline()
begin, received = time.perf_counter(), 0
with socket.create_connection((place or "127.0.0.1", int(port)), 60) as connection:
    while block := connection.recv(1 << 18):
        received += len(block)
print(time.perf_counter() - begin, received)
if child is not None:
    child.kill()
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A command that runs a program with one published port."""

    starter: Starter

    def receive(self, python: str, megabytes: int) -> Sample:
        """Start a sender, receive everything from it, and return the seconds from the connection to the end."""
        command = [*self.starter.command, python, "-c", _SENDER, str(SERVED), str(megabytes)]
        with subprocess.Popen(
            command, env=self.starter.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    raise OSError("the sender did not start")
                return _receive()
            finally:
                process.terminate()
                process.wait(60)


def _receive() -> Sample:
    begin = time.perf_counter()
    received = 0
    with socket.create_connection(("127.0.0.1", PORT), 60) as connection:
        while block := connection.recv(_BLOCK):
            received += len(block)
    return Sample(time.perf_counter() - begin, received)


def make_trials(
    chosen: Sequence[str],
    corpus: Corpus,
    directory: str,
    podman: Starter | None,
    left_out: list[str],
) -> list[Trial]:
    """Return the trials named *chosen*; *directory* is new. *podman* starts containers; None if it cannot run."""
    os.mkdir(directory)
    if shutil.which("pasta") is None:
        left_out.append(f"{GROUP}: pasta is not installed (apt-get install passt)")
        return []
    trials = []
    plain = sandbox(corpus, directory)
    for kind, lines in _KINDS.items():
        if f"start, {kind}" in chosen:
            runs = {
                kind: _by_start(_with_network(plain, corpus, directory, kind, *lines), corpus),
                NONE: _by_start(plain, corpus),
            }
            trials.append(
                Trial(name=f"start, {kind}", group=f"{GROUP}, {kind}", runs=runs, subject=kind, baseline=NONE)
            )
    megabytes = corpus.amount(_MEGABYTES, 8)
    if BETWEEN in chosen:
        runs = {
            _MEMBERS: _between(
                _member(plain, corpus, directory, "sender"),
                _member(plain, corpus, directory, "receiver"),
                megabytes,
            ),
            _LOOPBACK: _alone(plain, megabytes),
        }
        trials.append(
            Trial(name=BETWEEN, group=f"{GROUP}, members", runs=runs, subject=_MEMBERS, baseline=_LOOPBACK)
        )
    for kind in _WITH_PORTS:
        if f"port, {kind}" not in chosen:
            continue
        ported = f'{_KINDS[kind][0]}\nports = ["{PORT}:{SERVED}"]'
        ours = Server(_with_network(plain, corpus, directory, f"{kind}-port", ported))
        transfers = {kind: _by_server(ours, megabytes)}
        if podman is not None:
            options = ["--network=slirp4netns:port_handler=rootlesskit", "-p", f"127.0.0.1:{PORT}:{SERVED}"]
            *command, image = podman.command
            command = [word for word in command if not word.startswith("--network")]
            theirs = Server(replace(podman, command=[*command, *options, image]))
            transfers[PODMAN] = _by_server(theirs, megabytes)
        trials.append(
            Trial(
                name=f"port, {kind}",
                group=f"{GROUP}, ports, {kind}",
                runs=transfers,
                subject=kind,
                baseline=PODMAN,
            )
        )
    return trials


def _with_network(
    plain: Starter, corpus: Corpus, directory: str, name: str, network: str, tables: str = ""
) -> Starter:
    """Return the starter of a sandbox *name* like that of *plain*, with the lines *network* in its [network] and *tables*."""
    spec = os.path.join(directory, f"{name}.toml")
    with open(spec, "w") as file:
        file.write(f'[sandbox]\nname = "{name}"\n')
        file.write(f"[root]\nlayers = [{json.dumps('dir:' + corpus.layers[-1])}]\n")
        file.write(f'[process]\ncommand = ["true"]\n[network]\n{network}\n{tables}')
    *program, up, _, end = plain.command
    return replace(plain, name=name, command=[*program, up, spec, end])


def _member(plain: Starter, corpus: Corpus, directory: str, name: str) -> Starter:
    return _with_network(plain, corpus, directory, name, *_KINDS["internal"])


def _between(sender: Starter, receiver: Starter, megabytes: int) -> Callable[[], Sample]:
    """Return a run in which one member of a network receives everything from the other one."""

    def run() -> Sample:
        command = [*sender.command, "/usr/bin/python3", "-c", _SENDER, str(SERVED), str(megabytes)]
        with subprocess.Popen(
            command, env=sender.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    raise OSError("the sender did not start")
                return _received(receiver, "sender", megabytes)
            finally:
                process.terminate()
                process.wait(60)

    return run


def _alone(starter: Starter, megabytes: int) -> Callable[[], Sample]:
    return lambda: _received(starter, "", megabytes)


def _received(starter: Starter, place: str, megabytes: int) -> Sample:
    """Receive everything from *place* in a sandbox, "" for another process of the same one."""
    words = ["/usr/bin/python3", "-c", _RECEIVER, place, str(SERVED), str(megabytes), _SENDER]
    done = subprocess.run(
        [*starter.command, *words], env=starter.environment, capture_output=True, text=True, check=True
    )
    seconds, received = done.stdout.split()
    return Sample(float(seconds), int(received))


def _by_start(starter: Starter, corpus: Corpus) -> Callable[[], Sample]:
    return lambda: start(starter, at_once=1, times=corpus.amount(5, 1))


def _by_server(server: Server, megabytes: int) -> Callable[[], Sample]:
    return lambda: server.receive("/usr/bin/python3", megabytes)

"""Changes that a program makes to a terminal that it inherits, and to descriptors that it shares with its caller."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher
from tests.e2e.test_terminal import Person, person_at, start_at

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

SHARED_TERMINAL = HOST_ROOT + "[process]\nterminal = false\n"
SECCOMP = pytest.mark.parametrize("seccomp", ["default", "unconfined"])
TIOCGEXCL = 0x80045440

#: Changes standard input in each way, prints the outcomes as one line, and ends.
CHANGES = """
import errno, fcntl, os, struct, sys, termios
outcomes = {}
def change(name, function, *arguments):
    try:
        function(*arguments)
        outcomes[name] = "done"
    except OSError as error:
        outcomes[name] = errno.errorcode[error.errno]
    except termios.error as error:
        outcomes[name] = errno.errorcode[error.args[0]]
number = struct.pack("i", 1)
attributes = termios.tcgetattr(0)
attributes[0] |= termios.IXOFF
attributes[3] &= ~(termios.ECHO | termios.ICANON)
flags = fcntl.fcntl(0, fcntl.F_GETFL)
change("attributes", termios.tcsetattr, 0, termios.TCSANOW, attributes)
change("exclusive", fcntl.ioctl, 0, termios.TIOCEXCL)
change("flags", fcntl.fcntl, 0, fcntl.F_SETFL, flags | os.O_APPEND | os.O_ASYNC)
change("permissions", os.fchmod, 0, 0o666)
change("packets", fcntl.ioctl, 0, termios.TIOCPKT, number)
change("console", fcntl.ioctl, 0, termios.TIOCCONS)
change("hang up", fcntl.ioctl, 0, 0x5437)
change("foreground", os.tcsetpgrp, 0, os.getpgrp())
change("controlling", fcntl.ioctl, 0, termios.TIOCSCTTY, 1)
change("locked attributes", fcntl.ioctl, 0, 0x5457, b"\\xff" * 64)
change("paste", fcntl.ioctl, 0, termios.TIOCLINUX, b"\\x03")
print(*(f"{name}: {outcome}" for name, outcome in outcomes.items()), sep=", ", flush=True)
termios.tcdrain(1)
change("stop", termios.tcflow, 1, termios.TCOOFF)
change("non-blocking", fcntl.fcntl, 0, fcntl.F_SETFL, flags | os.O_NONBLOCK)
if "discipline" in sys.argv:
    change("discipline", fcntl.ioctl, 0, termios.TIOCSETD, struct.pack("i", 27))  # N_NULL
    sys.exit(list(outcomes.values())[-1] != sys.argv[-1])
"""


def integer(fd: int, request: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))[0])


def state_of(fd: int) -> dict[str, Any]:
    return {
        "attributes": termios.tcgetattr(fd),
        "discipline": integer(fd, termios.TIOCGETD),
        "exclusive": integer(fd, TIOCGEXCL),
        "flags": fcntl.fcntl(fd, fcntl.F_GETFL),
        "permissions": os.fstat(fd).st_mode,
    }


def takes_output(person: Person) -> bool:
    """Return whether the terminal shows output."""
    fd = os.open(os.ttyname(person.inner), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return os.write(fd, b"x") == 1
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


@SECCOMP
def test_inherited_terminal_is_restored_afterwards(launcher: Launcher, seccomp: str) -> None:
    spec = SHARED_TERMINAL + f'[security]\nseccomp = "{seccomp}"\n'
    with person_at(launcher, ["/usr/bin/python3", "-c", CHANGES], spec) as person:
        before = state_of(person.inner)
        outcomes = dict(item.split(": ") for item in person.read_until("\r\n").split(", "))
        assert person.status() == 0
        assert state_of(person.inner) == before
        assert takes_output(person)
    assert [outcomes.pop(name) for name in ("attributes", "exclusive", "flags")] == ["done"] * 3
    # The owner may change it; programs of root's sandboxes have other ids.
    assert outcomes.pop("permissions") == ("EPERM" if os.geteuid() == 0 else "done")
    assert "done" not in outcomes.values(), outcomes


@pytest.mark.parametrize(("seccomp", "outcome"), [("default", "EPERM"), ("unconfined", "done")])
def test_line_discipline_is_put_back_where_no_filter_refuses_to_change_it(
    launcher: Launcher, seccomp: str, outcome: str
) -> None:
    """With another line discipline, a terminal has no attributes, and shells cannot use it: EINVAL."""
    spec = SHARED_TERMINAL + f'[security]\nseccomp = "{seccomp}"\n'
    command = ["/usr/bin/python3", "-c", CHANGES, "discipline", outcome]
    with person_at(launcher, command, spec) as person:
        before = state_of(person.inner)
        assert person.status() == 0
        assert state_of(person.inner) == before
        assert takes_output(person)


#: Changes the attributes, as a pager or a foreground job does, and restores the former ones as the supervisor does.
RESTORE = """
import fcntl, os, sys, termios
from sandbox.runtime.standard_descriptors import StandardDescriptors
before = StandardDescriptors.now()
if sys.argv[1] == "background":
    if pid := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.setpgid(0, 0)
if sys.argv[1] == "pipe":
    os.dup2(os.pipe()[1], 1)
if sys.argv[1] == "elsewhere":
    if pid := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.setsid()
import signal
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
attributes = termios.tcgetattr(0)
attributes[3] &= ~termios.ECHO
termios.tcsetattr(0, termios.TCSANOW, attributes)
fcntl.ioctl(0, termios.TIOCEXCL)
signal.signal(signal.SIGTTOU, signal.SIG_DFL)
before.restore()
"""


@pytest.mark.parametrize(
    ("where", "echoes"), [("foreground", True), ("pipe", False), ("background", False), ("elsewhere", False)]
)
def test_attributes_that_another_program_of_the_terminal_may_have_set_are_left(
    where: str, *, echoes: bool
) -> None:
    """A pager behind a pipe sets attributes, and so does the shell while a job is in the background.

    TIOCEXCL is restored in any case.
    """
    outer, inner = pty.openpty()
    try:
        pid = start_at(inner, [sys.executable, "-c", RESTORE, where], dict(os.environ))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert bool(termios.tcgetattr(inner)[3] & termios.ECHO) == echoes
        assert integer(inner, TIOCGEXCL) == 0
    finally:
        os.close(outer)
        os.close(inner)


def test_flags_of_an_open_file_are_restored_afterwards(launcher: Launcher, tmp_path: Path) -> None:
    script = (
        "import fcntl, os\n"
        "for fd in (0, 1, 2): fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) ^ (os.O_NONBLOCK | os.O_APPEND))"
    )
    reader, writer = os.pipe()
    fds = [
        os.open("/dev/null", os.O_RDONLY),
        writer,
        os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND),
    ]
    try:
        before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in fds]
        arguments = launcher.arguments(HOST_ROOT, ["/usr/bin/python3", "-c", script])
        stdin, stdout, stderr = fds
        done = subprocess.run(
            arguments,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=launcher.environ,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, (tmp_path / "log").read_text()
        assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in fds] == before
    finally:
        for fd in (reader, *fds):
            os.close(fd)

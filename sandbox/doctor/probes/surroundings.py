"""Find out what manages this machine, what the user's session offers, and which programs and filters are available."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterable, Mapping

from sandbox.doctor.child import Report, attempt, reason_of, run_limited
from sandbox.doctor.facts import Failure, Place, ProgramFacts, SecurityFacts, SessionFacts
from sandbox.host.facts import HostFacts
from sandbox.kernel import filters

SERVER_SECONDS = 30.0
"""Time limit in seconds for the server's interpreter: a tenth is usual, but a slow machine with a cold cache takes seconds."""

# -P, and this interpreter, as sandbox.runtime.unionfs_server starts the server. The second line of output is the reason why
# the other server (pyfuse3), which only `root.server` requests, is unavailable.
_SERVER_SCRIPT = """
import platform
import unionfs.launch.server_process, unionfs.fuse.direct.loop
here = f"Python {platform.python_version()}"
try:
    import pyfuse3, trio
except Exception as error:
    print(here)
    print(f"{type(error).__name__}: {error}")
else:
    print(f"pyfuse3 {pyfuse3.__version__}, trio {trio.__version__}, {here}")
"""


def look_at_session(facts: HostFacts, environ: Mapping[str, str], *, root: str = "") -> SessionFacts:
    """Find out what manages the machine, and try to reach the user's service manager; *root* is put before paths, for tests."""
    place = place_of(root)
    return SessionFacts(
        place=place,
        debian="debian" in _distribution(f"{root}/etc/os-release"),
        manager=None if place != "systemd" else _manager_problem(facts.uid, environ, root),
        lingers=None
        if place != "systemd"
        else facts.uid == 0 or os.path.exists(f"{root}/var/lib/systemd/linger/{facts.user_name}"),
    )


def place_of(root: str = "") -> Place:
    """Return what manages this machine; sd_booted(3), and the files that container engines create."""
    if os.path.isdir(f"{root}/run/systemd/system"):
        return "systemd"
    marks = (f"{root}/run/.containerenv", f"{root}/.dockerenv", f"{root}/run/host/container-manager")
    return "container" if any(map(os.path.exists, marks)) else "plain"


def _distribution(path: str) -> set[str]:
    """Return the words of ID and ID_LIKE; os-release(5)."""
    words: set[str] = set()
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.strip().partition("=")
                if key in ("ID", "ID_LIKE"):
                    words.update(value.strip("\"'").split())
    except OSError:
        pass
    return words


def _manager_problem(uid: int, environ: Mapping[str, str], root: str) -> str | None:
    """Connect to the bus of the user's service manager and disconnect. Return the reason if that fails."""
    directory = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    path = f"{root}/run/dbus/system_bus_socket" if uid == 0 else f"{root}{directory}/bus"
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return f"{path} is not a socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(1)
            channel.connect(path)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return None


def probe_security() -> SecurityFacts:
    """Install a filter in a child, and query the rest there too, so that loaded libraries disappear with the child."""

    def action(report: Report) -> None:
        attempt(report, "seccomp", filters.allow_every_call)
        report("libseccomp", filters.has_libseccomp())
        report("landlock", filters.landlock_version())

    outcome = run_limited(action)
    missing = [0, outcome.problem or "it was not tested"]
    seccomp = outcome.results.get("seccomp", missing)
    return SecurityFacts(
        seccomp=None if seccomp is None else Failure(errno=seccomp[0], text=seccomp[1]),
        libseccomp=bool(outcome.results.get("libseccomp", False)),
        landlock=int(outcome.results.get("landlock", 0)),
    )


class ServerInterpreter:
    """The interpreter of the server, which runs during the other probes. Its output is collected at the end."""

    def __init__(self, path: str = sys.executable) -> None:
        """Start the interpreter *path*."""
        import subprocess

        self._path = path
        self._process: subprocess.Popen[str] | None = None
        self._problem = ""
        try:
            self._process = subprocess.Popen(
                [path, "-P", "-c", _SERVER_SCRIPT],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            self._problem = reason_of(error)

    def abandon(self) -> None:
        """Kill the process."""
        if self._process is not None:
            with self._process:
                self._process.kill()

    def facts(self, *, seconds: float = SERVER_SECONDS) -> ProgramFacts:
        """Return the result; a process that takes longer than *seconds* is killed."""
        import subprocess

        if self._process is None:
            return ProgramFacts(path=self._path, problem=self._problem)
        with self._process:
            try:
                results, _ = self._process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                return ProgramFacts(path=self._path, problem=f"no answer within {seconds:g} seconds")
        return _facts_of_output(self._path, self._process.returncode, results.strip().splitlines())


def _facts_of_output(path: str, status: int, lines: list[str]) -> ProgramFacts:
    if status == 0:
        return ProgramFacts(
            path=path, version=lines[0] if lines else "", lacks=lines[1] if len(lines) > 1 else None
        )
    return ProgramFacts(path=path, problem=lines[-1] if lines else f"it ended with status {status}")


def first_free_subid(texts: Iterable[str], *, count: int = 65536) -> int:
    """Return the first id after every range in *texts* (/etc/subuid, /etc/subgid): 100000 plus a multiple of *count*.

    useradd(8) assigns ranges in the same way (SUB_UID_MIN, SUB_UID_COUNT of login.defs(5)).
    """
    end = 100000
    for text in texts:
        for line in text.splitlines():
            fields = line.strip().split(":")
            if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
                end = max(end, int(fields[1]) + int(fields[2]))
    return 100000 + -(-(end - 100000) // count) * count

"""Turn the forked child of init into the program: the last steps of the setup, and exec.

The order matters: each step must come before the one that forbids it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import termios
from collections.abc import Callable, Mapping

from sandbox.errors import EXIT_NOT_FOUND
from sandbox.kernel import capabilities, landlock, process, rlimits, seccomp, trampoline
from sandbox.plan import ProcessPlan
from sandbox.runtime.process.passwd import Account
from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs._stdlib.typing import NoReturn

_SEPARATOR = b"\0"


@dataclass(frozen=True, slots=True)
class Confinement:
    """The restrictions that are applied last, prepared in advance: applying them needs neither files nor other processes."""

    #: A descriptor of the trampoline (sandbox/kernel/trampoline) that executes the program.
    trampoline: int
    #: The BPF program of the seccomp filter.
    seccomp: bytes | None = None
    #: Sends the seccomp listener, on which denied calls are reported; None if they are not traced.
    hand_over: Callable[[int], None] | None = None
    #: A descriptor of a Landlock ruleset, -1 for none.
    ruleset: int = -1
    #: Descriptors that `hand_over` needs; exec closes them.
    keep: tuple[int, ...] = ()

    @property
    def any(self) -> bool:
        """Whether there is a seccomp filter or a Landlock ruleset."""
        return self.seccomp is not None or self.ruleset >= 0


class _Progress:
    """The step that is being executed, so that an error report can name it."""

    def __init__(self) -> None:
        self.step = ""

    def at(self, step: str) -> None:
        self.step = step


def run(
    plan: ProcessPlan,
    account: Account,
    terminal_fd: int,
    report_fd: int,
    *,
    setgroups: bool,
    confinement: Confinement,
) -> NoReturn:
    """Become the program. On success exec closes *report_fd*; a failure is written to it for :func:`parse_report`.

    Args:
        plan: the program.
        account: the user and groups of the program.
        terminal_fd: its terminal; -1 for none, which leaves standard input, output and error as they are.
        report_fd: the writing end of a pipe.
        setgroups: whether setgroups(2) is permitted; if not, the host's groups stay.
        confinement: the seccomp filter, the Landlock ruleset and the trampoline.

    Never returns and never raises, because this is a forked child.
    """
    progress = _Progress()
    try:
        _take_terminal(progress, terminal_fd)
        _drop_privileges(progress, plan, account, setgroups=setgroups, walled=confinement.any)
        progress.at("descriptors")
        process.close_descriptors_but(
            {0, 1, 2, report_fd, confinement.trampoline, *confinement.keep, confinement.ruleset} - {-1}
        )
        progress.at("signals")
        _reset_signals()
        environment = _environment(plan, account)
        if confinement.ruleset >= 0:
            progress.at("landlock")
            landlock.restrict(confinement.ruleset)
        if confinement.seccomp is not None:
            # Last: the filter would apply to every later system call.
            progress.at("seccomp")
            _filter(confinement.seccomp, confinement.hand_over)
        progress.at("trampoline")
        paths = _paths(plan.argv[0], environment)
        trampoline.execute(confinement.trampoline, report_fd, paths, plan.argv, environment)
    except OSError as error:
        if progress.step == "trampoline" and error.errno == errno.E2BIG:
            progress.at("exec")  # E2BIG is due to the program's own arguments and environment
        _report(report_fd, progress.step, error.errno or 0, error.strerror or str(error))
    except MemoryError:
        _report(report_fd, progress.step, errno.ENOMEM, os.strerror(errno.ENOMEM))
    except BaseException as error:  # noqa: BLE001 - a forked child must not run on in its parent's code
        _report(report_fd, progress.step, 0, repr(error))
    finally:
        os._exit(EXIT_NOT_FOUND)


def parse_report(report: bytes) -> tuple[str, int, str]:
    """Return step, errno and text of a report written by :func:`run`, or by the trampoline (one byte)."""
    if len(report) == 1:
        return "exec", report[0], os.strerror(report[0])
    step, number, text = report.split(_SEPARATOR, 2)
    return step.decode(), int(number), text.decode(errors="replace")


def _report(report_fd: int, step: str, number: int, text: str) -> None:
    os.write(report_fd, _SEPARATOR.join((step.encode(), str(number).encode(), text.encode(errors="replace"))))


def _filter(program: bytes, hand_over: Callable[[int], None] | None) -> None:
    if hand_over is None:
        seccomp.install(program)
    else:
        seccomp.install_traced(program, hand_over)


def _take_terminal(progress: _Progress, terminal_fd: int) -> None:
    progress.at("terminal")
    os.setsid()
    if terminal_fd >= 0:
        fcntl.ioctl(terminal_fd, termios.TIOCSCTTY, 0)
        for standard in (0, 1, 2):
            os.dup2(terminal_fd, standard)


def _drop_privileges(
    progress: _Progress, plan: ProcessPlan, account: Account, *, setgroups: bool, walled: bool
) -> None:
    sets = capabilities.sets_for(account.uid, plan.capabilities, plan.added_capabilities)
    if walled and not plan.no_new_privileges:
        # Without no_new_privs, seccomp and Landlock require CAP_SYS_ADMIN over the namespace. No set with it outlasts exec.
        sets = replace(sets, permitted=sets.permitted | {"SYS_ADMIN"})
    progress.at("process.cwd")
    os.chdir(plan.cwd)
    os.umask(plan.umask)
    progress.at("keyring")
    process.leave_session_keyring()
    if plan.oom_score_adj is not None:
        progress.at("limits.oom_score_adj")
        _set_oom_score(plan.oom_score_adj)
    progress.at("limits")
    rlimits.apply(plan.rlimits)
    progress.at("capabilities")
    capabilities.limit_bounding_set(plan.capabilities)
    progress.at("process.groups")
    if setgroups:  # otherwise denied for good (user_namespaces(7)), and the plan has refused process.groups
        os.setgroups(account.groups)
    progress.at("process.user")
    if account.uid != 0 and sets.permitted:
        capabilities.keep_over_id_change()
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    progress.at("capabilities")
    capabilities.set_process_sets(sets)
    process.set_dumpable(False)  # the id change set it to the value of fs.suid_dumpable; proc(5)
    progress.at("parent-death signal")
    process.set_parent_death_signal()
    if plan.no_new_privileges:
        progress.at("no_new_privileges")
        process.set_no_new_privileges()


def _set_oom_score(value: int) -> None:
    process.set_dumpable(True)  # otherwise this process may not open the file for writing; proc(5)
    try:
        _write("/proc/self/oom_score_adj", str(value))
    finally:
        # The process that sends the seccomp listener is forked from this one, has the channel to the supervisor open, and
        # may run at the same time as the program. The program must not be able to trace it.
        process.set_dumpable(False)


def _reset_signals() -> None:
    # Exec keeps ignored and blocked signals: Python ignores SIGPIPE and SIGXFSZ, the caller may ignore more, and init blocks
    # those that it waits for.
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _environment(plan: ProcessPlan, account: Account) -> Mapping[str, str]:
    env = {"HOME": account.home}
    if account.name is not None:
        env["USER"] = account.name
    return {**env, **plan.env}


def _paths(command: str, env: Mapping[str, str]) -> list[str]:
    """Return the paths at which a shell looks for *command*: in the PATH of *env*, unless it contains a slash; none if empty."""
    if not command:
        return []
    if "/" in command:
        return [command]
    return [os.path.join(directory or ".", command) for directory in env.get("PATH", "").split(":")]

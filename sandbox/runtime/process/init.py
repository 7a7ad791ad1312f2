"""Process 1 of the sandbox: it sets up the root, starts the program, forwards signals to it and reaps processes.

stage1 forks it; it never returns into the supervisor's code. Failures are sent over the channel; the exit status is only for a
supervisor that has ended. When the channel ends, process 1 exits, and the kernel ends the other processes of its pid namespace.
After `prepare_mounts` nothing is imported: a module would be found in the sandbox's files.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from sandbox.errors import EXIT_FAILURE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND
from sandbox.kernel import devices, landlock, namespaces, open_paths, process
from sandbox.plan import Plan
from sandbox.runtime.messages import (
    Adopted,
    CgroupNamespace,
    Channel,
    ExecFailed,
    FuseMounted,
    HostsShown,
    RootBound,
    SeccompListener,
    SetupFailed,
    SignalsReady,
    Start,
    Started,
    TerminalOpened,
)
from sandbox.runtime.process import exec_advice, execve, passwd
from sandbox.runtime.process.failures import run_step, send_quietly
from sandbox.runtime.process.reaping import Children
from sandbox.runtime.process.user import find_account
from sandbox.runtime.rootfs.executor import StepError, Workspace, execute, prepare_mounts
from sandbox.spec import signal_number
from unionfs._stdlib.dataclasses import replace

_FROM_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)
_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
    signal.SIGWINCH,
    signal.SIGALRM,
    signal.SIGIO,
    signal.SIGPWR,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)


def run_init(
    plan: Plan,
    channel: Channel,
    fuse_fd: int,
    sources: dict[str, int],
    direct_bind_fds: dict[str, int],
    label: str,
    trace: Callable[[str], None],
    confinement: execve.Confinement,
) -> int:
    """Set up the root, start the program and return its exit status; stage1 calls it in process 1.

    Args:
        plan: what to do.
        channel: to the supervisor.
        fuse_fd: /dev/fuse, opened in this user namespace; -1 without a server.
        sources: O_PATH descriptors of the volumes and devices, by path.
        direct_bind_fds: O_PATH descriptors of the trees of direct binds, by target.
        label: the name of the root in the mount table.
        trace: receives each operation as a line.
        confinement: what the program is started under.
    """
    measure = channel.expect(Adopted).measure
    process.set_title("sandbox-init")  # the supervisor's command line names paths of the host
    process.set_parent_death_signal()
    if "cgroup" in plan.namespaces:
        # The cgroup of this process becomes the root of the namespace; the supervisor has moved it there before.
        run_step("cgroup namespace", "unshare", lambda: namespaces.unshare(["cgroup"]))
        fd = namespaces.open_for_children("cgroup")
        channel.send(CgroupNamespace(), fd)
        os.close(fd)
    os.umask(0)
    workspace = Workspace(
        fuse_fd=fuse_fd,
        source_fds=sources,
        direct_bind_fds=direct_bind_fds,
        serve=lambda fd: _hand_over(channel, fd, _now(plan)),
        report_direct_bind=lambda: channel.send(RootBound(_now(plan))),
        send_hosts=lambda fd: channel.send(HostsShown(), fd),
        find_account=lambda root_fd: find_account(plan, root_fd),
        label=label,
    )
    prepare_mounts(workspace, plan.operations)
    # From here on an import would find its module in the files of a layer and run it as process 1: forbid imports.
    sys.meta_path.clear()
    sys.path.clear()
    for operation in plan.operations:
        trace(operation.describe())
        execute(operation, workspace)
    os.umask(0o022)
    account = workspace.account()
    confinement = replace(confinement, ruleset=_make_ruleset(plan.process.landlock, workspace.root_fd))
    # Without a pid namespace of its own the sandbox's processes do not end with this one, see _supervise.
    shares = "pid" not in plan.namespaces
    # Opened before the program can mount on it. A later open would need the server of the root, which may have ended.
    proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if shares or measure else -1
    os.close(workspace.root_fd)
    terminal_fd = _open_terminal(channel, account) if plan.process.terminal else -1
    if not shares:
        return _supervise(plan, account, terminal_fd, channel, confinement, proc_fd)
    process.become_subreaper()
    # No signal at the end of the parent: the end of the channel ends this process, which then ends the others.
    process.set_parent_death_signal(0)
    try:
        return _supervise(plan, account, terminal_fd, channel, confinement, -1)
    finally:
        process.end_descendants(proc_fd=proc_fd)


def _now(plan: Plan) -> int:
    """Return the time on the machine's monotonic clock; 0 if a joined time namespace has another one."""
    if any(join.kind == "time" for join in plan.joins):
        return 0
    return time.monotonic_ns() - dict(plan.clocks).get("monotonic", 0)


def _hand_over(channel: Channel, fd: int, now: int) -> None:
    try:
        channel.send(FuseMounted(now), fd)
    finally:
        # While this process has a copy open, the end of the server does not end the connection: requests would wait for
        # ever instead of failing with ENOTCONN.
        os.close(fd)


def listener_sender(channel: Channel) -> Callable[[int], None]:
    """Return a function that sends the seccomp listener, a descriptor, to the supervisor."""
    return lambda fd: channel.send(SeccompListener(), fd)


def _make_ruleset(rules: landlock.Rules | None, root_fd: int) -> int:
    """Return the ruleset, -1 for none. Its paths are resolved in the sandbox's root, with the symbolic links of layers.

    Process 1 keeps the paths open as long as it lives. A rule covers one inode, and procfs makes another one for the same path
    if the first one is unused and the kernel reclaims its dentry (proc_get_inode, fs/proc/inode.c).
    """
    if rules is None:
        return -1
    opened: list[tuple[str, int]] = []
    for kind in landlock.FILES:
        for number, path in enumerate(getattr(rules, kind) or ()):
            try:
                opened.append((kind, open_paths.open_in_root(root_fd, path)))
            except OSError as error:
                hint = "name a directory that a layer or a volume has" if error.errno == errno.ENOENT else ""
                failed = OSError(error.errno, os.strerror(error.errno or 0), path)
                raise StepError(f"security.landlock.{kind}[{number}]", "open", failed, hint) from None
    return run_step("landlock", "landlock", lambda: landlock.make_ruleset(rules, opened, root_fd))


def _open_terminal(channel: Channel, account: passwd.Account) -> int:
    """Make a terminal in the sandbox's own devpts, owned by the program's user as after login(1), and return its slave side.

    Its master side is sent to the supervisor.
    """
    try:
        outer, inner = os.openpty()  # of the sandbox's own /dev/ptmx: the host's is out of sight
        _make_console(os.ttyname(inner))
        os.fchown(inner, account.uid, -1)
    except OSError as error:
        raise StepError("terminal", "open", error) from None
    channel.send(TerminalOpened(), outer)
    os.close(outer)
    return inner


def _make_console(path: str) -> None:
    """Bind the terminal *path* on /dev/console, for programs that log there."""
    dev_fd = os.open("/dev", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        terminal_fd = open_paths.open_in_root(dev_fd, path.removeprefix("/dev/"), links=False)
        try:
            devices.bind_console(dev_fd, terminal_fd)
        finally:
            os.close(terminal_fd)
    finally:
        os.close(dev_fd)


def _supervise(
    plan: Plan,
    account: passwd.Account,
    terminal_fd: int,
    channel: Channel,
    confinement: execve.Confinement,
    proc_fd: int,
) -> int:
    """Start the program, forward signals to it, reap processes, and return the program's exit status.

    The processes that the program leaves behind are counted in the /proc of *proc_fd*, unless that is -1.
    """
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    os.set_blocking(wake_reader, False)
    # Blocked until the program's pid is known, so that none is lost before it can be forwarded.
    forwarded = _forwarded(plan)
    signal.pthread_sigmask(signal.SIG_BLOCK, (*forwarded, signal.SIGCHLD))
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    for number in (*forwarded, signal.SIGCHLD):
        signal.signal(number, _ignore_signal)
    # Before there is a program: its user may know that it runs before the supervisor does.
    channel.send(SignalsReady(_now(plan)))
    channel.expect(Start)
    _set_other_saved_id(plan)
    report_reader, report_writer = os.pipe()
    pid = run_step("process", "fork", os.fork)
    if pid == 0:
        signal.set_wakeup_fd(-1)
        for number in (*forwarded, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        execve.run(
            plan.process,
            account,
            terminal_fd,
            report_writer,
            setgroups=plan.ids.setgroups,
            confinement=confinement,
        )
    os.close(report_writer)
    os.close(confinement.trampoline)
    if confinement.ruleset >= 0:
        os.close(confinement.ruleset)
    _release_standard_descriptors(terminal_fd)
    with open(report_reader, "rb") as pipe:
        report = pipe.read()
    if report:
        return _report_failure(plan, channel, report)
    channel.send(Started(_now(plan)))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*forwarded, signal.SIGCHLD))
    children = Children(pid, plan.process.rlimits.get("cpu_time"), proc_fd)
    return _loop(pid, children, wake_reader, channel, forwarded)


def _set_other_saved_id(plan: Plan) -> None:
    """Keep every process of the sandbox from setting the resource limits of process 1.

    prlimit(2) compares the caller's real ids with the target's real, effective and saved ids. If the latter are not all the
    same, no caller has them. With a single id they have to be the same.
    """
    other = max(entry.inside + entry.count - 1 for entry in plan.ids.uid_map)
    if other:
        run_step("process 1", "setresuid", lambda: os.setresuid(-1, -1, other))


def _forwarded(plan: Plan) -> frozenset[int]:
    """Return the signals to forward: the usual ones of a supervisor, and process.stop_signal."""
    stop = signal_number(plan.process.stop_signal)
    return frozenset(_FORWARDED) | ({stop} - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD})


def _ignore_signal(_number: int, _frame: object) -> None:
    """Do nothing: the number arrives on the wake-up descriptor."""


def _release_standard_descriptors(terminal_fd: int) -> None:
    """Close the program's input and output here, so that their other ends see when the program closes them."""
    if terminal_fd >= 0:
        os.close(terminal_fd)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)


def _report_failure(plan: Plan, channel: Channel, report: bytes) -> int:
    step, number, text = execve.parse_report(report)
    if step == "exec":
        rules = plan.process.landlock
        number = exec_advice.found_errno(plan.process, number)
        hint = "" if rules is None else exec_advice.advice(plan.process, rules, number)
        send_quietly(channel, ExecFailed(plan.process.argv[0], number, hint))
        return EXIT_NOT_FOUND if number == 2 else EXIT_NOT_EXECUTABLE
    path = plan.process.cwd if step == "process.cwd" else ""
    send_quietly(channel, SetupFailed(step, "", number, text, path))
    return EXIT_FAILURE


def _loop(
    program: int, children: Children, wake_reader: int, channel: Channel, forwarded: frozenset[int]
) -> int:
    poll = select.poll()
    poll.register(wake_reader, select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN)
    while True:
        code = children.reap()
        if code is not None:
            send_quietly(channel, children.end_message(code))
            return code if code >= 0 else 128 - code
        for fd, _ in poll.poll(0 if children.more else None):
            if fd == channel.fileno():
                return EXIT_FAILURE  # the supervisor has ended; the kernel ends the others with process 1
            for number in os.read(wake_reader, 256):
                if number in forwarded:
                    _forward(program, number)


def _forward(program: int, number: int) -> None:
    try:
        if number in _FROM_KEYBOARD:
            # The program leads a session of its own. A terminal sends these to the whole group, too.
            os.killpg(program, number)
        else:
            os.kill(program, number)
    except ProcessLookupError:
        pass

"""The processes inside: stage1, which makes the namespaces and ends, and init, process 1, which sets up,
reaps and forwards signals.

Both are forked from the supervisor and never return into its code. What goes wrong is said over the channel;
the exit status is only for a supervisor that is gone. The end of the channel is the end of the sandbox:
whoever sees it exits, and with process 1 goes everything.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from sandbox.errors import EXIT_FAILURE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND
from sandbox.kernel import devices, idmaps, landlock, mounts, namespaces, process
from sandbox.kernel.idmaps import IdMap
from sandbox.plan import Plan
from sandbox.plan.operations import BindDevice, BindVolume
from sandbox.runtime.messages import (
    Adopted,
    CgroupNamespace,
    Channel,
    ChannelError,
    ExecFailed,
    FuseMounted,
    InitStarted,
    Mapped,
    ProgramEnded,
    RootBound,
    SeccompListener,
    SetupFailed,
    SignalsReady,
    Start,
    Started,
    TerminalOpened,
    Unshared,
)
from sandbox.runtime.process import exec_advice, execve, passwd
from sandbox.runtime.process.reaping import Children
from sandbox.runtime.process.user import find_account
from sandbox.runtime.rootfs.direct_bind import NativeSource
from sandbox.runtime.rootfs.executor import StepError, Workspace, execute, prepare_mounts
from sandbox.spec import signal_number
from unionfs._stdlib.dataclasses import replace
from unionfs._stdlib.typing import NoReturn, TypeVar

T = TypeVar("T")

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


def run_stage1(
    plan: Plan,
    channel: Channel,
    joined: Mapping[str, int],
    label: str,
    trace: Callable[[str], None],
    let_go: Callable[[], None],
    confinement: execve.Confinement,
    natives: Sequence[NativeSource] = (),
) -> NoReturn:
    """Let go of what is the supervisor's, make the namespaces, fork init into them, say its pid, and end.

    Args:
        plan: what to do.
        channel: to the supervisor.
        joined: the namespaces to join, by kind; as "user" also one that is only entered to make the sandbox's own in.
        label: what the mount table is to call the root.
        trace: tells each operation.
        let_go: leaves behind what is the supervisor's.
        confinement: what the program is put behind.
        natives: where native paths, and the root, are bound from.
    """

    def action() -> int:
        let_go()
        return _stage1(plan, channel, joined, label, trace, confinement, natives)

    _guarded(channel, action)


def _guarded(channel: Channel, action: Callable[[], int]) -> NoReturn:
    status = EXIT_FAILURE
    try:
        status = action()
    except StepError as error:
        _report(channel, error.step, error.operation, error.error, error.hint)
    except OSError as error:
        _report(channel, "set-up", "set-up", error)
    except MemoryError:
        _report(channel, "set-up", "set-up", OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    except ChannelError:
        pass  # the supervisor is gone: nobody is left to tell
    except BaseException as error:  # noqa: BLE001 - a forked child must not run on in its parent's code
        _send_quietly(channel, SetupFailed("internal error", "", 0, _locate(error), ""))
    finally:
        sys.stderr.flush()
        os._exit(status)


def _locate(error: BaseException) -> str:
    """Describe *error* and where it came from, without the traceback module: it would be imported from the sandbox."""
    places = []
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{frame.tb_lineno} {code.co_name}")
        frame = frame.tb_next
    return f"{error!r} at {' > '.join(places)}"


def _report(channel: Channel, step: str, operation: str, error: OSError, hint: str = "") -> None:
    path = error.filename2 or error.filename or ""
    path = os.fsdecode(path) if isinstance(path, bytes | str) else str(path)
    _send_quietly(
        channel, SetupFailed(step, operation, error.errno or 0, error.strerror or str(error), path, hint)
    )


def _send_quietly(channel: Channel, message: SetupFailed | ExecFailed | ProgramEnded) -> None:
    try:
        channel.send(message)
    except OSError:
        pass


def _stage1(
    plan: Plan,
    channel: Channel,
    joined: Mapping[str, int],
    label: str,
    trace: Callable[[str], None],
    confinement: execve.Confinement,
    natives: Sequence[NativeSource],
) -> int:
    # Users first: the right to join the others comes from there.
    for kind in ("user", "net", "ipc", "uts", "cgroup", "time"):
        if kind in joined:
            _step(f"namespaces.{kind}", "setns", _joiner(kind, joined[kind]))
    if plan.inner_maps is not None:
        _unshare_users_inside(plan.inner_maps)
    elif "user" in plan.namespaces:
        _step("user namespace", "unshare", lambda: namespaces.unshare(["user"]))
    channel.send(Unshared())
    channel.expect(Mapped)
    # Before the ids change, and in the new mount namespace: real root owns what root of the namespace may not
    # even find, and a source can be bound only in the mount namespace that it was opened in.
    _step("namespaces", "unshare", lambda: namespaces.unshare(sorted(plan.namespaces - {"user", "cgroup"})))
    if plan.clocks:
        _step("namespaces.time", "write timens_offsets", lambda: namespaces.write_clock_offsets(plan.clocks))
    fuse_fd = -1
    if plan.bound is None:
        fuse_fd = _step(
            "open /dev/fuse", "open /dev/fuse", lambda: os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        )
    paths = [step.source for step in plan.operations if isinstance(step, BindVolume | BindDevice)]
    sources = {path: _step(f"open {path}", "open", _opener(path)) for path in paths}
    native_fds = {
        source.target: _step(f"open {source.tree}", "open", _opener_of_tree(source)) for source in natives
    }
    if plan.ids.setgroups:
        # The host's groups open what the sandbox's root has no business with. They served for the sources above.
        _step("become root of the namespace", "setgroups", lambda: os.setgroups([]))
    _step("become root of the namespace", "setresuid", _become_root)
    if "pid" in joined:
        _step("namespaces.pid", "setns", _joiner("pid", joined["pid"]))
    for fd in joined.values():
        os.close(fd)
    pid = _step("process 1", "fork", os.fork)
    if pid == 0:
        _guarded(
            channel, lambda: _init(plan, channel, fuse_fd, sources, native_fds, label, trace, confinement)
        )
    # Where no pid namespace ends them, the sandbox's processes are those of its mount namespace.
    made = sorted(plan.namespaces - ({"mount", "cgroup"} if "pid" in plan.namespaces else {"cgroup"}))
    channel.send(InitStarted(pid, made), *(_open_namespace(kind) for kind in made))
    return 0


def _joiner(kind: str, fd: int) -> Callable[[], None]:
    return lambda: namespaces.join(kind, fd)


def _open_namespace(kind: str) -> int:
    return os.open(f"/proc/self/ns/{namespaces.FILES[kind]}", os.O_RDONLY | os.O_CLOEXEC)


def _unshare_users_inside(maps: tuple[Sequence[IdMap], Sequence[IdMap]]) -> None:
    """Make a user namespace in the one that we entered, whose maps a child writes that stays there: no process elsewhere may."""
    maker = os.getpid()
    go, made = os.pipe()
    child = _step("id maps", "fork", os.fork)
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
        _step("user namespace", "unshare", lambda: namespaces.unshare(["user"]))
        os.write(made, b"1")
    finally:
        os.close(go)
        os.close(made)
        _, status = os.waitpid(child, 0)
    if number := os.waitstatus_to_exitcode(status):
        raise StepError("id maps", "write uid_map", OSError(number, os.strerror(number)))


def _step(name: str, operation: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except OSError as error:
        raise StepError(name, operation, error) from None


def _opener(path: str) -> Callable[[], int]:
    # The plan has the path without links: one that is there now was put there to lead astray.
    return lambda: mounts.open_real(path)


def _opener_of_tree(source: NativeSource) -> Callable[[], int]:
    """Return what opens the tree of a layer in this mount namespace, in which alone it can be bound."""

    def action() -> int:
        fd = mounts.open_real(source.tree, directory=True)
        info = os.fstat(fd)
        if (info.st_dev, info.st_ino) != source.identity:
            os.close(fd)
            raise OSError(errno.ESTALE, "another directory is in the place of the layer", source.tree)
        return fd

    return action


def _become_root() -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    process.set_dumpable(False)


def _init(
    plan: Plan,
    channel: Channel,
    fuse_fd: int,
    sources: dict[str, int],
    native_fds: dict[str, int],
    label: str,
    trace: Callable[[str], None],
    confinement: execve.Confinement,
) -> int:
    measure = channel.expect(Adopted).measure
    process.set_title("sandbox-init")  # the command line that started us names paths of the host
    process.set_parent_death_signal()
    if "cgroup" in plan.namespaces:
        # After the supervisor has put us into our cgroup: that is what the namespace takes for its root.
        _step("cgroup namespace", "unshare", lambda: namespaces.unshare(["cgroup"]))
        fd = _open_namespace("cgroup")
        channel.send(CgroupNamespace(), fd)
        os.close(fd)
    os.umask(0)
    workspace = Workspace(
        fuse_fd=fuse_fd,
        source_fds=sources,
        native_fds=native_fds,
        serve=lambda fd: _hand_over(channel, fd, _now(plan)),
        tell_bound=lambda: channel.send(RootBound(_now(plan))),
        find_account=lambda root_fd: find_account(plan, root_fd),
        label=label,
    )
    prepare_mounts(workspace, plan.operations)
    # From here on an import would look in what a layer holds, and run that as process 1: there shall be none.
    sys.meta_path.clear()
    sys.path.clear()
    for operation in plan.operations:
        trace(operation.describe())
        execute(operation, workspace)
    os.umask(0o022)
    account = workspace.account()
    confinement = replace(confinement, ruleset=_make_ruleset(plan.process.landlock, workspace.root_fd))
    # As nothing ends with us by itself then, see _supervise. The path would lead through the union, whose server may be gone.
    shares = "pid" not in plan.namespaces
    # Opened before the program could cover it.
    proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if shares or measure else -1
    os.close(workspace.root_fd)
    terminal_fd = _open_terminal(channel, account) if plan.process.terminal else -1
    if not shares:
        return _supervise(plan, account, terminal_fd, channel, confinement, proc_fd)
    process.become_subreaper()
    process.set_parent_death_signal(0)  # the end of the channel tells, and we have something left to do then
    try:
        return _supervise(plan, account, terminal_fd, channel, confinement, -1)
    finally:
        process.end_descendants(proc_fd=proc_fd)


def _now(plan: Plan) -> int:
    """Return the time on the clock of this machine; 0 where ours is somebody else's."""
    if any(join.kind == "time" for join in plan.joins):
        return 0
    return time.monotonic_ns() - dict(plan.clocks).get("monotonic", 0)


def _hand_over(channel: Channel, fd: int, now: int) -> None:
    try:
        channel.send(FuseMounted(now), fd)
    finally:
        # With a second holder a killed server would leave its clients hanging instead of ENOTCONN
        # (Corrections 2).
        os.close(fd)


def tell(channel: Channel) -> Callable[[int], None]:
    """Return what sends the descriptor of denied calls to the supervisor."""
    return lambda fd: channel.send(SeccompListener(), fd)


def _make_ruleset(rules: landlock.Rules | None, root_fd: int) -> int:
    """Return the ruleset, -1 for none. Its paths are those of the sandbox, wherever symbolic links of layers lead.

    Process 1 keeps the paths open as long as it lives. A rule covers one inode, and procfs makes another one for the same path
    when nobody uses the first and the kernel reclaims its dentry (proc_get_inode, fs/proc/inode.c).
    """
    if rules is None:
        return -1
    opened: list[tuple[str, int]] = []
    for kind in landlock.FILES:
        for number, path in enumerate(getattr(rules, kind) or ()):
            try:
                opened.append((kind, mounts.open_in_root(root_fd, path)))
            except OSError as error:
                hint = "name what a layer or a volume has" if error.errno == errno.ENOENT else ""
                failed = OSError(error.errno, os.strerror(error.errno or 0), path)
                raise StepError(f"security.landlock.{kind}[{number}]", "open", failed, hint) from None
    return _step("landlock", "landlock", lambda: landlock.make_ruleset(rules, opened, root_fd))


def _open_terminal(channel: Channel, account: passwd.Account) -> int:
    """Make a terminal in the sandbox's own devpts, the program's to open anew as after login(1); its outer end goes to the
    supervisor.
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
    """Let /dev/console be the terminal *path*, as programs expect that log there."""
    dev_fd = os.open("/dev", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        terminal_fd = mounts.open_in_root(dev_fd, path.removeprefix("/dev/"), links=False)
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
    """Start the program, pass signals on to it, reap whatever ends, and return what the program ended with.

    What it leaves behind is counted in the /proc of *proc_fd*, unless that is -1.
    """
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    os.set_blocking(wake_reader, False)
    # Blocked until the program's pid is known, so that none is lost before there is somebody to pass it on
    # to.
    forwarded = _forwarded(plan)
    signal.pthread_sigmask(signal.SIG_BLOCK, (*forwarded, signal.SIGCHLD))
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    for number in (*forwarded, signal.SIGCHLD):
        signal.signal(number, _noted)
    channel.send(
        SignalsReady(_now(plan))
    )  # before there is a program, whose user may hear of it sooner than the supervisor
    channel.expect(Start)
    _take_saved_id(plan)
    report_reader, report_writer = os.pipe()
    pid = _step("process", "fork", os.fork)
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
    _let_go_of_terminal(terminal_fd)
    with open(report_reader, "rb") as pipe:
        report = pipe.read()
    if report:
        return _report_failure(plan, channel, report)
    channel.send(Started(_now(plan)))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*forwarded, signal.SIGCHLD))
    children = Children(pid, plan.process.rlimits.get("cpu_time"), proc_fd)
    return _loop(pid, children, wake_reader, channel, forwarded)


def _take_saved_id(plan: Plan) -> None:
    """Keep every process of the sandbox from setting the resource limits of process 1.

    prlimit(2) compares the caller's real ids with the target's real, effective and saved ids. If the latter are not all the
    same, no caller has them. With a single id they have to be the same.
    """
    other = max(entry.inside + entry.count - 1 for entry in plan.ids.uid_map)
    if other:
        _step("process 1", "setresuid", lambda: os.setresuid(-1, -1, other))


def _forwarded(plan: Plan) -> frozenset[int]:
    """Return the signals to pass on: those that somebody outside may send, and the one that the file stops it with."""
    stop = signal_number(plan.process.stop_signal)
    return frozenset(_FORWARDED) | ({stop} - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD})


def _noted(_number: int, _frame: object) -> None:
    """Leave it to the wake-up descriptor."""


def _let_go_of_terminal(terminal_fd: int) -> None:
    """Hold no end of the program's input and output: their other ends must see when the program closes them."""
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
        _send_quietly(channel, ExecFailed(plan.process.argv[0], number, hint))
        return EXIT_NOT_FOUND if number == 2 else EXIT_NOT_EXECUTABLE
    path = plan.process.cwd if step == "process.cwd" else ""
    _send_quietly(channel, SetupFailed(step, "", number, text, path))
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
            _send_quietly(channel, children.told(code))
            return code if code >= 0 else 128 - code
        for fd, _ in poll.poll(0 if children.more else None):
            if fd == channel.fileno():
                return EXIT_FAILURE  # the supervisor is gone, and so are we: the kernel ends everything else
            for number in os.read(wake_reader, 256):
                if number in forwarded:
                    _forward(program, number)


def _forward(program: int, number: int) -> None:
    try:
        if number in _FROM_KEYBOARD:
            os.killpg(
                program, number
            )  # the program leads a session of its own; a terminal would tell the whole group, too
        else:
            os.kill(program, number)
    except ProcessLookupError:
        pass

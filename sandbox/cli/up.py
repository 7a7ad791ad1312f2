"""`sandbox up`: start the sandbox of an environment file and wait for its program."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time

from sandbox.cli.options import add_file, add_locked, add_overrides
from sandbox.cli.output import print_json, print_warnings, warn
from sandbox.cli.verbs import PROGRAM_EXIT_STATUS

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from sandbox.cli.progress import ArchiveProgress, ImageProgress
    from sandbox.errors import SandboxError
    from sandbox.host.facts import HostFacts
    from sandbox.images.resolve import Fetch
    from sandbox.images.stored_images import ImageRecord
    from sandbox.plan import Plan
    from sandbox.runtime.detaching import Background
    from sandbox.runtime.report import Report
    from sandbox.runtime.supervisor import Supervisor
    from sandbox.runtime.timeline import Timeline
    from sandbox.spec.model import Spec
    from sandbox.state.directory import StateDirectory

#: Seconds between the end of a sandbox whose network has failed and its restart.
_RESTART_SECONDS = 1.0

DESCRIPTION = """\
Start the sandbox that FILE describes, and wait for its program. With --detach, run it in the background: print the id of the run, and
return when the program has been executed. Its output is in the log (`sandbox logs`). When it has ended, its record, its log and
what it changed stay until `sandbox rm`."""
EPILOG = (
    "keys: ctrl-p ctrl-z suspends this command, and fg or bg of the shell resumes it. All other keys go to the program. The program continues while this command is suspended; limits.wall_time takes effect when the command is resumed.\n\n"
    "background: if started with &, the program gets no terminal, unless process.terminal = true\n\n"
    + PROGRAM_EXIT_STATUS
)
USAGE = "sandbox up [OPTION ...] [FILE] [-- COMMAND [ARGUMENT ...]]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_file(parser, optional=True)
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="run this command instead of that of the file"
    )
    add_overrides(parser)
    parser.add_argument(
        "--detach", "-d", action="store_true", help="run it in the background, and print the id of the run"
    )
    parser.add_argument(
        "--rm", action="store_true", help="with --detach: remove everything of it when it ends"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="with --detach: stop and remove a sandbox in the background that has the name",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the operations, in order, and do nothing"
    )
    parser.add_argument(
        "--accept-layers",
        action="store_true",
        help="use the persistent layer although it was created over other layers, and record the current ones",
    )
    add_locked(parser)
    parser.add_argument(
        "--keep-changes",
        action="store_true",
        help="keep what the program changes, although the writable layer is ephemeral: see sandbox diff, apply and export; "
        "sandbox discard removes it",
    )
    parser.add_argument(
        "--diff", action="store_true", help="print on standard error at the end what the program has changed"
    )
    parser.add_argument(
        "--trace-denials",
        action="store_true",
        help="print each system call that the filter denies (security.seccomp), its program, and the setting that would allow it; only denied calls become slower",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="print a report on standard error at the end: the cause of the end, the resources used, and the mechanism of each limit",
    )
    parser.add_argument(
        "--timings",
        action="store_true",
        help="print on standard error at the end the duration of each phase of the start, in milliseconds",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="with --dry-run or --report: print the result, or the errors, as JSON",
    )


def run(arguments: argparse.Namespace) -> int:
    """Start the sandbox and wait; return the exit status of its program."""
    if arguments.dry_run:
        return _dry_run(arguments)
    # SIG_IGN is inherited from the parent. With it, the kernel would reap child processes before waitpid(2) returns their status.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if arguments.detach:
        return _run_in_background(arguments)
    if arguments.rm or arguments.replace:
        from sandbox.errors import SandboxError

        raise SandboxError("--rm and --replace need --detach")
    # Standard output is the program's, so errors are printed as text.
    as_json, arguments.json = arguments.json, False
    if as_json and not arguments.report:
        from sandbox.errors import SandboxError

        raise SandboxError(
            "--json needs --dry-run or --report: otherwise standard output belongs to the program",
            hint="add --dry-run for the plan, or --report for the resources used",
        )
    spec = None
    while True:
        spec, supervisor, status = _run_once(arguments, spec, as_json=as_json)
        if not supervisor.wants_restart:
            return status
        warn("the sandbox is restarted (network.on_failure)")
        time.sleep(_RESTART_SECONDS)


def _run_in_background(arguments: argparse.Namespace) -> int:
    """Start the sandbox in the background; return the exit status."""
    from sandbox.cli.background import run_in_background

    return run_in_background(
        arguments, lambda background: _run_once(arguments, None, as_json=False, background=background)[2]
    )


def _run_once(
    arguments: argparse.Namespace, spec: Spec | None, *, as_json: bool, background: Background | None = None
) -> tuple[Spec, Supervisor, int]:
    """Start the sandbox and wait for its end; return its specification, its supervisor and the exit status.

    *spec* is the specification of an earlier run; None to read the file. *background* is that of a sandbox in the background.
    """
    import gc

    gc.disable()  # collections during the imports would take time and find no garbage
    # The server is started early: its imports take longest, and run in parallel with those of the launcher and with the reading
    # of the file.
    from sandbox.cli import BEGUN
    from sandbox.cli.planning import load_to_plan
    from sandbox.runtime.timeline import Timeline
    from sandbox.runtime.unionfs_server import Server

    timeline = Timeline(BEGUN)
    timeline.mark("imported")
    server = Server()
    try:
        if not _may_need_no_server(arguments):
            server.start()
        if spec is None:
            spec = load_to_plan(arguments, tuple(arguments.command) or None)
        timeline.mark("read")
        from sandbox.plan import may_need_no_server
        from sandbox.runtime.supervisor import Supervisor

        if not may_need_no_server(spec):
            server.start()
        facts, directory, secret, plan = _make_plan(spec, arguments)
        timeline.mark("planned")
        if background is not None:
            from sandbox.cli.background import check_plan

            check_plan(plan, directory, replace=arguments.replace)
    except BaseException:
        server.abandon()
        raise
    print_warnings(plan.cautions)
    for warning in plan.warnings:
        warn(warning)
    problem = _untraceable(plan, facts) if arguments.trace_denials else None
    problem = problem or _without_changes(plan, arguments)
    if problem is not None:
        server.abandon()
        raise problem

    # A terminal that is passed through is in raw mode, and does not translate "\n" to "\r\n".
    end = "\r\n" if sys.stderr.isatty() else "\n"

    def note(text: str) -> None:
        print(f"sandbox: {text}", file=sys.stderr, end=end, flush=True)

    if plan.process.terminal and facts.suspendable and sys.stderr.isatty():
        note("ctrl-p ctrl-z suspends this command; fg resumes it")

    def trace(text: str) -> None:
        if arguments.debug:
            # Write the line at once: other processes of the sandbox write to the same trace.
            sys.stderr.write(f"+ {text}\n")
            sys.stderr.flush()

    supervisor = Supervisor(
        plan,
        facts,
        directory,
        server,
        trace=trace,
        warn=warn,
        report_denied=note if arguments.trace_denials else None,
        measure=arguments.report,
        timeline=timeline,
        secret=secret,
        progress=_make_progress,
        keep_changes=arguments.keep_changes or (background is not None and not arguments.rm),
        log=None if background is None else background.output_log(),
        keep_record=background is not None and not arguments.rm,
        on_start=None if background is None else background.report,
        on_end=_after_the_program(arguments, plan, warn, note),
    )
    # Existing objects are exempt from collection, so that forked children do not write to (and so copy) their pages.
    gc.freeze()
    gc.enable()
    try:
        return spec, supervisor, supervisor.run()
    finally:
        timeline.mark("gone")
        if supervisor.report is not None:
            _print_report(supervisor.report, timeline if arguments.timings else None, as_json=as_json)
        if arguments.timings and not (as_json and supervisor.report is not None):
            _print_lines(timeline.lines())


def _make_plan(
    spec: Spec, arguments: argparse.Namespace
) -> tuple[HostFacts, StateDirectory, bytes | None, Plan]:
    """Gather the facts of this machine and plan *spec* for it; remove leftovers of earlier sandboxes in the state directory.

    Return facts, state directory, the secret of the run directory (None if there is none), and plan.
    """
    from sandbox.cli.planning import joined_namespaces, network_facts, private_directories, with_images
    from sandbox.host import facts as host
    from sandbox.host.paths import inspect_all
    from sandbox.plan import host_details, host_files, host_paths, make_plan, wants_cgroup
    from sandbox.runtime.bridge_sweep import sweep_bridge
    from sandbox.state import directory as state
    from sandbox.state import run_directory
    from sandbox.state.layer_records import look
    from sandbox.state.location import default_image_path, default_path

    facts = host.gather(scopes=arguments.report or wants_cgroup(spec))
    state_path, images = default_path(os.environ, facts.uid), default_image_path(os.environ, facts.uid)
    # Before private_directories(), so that the run directory exists when it is examined.
    run_path, secret = run_directory.prepare(run_directory.default_path(os.environ, facts.uid), warn)
    directory = state.StateDirectory(state_path, run_path, images)
    directory.sweep()
    sweep_bridge(directory.run_path, warn)
    spec, stored = with_images(
        spec,
        directory.images,
        fetch=lambda: _make_fetch(spec, facts, directory.images),
        locked=arguments.locked,
    )
    plan = make_plan(
        spec,
        facts,
        inspect_all(host_paths(spec, facts), read=host_files(spec), **host_details(spec, facts)),
        environ=os.environ,
        state_directory=directory.path,
        private=private_directories(state_path, images, facts.uid),
        joined=joined_namespaces(spec, directory.path),
        command=tuple(arguments.command) or None,
        persistent=look(spec, directory.path),
        images=stored,
        network=network_facts(spec),
        accept_layers=arguments.accept_layers,
    )
    return facts, directory, secret, plan


def _make_progress() -> ArchiveProgress:
    from sandbox.cli.progress import ArchiveProgress  # only for an archive that is unpacked or compared

    return ArchiveProgress()


def _make_fetch(spec: Spec, facts: HostFacts, images: str) -> Fetch | None:
    """Return how to fetch images; None if the plan will refuse the ids under which their layers are to be unpacked."""
    from sandbox.images.resolve import Fetch
    from sandbox.plan.findings import Findings
    from sandbox.plan.ids import plan_ids

    findings = Findings(spec)
    ids = plan_ids(spec, facts, findings)
    if findings.refusals:
        return None

    def unpack(record: ImageRecord, mounted: str | None = None, /) -> None:
        from sandbox.images.adding import unpack

        unpack(images, record, ids, warn, _make_progress, mounted=mounted)

    return Fetch(progress=_make_blob_progress, unpack=unpack)


def _make_blob_progress() -> ImageProgress:
    from sandbox.cli.progress import ImageProgress  # only for an image that is fetched or imported

    return ImageProgress()


def _may_need_no_server(arguments: argparse.Namespace) -> bool:
    """Tell whether the file may ask for a root without server, from a text search.

    Parsing the file takes longer than starting the server, which is needed nearly always. If the settings are elsewhere, for
    example in an extended file, the server is started and ended again.
    """
    text = "\n".join(arguments.assignments).encode(errors="surrogateescape")
    try:
        if stat.S_ISREG(os.stat(arguments.file).st_mode):
            with open(arguments.file, "rb") as file:
                text += b"\n" + file.read(1 << 16)
    except (OSError, ValueError):
        pass  # load_to_plan reports it
    if b"tar" not in text or b"none" not in text:
        return False
    import re  # imported only for few files, because it delays the start of the server

    named = re.search(rb"""server["']?\s*=\s*["']?(direct|pyfuse3)""", text)
    found = re.search(rb"""(writable|server)["']?\s*=\s*["']?none""", text)
    return found is not None and named is None


def _without_changes(plan: Plan, arguments: argparse.Namespace) -> SandboxError | None:
    """Return the error that a read-only root has no changes to show or keep; None if it has, or none are requested."""
    if plan.writable != "none" or not (arguments.keep_changes or arguments.diff):
        return None
    from sandbox.errors import SandboxError

    option = "--keep-changes" if arguments.keep_changes else "--diff"
    return SandboxError(
        f"{option}: the root is read-only, so the program changes nothing",
        hint=f'leave {option} out, or set root.writable = "ephemeral"',
    )


def _after_the_program(
    arguments: argparse.Namespace, plan: Plan, warn: Callable[[str], None], note: Callable[[str], None]
) -> Callable[[str], None] | None:
    """Return what is to be done with the changes when the program has ended; None if nothing is."""
    if not (arguments.keep_changes or arguments.diff):
        return None

    def show(identity: str) -> None:
        from sandbox.cli.diff import print_changes
        from sandbox.errors import SandboxError

        name = plan.name if plan.writable == "persistent" else identity
        if arguments.diff:
            try:
                print_changes(name, sys.stderr)
            except SandboxError as error:
                warn(f"--diff: {error}")
        if arguments.keep_changes:
            note(f"the changes are kept; to see them: sandbox diff {name}")

    return show


def _print_report(report: Report, timeline: Timeline | None, *, as_json: bool) -> None:
    if as_json:
        import json

        timings = None if timeline is None else timeline.as_list()
        print(json.dumps(report.as_dict() | {"timings": timings}), file=sys.stderr, flush=True)
    else:
        _print_lines(report.lines())


def _print_lines(lines: Sequence[str]) -> None:
    sys.stderr.write("\n".join(["sandbox: " + lines[0], *lines[1:], ""]))
    sys.stderr.flush()


def _untraceable(plan: Plan, facts: HostFacts) -> SandboxError | None:
    """Return the error why denied system calls cannot be traced; None if they can."""
    from sandbox.errors import HostError

    if plan.process.seccomp is None:
        return HostError(
            "--trace-denials: the sandbox has no seccomp filter",
            hint="set security.seccomp, or remove --trace-denials",
        )
    if not facts.can_report_denials:
        return HostError(
            "--trace-denials: this kernel cannot report denied system calls", hint="leave it out"
        )
    return None


def _dry_run(arguments: argparse.Namespace) -> int:
    """Print the plan, without changing the state directory and without starting a process."""
    from sandbox.cli.planning import load_to_plan, plan
    from sandbox.plan import as_dict, describe

    command = tuple(arguments.command) or None
    planning = plan(
        load_to_plan(arguments, command),
        command,
        accept_layers=arguments.accept_layers,
        locked=arguments.locked,
    )
    if planning.state is not None:
        raise planning.state
    accepted = planning.draft.accepted()
    print_warnings(accepted.cautions)
    for warning in accepted.warnings:
        warn(warning)
    if arguments.json:
        print_json(as_dict(accepted))
    else:
        print("\n".join(describe(accepted)))
    return 0

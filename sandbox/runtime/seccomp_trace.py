"""Answer and report the system calls that a seccomp filter denies, for `up --trace-denials`.

The kernel reports each denied call on the listener and blocks its thread until the answer; seccomp_unotify(2). The answer is the
filter's own action, except that a SIGSYS handler does not receive the number of the call. Each denied call costs two context
switches; allowed calls cost nothing. The supervisor imports this module only on request.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping

from sandbox.kernel import bpf, process, seccomp
from sandbox.kernel.seccomp import Call
from sandbox.plan import SeccompPlan
from sandbox.seccomp import values
from sandbox.seccomp.calls import ABSENT, DENIED
from sandbox.spec.notation import quote, visible

_MAX_REPORTED = 100
"""The most different denials that are reported one by one. A program with more of them makes them up on purpose."""

_MAX_COUNTED = 1000
"""The most names that are counted. Fewer system calls exist, but each invalid number counts as a name, too, and the program can
make these up."""

_OTHERS = "others"

_ARCHITECTURES = {0x40000003: "X86", 0x40000028: "ARM", 0x00000016: "S390"}
"""AUDIT_ARCH_* of the other architectures whose calls the machine accepts, and their names in libseccomp."""


class DenialTracer:
    """The denied calls of one sandbox. Owns the listener; the supervisor creates it and closes it."""

    def __init__(
        self, plan: SeccompPlan, program: bytes, listener: int, report: Callable[[str], None]
    ) -> None:
        """Take ownership of *listener*. *program* is the filter, whose actions decide the answers. *report* receives each report."""
        self._plan = plan
        self._program = program
        self._listener = listener
        self._report = report
        self._seen: set[tuple[str, int, str]] = set()
        self._counts: Counter[str] = Counter()

    def fileno(self) -> int:
        """Return the descriptor for poll(2); -1 once no process is under the filter."""
        return self._listener

    def close(self) -> None:
        """Close the listener: waiting calls and all later denied calls fail with ENOSYS."""
        if self._listener >= 0:
            os.close(self._listener)
            self._listener = -1

    def answer_call(self) -> None:
        """Receive one denied call, record it and answer it."""
        call = seccomp.receive(self._listener)
        if call is None:
            return
        action = bpf.run(self._program, call.number & 0xFFFFFFFF, call.architecture, call.arguments)
        self._record(call, action)
        kind, number = action & bpf.ACTION_MASK, action & 0xFFFF
        if values.lets_through(action) or self._plan.log:
            seccomp.answer(self._listener, call, None)
        elif kind == values.ERRNO:
            seccomp.answer(self._listener, call, number)
        else:
            if kind != values.TRACE:  # without a tracer the kernel fails the call with ENOSYS, too
                self._end(call, handled=kind == values.TRAP)
            seccomp.answer(self._listener, call, errno.ENOSYS)

    def _end(self, call: Call, *, handled: bool) -> None:
        """Kill the process of *call*, as the filter would. If the filter kills only a thread, the whole process ends here.

        The SIGSYS of the kernel can be neither blocked nor ignored, and a handler catches it only if *handled*. The SIGSYS sent
        here can be blocked or ignored. If the process would survive it in this way, send SIGKILL instead.
        """
        status = _status_of(call.process)
        escapes = ("SigBlk", "SigIgn") if handled else ("SigBlk", "SigIgn", "SigCgt")
        bit = 1 << signal.SIGSYS - 1
        spared = not status or any(int(status[name], 16) & bit for name in escapes)
        # Without a status, assume that the calling thread is the main thread, whose number is the process's.
        pidfd = seccomp.open_process(self._listener, call, int(status.get("Tgid", call.process)))
        if pidfd is None:
            return
        try:
            process.send_signal(pidfd, signal.SIGKILL if spared else signal.SIGSYS)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)

    def _record(self, call: Call, action: int) -> None:
        name = _name(call)
        self._counts[name if name in self._counts or len(self._counts) < _MAX_COUNTED else _OTHERS] += 1
        program = _program_of(call.process)
        kind = (name, action, program)
        if kind in self._seen or len(self._seen) >= _MAX_REPORTED:
            return
        self._seen.add(kind)
        arguments = ", ".join(f"{value:#x}" for value in call.arguments)
        self._report(
            f"denied: {name}({arguments}) = {_outcome(action)} in {program}, process {_inner_pid(call.process)}"
        )

    def summary(self) -> list[str]:
        """Return lines about all denied calls, and about the settings that would allow them."""
        if not self._counts:
            return ["no system call was denied"]
        counted = ", ".join(f"{name} {count}" for name, count in sorted(self._counts.items()))
        lines = [f"denied system calls: {counted}"]
        wanted = sorted(
            name for name in self._counts if name not in {*ABSENT, _OTHERS} and name.isidentifier()
        )
        absent = sorted(name for name in self._counts if name in ABSENT)
        if absent:
            lines.append(f"absent by design, harmless for most programs: {', '.join(absent)}")
        if wanted:
            lines.append(f"to allow them, with any arguments: {self._setting(wanted)}")
        lines += self._capabilities(wanted)
        return lines

    def _capabilities(self, names: list[str]) -> list[str]:
        """Return the capabilities to add, for calls that the kernel itself would refuse once the default filter allowed them."""
        if self._plan.profile != "default":
            return []
        lines = []
        for capability in sorted({denied.capability for denied in DENIED if denied.capability}):
            calls = {name for denied in DENIED if denied.capability == capability for name in denied.names}
            needing = [name for name in names if name in calls and name not in self._plan.deny]
            if needing:
                lines.append(
                    f"the kernel also requires the capability {capability} for {', '.join(needing)}; with it the filter allows {'the call' if len(needing) == 1 else 'them'}: "
                    f"[security] capabilities = {{ add = [{quote(capability)}] }}"
                )
        return lines

    def _setting(self, names: list[str]) -> str:
        parts = [] if self._plan.profile == "default" else [f"profile = {quote(self._plan.profile)}"]
        allow = [*self._plan.allow, *(name for name in names if name not in self._plan.allow)]
        parts.append(f"allow = [{', '.join(map(quote, allow))}]")
        deny = [name for name in self._plan.deny if name not in names]
        if deny:
            parts.append(f"deny = [{', '.join(map(quote, deny))}]")
        return f"[security] seccomp = {{ {', '.join(parts)} }}"


def _name(call: Call) -> str:
    import pyseccomp  # slow to import; the compiler imports it where there was no compiled filter

    name = _ARCHITECTURES.get(call.architecture)
    architecture = pyseccomp.Arch.NATIVE if name is None else getattr(pyseccomp.Arch, name)
    try:
        name_of: bytes = pyseccomp.resolve_syscall(architecture, call.number)
        return name_of.decode()
    except ValueError:
        return f"call {call.number:#x} of architecture {call.architecture:#x}"


def _outcome(action: int) -> str:
    kind, number = action & bpf.ACTION_MASK, action & 0xFFFF
    if kind == values.ERRNO:
        return errno.errorcode.get(number, str(number))
    return "ENOSYS" if kind == values.TRACE else "the end of the process"


def _program_of(process: int) -> str:
    try:
        return "".join(map(visible, os.readlink(f"/proc/{process}/exe")))
    except OSError:
        return "an unknown program"


def _inner_pid(process: int) -> str:
    """Return the pid of the process in its innermost pid namespace."""
    return (_status_of(process).get("NSpid") or "unknown").split()[-1]


def _status_of(process: int) -> Mapping[str, str]:
    """Return the fields of /proc/PID/status, proc_pid_status(5); none if it cannot be read."""
    try:
        with open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as file:
            fields = [line.partition(":") for line in file]
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in fields}

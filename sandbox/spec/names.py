"""Parse kernel names that an environment file may contain: signals and capabilities."""

from __future__ import annotations

from sandbox.spec.notation import shown
from sandbox.spec.patterns import pattern

# capabilities(7), in the order of linux/capability.h. The launcher has the numbers. Only the spelling is checked here,
# because the specification may be read on a machine whose kernel has fewer capabilities.
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip

_REALTIME = pattern(r"SIGRT(MIN|MAX)([+-][0-9]{1,2})?")


def parse_capability(text: str) -> str:
    """Return the capability that *text* names, with or without CAP_ and in any case, as "CAP_NAME"; or "all".

    Raises ValueError for any other text.
    """
    name = text.upper()
    if name == "ALL":
        return "all"
    name = name if name.startswith("CAP_") else "CAP_" + name
    if name not in CAPABILITIES:
        raise ValueError(f"unknown capability {shown(text)}")
    return name


def parse_signal(text: str) -> str:
    """Return the signal that *text* names, with or without SIG and in any case, as "SIGNAME".

    Real-time signals are written "SIGRTMIN+3", "SIGRTMAX-1" (signal(7)). Raises ValueError if *text* names no
    signal.
    """
    name = text.upper()
    name = name if name.startswith("SIG") else "SIG" + name
    if _signal_number(name) is None:
        raise ValueError(f"unknown signal {shown(text)}")
    return name


def signal_names() -> list[str]:
    """Return the names of the signals of this platform."""
    import signal

    return [item.name for item in signal.Signals]


def signal_number(name: str) -> int:
    """Return the number of a signal that `parse_signal` returned. Raises ValueError for any other name."""
    number = _signal_number(name)
    if number is None:
        raise ValueError(f"unknown signal {shown(name)}")
    return number


def _signal_number(name: str) -> int | None:
    import signal

    if name in signal.Signals.__members__:
        return int(signal.Signals[name])
    match = _REALTIME.fullmatch(name)
    if match is None:
        return None
    number = int(signal.SIGRTMIN if match[1] == "MIN" else signal.SIGRTMAX) + int(match[2] or 0)
    return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else None

"""Define every error that a user of the sandbox may see, and the hints for failed system calls.

    SandboxError                 message, hint, exit status
    ├── SpecError       125      the environment file is wrong: a list of diagnostics, each with its place
    ├── HostError       125      this machine lacks something that the file requests
    ├── SetupError      125      a step of starting the sandbox failed
    ├── StateError      125      the recorded state of a sandbox forbids the request
    ├── ImageError      125      a layer or an image cannot be used
    ├── EditError       125      an environment file cannot be written, or not changed as requested
    └── CommandError    126/127  the program could not be executed / was not found

Every other failure is a plain OSError. The command line prints `message` and `hint` and exits with `exit_code`; it shows a
traceback only with --debug. Texts are lower-case, have no final period, name the path or value, and give the remedy. This
module imports only `errno` and `os`, because every process of the launcher imports it.
"""

from __future__ import annotations

import errno
import os

# A plain name instead of typing.TYPE_CHECKING: importing typing costs more than the rest of this module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Protocol

    class RenderableDiagnostic(Protocol):
        """The methods of a diagnostic that SpecError uses; `sandbox.spec.diagnostic.Diagnostic` implements them."""

        def render(self, *, color: bool = False) -> str: ...

        def as_dict(self) -> dict[str, object]: ...


EXIT_FAILURE = 125
"""Exit status of every failure of the launcher, as in env(1) and chroot(1): distinct from statuses of the program."""

EXIT_TIMED_OUT = 124
"""Exit status of a sandbox that limits.wall_time ended, as with timeout(1)."""

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class SandboxError(Exception):
    """A failure to report to the user as one message, an optional remedy and an exit status."""

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def render(self, *, color: bool = False) -> str:
        """Return the text for a terminal: the message and, on a line of its own, the hint."""
        message = printable(self.message)
        return message if self.hint is None else f"{message}\n{hint_line(self.hint, color=color)}"

    def as_dict(self) -> dict[str, object]:
        """Return the failure for JSON."""
        return {"message": self.message, "hint": self.hint, "exit_code": self.exit_code}


class SpecError(SandboxError):
    """The environment file is wrong. Contains every mistake found in it, in the order of the file."""

    def __init__(self, diagnostics: Iterable[RenderableDiagnostic]) -> None:
        self.diagnostics = list(diagnostics)
        #: Returns the valid part of the file (sandbox.spec.valid_part), so that host checks can cover it; None if there is none.
        self.valid_part: Callable[[], Any] | None = None
        super().__init__("\n".join(diagnostic.render() for diagnostic in self.diagnostics))

    def render(self, *, color: bool = False) -> str:
        """Return all diagnostics as text, each with its source line and caret."""
        return "\n".join(diagnostic.render(color=color) for diagnostic in self.diagnostics)

    def as_dict(self) -> dict[str, object]:
        """Return the failure for JSON: every diagnostic, with its place."""
        return {
            "message": f"{len(self.diagnostics)} mistakes" if len(self.diagnostics) != 1 else "1 mistake",
            "hint": None,
            "exit_code": self.exit_code,
            "diagnostics": [diagnostic.as_dict() for diagnostic in self.diagnostics],
        }


class HostError(SandboxError):
    """The machine lacks something. The message names it, and the hint how to get it."""


class SetupError(SandboxError):
    """A step of starting the sandbox failed; `step` is its name, as the plan describes it."""

    def __init__(self, step: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{step}: {message}", hint=hint)
        self.step = step

    @classmethod
    def from_os_error(cls, step: str, operation: str, error: OSError) -> SetupError:
        """Translate *error* of *operation* (a key of the advice table, such as "mount proc") in *step*."""
        number = error.errno or 0
        reason = error.strerror or str(error) or "unknown error"
        path = "" if error.filename is None else os.fsdecode(error.filename)
        name = errno.errorcode.get(number)
        code = f" ({name})" if name else ""
        # The message does not repeat words that the step already contains.
        call = "" if _names(step, operation) else operation
        object_ = "" if _names(step, path) else path
        what = " ".join(filter(None, (call, object_)))
        message = f"{what}: {reason.lower()}{code}" if what else f"{reason.lower()}{code}"
        return cls(step, message, hint=describe_errno(operation, number))


class StateError(SandboxError):
    """The recorded state of a sandbox forbids the request: a name is in use, or a sandbox no longer exists."""


class ImageError(SandboxError):
    """A layer or an image cannot be read, or does not have the expected format."""


class EditError(SandboxError):
    """An environment file cannot be written, or cannot be changed as requested; it is unchanged."""


class CommandError(SandboxError):
    """The program of the sandbox could not be started; exit status 126 or 127, as in a shell."""

    @classmethod
    def not_found(cls, command: str) -> CommandError:
        """Return the error for a *command* that is not in the sandbox: exit status 127."""
        return cls(
            f"{command}: command not found in the sandbox",
            hint="check process.command, PATH in process.env, and that a layer has the program",
            exit_code=EXIT_NOT_FOUND,
        )

    @classmethod
    def not_executable(cls, command: str, error: OSError) -> CommandError:
        """Return the error for a *command* that execve(2) refused with *error*: exit status 126."""
        reason = (error.strerror or str(error)).lower()
        hint = describe_errno("exec", error.errno or 0)
        return cls(f"{command}: cannot be executed: {reason}", hint=hint, exit_code=EXIT_NOT_EXECUTABLE)


def hint_line(hint: str, *, color: bool = False) -> str:
    """Return the line with *hint* for a message that has no source line."""
    hint = printable(hint)
    return f"      \x1b[36mhint: {hint}\x1b[0m" if color else f"      hint: {hint}"


def printable(text: str) -> str:
    """Return *text* as one line, with TOML escapes for unprintable characters.

    File names and file contents must not send control sequences to a terminal, or imitate lines of the launcher.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(ord(char)) for char in text)


def _escape(number: int) -> str:
    return f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"


def _names(step: str, word: str) -> bool:
    """Return whether *word*, an operation or a path, is among the words of *step*."""
    return any(f"{before}{word} " in f" {step} " for before in " :")


def describe_errno(operation: str, number: int) -> str | None:
    """Return the hint for *operation* having failed with errno *number*, or None if the error needs no explanation.

    An operation is a system call, or a system call and its object: "unshare", "mount proc". A hint for the call and its
    object has precedence over a hint for the call alone.
    """
    advice = _ADVICE.get((operation, number))
    if advice is None and " " in operation:
        advice = _ADVICE.get((operation.partition(" ")[0], number))
    advice = advice or _USED_UP.get(number)
    return None if advice is None else advice.replace(_USER, _own_user())


def _own_user() -> str:
    user = f"user {os.geteuid()} of this machine"
    return user if os.geteuid() else f"{user}, whose capabilities do not count in a sandbox's namespaces,"


#: In a hint, replaced by the user whose id this process has.
_USER = "{user}"

#: Hints for exhausted resources, for every operation.
_USED_UP: Mapping[int, str] = {
    errno.EMFILE: "too many open files in this process: raise `ulimit -n`",
    errno.ENFILE: "too many open files on this machine: as root raise fs.file-max with sysctl",
    errno.ENOMEM: "out of memory: free some and try again",
    errno.EFBIG: "the file size limit is reached: raise `ulimit -f`",
    errno.ENOSPC: "no space left: free space on the file system of the writable layer and of the state directory (see `df`)",
    errno.EDQUOT: "a quota is used up: free space on the file system of the writable layer and of the state directory",
}

_FUSE_ACCESS = (
    "as root: chmod 666 /dev/fuse (udev does so by itself); in a container: start it with --device /dev/fuse"
)

_ADVICE: Mapping[tuple[str, int], str] = {
    # See user_namespaces(7), namespaces(7); Debian and Ubuntu add sysctls of their own.
    ("unshare", errno.EPERM): (
        "user namespaces are disabled for this user: as root set kernel.unprivileged_userns_clone=1 or "
        "kernel.apparmor_restrict_unprivileged_userns=0 with sysctl; in a container its seccomp profile must allow unshare"
    ),
    ("unshare", errno.ENOSPC): (
        "a limit on namespaces is reached: as root raise user.max_user_namespaces (and user.max_*_namespaces) with sysctl, "
        "or nest fewer sandboxes"
    ),
    (
        "unshare",
        errno.EUSERS,
    ): "user namespaces are nested too deeply (32 levels): start the sandbox outside of one of them",
    (
        "unshare",
        errno.EINVAL,
    ): "the kernel was built without one kind of namespace: see `zgrep _NS= /proc/config.gz`",
    ("unshare", errno.ENOMEM): "the kernel has no memory for another namespace: free some and try again",
    ("setns", errno.EPERM): "joining a namespace needs CAP_SYS_ADMIN in it: run as the user that created it",
    ("setns", errno.EINVAL): "the descriptor is not a namespace of the requested kind",
    # See newuidmap(1), subuid(5).
    ("newuidmap", errno.ENOENT): 'install the package uidmap, or set ids.map = "single"',
    ("newuidmap", errno.EPERM): (
        "newuidmap must be set-user-id root or have cap_setuid: as root `apt-get install --reinstall uidmap`, and check that "
        '/etc/subuid and /etc/subgid give this user a range; or set ids.map = "single"'
    ),
    (
        "newuidmap",
        errno.EINVAL,
    ): "/etc/subuid and /etc/subgid do not give this range to this user, or the range is already mapped",
    (
        "newuidmap",
        errno.EACCES,
    ): "newuidmap cannot be executed: check its mode, and that its file system is not mounted noexec",
    ("write uid_map", errno.EPERM): (
        "the kernel refuses this id map: an ordinary user may map only its own id; install uidmap and give the user a range "
        "in /etc/subuid and /etc/subgid for more"
    ),
    (
        "write uid_map",
        errno.EINVAL,
    ): "ranges of the id map overlap, or contain ids that this user namespace does not have",
    (
        "write setgroups",
        errno.EACCES,
    ): 'setgroups was already denied by an outer user namespace: set ids.map = "single"',
    # See fuse(4).
    (
        "open /dev/fuse",
        errno.ENOENT,
    ): "load the module as root: modprobe fuse; in a container: start it with --device /dev/fuse",
    ("open /dev/fuse", errno.ENODEV): "the kernel has no FUSE: load the module as root: modprobe fuse",
    ("open /dev/fuse", errno.ENXIO): "the kernel has no FUSE: load the module as root: modprobe fuse",
    ("open /dev/fuse", errno.EACCES): _FUSE_ACCESS,
    (
        "open /dev/fuse",
        errno.EPERM,
    ): f"a device cgroup or a nodev mount forbids access to the device; {_FUSE_ACCESS}",
    ("mount fuse", errno.EPERM): (
        "mounting FUSE in a user namespace needs Linux 4.18; in a container its seccomp or AppArmor profile must allow mount"
    ),
    ("mount fuse", errno.EINVAL): "/dev/fuse must be opened in the user namespace in which it is mounted",
    ("mount fuse", errno.ENODEV): "the kernel has no FUSE: load the module as root: modprobe fuse",
    # See mount(2); "too revealing" is mount_too_revealing() of fs/namespace.c
    ("mount proc", errno.EPERM): (
        'parts of the outer /proc are masked, so the kernel refuses a new, complete one ("mount too revealing"): start the outer '
        "container with --security-opt unmask=ALL (podman) or systempaths=unconfined (docker), or, if the program may see and "
        'signal processes outside, set namespaces.pid = "host"'
    ),
    ("mount sysfs", errno.EPERM): (
        "parts of the outer /sys are masked, or the network namespace is not the sandbox's own: start the outer container with "
        "--security-opt unmask=ALL (podman) or systempaths=unconfined (docker)"
    ),
    ("mount", errno.EPERM): (
        "mounting is not permitted: in a container its seccomp or AppArmor profile must allow mount in a user namespace"
    ),
    ("mount", errno.ENOSPC): "too many mounts in this namespace: as root raise fs.mount-max with sysctl",
    ("mount", errno.EINVAL): (
        "a source that contains mounts of the host can be bound only together with these; see mount_namespaces(7), locked mounts"
    ),
    (
        "mount",
        errno.ELOOP,
    ): "the target is a symbolic link that leads out of the sandbox: name the directory itself",
    ("mount", errno.ENOENT): "the source or the target was removed after it was checked: try again",
    ("mount", errno.ENODEV): "the kernel does not have this file system",
    ("mount", errno.ENOMEM): "the kernel has no memory for another mount: free some and try again",
    (
        "pivot_root",
        errno.EPERM,
    ): "pivot_root(2) is not permitted: in a container its seccomp profile must allow it",
    (
        "pivot_root",
        errno.EINVAL,
    ): "the current root is a ramfs (an initramfs), which pivot_root(2) cannot replace",
    ("fork", errno.EAGAIN): (
        "a limit on processes is reached: see `ulimit -u`, the pids limit of the cgroup (pids.max) and kernel.pid_max"
    ),
    ("fork", errno.ENOMEM): "the kernel has no memory for another process: free some and try again",
    (
        "exec",
        errno.EACCES,
    ): "the file or a directory of its path lacks the x permission, or its file system is mounted noexec",
    (
        "exec",
        errno.ENOEXEC,
    ): "the file is not a program for this machine's architecture, and has no `#!` line",
    (
        "exec",
        errno.E2BIG,
    ): "arguments and environment are too large together: shorten process.args, process.env or inherit_env",
    ("exec", errno.ETXTBSY): "a process has the file open for writing: try again when it has closed it",
    ("exec", errno.ELOOP): "symbolic links or `#!` lines form a loop",
    ("exec", errno.ENOMEM): "the program does not fit into limits.memory: raise it",
    (
        "open",
        errno.EACCES,
    ): f"{_USER} may not open it: check its permissions, and the x permission of the directories of its path",
    ("open", errno.ENOENT): "it was removed after it was checked: try again",
    (
        "open /dev/null",
        errno.ENOENT,
    ): "the device does not exist: as root: mknod -m 666 /dev/null c 1 3; in a container: give it a /dev of its own",
    (
        "open",
        errno.ELOOP,
    ): "it was replaced by a symbolic link after it was checked: check which users can write to its directories",
    ("open", errno.EMFILE): "too many open files in this process: raise `ulimit -n`",
    ("open", errno.ENFILE): "too many open files on this machine: as root raise fs.file-max with sysctl",
    (
        "write",
        errno.ENOSPC,
    ): "no space left: free space on the file system of the writable layer and of the state directory (see `df`)",
    (
        "write",
        errno.EDQUOT,
    ): "the disk quota is used up: free space on the file system of the writable layer and of the state directory",
    ("write", errno.EROFS): "the file system is read-only: choose another state directory",
    ("mkdir", errno.EROFS): "the file system is read-only: choose another state directory",
    (
        "mkdir",
        errno.ENOSPC,
    ): "no space left: free space on the file system of the writable layer and of the state directory (see `df`)",
    (
        "setrlimit",
        errno.EPERM,
    ): "the limit is above the hard limit of this process (see `ulimit -H -a`): set a lower one",
    (
        "sethostname",
        errno.EPERM,
    ): 'the host name belongs to an outer user namespace: set namespaces.uts = "private"',
    (
        "write cgroup",
        errno.EACCES,
    ): "this cgroup is not delegated to the user: `sandbox doctor` prints how to get one that is",
    (
        "write cgroup",
        errno.EBUSY,
    ): "the cgroup contains processes, so it cannot have children with controllers (cgroups(7))",
    (
        "write cgroup",
        errno.ENOENT,
    ): "the controller is not enabled in the parent cgroup (cgroup.subtree_control)",
}

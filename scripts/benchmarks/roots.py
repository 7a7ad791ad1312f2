"""Make the root file system for the workloads: from a directory, from an archive, or from a part of this machine's /usr."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

#: Number of entries that are walked at scale 1, both of this machine's /usr and of a given root.
ENTRIES = 16_000
#: Larger files are neither copied from /usr nor read: the sequential workloads have files of their own.
LARGEST = 4 << 20
#: Commands that test the programs of the root. The expected output proves that the modules were found.
TRIALS = {
    "perl": ("perl", "-MPOSIX", "-MList::Util=sum", "-e", "print sum(1..4)"),
    "python3": ("python3", "-B", "-c", "import json, argparse; print(json.dumps(10))"),
}
#: In a mount namespace, so that the mount ends with the program.
_ENTER = 'mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'


def enter(root: str, *command: str) -> list[str]:
    """Return the command that runs *command* with *root* as its root directory."""
    privileges = [] if os.geteuid() == 0 else ["--map-root-user"]
    return [
        *("unshare", *privileges, "--mount", "--propagation", "private"),
        *("sh", "-c", _ENTER, root, *command),
    ]


def environment() -> dict[str, str]:
    """Return the environment of programs that run in the root, without any settings of this user."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/",
        "LC_ALL": "C",
        "DEBIAN_FRONTEND": "noninteractive",
    }


def make_root(source: str | None, target: str, scale: float) -> str:
    """Fill the new directory *target* from a directory, a tar archive or, if *source* is None, /usr.

    Returns:
        A description of the origin.

    Raises:
        OSError: *source* does not exist or cannot be read.
        subprocess.CalledProcessError: copying or unpacking failed; the reason is on standard error.
    """
    os.mkdir(target)
    if source is None:
        entries = copy_host(target, round(ENTRIES * scale))
        return f"a part of this machine's /usr ({entries} entries), as --root names no root file system"
    if os.path.isdir(source):
        subprocess.run(["cp", "-a", "--one-file-system", f"{source}/.", target], check=True)
    elif os.path.exists(source):
        # Only root could make device nodes, and no workload uses one.
        subprocess.run(
            ["tar", "--extract", "--numeric-owner", "--exclude=./dev/*", "-f", source, "-C", target],
            check=True,
        )
    else:
        raise FileNotFoundError(f"--root {source}: no such file or directory")
    for name in ("dev", "tmp"):
        os.makedirs(os.path.join(target, name), exist_ok=True)
    return source


def copy_host(target: str, entries: int) -> int:
    """Copy perl, python3, a shell and `true` with their libraries and modules, then directories of /usr/share up to
    *entries* entries.

    Return the number of copied entries. The layout is that of a Debian with a merged /usr.
    """
    for name in ("bin", "sbin", "lib", "lib64"):
        os.makedirs(os.path.join(target, "usr", name))
        os.symlink(f"usr/{name}", os.path.join(target, name))
    for name in ("dev", "tmp", "etc", *(f"var/lib/dpkg/{name}" for name in ("info", "updates", "triggers"))):
        os.makedirs(os.path.join(target, name))
    with open(os.path.join(target, "var/lib/dpkg/status"), "w"):
        pass
    for program in ("sh", "true", "perl", "python3"):
        if (path := shutil.which(program, path="/usr/bin:/bin")) is not None:
            copy_file(path, target)
            for library in libraries_of(path, *(extensions() if program == "python3" else ())):
                copy_file(library, target)
    done = 0
    for path in module_directories():
        done += sum(copy_directory(directory, target) for directory in walk(path))
    for directory in walk("/usr/share"):
        if done >= entries:
            break
        done += copy_directory(directory, target)
    return done


def walk(top: str) -> Iterator[str]:
    """Yield *top* and the directories below it, in an order that does not depend on the disk."""
    for directory, names, _ in os.walk(top):
        # Skip modules that no workload imports, and files that differ between installations.
        names[:] = sorted(set(names) - {"dist-packages", "site-packages", "test", "__pycache__"})
        yield directory


def copy_file(path: str, target: str) -> None:
    """Copy a file that a program opens by *path*. Symbolic links in its directory are resolved; the file may be one."""
    directory, name = os.path.split(os.path.abspath(path))
    copy = target + os.path.join(os.path.realpath(directory), name)
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    if not os.path.lexists(copy):
        shutil.copy2(path, copy)


def copy_directory(directory: str, target: str) -> int:
    """Copy a directory with its links and its files that are not large; return the number of copied entries."""
    copied = 0
    os.makedirs(target + directory, exist_ok=True)
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            copy = target + entry.path
            if os.path.lexists(copy) or not os.access(entry.path, os.R_OK, follow_symlinks=False):
                continue
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), copy)
            elif entry.is_dir():
                os.mkdir(copy)
            elif entry.is_file() and entry.stat().st_size <= LARGEST:
                shutil.copy2(entry.path, copy)
            else:
                continue
            copied += 1
    return copied


def libraries_of(*paths: str) -> list[str]:
    """Return the shared libraries that ldd(1) lists for programs and libraries, including the dynamic loader."""
    done = subprocess.run(["ldd", *paths], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("\t")]
    return list(dict.fromkeys(word for line in lines for word in line.split() if word.startswith("/")))


def extensions() -> list[str]:
    """Return the compiled modules of /usr's python3, whose libraries are also needed."""
    ask = "import sysconfig; print(sysconfig.get_path('platstdlib'))"
    done = subprocess.run(["/usr/bin/python3", "-c", ask], capture_output=True, text=True, check=False)
    dynamic = os.path.join(done.stdout.strip(), "lib-dynload")
    if done.returncode != 0 or not os.path.isdir(dynamic):
        return []
    return [os.path.join(dynamic, name) for name in sorted(os.listdir(dynamic))]


def module_directories() -> list[str]:
    """Return the directories in which /usr's perl and python3 have the modules that `TRIALS` import."""
    found = []
    for command in (
        ["/usr/bin/perl", "-e", r'print join "\n", grep /perl-base/, @INC'],
        ["/usr/bin/python3", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        found += [path for path in done.stdout.split() if path.startswith("/usr/") and os.path.isdir(path)]
    return found


def programs_of(root: str) -> tuple[str, ...]:
    """Return the programs of `TRIALS` that succeed in *root*."""
    found = []
    for name, command in TRIALS.items():
        done = subprocess.run(
            enter(root, *command),
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
            timeout=60,
        )
        if done.returncode == 0 and done.stdout.strip() == "10":
            found.append(name)
    return tuple(found)

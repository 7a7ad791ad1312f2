"""The root file system that is walked, read and run: of a directory, of an archive, or a part of this machine's /usr."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

#: What is walked at scale 1, of the machine's /usr as of a root that was given.
ENTRIES = 16_000
#: Larger files are neither copied from /usr nor read: the sequential workloads have their own.
LARGEST = 4 << 20
#: How a program of the root is tried; what it prints at the end shows that its modules were found.
TRIALS = {
    "perl": ("perl", "-MPOSIX", "-MList::Util=sum", "-e", "print sum(1..4)"),
    "python3": ("python3", "-B", "-c", "import json, argparse; print(json.dumps(10))"),
}
#: In a mount namespace that ends with the program, so that nothing is left mounted.
_ENTER = 'mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'


def enter(root: str, *command: str) -> list[str]:
    """Return the command that runs *command* with *root* as its root directory."""
    privileges = [] if os.geteuid() == 0 else ["--map-root-user"]
    return [
        *("unshare", *privileges, "--mount", "--propagation", "private"),
        *("sh", "-c", _ENTER, root, *command),
    ]


def environment() -> dict[str, str]:
    """Return the environment of programs that run in the root: none of this account's settings reach them."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/",
        "LC_ALL": "C",
        "DEBIAN_FRONTEND": "noninteractive",
    }


def make_root(source: str | None, target: str, scale: float) -> str:
    """Fill the new directory *target* from a directory, a tar archive or, with None, /usr; returns where it is from.

    Raises:
        OSError: *source* does not exist or cannot be read.
        subprocess.CalledProcessError: copying or unpacking failed, and said why on standard error.
    """
    os.mkdir(target)
    if source is None:
        entries = copy_host(target, round(ENTRIES * scale))
        return f"a part of this machine's /usr ({entries} entries), as --root names no root file system"
    if os.path.isdir(source):
        subprocess.run(["cp", "-a", "--one-file-system", f"{source}/.", target], check=True)
    elif os.path.exists(source):
        # Device nodes only root could make; none is used.
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
    """Copy perl, python3, a shell and `true` with what they need, then directories of /usr/share until there are *entries*.

    Returns how many there are. The layout is that of a Debian with a merged /usr.
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
        # Neither modules that nobody imports here, nor what differs from one installation to the next.
        names[:] = sorted(set(names) - {"dist-packages", "site-packages", "test", "__pycache__"})
        yield directory


def copy_file(path: str, target: str) -> None:
    """Copy a file that a program opens by *path*, which may be a symbolic link: its directory's own are resolved."""
    directory, name = os.path.split(os.path.abspath(path))
    copy = target + os.path.join(os.path.realpath(directory), name)
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    if not os.path.lexists(copy):
        shutil.copy2(path, copy)


def copy_directory(directory: str, target: str) -> int:
    """Copy a directory, its links and its files that are not large; returns how many entries were copied."""
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
    """Return the shared libraries that ldd(1) names for programs and libraries, the loader included."""
    done = subprocess.run(["ldd", *paths], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("\t")]
    return list(dict.fromkeys(word for line in lines for word in line.split() if word.startswith("/")))


def extensions() -> list[str]:
    """Return the compiled modules of /usr's python3, which load libraries of their own."""
    ask = "import sysconfig; print(sysconfig.get_path('platstdlib'))"
    done = subprocess.run(["/usr/bin/python3", "-c", ask], capture_output=True, text=True, check=False)
    dynamic = os.path.join(done.stdout.strip(), "lib-dynload")
    if done.returncode != 0 or not os.path.isdir(dynamic):
        return []
    return [os.path.join(dynamic, name) for name in sorted(os.listdir(dynamic))]


def module_directories() -> list[str]:
    """Return where /usr's perl and python3 have the modules that `TRIALS` import."""
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
    """Return which of `TRIALS` succeed in *root*."""
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

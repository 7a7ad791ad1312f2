"""Workloads with common programs: those of the root file system, git, a compiler and package managers."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess

from benchmarks.roots import enter, environment
from benchmarks.workload import DATA, Corpus

_GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (
        ("NAME", "bench"), ("EMAIL", "bench@localhost"), ("DATE", "2020-01-01T00:00:00Z"))},
}  # fmt: skip
"""Without the user's configuration, and with the same commit ids on every system."""


def run(command: list[str], **variables: str) -> str:
    """Run a program with *variables* added to the environment; return its output.

    Raises:
        OSError: it failed; the message contains the last lines of its output.
    """
    done = subprocess.run(
        command,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise OSError(f"{' '.join(command[:3])} ... ended with {done.returncode}: {' / '.join(said)}")
    return done.stdout


def run_inside(root: str, *command: str) -> str:
    """Run a program of the root file system inside it; return its output."""
    return run(enter(root, *command), **environment())


# --- programs of the root file system ---

_SCRIPTS = {
    "perl": """perl -MPOSIX -MList::Util=sum -e "print sum(1..$i), qq(\\n)" """,
    "python3": """python3 -B -c "import argparse, json, subprocess; print($i)" """,
}


def short_programs(root: str, corpus: Corpus) -> object:
    """Run a hundred short perl and python3 programs with imports inside the root file system."""
    body = " && ".join(_SCRIPTS[name] for name in corpus.programs)
    times = corpus.amount(100) // len(corpus.programs)
    script = f"i=0; while [ $i -lt {max(1, times)} ]; do {body} || exit 1; i=$((i + 1)); done"
    return hashlib.sha256(run_inside(root, "sh", "-c", script).encode()).hexdigest()[:16]


def no_programs(corpus: Corpus) -> str | None:
    """Return why `short_programs` cannot run; None if it can."""
    return None if corpus.programs else "neither perl nor python3 of the root file system runs here"


# --- git ---


def git(root: str, *arguments: str) -> str:
    """Run git in the repository."""
    return run(["git", "-C", os.path.join(root, DATA, "repository"), *arguments], **_GIT)


def git_init(root: str, corpus: Corpus) -> object:
    """Create an empty repository in the directory of the files."""
    # Background work would continue during the measurement of other systems.
    git(root, "init", "--quiet", "--initial-branch=main")
    for setting in ("gc.auto=0", "gc.autoDetach=false", "maintenance.auto=false"):
        git(root, "config", *setting.split("="))
    return None


def git_add_commit(root: str, corpus: Corpus) -> object:
    """Add all files of a tree of the lower layer to git, and commit them."""
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "all")
    return git(root, "rev-parse", "HEAD")


def git_commit_all(root: str, corpus: Corpus) -> object:
    """Create a repository with one commit."""
    git_init(root, corpus)
    return git_add_commit(root, corpus)


def git_status(root: str, corpus: Corpus) -> object:
    """Run git status ten times."""
    return [git(root, "status", "--porcelain", "--untracked-files=all") for _ in range(10)]


def git_gc(root: str, corpus: Corpus) -> object:
    """Pack all objects with git gc."""
    git(root, "gc", "--quiet", "--prune=now")
    return None


def git_fsck(root: str, corpus: Corpus) -> object:
    """Run git fsck; return the commit and the status."""
    git(root, "fsck", "--strict")
    return git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain")


# --- building and installing ---


def build(root: str, corpus: Corpus) -> object:
    """Compile a small C program with make -j2 and this machine's compiler."""
    directory = os.path.join(root, DATA, "program")
    run(["make", "--silent", "-j2", "-C", directory, "CC=gcc"])
    return run([os.path.join(directory, "program")])


def pip_install(root: str, corpus: Corpus) -> object:
    """Install a wheel with pip, which also compiles its modules."""
    command = [corpus.python, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet"]
    # Suppress the warning for root, and do not look for packages in an index or cache.
    options = ["--no-index", "--no-deps", "--no-cache-dir", "--ignore-installed", "--root-user-action=ignore"]
    wheel = os.path.join(corpus.inputs, "benchwheel-1.0-py3-none-any.whl")
    run([*command, *options, "--no-warn-script-location", "--prefix", os.path.join(root, "prefix"), wheel])
    return None


def installed_modules(root: str, corpus: Corpus) -> object:
    """Return the numbers of modules that pip installed and compiled."""
    names = [name for _, _, names in os.walk(os.path.join(root, "prefix")) for name in names]
    return [sum(name.startswith("m") and name.endswith(end) for name in names) for end in (".py", ".pyc")]


def no_pip(corpus: Corpus) -> str | None:
    """Return why `pip_install` cannot run; None if it can."""
    done = subprocess.run([corpus.python, "-m", "pip", "--version"], capture_output=True, check=False)
    return None if done.returncode == 0 else f"{corpus.python} has no pip"


def dpkg_install(root: str, corpus: Corpus) -> object:
    """Install a Debian package into the tree with this machine's dpkg."""
    package = os.path.join(root, DATA, "package.deb")
    run(["dpkg", f"--root={root}", "--force-depends", "--install", package], **environment())
    return None


def apt_install(root: str, corpus: Corpus) -> object:
    """Install a Debian package with apt-get inside the root file system."""
    options = ("-o", "APT::Sandbox::User=root", "-o", "Dpkg::Use-Pty=0", "--yes", "--quiet")
    run_inside(root, "apt-get", "install", *options, f"/{DATA}/package.deb")
    return None


def package_status(root: str, corpus: Corpus) -> object:
    """Return the package's status in dpkg's database, and the number of its installed files."""
    with open(os.path.join(root, "var/lib/dpkg/status")) as file:
        entry = [text for text in file.read().split("\n\n") if "Package: benchpackage\n" in text + "\n"]
    files = [name for _, _, names in os.walk(os.path.join(root, "usr/lib/benchpackage")) for name in names]
    return [line for line in "\n".join(entry).splitlines() if line.startswith("Status:")], len(files)


def no_dpkg(corpus: Corpus) -> str | None:
    """Return why `dpkg_install` cannot run; None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists(os.path.join(corpus.layers[-1], "var/lib/dpkg/status")):
        return "the root file system is no Debian"
    return None if shutil.which("dpkg-deb") else "dpkg-deb is not installed"


def no_apt(corpus: Corpus) -> str | None:
    """Return why `apt_install` cannot run; None if it can."""
    if not os.path.exists(os.path.join(corpus.layers[-1], "usr/bin/apt-get")):
        return "the root file system has no apt-get (give one by --root, as scripts/mkrootfs makes it)"
    return no_dpkg(corpus)

"""A build context of a test, and `sandbox build` of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.support import Launcher, Outcome, sandbox

BASE = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
"""
T = 1_700_000_000


class Project:
    """A build context with a BusyBox, and a Containerfile in it."""

    def __init__(self, launcher: Launcher, path: Path) -> None:
        self.launcher = launcher
        self.path = path
        path.mkdir(parents=True)
        shutil.copyfile("/bin/busybox", path / "busybox")
        (path / "busybox").chmod(0o755)
        self.add("data/file", "one\n")
        self.at(T)

    def add(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def at(self, seconds: int) -> None:
        """Set the times of all files."""
        for directory, names, files in os.walk(self.path):
            for name in (*names, *files, "."):
                os.utime(os.path.join(directory, name), (seconds, seconds), follow_symlinks=False)

    def build(self, text: str, *options: str, environ: dict[str, str] | None = None) -> Outcome:
        """Build the Containerfile *text*, which is not part of the context."""
        file = self.launcher.directory / "Containerfile"
        file.write_text(text)
        command = ["build", str(file), "--context", str(self.path), *options]
        return sandbox(self.launcher, *command, environ=environ)

    def digest(self, text: str, *options: str, environ: dict[str, str] | None = None) -> str:
        done = self.build(text, "--json", *options, environ=environ)
        assert done.status == 0, done.err
        digest: str = json.loads(done.out)["digest"]
        return digest

    def shell(self, image: str, script: str) -> str:
        """Run *script* in a sandbox of *image*."""
        spec = f'[root]\nlayers = ["image:{image}"]\n[process]\nuser = 0\ncwd = "/"\n'
        return self.launcher.up(spec, ["/bin/sh", "-c", script]).facts_text()

    def inspect(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(sandbox(self.launcher, "image", "inspect", image, "--json").out)
        return found

    @contextmanager
    def start(self, text: str) -> Iterator[subprocess.Popen[str]]:
        """Start the build of the Containerfile *text*, and kill it at the end. Its standard error is a pipe."""
        file = self.launcher.directory / "Containerfile"
        file.write_text(text)
        with subprocess.Popen(
            [sys.executable, "-m", "sandbox", "build", str(file), "--context", str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self.launcher.environ,
            start_new_session=True,
        ) as build:
            try:
                yield build
            finally:
                build.kill()

    def has_written(self, name: str) -> bool:
        """Return whether the command of a build that runs has written a file *name*."""
        try:
            return any((self.launcher.state / "changes").rglob(name))
        except OSError:  # a directory was removed meanwhile
            return False

    def end(self) -> None:
        """Remove all images: files of unpacked layers have ids that only a sandbox can remove."""
        for name in os.listdir(self.launcher.state / "changes") if self.launcher.state.is_dir() else ():
            sandbox(self.launcher, "discard", name)
        assert sandbox(self.launcher, "image", "rm", "--all").status == 0


def cached(done: Outcome) -> list[bool]:
    """Return for each step of a build whether it was reused."""
    return [line.endswith(": cached") for line in done.err.splitlines() if " step " in line]

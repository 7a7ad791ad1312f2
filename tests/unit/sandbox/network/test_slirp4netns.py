"""The command line of slirp4netns(1), and its process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import SetupError
from sandbox.network.connecting_program import NETWORK_FD, OTHER_FD
from sandbox.network.slirp4netns import command_line, start


def test_the_command_line_opens_nothing_of_the_host() -> None:
    words = command_line("eth0")
    assert {"--disable-host-loopback", "--disable-dns", "--enable-sandbox", "--enable-seccomp"} <= set(words)
    assert "--enable-ipv6" not in words
    assert f"--ready-fd={OTHER_FD}" in words
    assert words[-3:] == ["--netns-type=path", f"/proc/self/fd/{NETWORK_FD}", "eth0"]


def test_a_process_that_has_ended_is_an_error_of_its_namespaces() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(FileNotFoundError):
        start("/usr/bin/slirp4netns", pid, "eth0", lambda _line: None)


def test_a_failure_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    lines: list[str] = []
    # No process may enter the user namespace in which it is already.
    started = start(str(tmp_path / "absent"), os.getpid(), "eth0", lines.append)
    with pytest.raises(SetupError, match="Invalid argument"):
        started.wait_until_ready()
    started.stop()
    assert lines == [" ".join(command_line("eth0"))]
    assert os.listdir("/proc/self/fd") == before

"""Test the facts about the machine that only a report needs, from text in the format of the kernel."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from sandbox.explain.surroundings import Surroundings, listening_sockets, look

UNIX = """Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 20 /run/b socket
0000000000000000: 00000002 00000000 00010000 0001 01 21 @abstract
0000000000000000: 00000003 00000000 00000000 0001 03 22 /run/connected
0000000000000000: 00000002 00000000 00010000 0005 01 23
0000000000000000: 00000002 00000000 00010000 0001 01 24 /run/a
0000000000000000: 00000002 00000000 00010000 0001 01 25 /run/a
garbage
"""


def test_only_listening_sockets_with_a_name_are_listed() -> None:
    assert listening_sockets(UNIX) == ["/run/a", "/run/b socket", "@abstract"]


def test_machine_without_proc_has_no_surroundings(tmp_path: Path) -> None:
    assert look(str(tmp_path)) == Surroundings()


def test_sockets_and_mounts_of_this_machine_are_found() -> None:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as directory,  # a name has at most 107 bytes (unix(7))
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        path = f"{directory}/socket"
        listener.bind(path)
        abstract.bind(f"\0sandbox-test-abstract-{os.getpid()}")
        assert path not in look().sockets
        listener.listen()
        abstract.listen()
        found = look()
    assert path in found.sockets
    assert f"@sandbox-test-abstract-{os.getpid()}" in found.abstract_sockets
    assert "/" in found.mounts

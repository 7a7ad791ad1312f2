"""The names of members in /etc/hosts."""

from __future__ import annotations

import os
from pathlib import Path

from sandbox.network.hosts_file import HostsFile, lines_of
from sandbox.network.names import Member

WEB, DB = Member("web", "10.89.0.2", ("www",)), Member("db", "10.89.0.3")


def test_each_member_has_a_line_with_its_names_and_the_sandbox_its_host_name() -> None:
    found = lines_of(
        {"back": [WEB, DB], "front": [Member("db", "10.5.0.2")]}, hostname="box", own=["10.89.0.3"]
    )
    assert found.decode().splitlines() == [
        "10.89.0.2\tweb web.back www www.back",
        "10.89.0.3\tdb db.back box",
        "10.5.0.2\tdb db.front",
    ]


def test_the_file_keeps_its_own_lines_behind_those_of_the_members(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1\tlocalhost\n")
    file = HostsFile(os.open(path, os.O_RDWR))
    inode = path.stat().st_ino
    file.write({"back": [WEB, DB]}, hostname=None, own=[])
    assert (
        path.read_text()
        == "10.89.0.2\tweb web.back www www.back\n10.89.0.3\tdb db.back\n127.0.0.1\tlocalhost\n"
    )
    file.write({"back": [DB]}, hostname=None, own=[])
    assert path.read_text() == "10.89.0.3\tdb db.back\n127.0.0.1\tlocalhost\n"
    file.write({}, hostname=None, own=[])
    assert path.read_text() == "127.0.0.1\tlocalhost\n"
    assert path.stat().st_ino == inode  # the file is mounted
    file.close()

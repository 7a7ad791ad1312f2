"""The records of networks: what is read back, who counts as a member, and what is removed."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from sandbox.kernel.process import start_time
from sandbox.state.shared_networks import (
    NetworkDirectory,
    NetworkMember,
    NetworkRecord,
    list_networks,
    remove_ended,
)
from unionfs._stdlib.dataclasses import replace


def member(pid: int | None = None, **changes: Any) -> NetworkMember:
    """Return a member whose supervisor is this process, or *pid*."""
    pid = os.getpid() if pid is None else pid
    made = NetworkMember(
        run="web-1",
        names=("web", "www"),
        address="10.89.0.2",
        link="m1",
        file="/web.toml",
        subnet=None,
        internal=True,
        pid=pid,
        start=start_time(pid) or 0,
        user_fd=3,
        network_fd=4,
        inode=5,
    )
    return replace(made, **changes)


def ended() -> NetworkMember:
    """Return a member whose supervisor has ended."""
    with subprocess.Popen(["sleep", "60"]) as process:
        made = member(process.pid, link="m2", address="10.89.0.3")
        process.kill()
    return made


def network(*members: NetworkMember) -> NetworkRecord:
    return NetworkRecord(subnet="10.89.0.0/24", internal=True, members=members)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    directory = NetworkDirectory(str(tmp_path), "back")
    assert directory.read() is None
    record = network(member(), ended())
    with directory.locked():
        directory.write(record)
    assert directory.read() == record
    assert record.running() == record.members[:1]
    assert list_networks(str(tmp_path)) == [("back", record)]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"version": 2}', '{"version": 1, "place": ["another boot", "pid:[1]"], "members": []}'],
)
def test_a_record_that_is_damaged_or_of_another_boot_is_none(tmp_path: Path, content: str) -> None:
    directory = NetworkDirectory(str(tmp_path), "back")
    with directory.locked():
        (tmp_path / "networks/back/members.json").write_text(content)
    assert directory.read() is None
    assert list_networks(str(tmp_path)) == []


def test_a_member_of_another_shape_makes_the_record_none(tmp_path: Path) -> None:
    directory = NetworkDirectory(str(tmp_path), "back")
    with directory.locked():
        directory.write(network(member()))
    path = tmp_path / "networks/back/members.json"
    content = json.loads(path.read_text())
    del content["members"][0]["pid"]
    path.write_text(json.dumps(content))
    assert directory.read() is None


def test_a_process_that_has_the_pid_of_a_member_is_none(tmp_path: Path) -> None:
    assert not member(start=1).is_running
    assert not ended().is_running


def test_with_its_last_member_the_directory_of_a_network_disappears(tmp_path: Path) -> None:
    directory = NetworkDirectory(str(tmp_path), "back")
    with directory.locked():
        directory.write(network(member()))
        directory.write(network())
    assert os.listdir(tmp_path / "networks") == []


def test_records_of_members_that_have_ended_are_removed(tmp_path: Path) -> None:
    for name, members in (("gone", [ended()]), ("left", [member(), ended()])):
        directory = NetworkDirectory(str(tmp_path), name)
        with directory.locked():
            directory.write(network(*members))
    assert [name for name, _ in list_networks(str(tmp_path))] == ["left"]
    assert remove_ended(str(tmp_path)) == ["gone"]
    assert NetworkDirectory(str(tmp_path), "left").read() == network(member())
    assert os.listdir(tmp_path / "networks") == ["left"]
    assert remove_ended(str(tmp_path / "absent")) == []


def test_who_waits_for_a_network_that_disappears_gets_a_new_one(tmp_path: Path) -> None:
    directory, seen = NetworkDirectory(str(tmp_path), "back"), []

    def enter() -> None:
        with directory.locked():
            seen.append(directory.read())
            directory.write(network(member()))

    with directory.locked():
        directory.write(network(member()))
        waiting = threading.Thread(target=enter)
        waiting.start()
        directory.write(network())
    waiting.join(60)
    assert seen == [None]
    assert directory.read() == network(member())


def test_one_process_at_a_time_connects_a_network(tmp_path: Path) -> None:
    directory = NetworkDirectory(str(tmp_path), "back")
    with directory.locked():
        first = directory.claim_uplink()
        assert first is not None
        assert directory.claim_uplink() is None
        os.close(first)
        second = directory.claim_uplink()
        assert second is not None
        os.close(second)

"""The records of networks that several sandboxes share, also those that this program cannot have written."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from sandbox.kernel.process import start_time
from sandbox.state.shared_networks import (
    NetworkDirectory,
    NetworkMember,
    NetworkRecord,
    has_networks,
    list_networks,
    remove_ended,
)


def member(pid: int, start: int) -> NetworkMember:
    return NetworkMember(
        run="r1",
        names=("web", "www"),
        address="10.89.0.2",
        link="m0011223344",
        file="/web.toml",
        subnet=None,
        internal=True,
        pid=pid,
        start=start,
        user_fd=5,
        network_fd=6,
        inode=7,
    )


def own_member() -> NetworkMember:
    return member(os.getpid(), start_time(os.getpid()) or 0)


def write(run: Path, record: NetworkRecord, name: str = "backend") -> Path:
    directory = NetworkDirectory(str(run), name)
    with directory.locked():
        directory.write(record)
    return run / "networks" / name / "members.json"


def record_of(*members: NetworkMember) -> NetworkRecord:
    return NetworkRecord(subnet="10.89.0.0/24", internal=True, members=members)


def test_a_record_is_read_as_written_and_disappears_with_its_last_member(tmp_path: Path) -> None:
    record = record_of(own_member())
    path = write(tmp_path, record)
    assert NetworkDirectory(str(tmp_path), "backend").read() == record
    assert list_networks(str(tmp_path)) == [("backend", record)]
    write(tmp_path, record_of())
    assert not path.parent.exists()


def test_members_that_have_ended_are_removed_and_others_stay(tmp_path: Path) -> None:
    own = own_member()
    write(tmp_path, record_of(own, member(own.pid, own.start + 1)))
    write(tmp_path, record_of(member(own.pid, own.start + 1)), "ended")
    assert remove_ended(str(tmp_path)) == ["ended"]
    assert list_networks(str(tmp_path)) == [("backend", record_of(own))]


def test_a_network_without_an_ended_member_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path, record_of(own_member()))
    with NetworkDirectory(str(tmp_path), "backend").locked():
        assert remove_ended(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", []),
        ("names", "web"),
        ("link", "m" * 16),
        ("link", 7),
        ("address", "10.89.0"),
        ("pid", "1/../1"),
        ("pid", -1),
        ("start", None),
        ("user_fd", 1.5),
        ("subnet", ["10.89.0.0/24"]),
        ("unknown", 1),
    ],
)
def test_a_record_with_a_malformed_member_is_none(tmp_path: Path, key: str, value: object) -> None:
    path = write(tmp_path, record_of(own_member()))
    content = json.loads(path.read_text())
    content["members"][0][key] = value
    path.write_text(json.dumps(content))
    assert NetworkDirectory(str(tmp_path), "backend").read() is None
    assert list_networks(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("subnet", "backend"),
        ("subnet", None),
        ("members", 7),
        ("members", [7]),
        ("version", 2),
        ("place", ["an earlier boot", os.readlink("/proc/self/ns/pid")]),
    ],
)
def test_a_record_that_is_malformed_or_of_another_boot_is_none_and_removed(
    tmp_path: Path, key: str, value: object
) -> None:
    path = write(tmp_path, record_of(own_member()))
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert NetworkDirectory(str(tmp_path), "backend").read() is None
    assert remove_ended(str(tmp_path)) == ["backend"]
    assert not path.parent.exists()


def test_other_files_beside_the_networks_stay(tmp_path: Path) -> None:
    networks, elsewhere = tmp_path / "networks", tmp_path / "elsewhere"
    networks.mkdir()
    elsewhere.mkdir()
    for name in ("lock", "uplink", "members.json"):
        (elsewhere / name).touch()
    (networks / "link").symlink_to(elsewhere)
    (networks / "dangling").symlink_to(tmp_path / "nowhere")
    (networks / "file").touch()
    os.mkfifo(networks / "fifo")
    assert list_networks(str(tmp_path)) == []
    assert remove_ended(str(tmp_path)) == []
    assert sorted(os.listdir(elsewhere)) == ["lock", "members.json", "uplink"]
    assert len(os.listdir(networks)) == 4


def test_a_directory_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not has_networks(str(run))
    write(run, record_of(own_member()))
    assert has_networks(str(run))
    for path in (run, run / "networks"):
        path.chmod(0o777)
        assert not has_networks(str(run))
        path.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(run)
    assert not has_networks(str(link))


def test_who_waits_for_a_network_that_disappears_gets_a_new_one(tmp_path: Path) -> None:
    directory, seen = NetworkDirectory(str(tmp_path), "back"), []

    def enter() -> None:
        with directory.locked():
            seen.append(directory.read())
            directory.write(record_of(own_member()))

    with directory.locked():
        directory.write(record_of(own_member()))
        waiting = threading.Thread(target=enter)
        waiting.start()
        directory.write(record_of())
    waiting.join(60)
    assert seen == [None]
    assert directory.read() == record_of(own_member())


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

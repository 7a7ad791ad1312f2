"""The record of the bridge of root."""

from __future__ import annotations

import os
from pathlib import Path

from sandbox.kernel.process import start_time
from sandbox.state.host_bridge import BridgeDirectory, BridgePort, BridgeRecord, may_have_record


def port(link: str, start: int) -> BridgePort:
    return BridgePort(link=link, address="10.89.0.2", pid=os.getpid(), start=start)


def test_a_record_is_read_as_written_and_disappears_with_its_directory(tmp_path: Path) -> None:
    directory = BridgeDirectory(str(tmp_path))
    record = BridgeRecord(subnet="10.89.0.0/24", set_forwarding=True, ports=(port("sb1", 7),))
    assert not may_have_record(str(tmp_path))
    with directory.locked():
        assert directory.read() is None
        directory.write(record)
        assert directory.read() == record
        assert may_have_record(str(tmp_path))
        directory.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_directory_is_that_of_the_network_namespace(tmp_path: Path) -> None:
    name = Path(BridgeDirectory(str(tmp_path)).path).name
    assert os.readlink("/proc/self/ns/net") == f"net:[{name}]"


def test_a_port_is_in_use_while_its_supervisor_runs(tmp_path: Path) -> None:
    own = start_time(os.getpid())
    assert own is not None
    used, ended = port("sb1", own), port("sb2", own + 1)
    record = BridgeRecord(subnet="10.89.0.0/24", set_forwarding=False, ports=(ended, used))
    assert record.used() == (used,)


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    directory = BridgeDirectory(str(tmp_path))
    with directory.locked():
        assert not directory.has_record()
        Path(directory.path, "record.json").write_text("{}")
        assert directory.read() is None
        assert directory.has_record()
